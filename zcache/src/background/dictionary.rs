//! Trains dictionaries from the values that are inserted, and uses one while it pays.
//!
//! A round draws samples of short values, trains a dictionary, and judges it by samples that it was not trained from.
//! It comes into use if it saves more memory than it takes. Entries of older dictionaries are then compressed again, a
//! few each step, so that these can go. When the ratio of new samples has drifted, or the cache holds twice or half as
//! much, another round trains again.

use core::time::Duration;
use std::sync::Arc;
use std::time::Instant;

use compressors::training::{
    Choice, Drift, Holding, Sampled, SamplerSettings, Samples, TrainError, Trainer, Verdict, judge,
};
use compressors::{Compressor, Zstd};

use super::heap;
use super::report::Report;
use crate::codecs::SHORT;
use crate::engine::Engine;
use crate::error::BuildError;
use crate::ledger::{Counted, Part};

/// The share of the budget that samples take, and that a training takes at most.
const SAMPLES_SHARE: usize = 64;
const TRAINING_SHARE: usize = 4;

/// A dictionary has at most this many bytes.
const MOST_DICTIONARY: usize = 16 << 10;
/// The samples are this many times as long as the dictionary.
const SAMPLES_BY_DICTIONARY: usize = 100;
/// A training needs this many times the length of the dictionary.
const LEAST_SAMPLES: usize = 16;

/// A dictionary must save this share of the memory of all short values.
const LEAST_GAIN_PERCENT: u32 = 3;
/// The ratio has drifted if it differs by this share.
const DRIFT_PERCENT: u32 = 10;
/// The most dictionaries at a time, older ones included.
const MOST_DICTIONARIES: usize = 3;
/// After this many rounds that found things unchanged, a dictionary is trained nevertheless.
const UNCHANGED: u32 = 16;
/// How many steps a round waits for its samples to spread, if there are enough.
const STEPS: u32 = 16;
/// The longest rest between two rounds, by the length of a pause.
const LONGEST_REST: u32 = 600;
/// The bytes that the system allocator keeps of samples and trainings, although it was asked to give them back:
/// measured with glibc, in a process of three threads.
const KEPT: usize = 1 << 20;
/// How many entries a step compresses again.
const RENEWED: usize = 1024;

/// Rounds of training.
pub(super) struct Rounds {
    /// The codec without a dictionary.
    base: Zstd,
    /// The codec in use.
    in_use: Zstd,
    trainer: Trainer,
    dictionary_bytes: usize,
    pause: Duration,
    /// The steps that this round has waited for samples.
    waited: u32,
    /// The end of a rest, and the length of the next one.
    resting: Option<Instant>,
    rest: Duration,
    judged: Option<Judged>,
    /// Where entries of older dictionaries are looked for: a shard, and a place there. `None`: there are none.
    renewing: Option<(usize, Option<u32>)>,
}

/// How things were at the last verdict.
struct Judged {
    drift: Drift,
    held: u64,
    unchanged: u32,
}

impl Rounds {
    /// Sets the rounds up. Returns `None` if a training would take too much of the budget, or if the compressor of this
    /// spec is not the crate's own zstd.
    pub(super) fn new(
        engine: &Engine,
        spec: &str,
        pause: Duration,
    ) -> Result<Option<Self>, BuildError> {
        let Some(base) = spec.parse().ok().and_then(|spec| Zstd::from_spec(&spec).ok()) else {
            return Ok(None);
        };
        let budget = engine.values.pool.ledger.max_bytes();
        let samples = (budget / SAMPLES_SHARE).min(SAMPLES_BY_DICTIONARY * MOST_DICTIONARY);
        let dictionary_bytes = (samples / SAMPLES_BY_DICTIONARY).clamp(1024, MOST_DICTIONARY);
        let trainer = Trainer::new(dictionary_bytes)?;
        if base.spec() != spec || trainer.memory_bytes(samples) > budget / TRAINING_SHARE {
            return Ok(None);
        }
        let settings = SamplerSettings { bytes: samples, longest: SHORT, ..Default::default() };
        engine.sampler.restart(settings)?;
        count(engine);
        Ok(Some(Rounds {
            in_use: base.clone(),
            base,
            trainer,
            dictionary_bytes,
            pause,
            waited: 0,
            resting: None,
            rest: pause,
            judged: None,
            renewing: None,
        }))
    }

    /// Does a step. Returns whether there was something to do.
    pub(super) fn step(
        &mut self,
        engine: &Engine,
        report: &mut Report,
        stop: &dyn Fn() -> bool,
    ) -> bool {
        let renewed = self.renew(engine, stop);
        let did = match engine.sampler.sampled() {
            None if self.resting.is_some_and(|until| Instant::now() < until) => false,
            None => {
                self.resting = None;
                engine.sampler.start();
                true
            }
            Some(sampled) if !self.enough(engine, sampled) => {
                self.waited += 1;
                false
            }
            Some(_) => {
                let samples = engine.sampler.take();
                match self.round(engine, &samples, report, stop) {
                    Ok(()) | Err(TrainError::Stopped) => (),
                    Err(_) => report.failed += 1,
                }
                // The samples are many small blocks, and a training leaves large holes.
                drop(samples);
                heap::trim();
                self.end_round();
                true
            }
        };
        count(engine);
        renewed || did
    }

    /// Returns whether the samples suffice. Values that come one after another are often alike, so they are to be drawn
    /// from many.
    fn enough(&self, engine: &Engine, sampled: Sampled) -> bool {
        let held = engine.len() as u64;
        let spread =
            sampled.full && sampled.seen >= held.min(1 << 20).max(2 * sampled.values as u64);
        let least = LEAST_SAMPLES * self.dictionary_bytes;
        sampled.bytes >= least && (spread || self.waited >= STEPS)
    }

    fn end_round(&mut self) {
        self.waited = 0;
        self.resting = Some(Instant::now() + self.rest);
        self.rest = self.rest.saturating_mul(2).min(self.pause.saturating_mul(LONGEST_REST));
    }

    /// Judges what is in use by the samples, and trains a dictionary if it is time to.
    fn round(
        &mut self,
        engine: &Engine,
        samples: &Samples,
        report: &mut Report,
        stop: &dyn Fn() -> bool,
    ) -> Result<(), TrainError> {
        let ledger = &engine.values.pool.ledger;
        let holding = holding(engine);
        let _samples = Counted::new(ledger, Part::Training, samples.bytes());
        let present = judge(&self.in_use, samples.iter(), stop)?;
        let choice = present.choose(holding, LEAST_GAIN_PERCENT);
        if choice == Choice::Keep && self.is_as_before(&present, holding) {
            return Ok(());
        }
        let working = self.trainer.memory_bytes(samples.bytes());
        let is_large = working > ledger.max_bytes() / TRAINING_SHARE;
        if is_large || engine.values.codecs.dictionaries() >= MOST_DICTIONARIES {
            self.settle(engine, present, choice, holding, report);
            // The next round tries again, whether or not anything has changed.
            self.judged = None;
            return Ok(());
        }
        let trained = {
            let _working = Counted::new(ledger, Part::Training, working);
            if engine.fit().is_err() {
                return Ok(());
            }
            self.trainer.train(&self.in_use, samples, stop)
        };
        let trained = match trained {
            Ok(trained) => trained,
            Err(TrainError::Trainer { .. } | TrainError::TooFewSamples { .. }) => {
                // Values that do not compress, or few different ones: no dictionary helps them.
                report.rejected += 1;
                self.settle(engine, present, choice, holding, report);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        match (trained.verdict.choose(holding, LEAST_GAIN_PERCENT), trained.verdict.trained) {
            (Choice::Trained, Some(measured)) => {
                let codec = trained.codec;
                let bytes = codec.dictionary_bytes();
                if engine.values.codecs.use_dictionary(Arc::new(codec.clone()), bytes) {
                    report.adopted += 1;
                    self.changed(codec);
                    self.remember(trained.verdict.original, measured.compressed, holding);
                }
            }
            (choice, _) => {
                report.rejected += 1;
                self.settle(engine, trained.verdict, choice, holding, report);
            }
        }
        Ok(())
    }

    /// Returns whether the samples compress as they did at the last verdict, and the cache holds about as much.
    fn is_as_before(&mut self, present: &Verdict, holding: Holding) -> bool {
        let Some(judged) = &mut self.judged else { return false };
        judged.drift.observe(present.original, present.in_use.compressed);
        judged.unchanged += 1;
        let (before, now) = (judged.held, holding.original_bytes);
        judged.unchanged <= UNCHANGED
            && !judged.drift.drifted()
            && now / 2 <= before
            && before / 2 <= now
    }

    /// Keeps what is in use, or drops its dictionary if none is better.
    fn settle(
        &mut self,
        engine: &Engine,
        verdict: Verdict,
        choice: Choice,
        holding: Holding,
        report: &mut Report,
    ) {
        let measured = if choice == Choice::Plain {
            engine.values.codecs.use_none();
            report.rejected += 1;
            self.changed(self.base.clone());
            verdict.plain
        } else {
            verdict.in_use
        };
        self.remember(verdict.original, measured.compressed, holding);
    }

    /// Begins to renew the entries of older dictionaries, and lets the next round begin soon.
    fn changed(&mut self, in_use: Zstd) {
        self.in_use = in_use;
        self.renewing = Some((0, None));
        self.rest = self.pause;
    }

    fn remember(&mut self, original: u64, compressed: u64, holding: Holding) {
        let memory = (SAMPLES_BY_DICTIONARY * self.dictionary_bytes / 2) as u64;
        let ratio = compressed as f64 / original.max(1) as f64;
        let drift = Drift::new(ratio, DRIFT_PERCENT, memory);
        self.judged = Some(Judged { drift, held: holding.original_bytes, unchanged: 0 });
    }

    /// Compresses entries of older dictionaries again. Returns whether there are more to look for.
    fn renew(&mut self, engine: &Engine, stop: &dyn Fn() -> bool) -> bool {
        let mut left = RENEWED;
        while let Some((shard, place)) = self.renewing {
            if left == 0 || stop() {
                return true;
            }
            left = left.saturating_sub(1);
            self.renewing = match engine.renew(shard, place) {
                Some(place) => Some((shard, Some(place))),
                None if shard + 1 < engine.shards.len() => Some((shard + 1, None)),
                None => None,
            };
        }
        false
    }
}

/// Counts the samples, and what the allocator keeps of earlier ones.
fn count(engine: &Engine) {
    engine.values.pool.ledger.set(Part::Training, KEPT + engine.sampler.memory_bytes());
}

/// Returns what the cache holds that a dictionary is for.
fn holding(engine: &Engine) -> Holding {
    Holding {
        original_bytes: engine.values.short_bytes() as u64,
        contexts: std::thread::available_parallelism().map_or(1, usize::from),
    }
}
