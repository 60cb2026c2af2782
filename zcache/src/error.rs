//! Why a call failed.

use compressors::CompressorError;
#[cfg(feature = "zstd")]
use compressors::training::TrainError;
use zpage::{CodecFault, RecipeError};
use zpool_api::ZpoolError;

/// Why a call of a [`Cache`](crate::Cache) failed. Each call says what it has changed nevertheless.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CacheError {
    /// The key is too long.
    #[error(
        "a key of {len} bytes is too long: {max} bytes are allowed; use a hash of it as the key"
    )]
    KeyTooLong {
        /// The length of the key in bytes.
        len: usize,
        /// The most bytes of a key.
        max: usize,
    },
    /// The value is too long.
    #[error("a value of {len} bytes is too long: {max} bytes are allowed; store it in parts")]
    ValueTooLong {
        /// The length of the value in bytes.
        len: usize,
        /// The most bytes of a value.
        max: usize,
    },
    /// The value takes too much of the budget.
    #[error(
        "the value compresses to more than {max} bytes, which is half of max_bytes; raise max_bytes"
    )]
    TooLarge {
        /// The most bytes that a compressed value may have.
        max: usize,
    },
    /// The value does not fit into the budget, even without all other values.
    #[error("{bytes} bytes do not fit under max_bytes = {max_bytes}; raise max_bytes")]
    NoRoom {
        /// The bytes that were asked for last.
        bytes: usize,
        /// The budget in bytes.
        max_bytes: usize,
    },
    /// The system has no memory.
    #[error("no memory for {what} ({bytes} bytes asked); free memory and retry")]
    NoMemory {
        /// What the memory was for.
        what: &'static str,
        /// The bytes that were asked for.
        bytes: usize,
    },
    /// The backend could not store or read an object.
    #[error("the pool failed")]
    Pool(#[from] ZpoolError),
    /// The codec failed.
    #[error("the codec failed")]
    Codec(#[from] CompressorError),
    /// The call came from within a codec or a backend of this process, or from a thread that is ending.
    #[error("a codec, a backend or a thread that is ending must not call a cache")]
    Reentrant,
    /// A listener of evictions must not insert into its own cache.
    #[error(
        "a listener of evictions inserted into its own cache, which would never end; insert after it has returned"
    )]
    InListener,
    /// The pool returned bytes that are no value of this cache.
    #[error(
        "the pool returned {len} bytes that are no value of this cache: memory was overwritten, or the backend is \
         broken"
    )]
    Corrupt {
        /// The length of the object in bytes.
        len: usize,
    },
    /// This process is a child, after `fork`, of the process that built the cache.
    #[error("the cache was built before this process was forked; build another one here")]
    Forked,
}

impl From<CodecFault> for CacheError {
    fn from(fault: CodecFault) -> Self {
        match fault {
            CodecFault::Reentrant => CacheError::Reentrant,
            CodecFault::Failed(error) => CacheError::Codec(error),
        }
    }
}

/// Why a cache could not be built, or a setting not be changed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The budget is too small.
    #[error("max_bytes = {bytes} is too small: at least {least} bytes are needed")]
    BudgetTooSmall {
        /// The given budget in bytes.
        bytes: usize,
        /// The least budget in bytes.
        least: usize,
    },
    /// The backend or the compressor could not be built.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// Dictionaries were asked for, and the compressor takes none.
    #[error(
        "the compressor is {compressor}, and only zstd takes trained dictionaries: use zstd, or dictionaries(false)"
    )]
    NotZstd {
        /// The compressor's canonical name.
        compressor: String,
    },
    /// The training of dictionaries could not be set up.
    #[cfg(feature = "zstd")]
    #[cfg_attr(docsrs, doc(cfg(feature = "zstd")))]
    #[error(transparent)]
    Train(#[from] TrainError),
    /// The system has no memory.
    #[error("no memory for {what} ({bytes} bytes asked); free memory and retry")]
    NoMemory {
        /// What the memory was for.
        what: &'static str,
        /// The bytes that were asked for.
        bytes: usize,
    },
    /// The system cannot start a thread.
    #[error("cannot start a thread: {message}")]
    Thread {
        /// The system's message.
        message: String,
    },
    /// This process is a child, after `fork`, of the process that built the cache.
    #[error("the cache was built before this process was forked; build another one here")]
    Forked,
}
