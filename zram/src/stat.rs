//! Statistics, with the kernel's names and in the kernel's order.

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
    /// Resident bytes of the pool, including pages kept warm.
    pub mem_used_total: u64,
    /// The limit, bytes; 0 for none.
    pub mem_limit: u64,
    /// The maximum of the bytes of pool pages with objects, since the disk was built or since
    /// [`Zram::reset_mem_used_max`].
    pub mem_used_max: u64,
    /// Same-filled pages: they repeat one word and take no pool memory.
    pub same_pages: u64,
    /// Pages that [`Zram::compact`] has freed.
    pub pages_compacted: u64,
    /// Pages stored uncompressed.
    pub huge_pages: u64,
    /// Huge pages ever written.
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
    /// Calls with a range that is not on the disk.
    pub invalid_io: u64,
    /// Pages discarded by [`Zram::discard`].
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
    /// The last access, in seconds since the disk was built, if the disk records it.
    pub accessed: Option<u32>,
    /// Same-filled.
    pub same: bool,
    /// On the device.
    pub written_back: bool,
    /// Stored uncompressed.
    pub huge: bool,
    /// Marked idle.
    pub idle: bool,
    /// Compressed with an algorithm other than the first.
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
    /// In the kernel's order: `index seconds flags`, with the flags `s`, `w`, `h`, `i`, `r` and `n`, or dots.
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
    /// Memory statistics. Each field is right at some moment of the call, but not all at the same one.
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

    /// Request statistics.
    pub fn io_stat(&self) -> IoStat {
        IoStat {
            failed_reads: self.counts.failed_reads.get(),
            failed_writes: self.counts.failed_writes.get(),
            invalid_io: self.counts.invalid_io.get(),
            notify_free: self.counts.notify_free.get(),
        }
    }

    /// Device statistics.
    pub fn bd_stat(&self) -> BdStat {
        BdStat {
            bd_count: self.backing.as_ref().map_or(0, Slots::taken),
            bd_reads: self.counts.device_reads.get(),
            bd_writes: self.counts.device_writes.get(),
        }
    }

    /// The state of every page that is not empty, in order.
    ///
    /// ```
    /// let disk = zram::Zram::builder().disksize(1 << 20).build()?;
    /// disk.write(8192, &[7; 4096])?;
    /// let state = disk.block_state().next().expect("one page is written");
    /// assert_eq!((state.index, state.same), (2, true));
    /// assert_eq!(state.to_string(), "           2            0 s.....");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Blocking
    /// As [`Zram::mark_idle`].
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

    /// Bytes of memory besides the pool's pages: the table, patterns, the bookkeeping of the device's slots,
    /// and the backend's descriptors and slots.
    pub fn metadata_bytes(&self) -> usize {
        let device = self.backing.as_ref().map_or(0, Slots::memory_bytes);
        let backend = self.zpool.stats().metadata_bytes;
        [self.table.memory_bytes(), self.patterns.memory_bytes(), device, backend]
            .into_iter()
            .fold(0, usize::saturating_add)
    }

    /// Bytes of the compression contexts made so far: a cost per CPU, not per page.
    pub fn context_bytes(&self) -> usize {
        self.algorithms.iter().map(Codec::memory_bytes).fold(0, usize::saturating_add)
    }

    /// Sets the most bytes of pool pages with objects: writes beyond it fail with
    /// [`ZramError::MemLimit`](crate::ZramError::MemLimit). 0 means no limit.
    pub fn set_mem_limit(&self, bytes: usize) {
        self.counts.mem_limit.set(bytes as u64);
    }

    /// Restarts [`MmStat::mem_used_max`] from the present use.
    pub fn reset_mem_used_max(&self) {
        self.counts.mem_used_max.set(self.pool_bytes() as u64);
    }

    /// Compacts the pool and returns the number of pages freed.
    ///
    /// ```
    /// # if cfg!(not(feature = "zsmalloc")) { return Ok(()); }
    /// let disk = zram::Zram::builder().disksize(1 << 20).zpool("zsmalloc").build()?;
    /// assert_eq!(disk.compact()?, 0, "an empty pool");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`ZpoolError::Unsupported`] if the backend cannot compact, or the backend's own error.
    ///
    /// # Blocking
    /// In the backend.
    pub fn compact(&self) -> Result<usize, ZpoolError> {
        let pages = self.zpool.compact()?;
        self.counts.compacted.add(pages as u64);
        Ok(pages)
    }

    /// Returns the pages that the pool keeps warm to the system, and returns how many they were.
    ///
    /// ```
    /// let disk = zram::Zram::builder().disksize(1 << 20).build()?;
    /// disk.write(0, b"some bytes")?;
    /// disk.discard(0, 1 << 20)?;
    /// disk.trim();
    /// assert_eq!(disk.mm_stat().mem_used_total, 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Blocking
    /// In the system.
    pub fn trim(&self) -> usize {
        self.zpool.trim()
    }
}
