//! Dictionaries for [`Zstd`](crate::Zstd) that are trained from what a program compresses.
//!
//! Small values compress badly one by one: each has to say again what all have in common. A dictionary says it once.
//! Four parts keep one up to date, and the program owns the thread that connects them:
//!
//! 1. A [`Sampler`] draws samples of the values that pass by, at about a nanosecond a value.
//! 2. A [`Trainer`] makes a dictionary from most of the samples, and compresses the rest of them without a dictionary,
//!    with the codec in use, and with the new dictionary: a [`Verdict`].
//! 3. [`Verdict::choose`] says what costs the least memory for the values that the program holds, the dictionary's
//!    own tables included. A dictionary that does not pay is not adopted, and one that stopped to pay is dropped.
//! 4. [`Drift`] compares the ratio of new values with the ratio at the last verdict, and says when to train again.
//!
//! What a codec with another dictionary compressed cannot be read with the new one. The program has to keep the older
//! codec for as long as it keeps such values.
//!
//! ```
//! use compressors::Zstd;
//! use compressors::training::{Choice, Holding, Sampler, Trainer};
//!
//! let sampler = Sampler::new(Default::default())?;
//! for id in 0..20_000_u32 {
//!     let hash = id.wrapping_mul(2_654_435_761);
//!     sampler.offer(format!("{{\"id\": {id}, \"user\": \"{hash:x}\", \"visible\": true}}").as_bytes());
//! }
//! let in_use = Zstd::default();
//! let trainer = Trainer::new(4096)?;
//! let trained = trainer.train(&in_use, &sampler.take(), &|| false)?;
//!
//! // The program holds 64 MiB of such values, and compresses with 8 contexts.
//! let holding = Holding { original_bytes: 64 << 20, contexts: 8 };
//! assert_eq!(trained.verdict.choose(holding, 3), Choice::Trained);
//! // For 64 KiB, the dictionary's tables would take more memory than it saves.
//! let holding = Holding { original_bytes: 64 << 10, contexts: 8 };
//! assert_eq!(trained.verdict.choose(holding, 3), Choice::Keep);
//! # Ok::<(), compressors::training::TrainError>(())
//! ```

mod draw;
mod drift;
mod error;
mod reservoir;
mod sampler;
mod trainer;
mod verdict;

pub use drift::Drift;
pub use error::TrainError;
pub use sampler::{Sampled, Sampler, SamplerSettings, Samples};
pub use trainer::{Trained, Trainer};
pub use verdict::{Choice, Holding, Measured, Verdict, judge};
