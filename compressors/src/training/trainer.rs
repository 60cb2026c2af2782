//! Trains a dictionary from samples and judges it by samples that it was not trained from.

use std::fmt;

use super::draw::Draws;
use super::error::TrainError;
use super::sampler::Samples;
use super::verdict::{Verdict, measure, verdict};
use crate::libzdict;
use crate::libzstd::Failure;
use crate::zstd::Zstd;

/// The lengths of the pieces that a dictionary is assembled from. Each is tried.
const SEGMENTS: [u32; 3] = [64, 256, 1024];

/// The least number of different samples. A tenth chooses between candidates, a fifth judges, the others train.
const LEAST_VALUES: usize = 40;

/// The least length of all samples by the length of the dictionary.
const LEAST_LENGTH: usize = 8;

/// A dictionary, and how it was judged.
#[derive(Clone)]
#[non_exhaustive]
pub struct Trained {
    /// The codec in use, with the new dictionary in place of its own. [`Zstd::dictionary`] returns its bytes.
    pub codec: Zstd,
    /// How the held-out samples compress.
    pub verdict: Verdict,
}

impl fmt::Debug for Trained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trained")
            .field("codec", &self.codec)
            .field("verdict", &self.verdict)
            .finish_non_exhaustive()
    }
}

/// Trains dictionaries with zstd's trainer.
///
/// Three candidates are trained from 70 % of the samples, compared by 10 %, and the best is judged by the remaining
/// 20 %. Samples that are equal count once: otherwise a value that many keys have would be in both the training and
/// the judged part, and a dictionary that contains it would seem to help the others.
///
/// The same samples and seed give the same dictionary.
#[derive(Debug, Clone)]
pub struct Trainer {
    dictionary_bytes: usize,
    seed: u64,
}

impl Trainer {
    /// Makes a trainer for dictionaries of at most `dictionary_bytes` bytes.
    ///
    /// # Errors
    /// [`TrainError::BadSetting`] if `dictionary_bytes` is not 256 to 2^20.
    pub fn new(dictionary_bytes: usize) -> Result<Self, TrainError> {
        if !(libzdict::MIN_DICTIONARY..=1 << 20).contains(&dictionary_bytes) {
            return Err(TrainError::BadSetting {
                name: "dictionary_bytes",
                value: dictionary_bytes as u64,
                allowed: "256 to 2^20 bytes",
            });
        }
        Ok(Trainer { dictionary_bytes, seed: 0 })
    }

    /// Sets what determines which samples train, and which judge. Default: 0.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Returns about how many heap bytes [`train`](Self::train) takes at most, in addition to `samples` that have
    /// `sample_bytes` bytes, while it runs: a copy of the samples, the trainer's tables, and contexts. Contexts of
    /// levels above 12 take more.
    #[must_use]
    pub fn memory_bytes(&self, sample_bytes: usize) -> usize {
        sample_bytes + (10 << table_bits(sample_bytes)) + 6 * self.dictionary_bytes + (2 << 20)
    }

    /// Trains a dictionary for the level of `in_use` and judges it against `in_use`. It takes from some milliseconds
    /// to about a second on the caller's thread. `stop` is called between its steps, each of which takes a third of
    /// that at most, and ends the training if it returns true.
    ///
    /// # Errors
    /// [`TrainError::TooFewSamples`], [`TrainError::Stopped`], [`TrainError::Trainer`] (also for samples that do not
    /// compress), [`TrainError::OutOfMemory`] or [`TrainError::Codec`]. Nothing stays allocated.
    pub fn train(
        &self,
        in_use: &Zstd,
        samples: &Samples,
        stop: &dyn Fn() -> bool,
    ) -> Result<Trained, TrainError> {
        let parts = self.split(samples)?;
        let [training, choosing, judging] = parts.parts();
        let candidates = Candidates::new(self.dictionary_bytes, training)?;
        let mut best: Option<(u64, Zstd)> = None;
        let mut failure = None;
        for segment in SEGMENTS.into_iter().filter(|&k| k as usize <= self.dictionary_bytes) {
            if stop() {
                return Err(TrainError::Stopped);
            }
            let bytes = match candidates.train(segment, in_use.level()) {
                Ok(bytes) => bytes,
                Err(Failed::Library(reason)) => {
                    failure = Some(reason);
                    continue;
                }
                Err(Failed::Here(error)) => return Err(error),
            };
            let codec = in_use.with_dictionary(bytes)?;
            let compressed = measure(&codec, choosing.iter().copied(), stop)?.compressed;
            if best.as_ref().is_none_or(|(least, _)| compressed < *least) {
                best = Some((compressed, codec));
            }
        }
        drop(candidates);
        let Some((_, codec)) = best else {
            let reason = failure.map_or("no segment length suits the dictionary", Failure::reason);
            return Err(TrainError::Trainer { values: training.len(), reason });
        };
        let verdict = verdict(in_use, Some(&codec), judging.iter().copied(), stop)?;
        Ok(Trained { codec, verdict })
    }

    /// Splits different samples into parts that train, choose and judge.
    fn split<'a>(&self, samples: &'a Samples) -> Result<Parts<'a>, TrainError> {
        let mut all = Vec::new();
        all.try_reserve_exact(samples.len())
            .map_err(|_| TrainError::OutOfMemory { what: "a list of samples" })?;
        all.extend(samples.iter());
        all.sort_unstable();
        all.dedup();
        let bytes = all.iter().map(|sample| sample.len()).sum();
        let least_bytes = LEAST_LENGTH * self.dictionary_bytes;
        if all.len() < LEAST_VALUES || bytes < least_bytes {
            return Err(TrainError::TooFewSamples {
                values: all.len(),
                bytes,
                least_values: LEAST_VALUES,
                least_bytes,
            });
        }
        let mut draws = Draws::new(self.seed);
        for last in (1..all.len()).rev() {
            all.swap(last, draws.below(last + 1));
        }
        Ok(Parts { all })
    }
}

/// Different samples in random order.
struct Parts<'a> {
    all: Vec<&'a [u8]>,
}

impl<'a> Parts<'a> {
    /// Returns the samples that train, those that choose, and those that judge.
    fn parts(&self) -> [&[&'a [u8]]; 3] {
        let (choosing, rest) = self.all.split_at(self.all.len() / 10);
        let (judging, training) = rest.split_at(self.all.len() / 5);
        [training, choosing, judging]
    }
}

/// Returns the size of the trainer's tables: about one entry for each byte of the samples, up to 2^18. On
/// 1.6 and 6.4 MB of memory pages, four times as many gave dictionaries that were no better.
fn table_bits(sample_bytes: usize) -> u32 {
    sample_bytes.next_power_of_two().trailing_zeros().clamp(12, 18)
}

/// Why there is no candidate.
enum Failed {
    /// The library refused, for this segment length.
    Library(Failure),
    Here(TrainError),
}

/// The input of the library's trainer.
struct Candidates {
    flat: Vec<u8>,
    lengths: Vec<usize>,
    dictionary_bytes: usize,
}

impl Candidates {
    fn new(dictionary_bytes: usize, training: &[&[u8]]) -> Result<Self, TrainError> {
        let no_memory = |_| TrainError::OutOfMemory { what: "a copy of the samples" };
        let bytes = training.iter().map(|sample| sample.len()).sum();
        let (mut flat, mut lengths) = (Vec::new(), Vec::new());
        flat.try_reserve_exact(bytes).map_err(no_memory)?;
        lengths.try_reserve_exact(training.len()).map_err(no_memory)?;
        for sample in training {
            flat.extend_from_slice(sample);
            lengths.push(sample.len());
        }
        Ok(Candidates { flat, lengths, dictionary_bytes })
    }

    fn train(&self, segment: u32, level: i32) -> Result<Vec<u8>, Failed> {
        let mut dictionary = Vec::new();
        dictionary
            .try_reserve_exact(self.dictionary_bytes)
            .map_err(|_| Failed::Here(TrainError::OutOfMemory { what: "a dictionary" }))?;
        dictionary.resize(self.dictionary_bytes, 0);
        let bits = table_bits(self.flat.len());
        match libzdict::train(&mut dictionary, &self.flat, &self.lengths, segment, bits, level) {
            Ok(len) => {
                dictionary.truncate(len);
                Ok(dictionary)
            }
            Err(Failure::OUT_OF_MEMORY) => {
                Err(Failed::Here(TrainError::OutOfMemory { what: "the trainer's tables" }))
            }
            Err(failure) => Err(Failed::Library(failure)),
        }
    }
}

#[cfg(test)]
#[cfg(not(miri))]
mod tests {
    use std::cell::Cell;

    use super::{Trained, Trainer};
    use crate::compressor::Compressor;
    use crate::training::{Choice, Holding, Samples, TrainError, judge};
    use crate::zstd::Zstd;
    use zpool_base::sync::test_rng::Rng;

    fn records(count: usize, seed: u64) -> Samples {
        let mut rng = Rng::new(seed);
        let status = ["active", "suspended", "deleted", "waiting for confirmation"];
        let record = |id| {
            format!(
                "{{\"id\":{},\"user\":\"u{:08x}\",\"status\":\"{}\",\"address\":{{\"street\":\"{} Main Street\",\
                 \"zip\":\"{:05}\",\"country\":\"US\"}},\"tags\":[\"news\",\"sports\"],\"balance\":{}.{:02}}}",
                id,
                rng.next() as u32,
                status[rng.below(4)],
                rng.below(900),
                rng.below(100_000),
                rng.below(10_000),
                rng.below(100)
            )
            .into_bytes()
        };
        (0..count).map(record).collect::<Vec<_>>().into()
    }

    fn noise(count: usize) -> Samples {
        let mut rng = Rng::new(9);
        (0..count).map(|_| (0..1024).map(|_| rng.next() as u8).collect()).collect::<Vec<_>>().into()
    }

    fn go_on() -> bool {
        false
    }

    const HOLDING: Holding = Holding { original_bytes: 64 << 20, contexts: 8 };

    fn train(samples: &Samples) -> Result<Trained, TrainError> {
        Trainer::new(8192).unwrap().train(&Zstd::default(), samples, &go_on)
    }

    #[test]
    fn records_compress_twice_as_well() {
        let trained = train(&records(2000, 1)).unwrap();
        let verdict = trained.verdict;
        assert_eq!(verdict.values, 400);
        assert_eq!(verdict.in_use, verdict.plain);
        let measured = verdict.trained.unwrap();
        assert!(measured.compressed * 2 < verdict.plain.compressed, "{verdict:?}");
        assert_eq!(measured.shared_bytes, trained.codec.dictionary_bytes());
        assert!(
            measured.shared_bytes > trained.codec.dictionary().unwrap().len()
                && trained.codec.dictionary().unwrap().len() <= 8192
        );
        assert_eq!(verdict.choose(HOLDING, 3), Choice::Trained);

        // The verdict is true of other records, and they can be read.
        let others = records(300, 2);
        let again = judge(&trained.codec, others.iter(), &go_on).unwrap();
        assert!(again.in_use.compressed * 2 < again.plain.compressed, "{again:?}");
        let mut ctx = trained.codec.new_ctx().unwrap();
        let (mut out, mut back) = ([0; 1024], [0; 1024]);
        for value in others.iter() {
            let len = ctx.compress(value, &mut out).unwrap();
            ctx.decompress(&out[..len], &mut back[..value.len()]).unwrap();
            assert_eq!(&back[..value.len()], value);
        }
    }

    #[test]
    fn a_dictionary_for_other_values_is_replaced_or_dropped() {
        let old = train(&records(2000, 1)).unwrap().codec;
        let shifted: Vec<Vec<u8>> =
            records(2000, 3).iter().map(|v| v.iter().map(|b| b ^ 0x15).collect()).collect();
        let shifted = Samples::from(shifted);
        let trained = Trainer::new(8192).unwrap().train(&old, &shifted, &go_on).unwrap();
        assert_eq!(trained.verdict.choose(HOLDING, 3), Choice::Trained);
        // Its own codec pays, the old one does not.
        let kept = judge(&trained.codec, shifted.iter(), &go_on).unwrap();
        assert_eq!(kept.choose(HOLDING, 3), Choice::Keep);
        let noise = judge(&old, noise(100).iter(), &go_on).unwrap();
        assert_eq!(noise.in_use.compressed, noise.original);
        assert_eq!(noise.choose(Holding { original_bytes: 1 << 20, ..HOLDING }, 1), Choice::Plain);
    }

    #[test]
    fn noise_is_not_worth_a_dictionary() {
        match train(&noise(1000)) {
            Ok(trained) => assert_eq!(trained.verdict.choose(HOLDING, 0), Choice::Keep),
            Err(error) => assert!(matches!(error, TrainError::Trainer { .. }), "{error}"),
        }
    }

    #[test]
    fn equal_samples_count_once() {
        let few = noise(30);
        let many: Vec<_> = (0..100).flat_map(|_| few.iter().map(<[u8]>::to_vec)).collect();
        let error = train(&many.into()).unwrap_err();
        assert!(
            matches!(error, TrainError::TooFewSamples { values: 30, bytes: 30_720, .. }),
            "{error}"
        );
        // Values that are equal to others do not judge: the rest of them is noise.
        let mixed: Vec<_> =
            noise(60).iter().map(<[u8]>::to_vec).flat_map(|v| vec![v; 20]).collect();
        if let Ok(trained) = train(&mixed.into()) {
            assert!(!trained.verdict.worth(HOLDING, 3), "{:?}", trained.verdict);
        }
    }

    #[test]
    fn the_same_samples_and_seed_give_the_same_dictionary() {
        let samples = records(600, 4);
        let mut reversed: Vec<_> = samples.iter().map(<[u8]>::to_vec).collect();
        reversed.reverse();
        let trainer = Trainer::new(4096).unwrap();
        let dictionary = |trainer: &Trainer, samples: &Samples| {
            trainer
                .train(&Zstd::default(), samples, &go_on)
                .unwrap()
                .codec
                .dictionary()
                .unwrap()
                .to_vec()
        };
        let one = dictionary(&trainer, &samples);
        assert_eq!(one, dictionary(&trainer, &reversed.into()));
        assert_ne!(one, dictionary(&trainer.seed(1), &samples));
    }

    #[test]
    fn it_stops_at_each_step() {
        let samples = records(600, 5);
        let trainer = Trainer::new(4096).unwrap();
        for given in [0, 1, 30, 61, 185, 200, 300, 400] {
            let calls = Cell::new(0);
            let stop = || {
                calls.set(calls.get() + 1);
                calls.get() > given
            };
            let result = trainer.train(&Zstd::default(), &samples, &stop);
            assert_eq!(result.unwrap_err(), TrainError::Stopped, "{given}");
            assert_eq!(calls.get(), given + 1);
        }
    }

    #[test]
    fn lengths_out_of_range_are_named() {
        for bytes in [0, 255, (1 << 20) + 1] {
            let error = Trainer::new(bytes).unwrap_err().to_string();
            assert!(error.contains(&bytes.to_string()), "{error}");
        }
        // The shortest dictionary can be trained.
        let trained =
            Trainer::new(256).unwrap().train(&Zstd::default(), &records(100, 6), &go_on).unwrap();
        assert!(trained.codec.dictionary().unwrap().len() <= 256);
    }
}
