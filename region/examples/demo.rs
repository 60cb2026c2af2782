//! 1 GiB of pages in 512 MiB, with the figures while it happens, and every byte verified.
//!
//! `cargo run --release -p zswap-region --example demo -- [--mib N] [--budget MIB] [--seconds N] [FILES]`
//!
//! The pages are those of the files, or of five real programs: the sample that is in this repository. A file whose name
//! ends in .zst is decompressed. The pages are copied into a region again and again, and each copy is changed, so that no
//! two pages are equal. Then two threads read and write pages for some seconds, most often a few hot ones. Each page that
//! they touch, and in the end every page, is compared byte for byte with what it must be.
//!
//! The exit status is 0 only if no byte differs.
#![allow(clippy::print_stdout, reason = "a program: what it prints is what it is for")]

use std::error::Error;
use std::io::{IsTerminal, Write, stdout};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs, slice, thread};

use zswap_region::{PAGE_SIZE, Region, Zswap};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;
type Page = [u8; PAGE_SIZE];

const MIB: usize = 1 << 20;
const THREADS: usize = 2;

/// Pages of five real programs.
const SAMPLE: &[u8] = include_bytes!("../../measure/assets/sample.pages.zst");

struct Settings {
    pages: usize,
    budget: usize,
    time: Duration,
    files: Vec<PathBuf>,
}

impl Settings {
    fn from_args() -> Result<Settings> {
        let (mut mib, mut budget, mut seconds, mut files) = (1024, None, 20, Vec::new());
        let mut args = env::args_os().skip(1);
        while let Some(arg) = args.next() {
            let mut number = || -> Result<usize> {
                let value = args.next().and_then(|value| value.into_string().ok());
                let value =
                    value.ok_or_else(|| format!("{} needs a number", arg.to_string_lossy()))?;
                value.parse().map_err(|_| format!("{value:?} is not a number").into())
            };
            match arg.to_str() {
                Some("--mib") => mib = number()?,
                Some("--budget") => budget = Some(number()?),
                Some("--seconds") => seconds = number()?,
                Some(unknown) if unknown.starts_with('-') => {
                    return Err(format!(
                        "{unknown} is unknown: [--mib N] [--budget MIB] [--seconds N] [FILES]"
                    )
                    .into());
                }
                _ => files.push(arg.into()),
            }
        }
        let pages = (mib * MIB / PAGE_SIZE).max(THREADS);
        let budget = budget.map_or(pages * PAGE_SIZE / 2, |mib| mib * MIB);
        Ok(Settings { pages, budget, time: Duration::from_secs(seconds as u64), files })
    }
}

/// Reads the pages of all files, or those of the sample. The last page of a file may end with zeros.
fn read_pages(files: &[PathBuf]) -> Result<Vec<Page>> {
    let mut pages = Vec::new();
    let mut append = |bytes: &[u8]| {
        pages.extend(bytes.chunks(PAGE_SIZE).map(|part| {
            let mut page = [0; PAGE_SIZE];
            page[..part.len()].copy_from_slice(part);
            page
        }));
    };
    if files.is_empty() {
        append(&zstd::decode_all(SAMPLE)?);
    }
    for file in files {
        let unreadable = |why| format!("{}: {why}", file.to_string_lossy());
        let bytes = fs::read(file).map_err(unreadable)?;
        if file.extension().is_some_and(|extension| extension == "zst") {
            append(&zstd::decode_all(&bytes[..]).map_err(unreadable)?);
        } else {
            append(&bytes);
        }
    }
    if pages.is_empty() { Err("the files have no page".into()) } else { Ok(pages) }
}

/// Random numbers that are the same in each run (xorshift64*).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, bound: usize) -> usize {
        ((self.next() >> 16) % bound as u64) as usize
    }

    /// Returns a page: nine times of ten one of the hot eighth, which lie all over the region.
    fn page(&mut self, pages: usize) -> usize {
        let any = self.below(pages);
        if self.below(10) > 0 { any / 8 * 8 } else { any }
    }
}

/// Makes `page` what page `number` of the region is after it was written `version` times: a page of the sample in which two
/// words are other ones. That changes little in how well it compresses.
fn write_page(page: &mut Page, sample: &[Page], number: usize, version: u32) {
    *page = sample[number % sample.len()];
    let place = number.wrapping_mul(0x9E37_79B1) % (PAGE_SIZE / 8 - 1) * 8;
    page[place..place + 8].copy_from_slice(&(number as u64).to_le_bytes());
    page[place + 8..place + 12].copy_from_slice(&version.to_le_bytes());
}

/// What the threads do, and how far they are.
#[derive(Default)]
struct Progress {
    done: AtomicUsize,
    verified: AtomicUsize,
    differ: AtomicUsize,
    stop: AtomicBool,
}

/// A thread's part of the region, and what it must contain.
struct Part<'a> {
    first: usize,
    pages: &'a mut [Page],
    versions: Vec<u32>,
    sample: &'a [Page],
    right: Box<Page>,
}

impl Part<'_> {
    fn write(&mut self, n: usize) {
        self.versions[n] += 1;
        write_page(&mut self.pages[n], self.sample, self.first + n, self.versions[n]);
    }

    fn verify(&mut self, n: usize, progress: &Progress) {
        write_page(&mut self.right, self.sample, self.first + n, self.versions[n]);
        let differ =
            self.pages[n].iter().zip(&*self.right).filter(|(one, other)| one != other).count();
        progress.differ.fetch_add(differ, Ordering::SeqCst);
        progress.verified.fetch_add(1, Ordering::SeqCst);
    }

    fn fill(&mut self, progress: &Progress) {
        for n in 0..self.pages.len() {
            self.write(n);
            progress.done.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn work(&mut self, progress: &Progress) {
        let mut random = Random(self.first as u64 + 1);
        while !progress.stop.load(Ordering::SeqCst) {
            let n = random.page(self.pages.len());
            self.verify(n, progress);
            if random.below(5) == 0 {
                self.write(n);
            }
        }
    }

    fn verify_all(&mut self, progress: &Progress) {
        for n in 0..self.pages.len() {
            self.verify(n, progress);
            progress.done.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// Returns the resident memory of this process in bytes.
fn resident_set() -> Result<usize> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line
        .and_then(|line| line.trim().strip_suffix(" kB"))
        .ok_or("no VmRSS in /proc/self/status")?;
    Ok(kib.trim().parse::<usize>()? << 10)
}

/// The line that shows what happens.
struct Line<'a> {
    region: &'a Region,
    is_terminal: bool,
    /// When the line was shown last, or the job began, and how many faults there were.
    last: (Instant, u64),
    most_memory: usize,
}

impl Line<'_> {
    fn pause(&self) -> Duration {
        Duration::from_millis(if self.is_terminal { 200 } else { 2000 })
    }

    fn note_memory(&mut self) {
        self.most_memory = self.most_memory.max(self.region.stats().memory_bytes);
    }

    fn show(&mut self, what: &str, end: bool) -> Result<()> {
        self.note_memory();
        let stats = self.region.stats();
        let (now, faults) = (Instant::now(), stats.fault_latency.count());
        let seconds = (now - self.last.0).as_secs_f64().max(1e-3);
        let per_second = (faults - self.last.1) as f64 / seconds;
        self.last = (now, faults);
        let line = format!(
            "{what}: resident {}, cold {} at {:.2}, all {} of {}, {per_second:.0} faults/s, p99 {:.1} µs, RSS {} MiB",
            stats.resident_bytes / MIB,
            stats.cold_bytes / MIB,
            stats.cold_ratio(),
            stats.memory_bytes / MIB,
            stats.budget.unwrap_or(0) / MIB,
            stats.fault_latency.quantile(0.99) as f64 / 1e3,
            resident_set()? / MIB,
        );
        let mut out = stdout().lock();
        if self.is_terminal {
            // Clears the rest of the line.
            write!(out, "\r{line}\x1b[K{}", if end { "\n" } else { "" })?;
        } else {
            writeln!(out, "{line}")?;
        }
        Ok(out.flush()?)
    }
}

/// Runs `job` for each part on a thread of its own, and shows the line meanwhile.
fn run<'a>(
    parts: &mut [Part<'a>],
    line: &mut Line<'_>,
    progress: &Progress,
    name: &str,
    time: Option<Duration>,
    job: fn(&mut Part<'a>, &Progress),
) -> Result<()> {
    let pages: usize = parts.iter().map(|part| part.pages.len()).sum();
    let begin = Instant::now();
    progress.done.store(0, Ordering::SeqCst);
    let at_begin = (begin, line.region.stats().fault_latency.count());
    line.last = at_begin;
    let what = || match time {
        Some(time) => {
            format!("{name} {:2.0} of {} s", begin.elapsed().as_secs_f64(), time.as_secs())
        }
        None => format!("{name} {:3} %", progress.done.load(Ordering::SeqCst) * 100 / pages),
    };
    thread::scope(|scope| {
        let threads: Vec<_> =
            parts.iter_mut().map(|part| scope.spawn(|| job(part, progress))).collect();
        let mut shown = Instant::now();
        let mut result = Ok(());
        while !threads.iter().all(|thread| thread.is_finished()) {
            thread::sleep(Duration::from_millis(20));
            if time.is_some_and(|time| begin.elapsed() >= time) {
                progress.stop.store(true, Ordering::SeqCst);
            }
            line.note_memory();
            if result.is_ok() && shown.elapsed() >= line.pause() {
                shown = Instant::now();
                result = line.show(&what(), false);
            }
        }
        result
    })?;
    // The faults a second of the whole job.
    line.last = at_begin;
    line.show(&what(), true)
}

fn demo() -> Result<bool> {
    let settings = Settings::from_args()?;
    let sample = read_pages(&settings.files)?;
    let bytes = settings.pages * PAGE_SIZE;
    let store = Zswap::builder().compressor("zstd");
    let builder = Region::builder().capacity(bytes).budget(settings.budget).store(store);
    // SAFETY: this program keeps the rules of the front page of zswap-region: it passes none of the region's memory to
    // system calls, blocks no signals, and installs no handlers.
    let region = unsafe { builder.build() }?;
    println!(
        "{} MiB of pages in {} MiB, with zstd: copies of {} pages, each copy is changed; backend {:?}: {}",
        bytes / MIB,
        settings.budget / MIB,
        sample.len(),
        region.backend().kind,
        region.backend().why,
    );

    // SAFETY: the pages are in the region, zero at first, and used only through this slice until the region is dropped,
    // which is declared before it. No call of the region gives out its bytes meanwhile.
    let mut rest =
        unsafe { slice::from_raw_parts_mut(region.as_ptr().cast::<Page>(), settings.pages) };
    let (mut parts, mut first) = (Vec::new(), 0);
    for n in 0..THREADS {
        let (pages, others) = rest.split_at_mut(rest.len() / (THREADS - n));
        rest = others;
        let versions = vec![0; pages.len()];
        parts.push(Part {
            first,
            versions,
            sample: &sample,
            right: Box::new([0; PAGE_SIZE]),
            pages,
        });
        first += parts[n].pages.len();
    }

    let progress = Progress::default();
    let is_terminal = stdout().is_terminal();
    let mut line = Line { region: &region, is_terminal, last: (Instant::now(), 0), most_memory: 0 };
    run(&mut parts, &mut line, &progress, "fill", None, Part::fill)?;
    run(&mut parts, &mut line, &progress, "work", Some(settings.time), Part::work)?;
    run(&mut parts, &mut line, &progress, "verify", None, Part::verify_all)?;

    let (verified, differ) =
        (progress.verified.load(Ordering::SeqCst), progress.differ.load(Ordering::SeqCst));
    println!(
        "{verified} times a page was compared, each page at least once: {differ} bytes differ"
    );
    println!(
        "{} MiB of pages took at most {:.1} MiB, with a budget of {} MiB",
        bytes / MIB,
        line.most_memory as f64 / MIB as f64,
        settings.budget / MIB,
    );
    Ok(differ == 0)
}

fn main() -> ExitCode {
    match demo() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            println!("{why}");
            ExitCode::FAILURE
        }
    }
}
