//! What a program sets about dictionaries, what it is shown of them, and what can go wrong.

use core::time::Duration;

use compressors::training::TrainError;

use crate::error::{BuildError, MigrateError};

/// Says how dictionaries are trained, and when they are used. Each field gives its default.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct DictionaryPolicy {
    /// The length of a dictionary in bytes, at most: 256 to 2^20. Default 16 KiB. Its prepared forms take several times
    /// as much.
    pub dictionary_bytes: usize,
    /// The most bytes of samples. Default: 100 times 16 KiB. At least 32 times `dictionary_bytes` are useful.
    pub sample_bytes: usize,
    /// A new dictionary is used only if it saves at least this share of the memory of all pages, its own memory taken
    /// off. Default 3.
    pub least_gain_percent: u32,
    /// Another dictionary is trained when the pages' ratio differs by more than this share from what it was. Default
    /// 10.
    pub drift_percent: u32,
    /// The most trained dictionaries that are in use at a time: 1 to 6. Default 3. Older ones are in use while pages in
    /// pools or on the device need them. While there are this many, none is trained.
    pub most_dictionaries: usize,
    /// The pause between steps. Default 1 s. A round takes some steps to draw samples.
    pub pause: Duration,
    /// After a round that changed nothing, the next round begins after a pause, which doubles up to this. Default 60 s.
    /// The same holds for rounds that failed.
    pub longest_pause: Duration,
    /// How many pages of older pools each step moves into the current one, as
    /// [`migrate_pools`](crate::Zswap::migrate_pools) does. Default 1024. With 0, older dictionaries stay until their
    /// last page is dropped or overwritten.
    pub migrated_pages: usize,
}

impl Default for DictionaryPolicy {
    fn default() -> Self {
        DictionaryPolicy {
            dictionary_bytes: 16 << 10,
            sample_bytes: 100 * (16 << 10),
            least_gain_percent: 3,
            drift_percent: 10,
            most_dictionaries: 3,
            pause: Duration::from_secs(1),
            longest_pause: Duration::from_secs(60),
            migrated_pages: 1024,
        }
    }
}

impl DictionaryPolicy {
    /// Sets [`DictionaryPolicy::dictionary_bytes`], and [`DictionaryPolicy::sample_bytes`] to 100 times as much.
    #[must_use]
    pub fn dictionary_bytes(self, bytes: usize) -> Self {
        DictionaryPolicy {
            dictionary_bytes: bytes,
            sample_bytes: bytes.saturating_mul(100),
            ..self
        }
    }

    /// Sets [`DictionaryPolicy::sample_bytes`].
    #[must_use]
    pub fn sample_bytes(self, bytes: usize) -> Self {
        DictionaryPolicy { sample_bytes: bytes, ..self }
    }

    /// Sets [`DictionaryPolicy::least_gain_percent`].
    #[must_use]
    pub fn least_gain_percent(self, percent: u32) -> Self {
        DictionaryPolicy { least_gain_percent: percent, ..self }
    }

    /// Sets [`DictionaryPolicy::drift_percent`].
    #[must_use]
    pub fn drift_percent(self, percent: u32) -> Self {
        DictionaryPolicy { drift_percent: percent, ..self }
    }

    /// Sets [`DictionaryPolicy::most_dictionaries`].
    #[must_use]
    pub fn most_dictionaries(self, most: usize) -> Self {
        DictionaryPolicy { most_dictionaries: most, ..self }
    }

    /// Sets [`DictionaryPolicy::pause`] and [`DictionaryPolicy::longest_pause`].
    #[must_use]
    pub fn pauses(self, pause: Duration, longest: Duration) -> Self {
        DictionaryPolicy { pause, longest_pause: longest, ..self }
    }

    /// Sets [`DictionaryPolicy::migrated_pages`].
    #[must_use]
    pub fn migrated_pages(self, pages: usize) -> Self {
        DictionaryPolicy { migrated_pages: pages, ..self }
    }
}

/// What the training of dictionaries has done so far.
#[derive(Clone, PartialEq, Debug, Default)]
#[non_exhaustive]
pub struct DictionaryReport {
    /// Pages that were taken as samples for rounds.
    pub sampled: u64,
    /// Rounds that found the ratio as it was, and trained nothing.
    pub unchanged: u64,
    /// Dictionaries that were trained.
    pub trained: u64,
    /// Dictionaries that came into use.
    pub adopted: u64,
    /// Rounds whose dictionary did not pay. Samples that cannot be compressed count, too.
    pub rejected: u64,
    /// How often the store went back to no dictionary, because none paid.
    pub dropped: u64,
    /// Rounds that could not train, because there were as many dictionaries as allowed, too many pools, or no room
    /// under `max_bytes`.
    pub held_up: u64,
    /// Pages that were moved from older pools.
    pub migrated: u64,
    /// The heap bytes of all trained dictionaries in use, with their prepared forms.
    pub dictionary_bytes: usize,
    /// Whether new pages are compressed with a trained dictionary.
    pub active: bool,
    /// The size of the last round's samples when compressed with the codec that was chosen then, by their size when
    /// compressed without a dictionary. 1 if none is used; 0 before the first round.
    pub gain: f64,
    /// Steps that ended with an error or a panic.
    pub failed: u64,
    /// The last error; `None` if there was none.
    pub last_error: Option<DictionaryError>,
}

/// Why dictionaries cannot be trained, or why a step failed.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DictionaryError {
    /// Only zstd has dictionaries that are trained.
    #[error(
        "the compressor is {compressor}, and only zstd takes trained dictionaries: build the store with zstd, or \
         switch to it"
    )]
    NotZstd {
        /// The compressor's canonical name.
        compressor: String,
    },
    /// A thread trains the store's dictionaries already.
    #[error(
        "dictionaries of this store are being trained already: drop the other BackgroundDictionaries first"
    )]
    Running,
    /// The number of dictionaries is out of range.
    #[error("most_dictionaries of {value} is not allowed: 1 to 6")]
    MostDictionaries {
        /// The given number.
        value: usize,
    },
    /// A setting is out of range, or training failed.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// The store could not switch to another dictionary.
    #[error(transparent)]
    Switch(#[from] BuildError),
    /// A page of an older pool could not be moved.
    #[error(transparent)]
    Migrate(#[from] MigrateError),
    /// A codec or backend panicked.
    #[error("a codec or a backend panicked while a dictionary was trained or put into use")]
    Panicked,
    /// The system cannot start a thread.
    #[error("cannot start a thread: {message}")]
    Thread {
        /// The system's message.
        message: String,
    },
    /// This process is a child, after `fork`, of the process that built the store.
    #[error("the store was built before this process was forked; build another one here")]
    Forked,
}
