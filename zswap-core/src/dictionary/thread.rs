//! The thread that trains dictionaries, and what it does in a step.

use core::time::Duration;
use std::sync::Arc;
use std::time::Instant;

use compressors::training::{
    Choice, Drift, Holding, Sampled, SamplerSettings, Samples, TrainError, Trainer, Verdict, judge,
};
use compressors::{Compressor, Zstd};
use zpool_base::contained::contain;

use crate::Zswap;
use crate::background::{Background, Next, Stop};
use crate::dictionary::policy::{DictionaryError, DictionaryPolicy, DictionaryReport};
use crate::error::BuildError;
use crate::moves::migrate::PoolMigration;

/// The most pools that the shared area may have when a new one is made for a dictionary. The program has the others.
const MOST_POOLS: usize = 8;

/// The least length of the samples by the length of a dictionary.
const LEAST_SAMPLES: usize = 16;

/// After this many rounds that found things unchanged, a dictionary is trained nevertheless. Other data can have the
/// same ratio and more in common.
const UNCHANGED: u32 = 16;

/// How many steps a round waits for the samples to spread over the data, if they have the least length.
const STEPS: u32 = 16;

/// The longest rest, whatever the policy says.
const LONGEST_REST: Duration = Duration::from_secs(24 * 3600);

/// The most pages that the samples of a round are drawn from.
const WINDOW: u64 = 1 << 20;

/// A thread that trains dictionaries. [`Zswap::train_dictionaries_in_background`] starts one.
pub type BackgroundDictionaries = Background<DictionaryReport>;

impl Zswap {
    /// Starts a thread that trains dictionaries for zstd from the pages that are stored, and uses one while it pays:
    /// while the memory that it saves exceeds its own. When the pages change, it trains another, or drops the one in
    /// use. Dictionaries help where pages have much in common. It gives nothing for others; then the thread costs a
    /// training of less than a second of processor time now and then, with pauses that grow.
    ///
    /// The samples and the trainer's tables take about five times `sample_bytes` at most while a round runs. They and
    /// the dictionaries count in [`Zswap::memory_bytes`]. Areas with pools of their own keep their compressor.
    ///
    /// Each dictionary is a compressor of its own: the store switches as by [`Zswap::set_compressor`], and older pages
    /// are migrated. When the returned [`BackgroundDictionaries`] is dropped, the dictionary in use stays in use. The
    /// drop waits for a step of the training: up to 100 ms at zstd's default level, half a second at level 19.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use zswap_core::{DictionaryPolicy, Zswap};
    ///
    /// let store = Arc::new(Zswap::builder().compressor("zstd").build()?);
    /// let dictionaries = store.train_dictionaries_in_background(DictionaryPolicy::default())?;
    /// assert_eq!(dictionaries.stop().adopted, 0, "there are no pages to train from");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`DictionaryError::NotZstd`] if the store compresses with something else, [`DictionaryError::Running`] if such
    /// a thread is there already, [`DictionaryError::Train`] or [`DictionaryError::MostDictionaries`] if a setting is
    /// out of range, [`DictionaryError::Thread`] if the system cannot start a thread, [`DictionaryError::Forked`] in a
    /// child after `fork`.
    pub fn train_dictionaries_in_background(
        self: &Arc<Self>,
        policy: DictionaryPolicy,
    ) -> Result<BackgroundDictionaries, DictionaryError> {
        if !self.is_here() {
            return Err(DictionaryError::Forked);
        }
        let value = policy.most_dictionaries;
        if !(1..=6).contains(&value) {
            return Err(DictionaryError::MostDictionaries { value });
        }
        let trainer = Trainer::new(policy.dictionary_bytes)?;
        let compressor = self.areas.shared().pools.current().spec.clone();
        if self.zstd_of(&compressor).is_none() {
            return Err(DictionaryError::NotZstd { compressor });
        }
        if !self.training.claim() {
            return Err(DictionaryError::Running);
        }
        let claim = Claim(Arc::downgrade(self));
        self.training.sampler.restart(settings(&policy))?;
        let mut rounds = Rounds::new(policy, trainer);
        let step = move |store: Option<&Zswap>, stop: &Stop<'_>| {
            let _owned = &claim;
            let mut report = DictionaryReport::default();
            let mut next = Next::End;
            if let Some(store) = store {
                let done = contain(|| rounds.step(store, &mut report, &|| stop.is_set()))
                    .unwrap_or(Err(DictionaryError::Panicked));
                if let Err(error) = done {
                    report.failed += 1;
                    report.last_error = Some(error);
                    rounds.rest();
                }
                report.dictionary_bytes = store.recipe.dictionaries.memory_bytes();
                next = Next::After(rounds.pause());
            }
            (move |sum: &mut DictionaryReport| add(sum, report), next)
        };
        let started = Background::start("zswap-dictionary", Arc::downgrade(self), step);
        started.map_err(|error| DictionaryError::Thread { message: error.to_string() })
    }

    /// Returns the codec of this canonical name, if it is zstd.
    fn zstd_of(&self, name: &str) -> Option<Zstd> {
        if let Some(known) = self.recipe.dictionaries.codec(name) {
            return Some((*known).clone());
        }
        let codec = Zstd::from_spec(&name.parse().ok()?).ok()?;
        // A registry may have another compressor of this name, with a spec that reads alike.
        (codec.spec() == name).then_some(codec)
    }

    /// Switches the shared area from the compressor `from` to `to`. Returns false if the program has chosen another
    /// compressor meanwhile.
    fn change_dictionary(&self, from: &str, to: &str) -> Result<bool, BuildError> {
        let shared = self.areas.shared();
        self.switch(shared, |zpool, compressor| {
            let compressor = if compressor == from { to.to_owned() } else { compressor };
            (zpool, compressor)
        })?;
        Ok(shared.pools.current().spec == to)
    }
}

/// Ends the thread's claim when it is dropped with the thread's closure.
#[derive(Debug)]
struct Claim(std::sync::Weak<Zswap>);

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(store) = self.0.upgrade() {
            if store.is_here() {
                store.training.release();
            }
        }
    }
}

/// Adds what a step did to the sum of all steps. Of figures that are no counts, the newest stays.
fn add(sum: &mut DictionaryReport, step: DictionaryReport) {
    sum.sampled += step.sampled;
    sum.unchanged += step.unchanged;
    sum.trained += step.trained;
    sum.adopted += step.adopted;
    sum.rejected += step.rejected;
    sum.dropped += step.dropped;
    sum.held_up += step.held_up;
    sum.migrated += step.migrated;
    sum.failed += step.failed;
    sum.dictionary_bytes = step.dictionary_bytes;
    sum.active = step.active;
    if step.gain > 0.0 {
        sum.gain = step.gain;
    }
    if step.last_error.is_some() {
        sum.last_error = step.last_error;
    }
}

fn settings(policy: &DictionaryPolicy) -> SamplerSettings {
    // No page is longer than 64 KiB.
    let longest = (policy.sample_bytes / 2).min(64 << 10);
    SamplerSettings { bytes: policy.sample_bytes, longest, window: WINDOW, ..Default::default() }
}

/// What the last verdict was about.
struct Judged {
    /// The name of the codec that it chose.
    name: String,
    /// The ratio of that codec.
    drift: Drift,
    /// The bytes of pages that the store held.
    held: u64,
    /// Rounds that found things unchanged since.
    unchanged: u32,
}

/// The rounds of training: the thread's own state.
struct Rounds {
    policy: DictionaryPolicy,
    trainer: Trainer,
    /// Steps of this round so far.
    waited: u32,
    /// The next round's sampling begins then; `None` while it is on.
    resting: Option<Instant>,
    /// The length of the next rest.
    rest: Duration,
    judged: Option<Judged>,
    /// Whether older pools have pages to migrate.
    migrating: bool,
}

impl Rounds {
    fn new(policy: DictionaryPolicy, trainer: Trainer) -> Self {
        Rounds {
            rest: first_rest(&policy),
            policy,
            trainer,
            waited: 0,
            resting: None,
            judged: None,
            migrating: true,
        }
    }

    /// Ends a round. The next one begins after a pause, which doubles with each round that changes nothing.
    fn rest(&mut self) {
        self.resting = Some(Instant::now() + self.rest);
        self.rest = self.rest.saturating_mul(2).min(self.policy.longest_pause);
        self.rest = self.rest.clamp(first_rest(&self.policy), LONGEST_REST);
        self.waited = 0;
    }

    /// Returns the pause after a step.
    fn pause(&self) -> Duration {
        match self.resting {
            Some(until) if !self.migrating => {
                until.saturating_duration_since(Instant::now()).max(self.policy.pause)
            }
            _ => self.policy.pause,
        }
    }

    fn step(
        &mut self,
        store: &Zswap,
        report: &mut DictionaryReport,
        stop: &dyn Fn() -> bool,
    ) -> Result<(), DictionaryError> {
        let name = store.areas.shared().pools.current().spec.clone();
        let codec = store.zstd_of(&name);
        report.active = codec.as_ref().is_some_and(|codec| codec.dictionary().is_some());
        self.migrate(store, report, stop);
        let sampler = &store.training.sampler;
        let Some(codec) = codec else {
            // The program has chosen a compressor without dictionaries.
            sampler.clear();
            self.rest();
            return Ok(());
        };
        match sampler.sampled() {
            None if self.resting.is_some_and(|until| Instant::now() < until) => {}
            None => {
                self.resting = None;
                self.migrating = true;
                sampler.start();
            }
            Some(sampled) => {
                self.waited += 1;
                if self.enough(sampled, store) {
                    let samples = sampler.take();
                    report.sampled = samples.len() as u64;
                    let done = self.round(store, codec, &samples, report, stop);
                    self.rest();
                    report.active = store
                        .zstd_of(&store.areas.shared().pools.current().spec)
                        .is_some_and(|codec| codec.dictionary().is_some());
                    return match done {
                        // The owner wants the thread to end.
                        Err(DictionaryError::Train(TrainError::Stopped)) => Ok(()),
                        done => done,
                    };
                }
            }
        }
        Ok(())
    }

    /// Returns whether the samples suffice. Pages that are stored one after another are often alike, and unlike the
    /// rest. So the samples are to be drawn from as many pages as the store holds, if pages come fast enough.
    fn enough(&self, sampled: Sampled, store: &Zswap) -> bool {
        let held = holding(store).original_bytes / store.unit as u64;
        let spread =
            sampled.full && sampled.seen >= held.min(WINDOW).max(2 * sampled.values as u64);
        let least =
            (LEAST_SAMPLES * self.policy.dictionary_bytes).min(self.policy.sample_bytes / 2);
        sampled.bytes >= least && (spread || self.waited >= STEPS)
    }

    /// Moves pages of older pools. A page that cannot be moved does not hold up the rounds: if no other page moves
    /// either, the next round tries again.
    fn migrate(&mut self, store: &Zswap, report: &mut DictionaryReport, stop: &dyn Fn() -> bool) {
        if self.policy.migrated_pages == 0 {
            self.migrating = false;
        }
        if !self.migrating {
            return;
        }
        let mut done = PoolMigration::default();
        let result = store.migrate_some(self.policy.migrated_pages, &mut done, stop);
        report.migrated = done.moved as u64;
        self.migrating = if result.is_ok() { done.left > 0 } else { done.moved > 0 };
        if let Err(error) = result {
            report.failed = 1;
            report.last_error = Some(error.into());
        }
    }

    /// Judges the codec in use by the samples, and trains a dictionary if it is time to.
    fn round(
        &mut self,
        store: &Zswap,
        in_use: Zstd,
        samples: &Samples,
        report: &mut DictionaryReport,
        stop: &dyn Fn() -> bool,
    ) -> Result<(), DictionaryError> {
        let name = in_use.spec();
        let working = self.trainer.memory_bytes(samples.bytes());
        let held = store.training.working(samples.bytes());
        let present = judge(&in_use, samples.iter(), stop)?;
        let holding = holding(store);
        let choice = present.choose(holding, self.policy.least_gain_percent);
        if choice == Choice::Keep && self.is_as_before(&name, &present, holding) {
            report.unchanged = 1;
            report.gain = ratio(present.in_use.compressed, present.plain.compressed);
            return Ok(());
        }
        let crowded = store.recipe.dictionaries.count() >= self.policy.most_dictionaries
            || store.areas.shared().pools.all().count() > MOST_POOLS
            || store.check_max_bytes(store.max_bytes(), working).is_err();
        if crowded {
            report.held_up = 1;
            self.settle(store, &name, &in_use, present, choice, report)?;
            // The next round tries again, whether or not anything has changed.
            self.judged = None;
            return Ok(());
        }
        drop(held);
        let held = store.training.working(samples.bytes() + working);
        let trained = match self.trainer.train(&in_use, samples, stop) {
            Ok(trained) => trained,
            Err(TrainError::Trainer { .. } | TrainError::TooFewSamples { .. }) => {
                // Pages that do not compress, or that are few different ones: no dictionary helps them.
                report.rejected = 1;
                drop(held);
                return self.settle(store, &name, &in_use, present, choice, report);
            }
            Err(error) => return Err(error.into()),
        };
        drop(held);
        report.trained = 1;
        let verdict = trained.verdict;
        match verdict.choose(holding, self.policy.least_gain_percent) {
            Choice::Trained => self.adopt(store, &name, trained.codec, &verdict, report),
            choice => {
                report.rejected = 1;
                self.settle(store, &name, &in_use, verdict, choice, report)
            }
        }
    }

    /// Returns whether things are as at the last verdict: the codec in use is the chosen one, it compresses the samples
    /// as it did, and the store holds about as much. A dictionary that did not pay for few pages may pay for more.
    fn is_as_before(&mut self, name: &str, present: &Verdict, holding: Holding) -> bool {
        let Some(judged) = self.judged.as_mut().filter(|judged| judged.name == name) else {
            return false;
        };
        judged.drift.observe(present.original, present.in_use.compressed);
        judged.unchanged += 1;
        let (before, now) = (judged.held, holding.original_bytes);
        judged.unchanged <= UNCHANGED
            && !judged.drift.drifted()
            && now / 2 <= before
            && before / 2 <= now
    }

    /// Keeps the codec in use, or drops its dictionary if none is better.
    fn settle(
        &mut self,
        store: &Zswap,
        name: &str,
        in_use: &Zstd,
        verdict: Verdict,
        choice: Choice,
        report: &mut DictionaryReport,
    ) -> Result<(), DictionaryError> {
        if choice != Choice::Plain {
            report.gain = ratio(verdict.in_use.compressed, verdict.plain.compressed);
            self.remember(store, name.to_owned(), verdict.original, verdict.in_use.compressed);
            return Ok(());
        }
        let plain = in_use.without_dictionary().spec();
        if store.change_dictionary(name, &plain)? {
            (report.dropped, report.gain) = (1, 1.0);
            self.changed();
            self.remember(store, plain, verdict.original, verdict.plain.compressed);
        }
        Ok(())
    }

    /// Puts a new dictionary into use.
    fn adopt(
        &mut self,
        store: &Zswap,
        name: &str,
        codec: Zstd,
        verdict: &Verdict,
        report: &mut DictionaryReport,
    ) -> Result<(), DictionaryError> {
        let Some(trained) = verdict.trained else { return Ok(()) };
        let more = codec.dictionary_bytes() + trained.context_bytes * holding(store).contexts;
        if store.check_max_bytes(store.max_bytes(), more).is_err() {
            report.held_up = 1;
            return Ok(());
        }
        reserve_for_a_pool()?;
        let codec = Arc::new(codec);
        let new = codec.spec();
        store.recipe.dictionaries.add(new.clone(), &codec);
        if store.change_dictionary(name, &new)? {
            report.adopted = 1;
            report.gain = ratio(trained.compressed, verdict.plain.compressed);
            self.changed();
            self.remember(store, new, verdict.original, trained.compressed);
        }
        store.refresh_limits();
        Ok(())
    }

    /// Begins to migrate, and lets the next round begin soon.
    fn changed(&mut self) {
        self.migrating = true;
        self.rest = first_rest(&self.policy);
    }

    fn remember(&mut self, store: &Zswap, name: String, original: u64, compressed: u64) {
        let memory = (self.policy.sample_bytes / 2) as u64;
        let drift = Drift::new(ratio(compressed, original), self.policy.drift_percent, memory);
        self.judged =
            Some(Judged { name, drift, held: holding(store).original_bytes, unchanged: 0 });
    }
}

/// Returns the shortest rest. It is not zero, so that doubling it makes it longer.
fn first_rest(policy: &DictionaryPolicy) -> Duration {
    policy.pause.clamp(Duration::from_millis(1), LONGEST_REST)
}

fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

/// Returns what the shared area holds that a dictionary would be used for.
fn holding(store: &Zswap) -> Holding {
    let objects = store.areas.shared().pools.all().map(|pool| pool.stats().objects);
    let objects = objects.fold(0, usize::saturating_add) as u64;
    Holding {
        original_bytes: objects.saturating_mul(store.unit as u64),
        contexts: std::thread::available_parallelism().map_or(1, usize::from),
    }
}

/// Checks that there is memory for the small parts of a pool, whose allocations abort if they fail.
fn reserve_for_a_pool() -> Result<(), DictionaryError> {
    let mut probe: Vec<u8> = Vec::new();
    probe
        .try_reserve_exact(256 << 10)
        .map_err(|_| TrainError::OutOfMemory { what: "a pool for a dictionary" }.into())
}
