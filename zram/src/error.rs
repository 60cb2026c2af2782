//! Errors of a disk.

use compressors::CompressorError;
use zpage::device::{AttachError, DeviceError};
use zpage::{RecipeError, UnitError};
use zpool_api::{PageError, ZpoolError};

/// Errors of a disk's calls. After an error, the page that failed is unchanged. If the call is for several pages,
/// those before the failed page are done.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ZramError {
    /// The range is not on the disk.
    #[error("{len} bytes at {offset} are not on the disk: its size is {disksize} bytes")]
    OutOfRange {
        /// The offset of the range's first byte.
        offset: u64,
        /// The range's length in bytes.
        len: u64,
        /// The disk's size in bytes.
        disksize: u64,
    },
    /// The write would make the pool larger than `mem_limit`.
    #[error(
        "page {index} would take the pool beyond its limit of {limit} bytes; discard pages, write some back, or raise mem_limit"
    )]
    MemLimit {
        /// The page.
        index: u64,
        /// The limit in bytes.
        limit: usize,
    },
    /// There is no memory for the table of slots.
    #[error("no memory for the slot of page {index} ({bytes} bytes asked); free memory and retry")]
    Table {
        /// The page.
        index: u64,
        /// Bytes that the system allocator refused.
        bytes: usize,
    },
    /// There is no memory to decompress a page of more than 4096 bytes.
    #[error("no memory for page {index} ({bytes} bytes asked); free memory and retry")]
    Buffer {
        /// The page.
        index: u64,
        /// Bytes that the system allocator refused.
        bytes: usize,
    },
    /// The backend could not store or read an object.
    #[error("the pool failed page {index}")]
    Pool {
        /// The page.
        index: u64,
        /// The backend's error.
        source: ZpoolError,
    },
    /// The codec failed.
    #[error("the codec failed page {index}")]
    Codec {
        /// The page.
        index: u64,
        /// The codec's error.
        source: CompressorError,
    },
    /// The device failed.
    #[error("the device failed page {index}")]
    Device {
        /// The page. If a segment could not be written: its first page.
        index: u64,
        /// The device's error.
        source: DeviceError,
    },
    /// The call needs a compression context, but this thread holds one already: the call comes from inside a
    /// codec or backend. A thread that is ending gets this error, too.
    #[error(
        "page {index} from inside a codec or backend call; a compression context is not re-entrant"
    )]
    Reentrant {
        /// The page.
        index: u64,
    },
    /// The disk has no device.
    #[error("nowhere to write pages to; build the disk with backing_device")]
    NoDevice,
    /// No segment of the device is free, and cleaning frees none.
    #[error(
        "all {segments} segments of the device are full; discard pages, or use a larger device"
    )]
    DeviceFull {
        /// Segments of the device.
        segments: u64,
    },
    /// The disk does not have this algorithm for recompression, or has none at all.
    #[error("no algorithm {asked}; this disk recompresses with {known}")]
    NoSuchAlgorithm {
        /// The algorithm asked for.
        asked: String,
        /// The specs of the disk's algorithms for recompression, in the order of their priorities, from 1.
        known: String,
    },
}

/// Errors of [`crate::ZramBuilder::build`].
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The unit is none.
    #[error(transparent)]
    Unit(#[from] UnitError),
    /// The size is zero, not a multiple of 4096, or too large.
    #[error(
        "disksize of {bytes} bytes is not allowed; give a multiple of 4096, from 4096 to {most}"
    )]
    DiskSize {
        /// The size that was given, in bytes.
        bytes: u64,
        /// The largest size in bytes.
        most: u64,
    },
    /// Too many algorithms were given for recompression.
    #[error(
        "{asked} algorithms are too many; a disk has one, and at most {most} to recompress with"
    )]
    TooManyAlgorithms {
        /// The number of algorithms given, including the one for writes.
        asked: usize,
        /// The most algorithms that a disk can have for recompression.
        most: usize,
    },
    /// There is no memory for the table of slots.
    #[error("no memory for a disk's table ({bytes} bytes asked); use a smaller disk")]
    Table {
        /// Bytes that the system allocator refused.
        bytes: usize,
    },
    /// The backend could not be built, or its name is not known.
    #[error(transparent)]
    Zpool(#[from] ZpoolError),
    /// The compressor could not be built, or its name is not known.
    #[error(transparent)]
    Compressor(#[from] CompressorError),
    /// The page provider could not be made.
    #[error(transparent)]
    Pages(#[from] PageError),
    /// The device could not be attached: most likely another disk or store uses it.
    #[error(transparent)]
    Device(#[from] AttachError),
    /// The backend's largest object is smaller than a page.
    #[error("zpool {zpool} holds objects of {max} bytes at most; use one that holds 4096")]
    ObjectsTooSmall {
        /// The backend's name.
        zpool: String,
        /// The size of its largest object in bytes.
        max: usize,
    },
    /// Code of a backend, a compressor or a page provider panicked.
    #[error("{what} panicked while it was built")]
    Panicked {
        /// What was being built.
        what: &'static str,
    },
}

impl BuildError {
    pub(crate) fn of_recipe(error: RecipeError) -> Self {
        match error {
            RecipeError::Zpool(error) => error.into(),
            RecipeError::Compressor(error) => error.into(),
            RecipeError::Pages(error) => error.into(),
            RecipeError::ObjectsTooSmall { zpool, max, needed: _ } => {
                BuildError::ObjectsTooSmall { zpool, max }
            }
            RecipeError::Panicked { what } => BuildError::Panicked { what },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;

    #[test]
    fn no_message_repeats_that_of_its_source() {
        let pages = PageError::Injected { call: 3 };
        let error = ZramError::Pool { index: 7, source: pages.clone().into() };
        assert_eq!(error.source().unwrap().to_string(), pages.to_string());
        assert!(!error.to_string().contains(&pages.to_string()), "{error}");

        let error = BuildError::from(pages.clone());
        assert_eq!(error.to_string(), pages.to_string());
        assert!(error.source().is_none());
    }
}
