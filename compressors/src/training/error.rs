//! Why no dictionary was trained.

use crate::error::CompressorError;

/// An error of a [`Sampler`](super::Sampler)'s settings or of a [`Trainer`](super::Trainer).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// A setting is out of range.
    #[error("{name} of {value} is not allowed: {allowed}")]
    BadSetting {
        /// The setting's name.
        name: &'static str,
        /// The given value.
        value: u64,
        /// The values that are allowed.
        allowed: &'static str,
    },

    /// The samples do not suffice. Samples that are equal count once.
    #[error(
        "{values} different samples of {bytes} bytes in all are too few: collect at least \
         {least_values} of {least_bytes} bytes"
    )]
    TooFewSamples {
        /// The number of different samples.
        values: usize,
        /// Their length in bytes, all together.
        bytes: usize,
        /// The least number of different samples.
        least_values: usize,
        /// The least length of all together, in bytes.
        least_bytes: usize,
    },

    /// The library's trainer failed. It does on samples that nothing compresses.
    #[error("zstd's trainer failed on {values} samples: {reason}; try again with other samples")]
    Trainer {
        /// The number of samples that the trainer was given.
        values: usize,
        /// The library's reason.
        reason: &'static str,
    },

    /// The caller's `stop` returned true.
    #[error("training was stopped")]
    Stopped,

    /// There is not enough memory.
    #[error("out of memory for {what}: try again when there is some")]
    OutOfMemory {
        /// What the memory was for.
        what: &'static str,
    },

    /// A codec failed on a sample, or could not be built.
    #[error("the codec failed while a dictionary was trained or judged")]
    Codec(#[from] CompressorError),
}
