//! Why a page could not be stored or loaded, or a store not be built.
//!
//! A message does not repeat that of its source: who prints an error goes along `source()`.

use compressors::CompressorError;
use zpool_api::{PageError, ZpoolError};

use crate::SwapEntry;
use crate::refusal::LimitReason;
use zpage::device::{AttachError, DeviceError};

/// Errors of [`crate::Zswap::store`]. The page is still the caller's; an older page of the entry is
/// gone and will not be returned by a load.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The page does not get smaller, and the store was told to refuse such pages.
    #[error(
        "the page of {entry:?} does not get smaller than {page_size} bytes; keep it, or build the \
         store with store_incompressible(true)"
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
        /// What the codec said.
        source: CompressorError,
    },
    /// The backend had no room.
    #[error("no room in the pool for the page of {entry:?}")]
    Pool {
        /// The entry.
        entry: SwapEntry,
        /// What the backend said.
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
        /// The limit on the pools' pages at that moment, bytes.
        limit: usize,
        /// Why nothing could be freed.
        reason: LimitReason,
    },
    /// What cannot be written back (index, patterns, contexts, device tables) has reached the limit on
    /// everything.
    #[error(
        "no new page of {entry:?}: index, patterns, contexts and tables take {unwritable} bytes of \
         the {limit} that max_bytes allows; invalidate pages, or raise the limit"
    )]
    MemoryLimit {
        /// The entry.
        entry: SwapEntry,
        /// Bytes that cannot be written back.
        unwritable: usize,
        /// The limit on everything, bytes.
        limit: usize,
    },
    /// No memory for the index.
    #[error(
        "no memory for the index to hold {entry:?} ({bytes} bytes asked); free memory and retry"
    )]
    Index {
        /// The entry.
        entry: SwapEntry,
        /// Bytes that the system allocator refused.
        bytes: usize,
    },
    /// Called from within a codec or backend that a store is calling on this thread.
    #[error(
        "store of {entry:?} from inside a codec or backend call; a compression context is not re-entrant"
    )]
    Reentrant {
        /// The entry.
        entry: SwapEntry,
    },
    /// The store was built by another process: this one is a child of it after `fork`.
    #[error(
        "{entry:?}: the store was built before this process was forked; build another one here"
    )]
    Forked {
        /// The entry.
        entry: SwapEntry,
    },
}

/// Errors of [`crate::Zswap::load`] and [`crate::Zswap::take`]. The entry stays as it is.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
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
        /// What the codec said.
        source: CompressorError,
    },
    /// The backend did not give the object.
    #[error("the page of {entry:?} could not be read from the pool")]
    Pool {
        /// The entry.
        entry: SwapEntry,
        /// What the backend said.
        source: ZpoolError,
    },
    /// The page is on the device, which did not give it.
    #[error("the page of {entry:?} could not be read from the device")]
    Device {
        /// The entry.
        entry: SwapEntry,
        /// What the device said.
        source: DeviceError,
    },
    /// What was read is not the page that was stored: memory, device, codec or backend changed it. Only
    /// in stores built with [`checksums`](crate::ZswapBuilder::checksums).
    #[error(
        "the page of {entry:?} has the checksum {found:08x} and had {noted:08x} when it was stored; \
         its content is lost, store it anew or invalidate it"
    )]
    Corrupt {
        /// The entry.
        entry: SwapEntry,
        /// CRC-32 of the page that was stored.
        noted: u32,
        /// CRC-32 of what was read.
        found: u32,
    },
    /// Called from within a codec or backend that a store is calling on this thread.
    #[error(
        "load of {entry:?} from inside a codec or backend call; a compression context is not re-entrant"
    )]
    Reentrant {
        /// The entry.
        entry: SwapEntry,
    },
    /// The store was built by another process: this one is a child of it after `fork`.
    #[error(
        "{entry:?}: the store was built before this process was forked; build another one here"
    )]
    Forked {
        /// The entry.
        entry: SwapEntry,
    },
}

/// Errors of [`crate::ZswapBuilder::build`], [`crate::Zswap::set_zpool`] and
/// [`crate::Zswap::set_compressor`]. Nothing has changed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The backend could not be built, or its name is not known.
    #[error(transparent)]
    Zpool(#[from] ZpoolError),
    /// The compressor could not be built, or its name is not known.
    #[error(transparent)]
    Compressor(#[from] CompressorError),
    /// No page provider.
    #[error(transparent)]
    Pages(#[from] PageError),
    /// The device could not be attached: another store has it, most likely.
    #[error(transparent)]
    Device(#[from] AttachError),
    /// The backend's largest object is smaller than a page, so an incompressible one would not fit.
    #[error("zpool {zpool} holds objects of {max} bytes at most; a store needs {needed}")]
    ObjectsTooSmall {
        /// The backend's name.
        zpool: String,
        /// Its largest object, bytes.
        max: usize,
        /// What a store needs, bytes.
        needed: usize,
    },
    /// As many pools as a store can have still hold pages.
    #[error(
        "{limit} pools hold pages already; load, invalidate or overwrite the pages of one of them"
    )]
    TooManyPools {
        /// Pools that can be alive at once.
        limit: usize,
    },
    /// Called from within a codec that a store is calling on this thread.
    #[error("switch from inside a codec call; a compression context is not re-entrant")]
    Reentrant,
    /// Code of a backend, a compressor or a page provider panicked.
    #[error("{what} panicked while it was built")]
    Panicked {
        /// What was being built.
        what: &'static str,
    },
    /// A limit that an empty store exceeds already.
    #[error("{limit} of {bytes} bytes is less than the {needed} that a store with one page takes")]
    LimitTooSmall {
        /// The setting: `max_bytes`.
        limit: &'static str,
        /// The limit asked for, bytes.
        bytes: usize,
        /// The least that would do, bytes.
        needed: usize,
    },
    /// Settings that contradict each other.
    #[error("{0}")]
    Contradiction(String),
    /// The store was built by another process: this one is a child of it after `fork`.
    #[error("the store was built before this process was forked; build another one here")]
    Forked,
}

/// Errors of [`crate::Zswap::migrate_pools`] and [`crate::Zswap::recompress`]. The page that it is
/// about stays where it was; pages that were moved before stay moved.
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
    /// A codec or backend panicked on a thread that moved pages in the background.
    #[error("the codec or backend panicked while a page was moved in the background")]
    Panicked,
    /// The store was built by another process: this one is a child of it after `fork`.
    #[error("the store was built before this process was forked; build another one here")]
    Forked,
}

/// Errors of [`crate::Zswap::shrink`] and [`crate::Zswap::shrink_in_background`]. The page that it is
/// about stays where it was; pages that were written back before stay so.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum WritebackError {
    /// The store has no device, or writeback is switched off.
    #[error("nowhere to write pages to; build the store with swap_device, or enable writeback")]
    NoDevice,
    /// Every slot of the device is taken.
    #[error("all {slots} slots of the device are taken; invalidate pages, or use a larger device")]
    DeviceFull {
        /// Slots taken.
        slots: u64,
    },
    /// The device failed.
    #[error("the page of {entry:?} could not be written back")]
    Device {
        /// The entry.
        entry: SwapEntry,
        /// What the device said.
        source: DeviceError,
    },
    /// The page could not be read.
    #[error("a page could not be read to be written back")]
    Load(#[from] LoadError),
    /// The device called back into the store that was writing to it, or stores were stacked five deep.
    #[error(
        "called from inside a device while pages were written to it; do so after it has returned"
    )]
    Reentrant,
    /// A background shrinker has nothing to go by.
    #[error("no limit to shrink for; build the store with max_pool_bytes")]
    NoLimit,
    /// The system gave no thread for a background shrinker.
    #[error("no thread for the background shrinker: {message}")]
    Thread {
        /// What the system said.
        message: String,
    },
    /// A background shrinker that would begin above the share of the limit to which a store that was
    /// full has to shrink before it takes pages again: it would never open it.
    #[error(
        "a shrinker from {from_percent} % of the limit never opens a store that opens at \
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
    /// The store was built by another process: this one is a child of it after `fork`.
    #[error("the store was built before this process was forked; build another one here")]
    Forked,
}

/// Errors of [`crate::Zswap::store_batch`] and [`crate::Zswap::load_batch`] as a whole: no page was
/// stored or loaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// As many pages are needed as entries.
    #[error("{entries} entries and {pages} pages; give a page for each entry")]
    LengthMismatch {
        /// Entries given.
        entries: usize,
        /// Pages given.
        pages: usize,
    },
    /// No memory for the batch's own lists.
    #[error("no memory for a batch of {pages} pages ({bytes} bytes asked); give fewer at a time")]
    OutOfMemory {
        /// Pages of the batch.
        pages: usize,
        /// Bytes that the system allocator refused.
        bytes: usize,
    },
    /// The store was built by another process: this one is a child of it after `fork`.
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
            Box::new(LoadError::Device { entry, source: DeviceError::Missing { slot: 4 } }),
            Box::new(WritebackError::Device { entry, source: DeviceError::Missing { slot: 4 } }),
            Box::new(WritebackError::from(load.clone())),
            Box::new(MigrateError::Store(StoreError::Compress { entry, source: codec.clone() })),
            Box::new(MigrateError::from(load.clone())),
            Box::new(load),
            Box::new(MigrateError::from(BuildError::from(codec.clone()))),
            Box::new(BuildError::from(ZpoolError::from(pages.clone()))),
        ];
        let causes =
            [codec.to_string(), DeviceError::Missing { slot: 4 }.to_string(), pages.to_string()];
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
