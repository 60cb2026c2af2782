//! The running kernel's zswap. Pages of anonymous memory are swapped out through zswap to a
//! separate swap file. Touching a page brings it back.
//!
//! - A store copies the page into its place and makes the kernel reclaim only that page
//!   (`MADV_PAGEOUT`). The time includes the copy, which takes 0.1 to 1 µs of about 13 µs. If the
//!   place is swapped out, its old page is dropped first, and the place becomes a fresh page of
//!   zeros. This costs some µs more. So load all pages before you time stores.
//! - A load touches the page and copies it to the worker's buffer. The copy comes from the
//!   processor's cache and takes about 0.1 µs. Without a copy, the store of another thread could
//!   overwrite the page that was loaded.
//! - After a load the page stays in memory, and the next load would find it there.
//!   [`Zswap::settle`] swaps all pages out again, through zswap, and checks that they have left
//!   memory.
//! - System-wide, zswap does not report how many bytes the compressed pages have.
//! - The figures are those of the whole system, minus their values before the turn. If other
//!   processes swap at the same time, their pages are counted, too.
//! - The metadata is an estimate. For each stored page it is the sum of three sizes: the kernel's
//!   `zswap_entry`, 8 bytes for the object's handle, and 8 bytes for the entry's slot in the tree.
//!
//! A set-up changes the system's settings of zswap. It also sets `vm.page-cluster` to 0, so that a
//! page fault brings in only one page. All settings are restored at the end. Until then, another
//! set-up fails.

use std::fs::File;
use std::io;
use std::path::Path;

use measure::{Contestant, Memory, Page, Pinned, Processors, Worker};
use rustix::fs::{FlockOperation, flock};

use super::setting::Settings;
use super::span::Span;
use super::swap_file::SwapFile;
use super::{go_on, is_fit, read, watch_signals, write};
use crate::error::{Error, Result};
use crate::source::PAGE;

const PARAMETERS: &str = "/sys/module/zswap/parameters";
const ENABLED: &str = "/sys/module/zswap/parameters/enabled";
const COMPRESSOR: &str = "/sys/module/zswap/parameters/compressor";
const MAX_POOL_PERCENT: &str = "/sys/module/zswap/parameters/max_pool_percent";
const SHRINKER_ENABLED: &str = "/sys/module/zswap/parameters/shrinker_enabled";
const PAGE_CLUSTER: &str = "/proc/sys/vm/page-cluster";
const DROP_CACHES: &str = "/proc/sys/vm/drop_caches";
const MEMINFO: &str = "/proc/meminfo";
const SLAB_SIZE: &str = "/sys/kernel/slab/zswap_entry/slab_size";
const SLABINFO: &str = "/proc/slabinfo";

/// The compressors that are measured if the kernel has them.
const WANTED: &[&str] = &["lzo", "lz4"];

/// The number of pages in the trial, which swaps them out and in to check that everything works.
const TRIAL: usize = 16;

/// How many times `settle` tries to swap out all pages. It fails if some stay in memory after that.
const ROUNDS: usize = 8;

/// The metadata of a stored page besides its entry, in bytes: the handle, and the slot in the tree.
const HANDLE_AND_SLOT: usize = 8 + 8;

/// Returns the compressors that can be measured here. If there are none, returns the reasons as the
/// error.
///
/// To find out, this sets up each compressor, tries it with a few pages and undoes the set-up. That
/// takes some tens of milliseconds.
pub(crate) fn offered() -> Result<Vec<String>, String> {
    let (mut offered, mut reasons) = (Vec::new(), Vec::new());
    for &compressor in WANTED {
        match Zswap::new(compressor, TRIAL) {
            Ok(_) => offered.push(compressor.to_owned()),
            Err(error) => reasons.push(format!("{compressor}: {error}")),
        }
    }
    if offered.is_empty() { Err(reasons.join("; ")) } else { Ok(offered) }
}

/// A set-up of zswap: the pages, the swap file and the changed settings.
#[derive(Debug)]
pub(crate) struct Zswap {
    // Fields are dropped in this order. The memory comes first, so that switching off the swap file
    // reads nothing back.
    span: Span,
    _swap: SwapFile,
    _settings: Settings,
    _lock: File,
    before: Held,
    entry_bytes: Option<usize>,
}

impl Zswap {
    /// Sets up zswap for `pages` pages, and tries it out. Leaves every page in memory.
    pub(crate) fn new(compressor: &str, pages: usize) -> Result<Self> {
        is_fit()?;
        if !Path::new(PARAMETERS).exists() {
            return Err(Error::setup(format!("this kernel has no zswap: no {PARAMETERS}")));
        }
        let lock = lock()?;
        watch_signals();
        let mut settings = Settings::default();
        // Enabled before the compressor is set: only an enabled zswap refuses an unknown one.
        settings.set(ENABLED, "Y")?;
        settings.set(COMPRESSOR, compressor).map_err(|error| {
            Error::setup(format!("the kernel's zswap does not take {compressor:?} ({error})"))
        })?;
        settings.set(MAX_POOL_PERCENT, "80")?;
        if Path::new(SHRINKER_ENABLED).exists() {
            settings.set(SHRINKER_ENABLED, "N")?;
        }
        settings.set(PAGE_CLUSTER, "0")?;
        // The file has more than twice as many pages. If over half of a swap file is in use, the
        // kernel searches for free slots in another way.
        let swap = SwapFile::new(2 * pages + (64 << 20) / PAGE)?;
        let before = Held::now()?;
        let span = Span::new(pages).map_err(|error| memory_failed(&error))?;
        let (_lock, _swap, _settings) = (lock, swap, settings);
        let mut zswap = Zswap { span, _swap, _settings, _lock, before, entry_bytes: None };
        zswap.try_out()?;
        zswap.entry_bytes = entry_bytes();
        Ok(zswap)
    }

    /// Swaps a few pages out and in, and checks that they come back unchanged. Then brings every
    /// page into memory.
    fn try_out(&self) -> Result<()> {
        let pages = TRIAL.min(self.span.len());
        let page = |n: usize| -> Page { std::array::from_fn(|i| (i / 64 * (n + 1)) as u8) };
        for n in 0..pages {
            self.span.put(n, &page(n)).map_err(|error| memory_failed(&error))?;
        }
        self.settle()?;
        let mut back = [0xa5; PAGE];
        for n in 0..pages {
            let kept = self.span.get(n, &mut back).map_err(|error| memory_failed(&error))?;
            if !kept || back != page(n) {
                return Err(Error::setup(format!("page {n} of a trial came back changed")));
            }
            self.span.free(n).map_err(|error| memory_failed(&error))?;
        }
        self.span.populate().map_err(|error| memory_failed(&error))
    }

    /// Swaps out every page that is in memory. Checks that all pages have left memory and are in
    /// zswap.
    ///
    /// # Errors
    ///
    /// `Setup` if pages stay in memory, or if zswap lacks more than one page in fifty. It may lack
    /// some: a page that does not compress bypasses zswap and is written to the swap file.
    pub(crate) fn settle(&self) -> Result<()> {
        let mut resident = 0;
        for _ in 0..ROUNDS {
            go_on()?;
            resident = self.send_out()?;
            if resident == 0 {
                return self.see_that_zswap_has_them();
            }
        }
        Err(Error::setup(format!(
            "{resident} pages stay in memory after {ROUNDS} times MADV_PAGEOUT"
        )))
    }

    /// Swaps out every page, first from this processor. If some pages stay, tries again from each
    /// processor in turn: a page may wait in a queue of the processor that last touched it, and
    /// only a call on that processor finds it there. Returns how many pages stayed in memory.
    fn send_out(&self) -> Result<usize> {
        let sent = self.span.send_out().map_err(|error| memory_failed(&error))?;
        if sent == 0 {
            return Ok(0);
        }
        let processors = Processors::allowed();
        let count = std::thread::available_parallelism().map_or(1, usize::from);
        let mut left = sent;
        for n in 0..count {
            let from_there = std::thread::scope(|scope| {
                let there = || {
                    let _pinned = Pinned::to_nth(&processors, n);
                    self.span.send_out()
                };
                scope.spawn(there).join()
            });
            let from_there = from_there.map_err(|_| Error::setup("a thread panicked"))?;
            left = from_there.map_err(|error| memory_failed(&error))?;
        }
        Ok(left)
    }

    fn see_that_zswap_has_them(&self) -> Result<()> {
        let kept = self.span.kept().map_err(|error| memory_failed(&error))?;
        let held = Held::now()?.since(self.before);
        let past = kept.saturating_sub(held.pages);
        if past > kept / 50 {
            let reason = format!("of {kept} pages {past} went past zswap to the swap file");
            return Err(Error::setup(reason));
        }
        Ok(())
    }
}

fn memory_failed(error: &io::Error) -> Error {
    Error::setup(format!("memory cannot be swapped out: {error}"))
}

/// Locks zswap, so that only one set-up exists at a time. Fails if another set-up holds the lock,
/// in this process or in another. The lock is held until the settings are restored, because two
/// set-ups would restore each other's settings.
fn lock() -> Result<File> {
    let failed = |reason| Error::System { what: "cannot lock", path: ENABLED.to_owned(), reason };
    let file = File::open(ENABLED).map_err(failed)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            Err(Error::setup("another run measures zswap; wait until it has ended"))
        }
        Err(error) => Err(failed(error.into())),
    }
}

/// The memory and the number of pages that zswap holds in the whole system.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Held {
    pool_bytes: usize,
    pages: usize,
}

impl Held {
    fn now() -> Result<Self> {
        let text = read(MEMINFO)?;
        let line = |key| kib(&text, key).ok_or(Error::NoLine { path: MEMINFO, key });
        Ok(Held { pool_bytes: line("Zswap:")? * 1024, pages: line("Zswapped:")? * 1024 / PAGE })
    }

    fn since(self, before: Held) -> Held {
        Held {
            pool_bytes: self.pool_bytes.saturating_sub(before.pool_bytes),
            pages: self.pages.saturating_sub(before.pages),
        }
    }
}

/// Returns the number in a line such as `Zswap:    12 kB`; `None` if there is no such line.
fn kib(text: &str, key: &str) -> Option<usize> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// Returns the size of the kernel's `zswap_entry` in bytes; `None` if the kernel does not report
/// it.
fn entry_bytes() -> Option<usize> {
    let of_slab = || read(SLAB_SIZE).ok()?.trim().parse().ok();
    of_slab().or_else(|| object_size(&read(SLABINFO).ok()?, "zswap_entry"))
}

/// Returns the size of a slab cache's objects, the fourth word in its line of `/proc/slabinfo`.
fn object_size(slabinfo: &str, cache: &str) -> Option<usize> {
    let mut lines = slabinfo.lines().map(str::split_whitespace);
    let mut line = lines.find_map(|mut words| (words.next() == Some(cache)).then_some(words))?;
    line.nth(2)?.parse().ok()
}

impl Contestant<Error> for Zswap {
    fn worker(&self) -> Result<Box<dyn Worker<Error> + '_>> {
        Ok(Box::new(Hand(&self.span)))
    }

    fn free(&self, page: usize) -> Result<()> {
        self.span.free(page).map_err(|error| Error::keeps("a free", page, error))
    }

    /// Makes the kernel shrink all its caches. This also compacts the pool of zswap, which no other
    /// interface does.
    fn tidy(&self) -> Result<()> {
        write(DROP_CACHES, "2")
    }

    fn settle(&self) -> Result<()> {
        Zswap::settle(self)
    }

    fn memory(&self) -> Result<Memory> {
        let held = Held::now()?.since(self.before);
        let metadata_bytes = self.entry_bytes.map(|bytes| held.pages * (bytes + HANDLE_AND_SLOT));
        Ok(Memory {
            compressed_bytes: None,
            resident_bytes: Some(held.pool_bytes + metadata_bytes.unwrap_or(0)),
            metadata_bytes,
            pool: None,
        })
    }
}

struct Hand<'a>(&'a Span);

impl Worker<Error> for Hand<'_> {
    fn store(&mut self, first: usize, pages: &[Page]) -> Result<()> {
        go_on()?;
        self.0.put(first, &pages[0]).map_err(|error| Error::keeps("a store", first, error))
    }

    fn load(&mut self, first: usize, into: &mut [Page]) -> Result<bool> {
        go_on()?;
        self.0.get(first, &mut into[0]).map_err(|error| Error::keeps("a load", first, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::shared;
    use measure::Pages;

    #[test]
    fn lines_of_the_kernel_are_understood() {
        let meminfo = "MemFree:  5 kB\nZswap:        12 kB\nZswapped:   340 kB\nDirty: 7\n";
        assert_eq!(kib(meminfo, "Zswap:"), Some(12));
        assert_eq!(kib(meminfo, "Zswapped:"), Some(340));
        assert_eq!(kib(meminfo, "Dirty:"), None);
        assert_eq!(kib(meminfo, "Swap:"), None);
        let slabinfo = "slabinfo - version: 2.1\n# name <active_objs> <num_objs> <objsize>\n\
                        zswap_entry_x 9 9 999 1 1\nzswap_entry   876    876     56   73    1 : x\n";
        assert_eq!(object_size(slabinfo, "zswap_entry"), Some(56));
        assert_eq!(object_size(slabinfo, "zspage"), None);
    }

    fn settings() -> Vec<String> {
        let paths = [ENABLED, COMPRESSOR, MAX_POOL_PERCENT, PAGE_CLUSTER, "/proc/swaps"];
        paths.iter().map(|path| read(path).unwrap_or_default()).collect()
    }

    /// Returns how many pages have been loaded from zswap since the system started.
    fn loads() -> usize {
        let text = read("/proc/vmstat").unwrap();
        let mut lines = text.lines();
        lines.find_map(|line| line.strip_prefix("zswpin ")?.parse().ok()).unwrap()
    }

    #[test]
    fn pages_go_through_zswap_and_everything_is_as_before() {
        let _alone = shared::alone();
        let before = settings();
        let settable = std::fs::OpenOptions::new().write(true).open(ENABLED);
        let swap = is_fit().and_then(|()| SwapFile::new(TRIAL));
        let possible = settable.is_ok() && swap.is_ok();
        drop(swap);
        let compressors = match offered() {
            Ok(compressors) => compressors,
            Err(reason) => {
                let taken = reason.matches("does not take").count() < WANTED.len();
                assert!(!possible || !taken, "{reason}");
                return println!("skipped: the kernel's zswap: {reason}");
            }
        };
        assert_eq!(settings(), before);
        assert!(Zswap::new("no-such-compressor", 64).is_err());
        assert_eq!(settings(), before);
        for compressor in compressors {
            let zswap = Zswap::new(&compressor, 256).unwrap();
            assert!(Zswap::new(&compressor, 256).is_err(), "a second one");
            for seed in [1, 2] {
                let pages = shared::pages(256, seed);
                let mut worker = zswap.worker().unwrap();
                for (n, page) in pages.iter().enumerate() {
                    worker.store(n, std::slice::from_ref(page)).unwrap();
                }
                let stored = Held::now().unwrap().since(zswap.before).pages;
                assert!(stored > 128, "a store waits for no settling: {stored}");
                zswap.settle().unwrap();
                let full = zswap.memory().unwrap();
                assert!((PAGE..256 * PAGE).contains(&full.resident_bytes.unwrap()), "{full:?}");
                let mut back = Pages::filled(0xa5, 1);
                for (n, page) in pages.iter().enumerate() {
                    assert!(worker.load(n, &mut back).unwrap());
                    assert_eq!(back[0], *page);
                }
                zswap.settle().unwrap();
                let before = loads();
                for n in 0..256 {
                    worker.load(n, &mut back).unwrap();
                }
                assert!(loads() >= before + 256, "every load must go through zswap");
                zswap.settle().unwrap();
            }
            let held = || Held::now().unwrap().since(zswap.before).pages;
            let full = held();
            (0..192).for_each(|page| zswap.free(page).unwrap());
            assert!(held() + 192 <= full + 8, "{} of {full}", held());
            assert!(!zswap.worker().unwrap().load(5, &mut Pages::filled(0, 1)).unwrap());
            drop(zswap);
            assert_eq!(settings(), before);
        }
    }
}
