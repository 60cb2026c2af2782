//! Figures, with the kernel's names and in the kernel's order.

use core::fmt;

use zpage::PAGE_SIZE;
use zpage::device_slots::Slots;
use zpool_api::ZpoolError;
use zpool_base::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::Zram;
use crate::word::{Content, Word};

/// As the kernel's `mm_stat`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct MmStat {
    /// Bytes of the pages held in memory, uncompressed.
    pub orig_data_size: u64,
    /// Bytes of their objects.
    pub compr_data_size: u64,
    /// Resident bytes of the pool, pages kept warm included.
    pub mem_used_total: u64,
    /// The limit, bytes; 0 for none.
    pub mem_limit: u64,
    /// The most bytes that the pool's pages with objects ever were, or since
    /// [`Zram::reset_mem_used_max`].
    pub mem_used_max: u64,
    /// Pages of one repeated word, which take no memory.
    pub same_pages: u64,
    /// Pages that [`Zram::compact`] has given back.
    pub pages_compacted: u64,
    /// Pages that are kept as they are.
    pub huge_pages: u64,
    /// Pages that were ever written as huge ones.
    pub huge_pages_since: u64,
}

/// As the kernel's `io_stat`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct IoStat {
    /// Reads that failed.
    pub failed_reads: u64,
    /// Writes that failed.
    pub failed_writes: u64,
    /// Ranges that are not on the disk.
    pub invalid_io: u64,
    /// Pages that were discarded.
    pub notify_free: u64,
}

/// As the kernel's `bd_stat`. Pages, of 4096 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct BdStat {
    /// Pages on the device.
    pub bd_count: u64,
    /// Pages ever read from it.
    pub bd_reads: u64,
    /// Pages ever written to it.
    pub bd_writes: u64,
}

/// One line of the kernel's `block_state`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct BlockState {
    /// The page, counted from 0.
    pub index: u64,
    /// Seconds from the disk's making to the last access, if the disk notes them.
    pub accessed: Option<u32>,
    /// One repeated word.
    pub same: bool,
    /// On the device.
    pub written_back: bool,
    /// Kept as it is.
    pub huge: bool,
    /// Marked idle.
    pub idle: bool,
    /// Compressed with another algorithm than the first.
    pub recompressed: bool,
    /// No algorithm of the disk makes it smaller.
    pub incompressible: bool,
}

impl fmt::Display for MmStat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} {} {} {} {} {} {} {}",
            self.orig_data_size,
            self.compr_data_size,
            self.mem_used_total,
            self.mem_limit,
            self.mem_used_max,
            self.same_pages,
            self.pages_compacted,
            self.huge_pages,
            self.huge_pages_since
        )
    }
}

impl fmt::Display for IoStat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let IoStat { failed_reads, failed_writes, invalid_io, notify_free } = self;
        write!(f, "{failed_reads} {failed_writes} {invalid_io} {notify_free}")
    }
}

impl fmt::Display for BdStat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.bd_count, self.bd_reads, self.bd_writes)
    }
}

impl fmt::Display for BlockState {
    /// As the kernel has it: `index seconds flags`, the flags `s`, `w`, `h`, `i`, `r` and `n`, or dots.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flag = |on: bool, letter: char| if on { letter } else { '.' };
        write!(
            f,
            "{:12} {:12} {}{}{}{}{}{}",
            self.index,
            self.accessed.unwrap_or(0),
            flag(self.same, 's'),
            flag(self.written_back, 'w'),
            flag(self.huge, 'h'),
            flag(self.idle, 'i'),
            flag(self.recompressed, 'r'),
            flag(self.incompressible, 'n')
        )
    }
}

/// No limit on writeback.
const UNLIMITED: u64 = u64::MAX;

/// What a disk counts. All of it decides nothing but the two limits, which are kept to within the
/// pages of the threads that are at it.
#[derive(Debug)]
pub(crate) struct Counts {
    stored: AtomicU64,
    same: AtomicU64,
    huge: AtomicU64,
    huge_since: AtomicU64,
    compacted: AtomicU64,
    failed_reads: AtomicU64,
    failed_writes: AtomicU64,
    invalid_io: AtomicU64,
    notify_free: AtomicU64,
    device_reads: AtomicU64,
    device_writes: AtomicU64,
    mem_limit: AtomicUsize,
    mem_used_max: AtomicUsize,
    writeback_limit: AtomicU64,
}

fn add(counter: &AtomicU64, n: u64) {
    // Relaxed, here and below: numbers that publish nothing.
    counter.fetch_add(n, Ordering::Relaxed);
}

impl Counts {
    pub(crate) fn new(mem_limit: usize) -> Self {
        let zero = || AtomicU64::new(0);
        Counts {
            stored: zero(),
            same: zero(),
            huge: zero(),
            huge_since: zero(),
            compacted: zero(),
            failed_reads: zero(),
            failed_writes: zero(),
            invalid_io: zero(),
            notify_free: zero(),
            device_reads: zero(),
            device_writes: zero(),
            mem_limit: AtomicUsize::new(mem_limit),
            mem_used_max: AtomicUsize::new(0),
            writeback_limit: AtomicU64::new(UNLIMITED),
        }
    }

    /// One word took another's place.
    #[inline]
    pub(crate) fn replaced(&self, old: Word, new: Word) {
        let kinds = |word: Word| {
            let content = word.content();
            let in_memory = matches!(content, Content::Object { .. } | Content::Same(_));
            let huge = matches!(content, Content::Object { huge: true, .. });
            [in_memory, matches!(content, Content::Same(_)), huge]
        };
        let (before, after) = (kinds(old), kinds(new));
        for (kind, counter) in [&self.stored, &self.same, &self.huge].into_iter().enumerate() {
            match (before[kind], after[kind]) {
                (false, true) => add(counter, 1),
                // Wraps back: it was counted.
                (true, false) => add(counter, u64::MAX),
                _ => {}
            }
        }
        if after[2] {
            add(&self.huge_since, 1);
        }
    }

    pub(crate) fn device_read(&self) {
        add(&self.device_reads, 1);
    }

    pub(crate) fn written_back(&self) {
        add(&self.device_writes, 1);
    }

    pub(crate) fn failed_read(&self) {
        add(&self.failed_reads, 1);
    }

    pub(crate) fn failed_write(&self) {
        add(&self.failed_writes, 1);
    }

    pub(crate) fn invalid_io(&self) {
        add(&self.invalid_io, 1);
    }

    pub(crate) fn notify_free(&self) {
        add(&self.notify_free, 1);
    }

    /// Bytes; 0 for no limit.
    pub(crate) fn mem_limit(&self) -> usize {
        // Relaxed: as above.
        self.mem_limit.load(Ordering::Relaxed)
    }

    /// The pool's pages with objects have so many bytes now.
    #[inline]
    pub(crate) fn used(&self, bytes: usize) {
        // Relaxed, both: as above. Written only when it grows, so that writers do not contend for it.
        if bytes > self.mem_used_max.load(Ordering::Relaxed) {
            self.mem_used_max.fetch_max(bytes, Ordering::Relaxed);
        }
    }

    pub(crate) fn set_writeback_limit(&self, pages: Option<u64>) {
        // Relaxed: as above.
        self.writeback_limit.store(pages.unwrap_or(UNLIMITED), Ordering::Relaxed);
    }

    pub(crate) fn writeback_limit(&self) -> Option<u64> {
        // Relaxed: as above.
        Some(self.writeback_limit.load(Ordering::Relaxed)).filter(|pages| *pages != UNLIMITED)
    }

    /// Takes a page of the budget, if one is left.
    pub(crate) fn take_writeback(&self) -> bool {
        let less = |pages: u64| if pages == UNLIMITED { Some(pages) } else { pages.checked_sub(1) };
        // Relaxed: as above.
        self.writeback_limit.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }

    pub(crate) fn give_writeback_back(&self) {
        let more = |pages: u64| (pages != UNLIMITED).then_some(pages.saturating_add(1));
        // Relaxed: as above.
        let _ = self.writeback_limit.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    }

    /// Back to what a new disk has; limits, and what is counted page by page, stay.
    pub(crate) fn reset(&self) {
        let since = [
            &self.huge_since,
            &self.compacted,
            &self.failed_reads,
            &self.failed_writes,
            &self.invalid_io,
            &self.notify_free,
            &self.device_reads,
            &self.device_writes,
        ];
        for counter in since {
            // Relaxed: as above.
            counter.store(0, Ordering::Relaxed);
        }
        // Relaxed: as above.
        self.mem_used_max.store(0, Ordering::Relaxed);
    }
}

fn get(counter: &AtomicU64) -> u64 {
    // Relaxed: as above.
    counter.load(Ordering::Relaxed)
}

impl Zram {
    /// Memory: see the fields. Each is right at some moment of the call, not all at the same one.
    pub fn mm_stat(&self) -> MmStat {
        let pool = self.zpool.stats();
        let counts = &self.counts;
        MmStat {
            orig_data_size: get(&counts.stored) * PAGE_SIZE as u64,
            compr_data_size: pool.object_bytes as u64,
            mem_used_total: pool.pool_bytes() as u64,
            mem_limit: counts.mem_limit() as u64,
            // Relaxed: a figure.
            mem_used_max: counts.mem_used_max.load(Ordering::Relaxed) as u64,
            same_pages: get(&counts.same),
            pages_compacted: get(&counts.compacted),
            huge_pages: get(&counts.huge),
            huge_pages_since: get(&counts.huge_since),
        }
    }

    /// Requests: see the fields.
    pub fn io_stat(&self) -> IoStat {
        IoStat {
            failed_reads: get(&self.counts.failed_reads),
            failed_writes: get(&self.counts.failed_writes),
            invalid_io: get(&self.counts.invalid_io),
            notify_free: get(&self.counts.notify_free),
        }
    }

    /// The device: see the fields.
    pub fn bd_stat(&self) -> BdStat {
        BdStat {
            bd_count: self.backing.as_ref().map_or(0, Slots::taken),
            bd_reads: get(&self.counts.device_reads),
            bd_writes: get(&self.counts.device_writes),
        }
    }

    /// What is known of every page that holds something, in order.
    pub fn block_state(&self) -> impl Iterator<Item = BlockState> {
        self.table.made().filter_map(|index| {
            let slot = self.table.lock(index)?;
            let word = slot.word();
            let content = word.content();
            let recompressed = matches!(content, Content::Object { priority: 1.., .. });
            (content != Content::Empty).then(|| BlockState {
                index,
                accessed: slot.accessed(),
                same: matches!(content, Content::Same(_)),
                written_back: matches!(content, Content::OnDevice(_)),
                huge: word.is_huge(),
                idle: word.is_idle(),
                recompressed,
                incompressible: word.is_incompressible(),
            })
        })
    }

    /// Bytes kept beside the pool's pages: table, patterns, the device's bitmap, the backend's
    /// descriptors and slots.
    pub fn metadata_bytes(&self) -> usize {
        self.table.memory_bytes()
            + self.patterns.memory_bytes()
            + self.backing.as_ref().map_or(0, Slots::memory_bytes)
            + self.zpool.stats().metadata_bytes
    }

    /// Bytes of the compression contexts made so far: a cost for each CPU, not for each page.
    pub fn context_bytes(&self) -> usize {
        self.algorithms.iter().map(|algorithm| algorithm.memory_bytes()).sum()
    }

    /// Bytes of pool pages with objects beyond which writes fail; 0 for no limit.
    pub fn set_mem_limit(&self, bytes: usize) {
        // Relaxed: as for the counters.
        self.counts.mem_limit.store(bytes, Ordering::Relaxed);
    }

    /// Begins anew to look for the most memory used.
    pub fn reset_mem_used_max(&self) {
        // Relaxed: as for the counters.
        let used = self.zpool.total_pages() * self.pool_page;
        self.counts.mem_used_max.store(used, Ordering::Relaxed);
    }

    /// Packs the pool; pages given back. [`ZpoolError::Unsupported`] from backends that cannot.
    pub fn compact(&self) -> Result<usize, ZpoolError> {
        let pages = self.zpool.compact()?;
        add(&self.counts.compacted, pages as u64);
        Ok(pages)
    }

    /// Gives the pages that the pool keeps warm back to the system; how many.
    pub fn trim(&self) -> usize {
        self.zpool.trim()
    }
}
