//! A store that adapts to the machine's memory pressure while threads store and load. It uses a fast
//! compressor while memory is free, and a dense one when memory gets tight. When the pressure is critical, it
//! also writes pages to a file.
//!
//! `cargo run --release -p zswap-core --example memory_pressure` follows a simulated course of pressure;
//! `... --example memory_pressure -- watch` follows the kernel's pressure for ten seconds.
//!
//! Linux reports in `/proc/pressure/memory` the share of time in which some task waited for memory. One
//! thread reads this share and configures the store for one of three levels. The store enters a level at a
//! higher pressure than that at which it leaves the level. With a single threshold, it would switch back and
//! forth.
#![allow(clippy::print_stdout, reason = "a program: what it prints is what it is for")]

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;
use std::{env, fs, process};

use zswap_core::device::FileSwapDevice;
use zswap_core::{PAGE_SIZE, Page, SwapEntry, Zswap};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const PRESSURE: &str = "/proc/pressure/memory";

/// Returns the share of the last ten seconds in which some task waited for memory, in percent; `None` if the text
/// does not have the kernel's format.
fn some_avg10(text: &str) -> Option<f64> {
    let some = text.lines().find_map(|line| line.strip_prefix("some "))?;
    let value = some.split_ascii_whitespace().find_map(|field| field.strip_prefix("avg10="))?;
    value.parse().ok().filter(|percent| (0.0..=100.0).contains(percent))
}

/// The level that the store is configured for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Level {
    Relaxed,
    Tight,
    Critical,
}

impl Level {
    /// Returns the next level, given the current one and a reading of the pressure in percent.
    fn next(self, percent: f64) -> Level {
        use Level::{Critical, Relaxed, Tight};
        match self {
            _ if percent >= 20.0 => Critical,
            Critical if percent >= 10.0 => Critical,
            Relaxed if percent < 5.0 => Relaxed,
            _ if percent >= 2.0 => Tight,
            _ => Relaxed,
        }
    }

    /// Returns the backend and the compressor for new pages: the fastest ones, or the densest ones.
    fn pool(self) -> (&'static str, &'static str) {
        match self {
            Level::Relaxed => ("zbud", "lz4"),
            Level::Tight | Level::Critical => ("zsmalloc", "zstd"),
        }
    }

    /// Does the work that is due after each reading. Under pressure, moves pages to the dense pool or to the
    /// file. When the pressure falls, no page is moved back at once. A page of the dense pool gets into the fast
    /// pool when it is stored again, and so does a page of the file, or when it is loaded twice within a while.
    fn work(self, store: &Zswap) -> Result<()> {
        if self >= Level::Tight {
            // Move only some of the pages at a time, to leave the processors to other threads.
            store.migrate_pools(2000)?;
        }
        if self == Level::Critical {
            store.shrink(500)?;
            store.trim();
        }
        Ok(())
    }
}

/// The source of the readings.
enum Source {
    Kernel { readings: usize },
    MadeUp(std::slice::Iter<'static, f64>),
}

impl Source {
    /// Returns the text of a reading, and how long to wait before the next one. Returns `None` after the last
    /// reading.
    fn read(&mut self) -> Result<Option<(String, Duration)>> {
        Ok(match self {
            Source::Kernel { readings: 0 } => None,
            Source::Kernel { readings } => {
                *readings -= 1;
                // The kernel updates its averages every two seconds.
                Some((fs::read_to_string(PRESSURE)?, Duration::from_secs(2)))
            }
            Source::MadeUp(course) => course.next().map(|percent| {
                let text = format!(
                    "some avg10={percent:.2} avg60=0.00 avg300=0.00 total=0\n\
                     full avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"
                );
                (text, Duration::from_millis(60))
            }),
        })
    }
}

/// Configures the store according to each reading, until the source has no more readings. Returns the levels in
/// the order in which they were entered.
fn follow(store: &Zswap, mut source: Source) -> Result<Vec<Level>> {
    let mut levels = vec![Level::Relaxed];
    while let Some((text, pause)) = source.read()? {
        let percent = some_avg10(&text).ok_or("no `some avg10=` in the kernel's text")?;
        let level = levels[levels.len() - 1];
        let next = level.next(percent);
        if next != level {
            let (zpool, compressor) = next.pool();
            // This takes two steps. The few pages that are stored between the steps go to a pool with the new
            // backend and the old compressor. They migrate from there like all others.
            store.set_zpool(zpool)?;
            store.set_compressor(compressor)?;
            levels.push(next);
        }
        next.work(store)?;
        thread::sleep(pause);
        let stats = store.stats();
        let pools = stats.pools.iter().filter(|pool| pool.objects > 0);
        let pools: Vec<_> = pools
            .map(|pool| format!("{} in {}/{}", pool.objects, pool.zpool, pool.compressor))
            .collect();
        println!(
            "{percent:5.2} %  {:8}  {:5.2} MiB  pages: {}, {} in the file, {:.2} MiB",
            format!("{next:?}"),
            stats.pool_total_size as f64 / (1 << 20) as f64,
            pools.join(", "),
            stats.device_pages,
            stats.device_live_bytes as f64 / (1 << 20) as f64
        );
    }
    Ok(levels)
}

// The rest of the file has threads that use the store while its level changes.

const THREADS: u64 = 3;
const PAGES: u64 = 2000;

/// Makes the page for an offset and a version. It has text and numbers, which differ from version to version.
fn page_of(offset: u64, version: u64) -> Page {
    let mut page = [0; PAGE_SIZE];
    let mut mix = (offset << 20 | version).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    for line in page.chunks_exact_mut(32) {
        mix ^= mix << 13;
        mix ^= mix >> 7;
        mix ^= mix << 17;
        line[..20].copy_from_slice(b"temperature, sensor ");
        line[20..24].copy_from_slice(&((mix >> 40) as u32).to_le_bytes());
        line[24..].copy_from_slice(&version.to_le_bytes());
    }
    page
}

/// Stores and loads the thread's own pages until `stop` is set, and checks each loaded page. Returns the
/// number of checked loads.
fn use_store(store: &Zswap, thread: u64, stop: &AtomicBool) -> Result<u64> {
    let mut versions = vec![0; PAGES as usize];
    let (mut random, mut compared) = (thread + 1, 0);
    let mut back = [0; PAGE_SIZE];
    let mut check = |offset: u64, version: u64| -> Result<()> {
        store.load(SwapEntry::new(0, offset)?, &mut back)?;
        if back != page_of(offset, version) {
            return Err(format!("page {offset} differs from what was stored there").into());
        }
        compared += 1;
        Ok(())
    };
    // Relaxed: a request to stop, which publishes nothing.
    while !stop.load(Ordering::Relaxed) {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        // Mostly use a quarter of the pages. The others get cold.
        let among = if random >> 29 & 15 == 0 { PAGES } else { PAGES / 4 };
        let at = (random >> 33) % among;
        let (offset, version) = (thread * PAGES + at, &mut versions[at as usize]);
        if *version == 0 || random >> 32 & 7 == 0 {
            *version += 1;
            store.store(SwapEntry::new(0, offset)?, &page_of(offset, *version))?;
        } else {
            check(offset, *version)?;
        }
    }
    for (at, version) in versions.iter().enumerate().filter(|(_, version)| **version > 0) {
        check(thread * PAGES + at as u64, *version)?;
    }
    Ok(compared)
}

fn demonstrate(device: FileSwapDevice, source: Source) -> Result<Vec<Level>> {
    let (zpool, compressor) = Level::Relaxed.pool();
    let device = Arc::new(device);
    let store = Zswap::builder().zpool(zpool).compressor(compressor).swap_device(device).build()?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let (store, stop) = (&store, &stop);
        let start = |thread| scope.spawn(move || use_store(store, thread, stop));
        let threads: Vec<_> = (0..THREADS).map(start).collect();
        let levels = follow(store, source);
        // Relaxed: as in `use_store`.
        stop.store(true, Ordering::Relaxed);
        let mut compared = 0;
        for thread in threads {
            compared += thread.join().map_err(|_| "a thread panicked")??;
        }
        println!(
            "{compared} pages loaded by {THREADS} threads meanwhile, every byte as it was stored"
        );
        levels
    })
}

fn main() -> Result<()> {
    const COURSE: [f64; 15] =
        [0.0, 0.8, 4.5, 6.2, 4.1, 11.7, 24.3, 26.0, 15.2, 12.6, 8.4, 4.9, 2.2, 1.4, 0.3];
    match fs::read_to_string(PRESSURE) {
        Ok(text) => println!("some avg10 on this machine: {:?} percent", some_avg10(&text)),
        Err(error) => println!("no {PRESSURE} on this machine: {error}"),
    }
    let watch = env::args().nth(1).is_some_and(|argument| argument == "watch");
    let watch = watch && Path::new(PRESSURE).exists();
    let source = if watch { Source::Kernel { readings: 5 } } else { Source::MadeUp(COURSE.iter()) };
    let path = env::temp_dir().join(format!("memory-pressure-{}", process::id()));
    let levels = demonstrate(FileSwapDevice::create(&path, THREADS * PAGES)?, source);
    fs::remove_file(&path)?;
    let (levels, wanted) = (levels?, {
        use Level::{Critical, Relaxed, Tight};
        [Relaxed, Tight, Critical, Tight, Relaxed]
    });
    if !watch && levels != wanted {
        return Err(format!("the levels were {levels:?}; expected {wanted:?}").into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_file_is_read_and_nothing_else() {
        let text = "some avg10=1.53 avg60=0.87 avg300=0.22 total=58761459\n\
                    full avg10=91.00 avg60=0.00 avg300=0.00 total=0\n";
        assert_eq!(some_avg10(text), Some(1.53));
        let reordered = "full avg10=91.00 total=0\nsome avg60=7.00 avg10=0.00\n";
        assert_eq!(some_avg10(reordered), Some(0.0));
        for wrong in [
            "",
            "full avg10=1.00",
            "some avg60=1.00",
            "some avg10=",
            "some avg10=NaN",
            "some avg10=101.00",
            "some avg10=-1.00",
            "someavg10=1.00",
            "some avg100=1.00",
        ] {
            assert_eq!(some_avg10(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_level_is_left_at_a_lower_pressure_than_it_is_entered_at() {
        use Level::{Critical, Relaxed, Tight};
        for (level, percent, next) in [
            (Relaxed, 4.9, Relaxed),
            (Relaxed, 5.0, Tight),
            (Relaxed, 20.0, Critical),
            (Tight, 2.0, Tight),
            (Tight, 19.9, Tight),
            (Tight, 1.9, Relaxed),
            (Tight, 20.0, Critical),
            (Critical, 10.0, Critical),
            (Critical, 9.9, Tight),
            (Critical, 1.9, Relaxed),
        ] {
            assert_eq!(level.next(percent), next, "{level:?} at {percent} percent");
        }
    }
}
