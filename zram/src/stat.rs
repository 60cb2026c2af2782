//! Figures, with the kernel's names and in the kernel's order.

use core::fmt;

use zpage::device_slots::Slots;
use zpage::{Codec, PAGE_SIZE};
use zpool_api::ZpoolError;

use crate::Zram;
use crate::word::Content;

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

impl Zram {
    /// Memory: see the fields. Each is right at some moment of the call, not all at the same one.
    pub fn mm_stat(&self) -> MmStat {
        let pool = self.zpool.stats();
        let counts = &self.counts;
        MmStat {
            orig_data_size: counts.stored.get().saturating_mul(PAGE_SIZE as u64),
            compr_data_size: pool.object_bytes as u64,
            mem_used_total: pool.pool_bytes() as u64,
            mem_limit: counts.mem_limit() as u64,
            mem_used_max: counts.mem_used_max.get(),
            same_pages: counts.same.get(),
            pages_compacted: counts.compacted.get(),
            huge_pages: counts.huge.get(),
            huge_pages_since: counts.huge_since.get(),
        }
    }

    /// Requests: see the fields.
    pub fn io_stat(&self) -> IoStat {
        IoStat {
            failed_reads: self.counts.failed_reads.get(),
            failed_writes: self.counts.failed_writes.get(),
            invalid_io: self.counts.invalid_io.get(),
            notify_free: self.counts.notify_free.get(),
        }
    }

    /// The device: see the fields.
    pub fn bd_stat(&self) -> BdStat {
        BdStat {
            bd_count: self.backing.as_ref().map_or(0, Slots::taken),
            bd_reads: self.counts.device_reads.get(),
            bd_writes: self.counts.device_writes.get(),
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
        let device = self.backing.as_ref().map_or(0, Slots::memory_bytes);
        let backend = self.zpool.stats().metadata_bytes;
        [self.table.memory_bytes(), self.patterns.memory_bytes(), device, backend]
            .into_iter()
            .fold(0, usize::saturating_add)
    }

    /// Bytes of the compression contexts made so far: a cost for each CPU, not for each page.
    pub fn context_bytes(&self) -> usize {
        self.algorithms.iter().map(Codec::memory_bytes).fold(0, usize::saturating_add)
    }

    /// Bytes of pool pages with objects beyond which writes fail; 0 for no limit.
    pub fn set_mem_limit(&self, bytes: usize) {
        self.counts.mem_limit.set(bytes as u64);
    }

    /// Begins anew to look for the most memory used.
    pub fn reset_mem_used_max(&self) {
        self.counts.mem_used_max.set(self.pool_bytes() as u64);
    }

    /// Packs the pool; pages given back. [`ZpoolError::Unsupported`] from backends that cannot.
    pub fn compact(&self) -> Result<usize, ZpoolError> {
        let pages = self.zpool.compact()?;
        self.counts.compacted.add(pages as u64);
        Ok(pages)
    }

    /// Gives the pages that the pool keeps warm back to the system; how many.
    pub fn trim(&self) -> usize {
        self.zpool.trim()
    }
}
