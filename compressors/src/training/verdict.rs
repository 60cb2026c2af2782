//! Judges a dictionary: compresses values with it, with the codec in use and without a dictionary, and compares what
//! each choice costs in memory.

use super::error::TrainError;
use crate::compressor::Compressor;
use crate::error::CompressorError;
use crate::zstd::Zstd;

/// What one codec makes of the judged values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured {
    /// The bytes that the values compress to. A value that does not become smaller counts with its own length.
    pub compressed: u64,
    /// The heap bytes of the dictionary and of its prepared forms, which all contexts share.
    pub shared_bytes: usize,
    /// The heap bytes of each context.
    pub context_bytes: usize,
}

/// What a program holds, to judge a dictionary for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holding {
    /// The length of the values that would be compressed with the dictionary, before compression, in bytes.
    pub original_bytes: u64,
    /// The number of contexts that the program compresses with.
    pub contexts: usize,
}

/// What to compress new values with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// The codec in use.
    Keep,
    /// A codec without a dictionary.
    Plain,
    /// The codec with the new dictionary.
    Trained,
}

/// The same values, compressed with each codec that can be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verdict {
    /// The number of judged values.
    pub values: usize,
    /// Their length in bytes, all together.
    pub original: u64,
    /// Without a dictionary.
    pub plain: Measured,
    /// With the codec in use. Equal to `plain` if this has no dictionary.
    pub in_use: Measured,
    /// With the new dictionary; `None` if there is none to judge.
    pub trained: Option<Measured>,
}

impl Verdict {
    /// Returns the bytes of memory that a program needs with a codec: those of its values if they all compress as
    /// the judged ones do, of the dictionary, and of the contexts.
    #[must_use]
    pub fn cost(&self, measured: &Measured, holding: Holding) -> u64 {
        let compressed = u128::from(measured.compressed) * u128::from(holding.original_bytes)
            / u128::from(self.original.max(1));
        let contexts = measured.context_bytes as u64 * holding.contexts as u64;
        u64::try_from(compressed)
            .unwrap_or(u64::MAX)
            .saturating_add(measured.shared_bytes as u64 + contexts)
    }

    /// Chooses the codec that costs the least. The new dictionary is chosen only if it costs at least
    /// `least_gain_percent` less than both the codec in use and none. A dictionary in use that costs more than none is
    /// dropped in any case, since values are faster to compress without one.
    #[must_use]
    pub fn choose(&self, holding: Holding, least_gain_percent: u32) -> Choice {
        let in_use = self.cost(&self.in_use, holding);
        let plain = self.cost(&self.plain, holding);
        let present = in_use.min(plain);
        let bound =
            u128::from(present) * u128::from(100_u32.saturating_sub(least_gain_percent)) / 100;
        match self.trained.map(|trained| self.cost(&trained, holding)) {
            Some(trained) if trained < present && u128::from(trained) <= bound => Choice::Trained,
            _ if plain < in_use => Choice::Plain,
            _ => Choice::Keep,
        }
    }

    /// Returns whether the new dictionary pays: whether [`choose`](Self::choose) chooses it.
    #[must_use]
    pub fn worth(&self, holding: Holding, least_gain_percent: u32) -> bool {
        self.choose(holding, least_gain_percent) == Choice::Trained
    }
}

/// Judges without a new dictionary: whether the one in use still pays. `values` are compressed without a dictionary and
/// with `in_use`; `stop` is called before each of them.
///
/// ```
/// use compressors::Zstd;
/// use compressors::training::{Choice, Holding, judge};
///
/// let in_use = Zstd::default().with_dictionary(b"what many values have in common, and more".to_vec())?;
/// let values = [b"1: what many values have in common, and 7".as_slice()];
/// let verdict = judge(&in_use, values.into_iter(), &|| false)?;
/// assert!(verdict.in_use.compressed < verdict.plain.compressed);
/// let holding = Holding { original_bytes: 1 << 30, contexts: 1 };
/// assert_eq!(verdict.choose(holding, 0), Choice::Keep);
/// # Ok::<(), compressors::training::TrainError>(())
/// ```
///
/// # Errors
/// [`TrainError::Stopped`], [`TrainError::OutOfMemory`] or [`TrainError::Codec`].
pub fn judge<'a>(
    in_use: &Zstd,
    values: impl Iterator<Item = &'a [u8]> + Clone,
    stop: &dyn Fn() -> bool,
) -> Result<Verdict, TrainError> {
    verdict(in_use, None, values, stop)
}

/// Judges the codec in use and perhaps a new one.
pub(super) fn verdict<'a>(
    in_use: &Zstd,
    trained: Option<&Zstd>,
    values: impl Iterator<Item = &'a [u8]> + Clone,
    stop: &dyn Fn() -> bool,
) -> Result<Verdict, TrainError> {
    let plain = measure(&in_use.without_dictionary(), values.clone(), stop)?;
    let in_use = match in_use.dictionary() {
        None => plain,
        Some(_) => measure(in_use, values.clone(), stop)?,
    };
    let trained = trained.map(|codec| measure(codec, values.clone(), stop)).transpose()?;
    let (count, original) =
        values.fold((0, 0), |(count, sum), value| (count + 1, sum + value.len() as u64));
    Ok(Verdict { values: count, original, plain, in_use, trained })
}

/// Compresses values with a codec.
pub(super) fn measure<'a>(
    codec: &Zstd,
    values: impl Iterator<Item = &'a [u8]> + Clone,
    stop: &dyn Fn() -> bool,
) -> Result<Measured, TrainError> {
    let mut ctx = codec.new_ctx()?;
    let context_bytes = ctx.memory_bytes();
    let longest = values.clone().map(<[u8]>::len).max().unwrap_or(0);
    let mut out = Vec::new();
    // A value that does not fit here has not become smaller.
    out.try_reserve_exact(longest)
        .map_err(|_| TrainError::OutOfMemory { what: "a buffer for compressed values" })?;
    out.resize(longest, 0);
    let mut compressed = 0;
    for value in values {
        if stop() {
            return Err(TrainError::Stopped);
        }
        compressed += match ctx.compress(value, &mut out[..value.len()]) {
            Ok(len) => len as u64,
            Err(CompressorError::OutputTooSmall { .. }) => value.len() as u64,
            Err(error) => return Err(error.into()),
        };
    }
    Ok(Measured { compressed, shared_bytes: codec.dictionary_bytes(), context_bytes })
}

#[cfg(test)]
mod tests {
    use super::{Choice, Holding, Measured, Verdict};

    fn measured(compressed: u64, shared_bytes: usize, context_bytes: usize) -> Measured {
        Measured { compressed, shared_bytes, context_bytes }
    }

    #[test]
    fn the_dictionarys_memory_counts() {
        let plain = measured(500, 0, 100);
        let measured_trained = measured(250, 10_000, 150);
        let trained = Some(measured_trained);
        let verdict = Verdict { values: 9, original: 1000, plain, in_use: plain, trained };
        let holding = |original_bytes| Holding { original_bytes, contexts: 2 };
        assert_eq!(verdict.cost(&plain, holding(100_000)), 50_000 + 200);
        assert_eq!(verdict.cost(&measured_trained, holding(100_000)), 25_000 + 10_000 + 300);
        // It saves a quarter of the original bytes, and costs 10,100.
        assert_eq!(verdict.choose(holding(40_400), 0), Choice::Keep);
        assert_eq!(verdict.choose(holding(40_408), 0), Choice::Trained);
        assert!(verdict.worth(holding(100_000), 29) && !verdict.worth(holding(100_000), 30));
        assert!(!verdict.worth(holding(0), 0) && verdict.worth(holding(u64::MAX), 49));
    }

    #[test]
    fn a_dictionary_that_stopped_to_pay_is_dropped() {
        let plain = measured(500, 0, 100);
        let in_use = measured(490, 10_000, 100);
        let verdict = Verdict { values: 9, original: 1000, plain, in_use, trained: None };
        let holding = |original_bytes| Holding { original_bytes, contexts: 1 };
        assert_eq!(verdict.choose(holding(100_000), 3), Choice::Plain);
        assert_eq!(verdict.choose(holding(100_000_000), 3), Choice::Keep);
        // A new dictionary that gains little does not keep the old one.
        let verdict = Verdict { trained: Some(measured(499, 0, 100)), ..verdict };
        assert_eq!(verdict.choose(holding(100_000), 3), Choice::Plain);
        let verdict = Verdict { trained: Some(measured(400, 0, 100)), ..verdict };
        assert_eq!(verdict.choose(holding(100_000), 3), Choice::Trained);
    }
}
