//! Statistics, with the kernel's names and in the kernel's order.

use core::fmt;

use zpage::segments::{Figures, Segments};
use zpool_api::ZpoolError;

use crate::Zram;
use crate::word::Content;

/// Memory statistics, as in the kernel's `mm_stat`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct MmStat {
    /// The uncompressed size, in bytes, of the pages that are in memory.
    pub orig_data_size: u64,
    /// Bytes of the objects in the pool.
    pub compr_data_size: u64,
    /// Resident bytes of the pool, including free pages that it keeps for reuse.
    pub mem_used_total: u64,
    /// The limit in bytes; 0 means no limit.
    pub mem_limit: u64,
    /// The most bytes of pool pages that held objects after a write, since the disk was built or reset, or since
    /// [`Zram::reset_mem_used_max`].
    pub mem_used_max: u64,
    /// Same-filled pages. They repeat one word and take no pool memory.
    pub same_pages: u64,
    /// Pool pages that [`Zram::compact`] has freed since the disk was built or reset.
    pub pages_compacted: u64,
    /// Pages stored uncompressed.
    pub huge_pages: u64,
    /// Huge pages written since the disk was built or reset.
    pub huge_pages_since: u64,
}

/// Request statistics, as in the kernel's `io_stat`.
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

/// Device statistics. The first three fields are those of the kernel's `bd_stat`: they count pages, whatever their
/// compressed size. `Display` writes these three, as the kernel does. The fields `bd_bytes_*` and `bd_live_bytes`
/// count compressed bytes, and the checksums, lists and gaps between objects with them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct BdStat {
    /// Pages on the device.
    pub bd_count: u64,
    /// Pages read from the device since the disk was built or reset.
    pub bd_reads: u64,
    /// Pages that [`Zram::writeback`] moved to the device since the disk was built or reset.
    pub bd_writes: u64,
    /// Bytes written to the device since the disk was built or reset: by writeback, by cleaning, which moves pages
    /// together to free segments, and by writes that failed.
    pub bd_bytes_written: u64,
    /// Bytes read from the device since the disk was built or reset, to read pages. Reads by cleaning do not count.
    pub bd_bytes_read: u64,
    /// Bytes of the pages on the device, each with its checksum and rounded up to 16.
    pub bd_live_bytes: u64,
    /// Segments of the device that hold pages or are being written.
    pub bd_segments: u64,
}

/// The state of a page, as in a line of the kernel's `block_state`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct BlockState {
    /// The page's number, from 0.
    pub index: u64,
    /// When the page was last accessed, in seconds since the disk was built. `None` if the disk does not record
    /// access times.
    pub accessed: Option<u32>,
    /// Whether the page is same-filled.
    pub same: bool,
    /// Whether the page is on the device.
    pub written_back: bool,
    /// Whether the page is in memory and stored uncompressed.
    pub huge: bool,
    /// Whether the page is marked idle. A page that is written back keeps its mark until it is read.
    pub idle: bool,
    /// Whether the page is in memory and compressed with an algorithm other than the first.
    pub recompressed: bool,
    /// Whether the page is in memory, and recompression with the algorithm of the highest priority was tried and
    /// failed to make the page smaller.
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
    /// Writes `index seconds flags`, as the kernel does. The flags are the letters `s`, `w`, `h`, `i`, `r` and
    /// `n`. A dot stands for each flag that is not set.
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
    /// Returns the memory statistics. Each field is correct at some moment of the call, but not all fields at
    /// the same moment.
    pub fn mm_stat(&self) -> MmStat {
        let pool = self.zpool.stats();
        let counts = &self.counts;
        MmStat {
            orig_data_size: counts.stored.get().saturating_mul(self.unit as u64).min(self.disksize),
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

    /// Returns the request statistics.
    pub fn io_stat(&self) -> IoStat {
        IoStat {
            failed_reads: self.counts.failed_reads.get(),
            failed_writes: self.counts.failed_writes.get(),
            invalid_io: self.counts.invalid_io.get(),
            notify_free: self.counts.notify_free.get(),
        }
    }

    /// Returns the device statistics. Each field is correct at some moment of the call, but not all fields at the
    /// same moment. While pages are being written back or cleaned, `bd_live_bytes` may count a page twice.
    pub fn bd_stat(&self) -> BdStat {
        let (counts, figures) = (&self.counts, self.device_figures());
        let since = |bytes: u64, before: u64| bytes.saturating_sub(before);
        BdStat {
            bd_count: counts.on_device.get(),
            bd_reads: counts.device_reads.get(),
            bd_writes: counts.device_writes.get(),
            bd_bytes_written: since(figures.written_bytes, counts.written_before.get()),
            bd_bytes_read: since(figures.read_bytes, counts.read_before.get()),
            bd_live_bytes: figures.live_bytes,
            bd_segments: figures.segments,
        }
    }

    /// Returns what the device holds and has counted since the disk was built; all zero without a device.
    pub(crate) fn device_figures(&self) -> Figures {
        self.backing.as_ref().map(Segments::figures).unwrap_or_default()
    }

    /// Returns the state of every page that is not empty, in the order of the pages.
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
    /// Each step of the iterator waits for the lock of a page if another thread writes the page in part or
    /// recompresses it.
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

    /// Returns the bytes of memory that the disk uses besides the pool's pages: the table, the patterns, the
    /// records of the device's segments and the memory to write and clean them, and the backend's descriptors and
    /// slots.
    pub fn metadata_bytes(&self) -> usize {
        let device = self.backing.as_ref().map_or(0, Segments::memory_bytes);
        let backend = self.zpool.stats().metadata_bytes;
        let recent = self.recent.memory_bytes();
        [self.table.memory_bytes(), self.patterns.memory_bytes(), device, backend, recent]
            .into_iter()
            .fold(0, usize::saturating_add)
    }

    /// Returns the bytes of the compression contexts made so far. Each algorithm has at most one context per CPU,
    /// whatever the number of pages.
    pub fn context_bytes(&self) -> usize {
        self.algorithms.iter().map(|codec| codec.memory_bytes()).fold(0, usize::saturating_add)
    }

    /// Limits the bytes of the pool pages that hold objects. A write that would exceed the limit fails with
    /// [`ZramError::MemLimit`](crate::ZramError::MemLimit). 0 means no limit.
    pub fn set_mem_limit(&self, bytes: usize) {
        self.counts.mem_limit.set(bytes as u64);
    }

    /// Sets [`MmStat::mem_used_max`] to the bytes of pool pages that hold objects now.
    pub fn reset_mem_used_max(&self) {
        self.counts.mem_used_max.set(self.pool_bytes() as u64);
    }

    /// Compacts the pool and returns the number of pool pages freed.
    ///
    /// ```
    /// # if cfg!(not(feature = "zsmalloc")) { return Ok(()); }
    /// let disk = zram::Zram::builder().disksize(1 << 20).zpool("zsmalloc").build()?;
    /// assert_eq!(disk.compact()?, 0, "an empty pool");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`ZpoolError::Unsupported`] if the backend cannot compact; the backend's own error if compaction fails.
    ///
    /// # Blocking
    /// Blocks in the backend.
    pub fn compact(&self) -> Result<usize, ZpoolError> {
        let pages = self.zpool.compact()?;
        self.counts.compacted.add(pages as u64);
        Ok(pages)
    }

    /// Gives the free pages that the pool keeps for reuse back to the system, and returns their number. Also drops the
    /// decompressed copies of units that were read in part.
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
    /// Blocks in the system.
    pub fn trim(&self) -> usize {
        self.recent.clear();
        self.zpool.trim()
    }
}
