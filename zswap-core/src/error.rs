//! The errors of this crate: why a page could not be stored, loaded or moved, or why a store could not be
//! built.
//!
//! The message of an error does not repeat the message of its source. To print an error in full, print the
//! messages of its `source()` chain, too.

use compressors::CompressorError;
use zpool_api::{PageError, ZpoolError};

use crate::SwapEntry;
use crate::page_buffer::NoBuffer;
use crate::refusal::LimitReason;
use zpage::UnitError;
use zpage::device::{AttachError, DeviceError};

/// Errors of [`crate::Zswap::store`] and [`crate::Zswap::try_replace`]. After an error of `store`, an older
/// page of the entry is gone, too. `try_replace` keeps it.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The slice is not as long as a page of the store.
    #[error(
        "{len} bytes for {entry:?}, but the store's pages have {unit}; pass a slice of {unit} bytes"
    )]
    WrongLength {
        /// The entry.
        entry: SwapEntry,
        /// The length of the slice.
        len: usize,
        /// Bytes of a page of the store.
        unit: usize,
    },
    /// The page does not get smaller, and the store was built to refuse such pages.
    #[error(
        "the page of {entry:?} does not compress below {page_size} bytes; keep it elsewhere, or build \
         the store with store_incompressible(true)"
    )]
    Incompressible {
        /// The entry.
        entry: SwapEntry,
        /// Bytes of a page.
        page_size: usize,
    },
    /// The codec failed.
    #[error("the page of {entry:?} could not be compressed")]
    Compress {
        /// The entry.
        entry: SwapEntry,
        /// The codec's error.
        source: CompressorError,
    },
    /// The backend failed, or the system had no memory for the page.
    #[error("no room in the pool for the page of {entry:?}")]
    Pool {
        /// The entry.
        entry: SwapEntry,
        /// The backend's error.
        source: ZpoolError,
    },
    /// The pools are at their limit, and no memory could be freed for the page.
    #[error(
        "no room for the page of {entry:?} below the limit of {limit} bytes: {reason}; shrink the \
         store, or raise max_pool_bytes or max_bytes"
    )]
    PoolLimit {
        /// The entry.
        entry: SwapEntry,
        /// The limit on the pools' pages at that time, in bytes.
        limit: usize,
        /// The reason why no memory could be freed.
        reason: LimitReason,
    },
    /// Memory that cannot be written back (index, patterns, contexts, device tables) has reached `max_bytes`.
    #[error(
        "no room for a new entry {entry:?}: index, patterns, contexts and tables take {unwritable} of \
         the {limit} bytes that max_bytes allows; invalidate pages, or raise the limit"
    )]
    MemoryLimit {
        /// The entry.
        entry: SwapEntry,
        /// Bytes that cannot be written back.
        unwritable: usize,
        /// The limit `max_bytes`.
        limit: usize,
    },
    /// There is no memory for the index.
    #[error(
        "no memory for the index to hold {entry:?} ({bytes} bytes asked); free memory and retry"
    )]
    Index {
        /// The entry.
        entry: SwapEntry,
        /// Bytes that the system allocator refused.
        bytes: usize,
    },
    /// A codec or backend called this function while a store was calling that codec or backend on this
    /// thread. Or too many calls that write pages back were nested, each made by the device of the call before.
    #[error(
        "store of {entry:?} from inside a codec, backend or device call, where it cannot run; store the \
         page after that has returned"
    )]
    Reentrant {
        /// The entry.
        entry: SwapEntry,
    },
    /// This process is a child, after `fork`, of the process that built the store.
    #[error(
        "{entry:?}: the store was built before this process was forked; build another one here"
    )]
    Forked {
        /// The entry.
        entry: SwapEntry,
    },
}

/// Errors of [`crate::Zswap::load`] and [`crate::Zswap::take`]. After an error the entry is unchanged.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The buffer is not as long as a page of the store.
    #[error(
        "a buffer of {len} bytes for {entry:?}, but the store's pages have {unit}; pass a slice of {unit} bytes"
    )]
    WrongLength {
        /// The entry.
        entry: SwapEntry,
        /// The length of the buffer.
        len: usize,
        /// Bytes of a page of the store.
        unit: usize,
    },
    /// Nothing is stored under the entry.
    #[error("no page is stored under {entry:?}")]
    NotFound {
        /// The entry.
        entry: SwapEntry,
    },
    /// The stored bytes do not decompress to a page.
    #[error("the page of {entry:?} could not be decompressed")]
    Decompress {
        /// The entry.
        entry: SwapEntry,
        /// The codec's error.
        source: CompressorError,
    },
    /// The backend failed to return the object.
    #[error("the page of {entry:?} could not be read from the pool")]
    Pool {
        /// The entry.
        entry: SwapEntry,
        /// The backend's error.
        source: ZpoolError,
    },
    /// The device failed to return the page.
    #[error("the page of {entry:?} could not be read from the device")]
    Device {
        /// The entry.
        entry: SwapEntry,
        /// The device's error.
        source: DeviceError,
    },
    /// The page that was read differs from the page that was stored: it was changed in memory, by the device,
    /// by the codec or by the backend. Only a store built with [`checksums`](crate::ZswapBuilder::checksums)
    /// can report this.
    #[error(
        "the page of {entry:?} has the checksum {found:08x} but had {noted:08x} when it was stored; its \
         content is lost: store it again or invalidate it"
    )]
    Corrupt {
        /// The entry.
        entry: SwapEntry,
        /// CRC-32 of the page that was stored.
        noted: u32,
        /// CRC-32 of the page that was read.
        found: u32,
    },
    /// A codec or backend called this function while a store was calling that codec or backend on this
    /// thread.
    #[error(
        "load of {entry:?} from inside a codec or backend call, where it cannot run; load the page \
         after that has returned"
    )]
    Reentrant {
        /// The entry.
        entry: SwapEntry,
    },
    /// This process is a child, after `fork`, of the process that built the store.
    #[error(
        "{entry:?}: the store was built before this process was forked; build another one here"
    )]
    Forked {
        /// The entry.
        entry: SwapEntry,
    },
}

/// Errors of [`crate::ZswapBuilder::build`], and of the functions that change a store's backend, compressor or
/// limits, such as [`crate::Zswap::set_zpool`]. After an error nothing has changed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The backend's name is unknown, or the backend could not be built.
    #[error(transparent)]
    Zpool(#[from] ZpoolError),
    /// The compressor's name is unknown, or the compressor could not be built.
    #[error(transparent)]
    Compressor(#[from] CompressorError),
    /// The page provider could not be built.
    #[error(transparent)]
    Pages(#[from] PageError),
    /// The unit is none.
    #[error(transparent)]
    Unit(#[from] UnitError),
    /// The device could not be attached, most likely because another store has it.
    #[error(transparent)]
    Device(#[from] AttachError),
    /// The backend's largest object is smaller than a page, so an incompressible page would not fit.
    #[error("zpool {zpool} holds objects of {max} bytes at most; a store needs {needed}")]
    ObjectsTooSmall {
        /// The backend's name.
        zpool: String,
        /// The size of its largest object, in bytes.
        max: usize,
        /// The size that a store needs, in bytes.
        needed: usize,
    },
    /// The store cannot have another pool: the most pools are alive already, and each is still in use.
    #[error(
        "{limit} pools hold pages already; load, invalidate or overwrite the pages of one of them"
    )]
    TooManyPools {
        /// The most pools that can be alive at once.
        limit: usize,
    },
    /// A codec or backend called this function while a store held a compression context on this thread, or the
    /// thread is ending.
    #[error(
        "build or switch from inside a codec or backend call, or on a thread that is ending, where it \
         cannot run; do it after that call has returned, or on another thread"
    )]
    Reentrant,
    /// The area has pools of its own already, or a page was offered for it before.
    #[error(
        "area {swap_type} has pools of its own already, or a page was stored there before; add an area before its first \
         page, and change it by Zswap::area"
    )]
    AreaTaken {
        /// The area.
        swap_type: u8,
    },
    /// Code of a backend, a compressor or a page provider panicked.
    #[error("{what} panicked while it was built")]
    Panicked {
        /// What was being built.
        what: &'static str,
    },
    /// The limit is too low: even an empty store with room for one page needs more.
    #[error(
        "{limit} of {bytes} bytes is too low: its tables, contexts and one page need {needed} bytes; \
         give at least that"
    )]
    LimitTooSmall {
        /// The setting: `max_bytes`.
        limit: &'static str,
        /// The rejected limit, in bytes.
        bytes: usize,
        /// The least limit that the store accepts, in bytes.
        needed: usize,
    },
    /// Settings contradict each other, or one is out of range.
    #[error("{0}")]
    Contradiction(String),
    /// This process is a child, after `fork`, of the process that built the store.
    #[error("the store was built before this process was forked; build another one here")]
    Forked,
}

/// Errors of [`crate::Zswap::migrate_pools`] and [`crate::Zswap::recompress`]. The page that could not be moved
/// stays in place. Pages that were moved before it stay moved.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum MigrateError {
    /// The other pool could not be built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The page could not be put into the other pool.
    #[error("a page could not be put into the other pool")]
    Store(#[source] StoreError),
    /// The page could not be read.
    #[error("a page could not be read to be moved")]
    Load(#[from] LoadError),
    /// There is no memory for a page on its way.
    #[error("a page could not be moved")]
    Buffer(#[source] NoBuffer),
    /// A codec or backend panicked on a thread that moved pages in the background.
    #[error("the codec or backend panicked while a page was moved in the background")]
    Panicked,
    /// This process is a child, after `fork`, of the process that built the store.
    #[error("the store was built before this process was forked; build another one here")]
    Forked,
}

/// Errors of [`crate::Zswap::shrink`], [`crate::Zswap::shrink_in_background`] and
/// [`crate::Zswap::clean_in_background`]. The page that could not be
/// written back stays in place. Pages that were written back before it stay on the device.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum WritebackError {
    /// The store has no device, or writeback is switched off. No page was found that the filter calls clean.
    #[error("nowhere to write pages to; build the store with swap_device, or enable writeback")]
    NoDevice,
    /// No segment of the device is free, and cleaning frees none.
    #[error(
        "all {segments} segments of the device are full; invalidate pages, or use a larger device"
    )]
    DeviceFull {
        /// The number of segments, all full.
        segments: u64,
    },
    /// The device failed.
    #[error("the page of {entry:?} could not be written back")]
    Device {
        /// The entry.
        entry: SwapEntry,
        /// The device's error.
        source: DeviceError,
    },
    /// The page could not be read.
    #[error("a page could not be read to be written back")]
    Load(#[from] LoadError),
    /// The device could not be flushed. Its pages can still be read, as long as it does not lose them.
    #[error("the device could not be flushed")]
    Flush {
        /// The device's error.
        source: DeviceError,
    },
    /// The device's segments could not be cleaned. Nothing was lost.
    #[error("the device's segments could not be cleaned")]
    Cleaning {
        /// The device's error.
        source: DeviceError,
    },
    /// More than four calls that write pages back were nested, each made by the device, the filter or the listener of
    /// the call before. A device that calls the store that is writing to it leads to this.
    #[error(
        "a device, filter or listener called into the store, several levels deep, while pages were written back; \
         call after it has returned"
    )]
    Reentrant,
    /// A background shrinker was requested, but the store has no limit.
    #[error("the store has no limit to shrink for; set max_pool_bytes or max_bytes")]
    NoLimit,
    /// The system could not start a thread for a background shrinker.
    #[error("no thread for the background shrinker: {message}")]
    Thread {
        /// The system's error.
        message: String,
    },
    /// The shrinker's threshold is above the store's accept threshold. So the shrinker would stop before it has
    /// shrunk the pools enough to reopen a store that was closed after a refusal.
    #[error(
        "a shrinker that starts at {from_percent} % of the limit never reopens a store that reopens at \
         {accept_percent} %; choose a from_percent of {accept_percent} or less"
    )]
    Thresholds {
        /// [`ShrinkerPolicy::from_percent`](crate::ShrinkerPolicy::from_percent).
        from_percent: u8,
        /// [`accept_threshold_percent`](crate::ZswapBuilder::accept_threshold_percent).
        accept_percent: u8,
    },
    /// A codec, a backend or the device panicked.
    #[error("a codec, a backend or the device panicked while pages were written back")]
    Panicked,
    /// This process is a child, after `fork`, of the process that built the store.
    #[error("the store was built before this process was forked; build another one here")]
    Forked,
}

/// Errors of a whole call of [`crate::Zswap::store_batch`] or [`crate::Zswap::load_batch`]. After such an
/// error, no page was stored or loaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// The numbers of entries and pages differ.
    #[error("{entries} entries but {pages} pages; give one page for each entry")]
    LengthMismatch {
        /// The number of entries.
        entries: usize,
        /// The number of pages.
        pages: usize,
    },
    /// The slice is not as long as the pages of the store together.
    #[error(
        "{len} bytes for {entries} pages of {unit} bytes; give one slice with {unit} bytes for each entry"
    )]
    WrongLength {
        /// The length of the slice.
        len: usize,
        /// The number of entries.
        entries: usize,
        /// Bytes of a page of the store.
        unit: usize,
    },
    /// The system has no memory for the batch's own lists.
    #[error("no memory for a batch of {pages} pages ({bytes} bytes asked); give fewer at a time")]
    OutOfMemory {
        /// The number of pages in the batch.
        pages: usize,
        /// Bytes that the system allocator refused.
        bytes: usize,
    },
    /// This process is a child, after `fork`, of the process that built the store.
    #[error("the store was built before this process was forked; build another one here")]
    Forked,
}

#[cfg(test)]
mod tests {
    use std::error::Error;
    use std::iter::successors;

    use super::*;

    #[test]
    fn no_message_repeats_that_of_its_source() {
        let entry = SwapEntry::new(1, 2).unwrap();
        let pages = PageError::Injected { call: 3 };
        let codec = CompressorError::Panicked { operation: "decompress" };
        let load = LoadError::Decompress { entry, source: codec.clone() };
        let errors: [Box<dyn Error>; 11] = [
            Box::new(StoreError::Compress { entry, source: codec.clone() }),
            Box::new(StoreError::Pool { entry, source: pages.clone().into() }),
            Box::new(LoadError::Pool { entry, source: pages.clone().into() }),
            Box::new(LoadError::Device { entry, source: DeviceError::Missing { segment: 4 } }),
            Box::new(WritebackError::Device { entry, source: DeviceError::Missing { segment: 4 } }),
            Box::new(WritebackError::from(load.clone())),
            Box::new(MigrateError::Store(StoreError::Compress { entry, source: codec.clone() })),
            Box::new(MigrateError::from(load.clone())),
            Box::new(load),
            Box::new(MigrateError::from(BuildError::from(codec.clone()))),
            Box::new(BuildError::from(ZpoolError::from(pages.clone()))),
        ];
        let causes =
            [codec.to_string(), DeviceError::Missing { segment: 4 }.to_string(), pages.to_string()];
        for error in &errors {
            let chain =
                successors(Some(&**error), |error| (*error).source()).map(ToString::to_string);
            let told = chain.collect::<Vec<_>>().join(": ");
            let times: usize =
                causes.iter().map(|cause| told.matches(cause.as_str()).count()).sum();
            assert_eq!(times, 1, "{told}");
        }
    }
}
