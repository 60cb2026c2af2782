//! Why a page could not be stored or loaded, or a store not be built.

use compressors::CompressorError;
use zpool_api::{PageError, ZpoolError};

use crate::SwapEntry;
use crate::device::{AttachError, DeviceError};

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
    #[error("the page of {entry:?} could not be compressed: {source}")]
    Compress {
        /// The entry.
        entry: SwapEntry,
        /// What the codec said.
        source: CompressorError,
    },
    /// The backend had no room.
    #[error("no room in the pool for the page of {entry:?}: {source}")]
    Pool {
        /// The entry.
        entry: SwapEntry,
        /// What the backend said.
        source: ZpoolError,
    },
    /// The pools are at their limit, and no page could be written back.
    #[error(
        "no page of {entry:?} is taken while the pools hold {limit} bytes or nearly; shrink the \
         store, or raise max_pool_bytes"
    )]
    PoolLimit {
        /// The entry.
        entry: SwapEntry,
        /// The limit, bytes.
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
    #[error("the page of {entry:?} could not be decompressed: {source}")]
    Decompress {
        /// The entry.
        entry: SwapEntry,
        /// What the codec said.
        source: CompressorError,
    },
    /// The backend did not give the object.
    #[error("the page of {entry:?} could not be read from the pool: {source}")]
    Pool {
        /// The entry.
        entry: SwapEntry,
        /// What the backend said.
        source: ZpoolError,
    },
    /// The page is on the device, which did not give it.
    #[error("the page of {entry:?} could not be read from the device: {source}")]
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
}

/// Errors of [`crate::ZswapBuilder::build`], [`crate::Zswap::set_zpool`] and
/// [`crate::Zswap::set_compressor`]. Nothing has changed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The backend could not be built, or its name is not known.
    #[error("zpool: {0}")]
    Zpool(#[from] ZpoolError),
    /// The compressor could not be built, or its name is not known.
    #[error("compressor: {0}")]
    Compressor(#[from] CompressorError),
    /// No page provider.
    #[error("pages: {0}")]
    Pages(#[from] PageError),
    /// The device could not be attached: another store has it, most likely.
    #[error("swap device: {0}")]
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
}

/// Errors of [`crate::Zswap::migrate_pools`] and [`crate::Zswap::recompress`]. The page that it is
/// about stays where it was; pages that were moved before stay moved.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RehomeError {
    /// The other pool could not be built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The page could not be put into the other pool.
    #[error("moving a page: {0}")]
    Store(StoreError),
    /// The page could not be read.
    #[error("moving a page: {0}")]
    Load(LoadError),
    /// A codec or backend panicked on a thread that moved pages in the background.
    #[error("the codec or backend panicked while a page was moved in the background")]
    Panicked,
}

impl From<LoadError> for RehomeError {
    fn from(error: LoadError) -> Self {
        RehomeError::Load(error)
    }
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
    #[error("the page of {entry:?} could not be written back: {source}")]
    Device {
        /// The entry.
        entry: SwapEntry,
        /// What the device said.
        source: DeviceError,
    },
    /// The page could not be read.
    #[error("writing a page back: {0}")]
    Load(LoadError),
    /// A background shrinker has nothing to go by.
    #[error("no limit to shrink for; build the store with max_pool_bytes")]
    NoLimit,
    /// The system gave no thread for a background shrinker.
    #[error("no thread for the background shrinker: {message}")]
    Thread {
        /// What the system said.
        message: String,
    },
}

impl From<LoadError> for WritebackError {
    fn from(error: LoadError) -> Self {
        WritebackError::Load(error)
    }
}
