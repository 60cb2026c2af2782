//! What the tests share: regions with known contents, an evictor, child processes, and what this kernel can do.
#![allow(
    dead_code,
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    unreachable_pub,
    reason = "each test uses a part of this, and a failure is the test's own message"
)]

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub mod docker;
pub mod uring;

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::ptr;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;

use zswap_core::{PAGE_SIZE, Page, Zswap};
use zswap_region::{BackendKind, Region, RegionBuilder};

/// Begins the line that a test prints when it, or a part of it, cannot run here. The jobs of xtask count these lines.
pub const NOT_RUN: &str = "NOT RUN:";

pub fn not_run(what: &str) {
    println!("{NOT_RUN} {what}");
}

/// The numbers of xorshift.
pub struct Dice(pub u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub fn below(&mut self, end: usize) -> usize {
        ((self.roll() >> 16) % end as u64) as usize
    }

    /// Returns a range inside `0..len`, of 1 byte to three pages, anywhere.
    pub fn range(&mut self, len: usize) -> Range<usize> {
        let n = 1 + self.below(3 * PAGE_SIZE);
        let at = self.below(len - n);
        at..at + n
    }
}

/// Makes a page: mostly text-like, but one in eight noise, one in eight a repeated word, and one in eight zeros. Apart
/// from zeros, no two seeds have equal pages.
pub fn page(seed: u64) -> Page {
    let mut dice = Dice::new(seed);
    let mut page = [0; PAGE_SIZE];
    match seed % 8 {
        5 => {}
        6 => page.chunks_mut(8).for_each(|word| word.copy_from_slice(&seed.to_le_bytes())),
        7 => noise_into(&mut page, &mut dice),
        _ => {
            noise_into(&mut page[..1024], &mut dice);
            for at in (1024..PAGE_SIZE).step_by(16) {
                let from = dice.below(1000);
                page.copy_within(from..from + 16, at);
            }
            page[..8].copy_from_slice(&seed.to_le_bytes());
        }
    }
    page
}

/// Makes a page that does not get smaller.
pub fn noise(seed: u64) -> Page {
    let mut page = [0; PAGE_SIZE];
    noise_into(&mut page, &mut Dice::new(seed ^ 0xabcd_ef01));
    page
}

fn noise_into(bytes: &mut [u8], dice: &mut Dice) {
    for word in bytes.chunks_mut(8) {
        word.copy_from_slice(&dice.roll().to_le_bytes()[..word.len()]);
    }
}

/// Makes the bytes of `pages` pages.
pub fn pages(first_seed: u64, pages: usize) -> Vec<u8> {
    (first_seed..).take(pages).flat_map(page).collect()
}

/// Returns the backends that this kernel can have. Says which one it cannot. Does not ask the crate: what the crate
/// cannot do although the kernel can has to fail.
pub fn kinds() -> Vec<BackendKind> {
    [(BackendKind::Move, kernel_can_move()), (BackendKind::Guard, kernel_can_guard())]
        .into_iter()
        .filter_map(|(kind, can)| match can {
            Ok(()) => Some(kind),
            Err(error) => {
                // The parent of a child process has said so already.
                if !is_child() {
                    not_run(&format!("{kind:?}, which this kernel refuses: {error}"));
                }
                None
            }
        })
        .collect()
}

/// Returns the names of the backends that this kernel can have, for [`alone`].
pub fn kind_words() -> Vec<&'static str> {
    kinds().into_iter().map(word_of).collect()
}

pub fn word_of(kind: BackendKind) -> &'static str {
    if kind == BackendKind::Move { "move" } else { "guard" }
}

pub fn kind_of(word: &str) -> BackendKind {
    match word {
        "move" => BackendKind::Move,
        "guard" => BackendKind::Guard,
        other => panic!("no backend {other}"),
    }
}

pub fn kernel_can_move() -> io::Result<()> {
    // SAFETY: opens a descriptor, and changes no memory.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | 1) };
    let fd = check(fd as isize)? as i32;
    // The API, and the features WP, SIGBUS and MOVE.
    let mut api = [0xaa_u64, 1 | 1 << 7 | 1 << 16, 0];
    // SAFETY: UFFDIO_API reads and writes three numbers.
    let done = check(unsafe { libc::ioctl(fd, 0xc018_aa3f, api.as_mut_ptr()) } as isize);
    // SAFETY: the descriptor is this function's own.
    unsafe { libc::close(fd) };
    done.map(drop)
}

pub fn kernel_can_guard() -> io::Result<()> {
    // SAFETY: the name is a C string.
    let fd = unsafe { libc::memfd_create(c"probe".as_ptr(), libc::MFD_CLOEXEC) };
    let fd = check(fd as isize)? as i32;
    let (both, shared) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
    // SAFETY: a new mapping, where the system likes.
    let at = unsafe { libc::mmap(ptr::null_mut(), PAGE_SIZE, both, shared, fd, 0) };
    // SAFETY: MADV_GUARD_INSTALL on that mapping, which nobody uses.
    let done = check(unsafe { libc::madvise(at, PAGE_SIZE, 102) } as isize);
    // SAFETY: nobody uses it.
    unsafe { libc::munmap(at, PAGE_SIZE) };
    // SAFETY: the descriptor is this function's own.
    unsafe { libc::close(fd) };
    done.map(drop)
}

/// Turns what a system call returned into a number or an error.
pub fn check(returned: isize) -> io::Result<usize> {
    usize::try_from(returned).map_err(|_| io::Error::last_os_error())
}

/// Turns what a system call returned into a number or the number of an error.
pub fn errno(returned: isize) -> Result<usize, i32> {
    check(returned).map_err(|error| error.raw_os_error().unwrap())
}

/// Returns a builder of a region without background work: what leaves, leaves because of the test.
pub fn builder(kind: BackendKind, capacity: usize) -> RegionBuilder {
    let store = Zswap::builder().compressor("lz4");
    Region::builder().capacity(capacity).backend(kind).background(false).store(store)
}

/// Builds a region. A test that hangs ends its process by SIGALRM five minutes after the last region was built.
pub fn build(builder: RegionBuilder) -> Region {
    if !is_child() {
        watchdog(300);
    }
    // SAFETY: the tests block no signal of faults, chain to older handlers, and have the store and the allocator
    // outside of regions. Where one of them does otherwise, that is its subject.
    unsafe { builder.build() }.unwrap()
}

/// Nearly the fewest pages that a region can have resident.
pub const FEW: usize = 96;

/// Builds a region of which only [`FEW`] pages can be resident.
pub fn region(kind: BackendKind, pages: usize) -> Region {
    build(builder(kind, pages * PAGE_SIZE).resident_bytes(FEW * PAGE_SIZE))
}

/// The faults of a region on pages with contents, so far.
pub fn faults(region: &Region) -> u64 {
    let stats = region.stats();
    stats.cold_faults + stats.clean_faults + stats.rescued
}

/// Returns the address of a byte of the region.
pub fn at(region: &Region, offset: usize) -> *mut u8 {
    assert!(offset < region.len());
    region.as_ptr().wrapping_add(offset)
}

/// Copies bytes into the region, as the program does it.
pub fn put(region: &Region, offset: usize, bytes: &[u8]) {
    assert!(offset + bytes.len() <= region.len());
    let to = region.as_ptr().wrapping_add(offset);
    // SAFETY: the range is inside the region, whose memory is ordinary, and no other thread of the test uses it.
    unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
}

/// Copies bytes from the region, as the program does it.
pub fn get(region: &Region, offset: usize, len: usize) -> Vec<u8> {
    assert!(offset + len <= region.len());
    let mut bytes = vec![0xa5; len];
    let from = region.as_ptr().wrapping_add(offset);
    // SAFETY: as in `put`.
    unsafe { ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), len) };
    bytes
}

/// Reads one byte of the region.
pub fn touch(region: &Region, offset: usize) -> u8 {
    // SAFETY: the byte is inside the region, whose memory is ordinary.
    unsafe { at(region, offset).read_volatile() }
}

/// Writes all pages of the region. Returns what it holds.
pub fn fill(region: &Region, seed: u64) -> Vec<u8> {
    let bytes = pages(seed, region.len() / PAGE_SIZE);
    put(region, 0, &bytes);
    bytes
}

/// Compares all pages of the region with `bytes`.
pub fn same(region: &Region, bytes: &[u8], what: &str) {
    for (n, page) in bytes.chunks(PAGE_SIZE).enumerate() {
        let there = get(region, n * PAGE_SIZE, page.len());
        if there != page {
            let first = there.iter().zip(page).position(|(a, b)| a != b).unwrap();
            let zero = there.iter().all(|byte| *byte == 0);
            panic!("{what}: page {n} differs from byte {first} on; all zeros: {zero}");
        }
    }
}

/// Makes sure that none of these pages is mapped. That is what the kernel says, not what the region says.
pub fn freeze(region: &Region, range: Range<usize>) {
    let begun = std::time::Instant::now();
    // A page that came back while another thread compressed it stays until that thread has noticed it; the thread may
    // have to wait for a processor.
    while begun.elapsed().as_secs() < 20 {
        region.advise_cold(range.clone()).unwrap();
        let first = range.start / PAGE_SIZE * PAGE_SIZE;
        if (first..range.end).step_by(PAGE_SIZE).all(|offset| !kernel_reads(at(region, offset))) {
            return;
        }
    }
    panic!("some of {range:?} never leave: {:?}", region.stats());
}

/// Returns whether a system call can read the byte.
pub fn kernel_reads(byte: *const u8) -> bool {
    let (to, _from) = UnixStream::pair().unwrap();
    // SAFETY: the kernel checks the address.
    match errno(unsafe { libc::write(to.as_raw_fd(), byte.cast(), 1) }) {
        Ok(1) => true,
        Err(libc::EFAULT) => false,
        other => panic!("{other:?}"),
    }
}

/// Sets a flag when it is dropped, also by a panic.
pub struct Stop<'a>(pub &'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// Runs `work` while another thread evicts all that it can from the region, all the time.
pub fn while_evicting<T>(region: &Region, work: impl FnOnce() -> T) -> T {
    let stop = AtomicBool::new(false);
    let started = Barrier::new(2);
    thread::scope(|scope| {
        scope.spawn(|| {
            started.wait();
            while !stop.load(SeqCst) {
                region.advise_cold(0..region.len()).unwrap();
            }
        });
        let _stop = Stop(&stop);
        started.wait();
        work()
    })
}

const CHILD: &str = "ZSWAP_REGION_CHILD";

fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// Returns the word that was passed to this child process; `None` if this is not a child process. A child that takes
/// more than two minutes is ended by SIGALRM.
pub fn word() -> Option<String> {
    let word = std::env::var(CHILD).ok();
    if word.is_some() {
        watchdog(120);
    }
    word
}

/// Ends this process by SIGALRM after `seconds` seconds.
pub fn watchdog(seconds: u32) {
    // SAFETY: only sets a timer.
    unsafe { libc::alarm(seconds) };
}

/// How a child process ended.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub out: String,
    pub err: String,
}

impl Ended {
    pub fn succeeded(&self, what: &str) {
        self.out
            .lines()
            .filter(|line| line.starts_with(NOT_RUN))
            .for_each(|line| println!("{line}"));
        let passed = self.status.success() && self.out.contains("1 passed");
        assert!(passed, "{what}: {}\n{}\n{}", self.status, self.out, self.err);
    }

    pub fn died_by(&self, signal: i32, what: &str) {
        let by = self.status.signal();
        assert_eq!(by, Some(signal), "{what}: {}\n{}\n{}", self.status, self.out, self.err);
    }
}

/// Returns the command that runs a test of this file again in a child process, and passes `word` to it.
pub fn child(test: &str, word: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture", "--test-threads", "1"]);
    command.env(CHILD, word).env("RUST_BACKTRACE", "0");
    command
}

pub fn in_child(test: &str, word: &str) -> Ended {
    let output = child(test, word).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ended { status: output.status, out: text(&output.stdout), err: text(&output.stderr) }
}

/// Runs a test once for each word, each time alone in a child process, which has to succeed.
pub fn alone(test: &str, words: &[&str], run: impl Fn(&str)) {
    match word() {
        Some(word) => run(&word),
        None => words.iter().for_each(|word| in_child(test, word).succeeded(word)),
    }
}

/// Forks, runs `child` in the child process, and returns how the child ended. It is killed by SIGALRM after 20 seconds,
/// and ends by 99 if it panics, else by the number that `child` returns.
pub fn fork(child: impl FnOnce() -> i32) -> ExitStatus {
    // SAFETY: the child calls only what supports a fork, and ends by `_exit`.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        watchdog(20);
        let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child)).unwrap_or(99);
        // SAFETY: ends the child without destructors.
        unsafe { libc::_exit(code) };
    }
    assert!(pid > 0, "{}", io::Error::last_os_error());
    let mut status = 0;
    // SAFETY: `pid` is a child of this process, and `status` is on this stack frame.
    let ended = unsafe { libc::waitpid(pid, &raw mut status, 0) };
    assert_eq!(ended, pid);
    ExitStatus::from_raw(status)
}

/// Makes a file with these bytes, on a real file system where there is one. It has no name any more.
pub fn file(name: &str, bytes: &[u8]) -> File {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    std::fs::create_dir_all(&path).unwrap();
    let path = path.join(format!("region-{name}-{}", std::process::id()));
    std::fs::write(&path, bytes).unwrap();
    let file = File::options().read(true).write(true).open(&path).unwrap();
    std::fs::remove_file(path).unwrap();
    file
}
