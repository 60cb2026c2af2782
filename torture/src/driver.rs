//! What one thread does: draws an action, performs it, and records the outcome.
//!
//! The version of a page is the stamp at which its store began, so all versions of a run differ. Except
//! when it switches writeback, a thread holds no lock while it calls the store, so that threads collide
//! there freely.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use zpool_base::sync::test_rng::Rng;
use zswap_core::{
    BatchError, BuildError, CleanerPolicy, CompactorPolicy, LoadError, Recompress, ShrinkerPolicy,
    StoreError, SwapEntry, WritebackError,
};

use crate::action::{Action, as_mover};
use crate::background::{Background, MOST_BACKGROUND};
use crate::config::Device;
use crate::device::loading;
use crate::finding::{lock, take_panic};
use crate::model::{Op, Outcome};
use crate::page::{self, Form, Stamp};
use crate::round::{IDLE, MOST_OPS, OWN_AREA, Round};
use crate::rules::{Rule, Start};

/// The most pages in a batch.
const MOST_BATCH: usize = 16;

/// The record of what a thread did.
#[derive(Debug, Default)]
pub struct Log {
    /// Operations on keys.
    pub ops: Vec<Op>,
    /// Actions on the whole store: the action, the thread, and the stamps of start and end.
    pub actions: Vec<(Action, usize, u64, u64)>,
}

/// One thread of a round.
#[derive(Debug)]
pub struct Driver<'r> {
    round: &'r Round<'r>,
    me: usize,
    rng: Rng,
    log: Log,
    /// A page of the store.
    page: Vec<u8>,
    /// The pages of a batch, one after the other.
    batch: Vec<u8>,
}

impl<'r> Driver<'r> {
    /// Makes the driver of thread `me`, whose random choices depend on `seed`.
    pub fn new(round: &'r Round<'r>, me: usize, seed: u64) -> Self {
        let unit = round.config.unit;
        let (page, batch) = (vec![0; unit], vec![0; MOST_BATCH * unit]);
        Driver { round, me, rng: Rng::new(seed), log: Log::default(), page, batch }
    }

    /// Returns the record of what the thread did.
    pub fn into_log(self) -> Log {
        self.log
    }

    /// Acts until the round is over. Returns the record.
    pub fn play(mut self) -> Log {
        while !self.round.is_over() {
            let action = self.draw();
            self.act(action);
            if self.log.ops.len() > MOST_OPS {
                self.round.stop.store(true, Ordering::SeqCst);
            }
        }
        self.doing(None);
        self.log
    }

    fn draw(&mut self) -> Action {
        let of_keys = self.rng.below(1000) >= self.round.config.whole;
        let weights = &self.round.config.weights;
        let choice = || Action::ALL.into_iter().filter(|action| action.is_of_keys() == of_keys);
        let sum: usize = choice().map(|action| weights[action as usize]).sum();
        if sum == 0 {
            return Action::Load;
        }
        let mut left = self.rng.below(sum);
        let chosen = choice().find(|action| {
            let weight = weights[*action as usize];
            let here = left < weight;
            left = left.wrapping_sub(weight);
            here
        });
        chosen.unwrap_or(Action::Load)
    }

    fn act(&mut self, action: Action) {
        self.doing(Some(action));
        match action {
            Action::Store | Action::TryReplace => {
                let key = self.key();
                self.store(key, action == Action::TryReplace);
            }
            Action::Load => self.load(),
            Action::Take => self.take(),
            Action::Invalidate => self.invalidate(),
            Action::Contains => {
                let key = self.key();
                self.contains(key);
            }
            Action::StoreBatch => self.store_batch(),
            Action::LoadBatch => self.load_batch(),
            _ => self.act_on_all(action),
        }
    }

    /// Performs an action on the whole store and counts it.
    fn act_on_all(&mut self, action: Action) {
        let (marks, tally) = (&self.round.marks, &self.round.run.tally);
        let (under_way, begun) = marks.activity();
        let start = self.stamp();
        let done = match action {
            Action::Area => self.area(),
            Action::Entries => self.entries(),
            Action::Stats => self.stats(),
            Action::SwitchCompressor | Action::SwitchZpool | Action::Switch => self.switch(action),
            Action::Migrate => self.migrate(),
            Action::Recompress => self.recompress(),
            Action::Shrink => self.shrink(),
            Action::FlushDevice => self.flush_device(),
            Action::Compact => self.compact(),
            Action::CompactGuarded => {
                let guards = self.round.guards.clone();
                guards.count() > 0 && guards.while_kept(|| self.compact())
            }
            Action::Trim => {
                let store = &self.round.store;
                self.guarded(|| store.trim()).is_some()
            }
            Action::DeviceFault | Action::DeviceRecovery => self.change_device(action),
            Action::PageFault => {
                self.round.providers.fail_soon(&mut self.rng);
                true
            }
            Action::Writeback => self.writeback(),
            Action::Limit => self.limit(),
            Action::Background => self.background(),
            Action::Fork => self.fork(),
            _ => false,
        };
        if done {
            let end = self.stamp();
            self.log.actions.push((action, self.me, start, end));
            tally.ran(action);
            let after = marks.activity();
            if !action.is_mover() && (under_way > 0 || after != (under_way, begun)) {
                tally.overlapped(action);
            }
        }
    }

    // Recording.

    fn doing(&self, action: Option<Action>) {
        if let Some(doing) = self.round.run.doing.get(self.me) {
            let now = self.round.run.clock.last();
            let word = action.map_or(IDLE, |action| (action as u64) << 56 | now);
            doing.store(word, Ordering::SeqCst);
        }
    }

    fn stamp(&self) -> u64 {
        self.round.run.clock.stamp()
    }

    fn note(&mut self, key: u32, call: &'static str, start: u64, outcome: Outcome) {
        let (thread, end) = (self.me as u16, self.stamp());
        self.log.ops.push(Op { key, thread, call, start, end, outcome });
    }

    fn begin(&self) -> Start {
        Start { stamp: self.stamp(), at: Instant::now() }
    }

    /// Calls the store. If it panics, reports a finding and returns None.
    fn guarded<T>(&self, call: impl FnOnce() -> T) -> Option<T> {
        catch(self.round, call)
    }

    /// Counts a refusal that a rule allows. If no rule allows it, reports a finding.
    fn refused(&self, call: &str, rule: Option<Rule>, error: &dyn std::fmt::Debug) {
        match rule {
            Some(rule) => self.round.run.count(rule),
            None => {
                let stats = self.round.store.stats();
                let written = self.round.device.as_ref().map(|device| device.written_segments());
                let what = format!(
                    "thread {}: {call}: no rule allows this error: {error:?}\non the device: {} pages, {} bytes \
                     in {} segments; {written:?} are written; cleaning emptied {} and moved {} pages",
                    self.me,
                    stats.device_pages,
                    stats.device_live_bytes,
                    stats.device_segments,
                    stats.device_cleaned_segments,
                    stats.device_moved_pages,
                );
                self.round.run.findings.report("refused without a reason", what);
            }
        }
    }

    // Actions on keys.

    fn key(&mut self) -> u32 {
        let keys = self.round.config.keys;
        // A quarter of the actions go to at most four keys, so that threads meet even if a round has
        // many keys.
        let of = if self.rng.below(4) == 0 { keys.min(4) } else { keys };
        self.rng.below(of) as u32
    }

    fn form(&mut self) -> Form {
        Form::ALL[self.rng.below(Form::ALL.len())]
    }

    fn stamp_of(&self, key: u32, version: u64) -> Stamp {
        Stamp { key, version, writer: Some(self.me as u32) }
    }

    fn store_refused(&self, call: &str, start: Start, form: Form, error: &StoreError) {
        self.refused(call, self.round.facts(start).store(Some(form), error), error);
    }

    /// Returns the outcome of a call that stores a page. `keeps` says that a refused call keeps the
    /// older page. Such a call never removes that page first.
    fn stored(
        &self,
        call: &'static str,
        (start, version, form): (Start, u64, Form),
        result: Option<&Result<(), StoreError>>,
        keeps: bool,
    ) -> Outcome {
        match result {
            None => Outcome::MaybeStored(version),
            Some(Ok(())) if !keeps && self.round.facts(start).may_give_up_older() => {
                Outcome::StoredLate(version)
            }
            Some(Ok(())) => Outcome::Stored(version),
            Some(Err(error)) => {
                self.store_refused(call, start, form, error);
                if keeps { Outcome::Unknown } else { Outcome::Refused }
            }
        }
    }

    fn store(&mut self, key: u32, keeps: bool) {
        let (round, form) = (self.round, self.form());
        let (action, call) =
            if keeps { (Action::TryReplace, "try_replace") } else { (Action::Store, "store") };
        round.run.tally.ran(action);
        let mark = round.marks.begin(key, action, &round.run.tally);
        let start = self.begin();
        let version = start.stamp;
        let stamp = self.stamp_of(key, version);
        page::fill(&mut self.page, stamp, form, round.base, &mut self.rng);
        let (entry, page) = (round.entry(key), &self.page[..]);
        let result = self.guarded(|| match keeps {
            true => round.store.try_replace_unit(entry, page),
            false => round.store.store_unit(entry, page),
        });
        let outcome = self.stored(call, (start, version, form), result.as_ref(), keeps);
        self.note(key, call, start.stamp, outcome);
        drop(mark);
    }

    /// Returns the version in a page that was loaded under a key. If the page was never stored there,
    /// reports a finding and returns None.
    fn version(&self, call: &str, key: u32, page: &[u8]) -> Option<u64> {
        let wrong = match page::read(page, self.round.base) {
            Ok(stamp) if stamp.key == key => return Some(stamp.version),
            Ok(stamp) => format!("it is another key's: {stamp:?}"),
            Err(wrong) => wrong,
        };
        let what = format!("{call} of key {key} gave a page that was never stored there: {wrong}");
        self.round.run.findings.report("wrong bytes", what);
        None
    }

    fn loaded(
        &self,
        call: &'static str,
        key: u32,
        start: Start,
        result: Result<(), LoadError>,
        page: &[u8],
    ) -> Outcome {
        match result {
            Ok(()) => match self.version(call, key, page) {
                Some(version) if call == "take" => Outcome::Took(version),
                Some(version) => Outcome::Loaded(version),
                None => Outcome::Unknown,
            },
            Err(LoadError::NotFound { .. }) => Outcome::Missed,
            Err(error) => {
                self.refused(call, self.round.facts(start).load(&error), &error);
                Outcome::Unknown
            }
        }
    }

    /// Reports a finding if a load succeeded although the device gave it wrong bytes.
    fn check_misled(
        &self,
        call: &str,
        key: u32,
        misled: bool,
        result: Option<&Result<(), LoadError>>,
    ) {
        if misled && result == Some(&Ok(())) {
            let what = format!("{call} of key {key} succeeded, and the device gave other bytes");
            self.round.run.findings.report("wrong bytes of the device were believed", what);
        }
    }

    fn load_key(&mut self, key: u32) {
        let round = self.round;
        round.run.tally.ran(Action::Load);
        let mark = round.marks.begin(key, Action::Load, &round.run.tally);
        let start = self.begin();
        let page = &mut *self.page;
        let (result, misled) =
            loading(|| catch(round, || round.store.load_unit(round.entry(key), page)));
        self.check_misled("load", key, misled, result.as_ref());
        let outcome = match result {
            None => Outcome::Unknown,
            Some(result) => self.loaded("load", key, start, result, &self.page),
        };
        self.note(key, "load", start.stamp, outcome);
        drop(mark);
    }

    fn load(&mut self) {
        let key = self.key();
        self.load_key(key);
    }

    fn take_key(&mut self, key: u32) {
        let round = self.round;
        round.run.tally.ran(Action::Take);
        let mark = round.marks.begin(key, Action::Take, &round.run.tally);
        let start = self.begin();
        let page = &mut *self.page;
        let (result, misled) =
            loading(|| catch(round, || round.store.take_unit(round.entry(key), page)));
        self.check_misled("take", key, misled, result.as_ref());
        let outcome = match result {
            None => Outcome::MaybeDropped,
            Some(result) => self.loaded("take", key, start, result, &self.page),
        };
        self.note(key, "take", start.stamp, outcome);
        drop(mark);
    }

    fn take(&mut self) {
        let key = self.key();
        self.take_key(key);
    }

    fn invalidate_key(&mut self, key: u32) {
        let round = self.round;
        round.run.tally.ran(Action::Invalidate);
        let mark = round.marks.begin(key, Action::Invalidate, &round.run.tally);
        let start = self.stamp();
        let outcome = match self.guarded(|| round.store.invalidate(round.entry(key))) {
            None => Outcome::MaybeDropped,
            Some(true) => Outcome::Dropped,
            Some(false) => Outcome::Missed,
        };
        self.note(key, "invalidate", start, outcome);
        drop(mark);
    }

    fn invalidate(&mut self) {
        let key = self.key();
        self.invalidate_key(key);
    }

    fn contains(&mut self, key: u32) {
        let round = self.round;
        round.run.tally.ran(Action::Contains);
        let mark = round.marks.begin(key, Action::Contains, &round.run.tally);
        let start = self.stamp();
        let there = round.store.contains(round.entry(key));
        let outcome = if there { Outcome::Seen } else { Outcome::Missed };
        self.note(key, "contains", start, outcome);
        drop(mark);
    }

    /// Draws the keys of a batch. Returns them as drawn, and the same without duplicates. In half of
    /// the cases the first list has no duplicates either.
    fn keys_of_batch(&mut self) -> (Vec<u32>, Vec<u32>) {
        let count = 1 + self.rng.below(MOST_BATCH);
        let mut keys: Vec<u32> = (0..count).map(|_| self.key()).collect();
        let mut once = keys.clone();
        once.sort_unstable();
        once.dedup();
        if self.rng.below(2) == 0 {
            keys.clone_from(&once);
        }
        (keys, once)
    }

    fn store_batch(&mut self) {
        let (round, (keys, once)) = (self.round, self.keys_of_batch());
        round.run.tally.ran(Action::StoreBatch);
        let begin = |key: &u32| round.marks.begin(*key, Action::StoreBatch, &round.run.tally);
        let marks: Vec<_> = once.iter().map(begin).collect();
        let (mut made, unit) = (Vec::new(), round.config.unit);
        for (at, key) in keys.iter().enumerate() {
            let (start, form) = (self.begin(), self.form());
            let stamp = self.stamp_of(*key, start.stamp);
            let page = &mut self.batch[at * unit..][..unit];
            page::fill(page, stamp, form, round.base, &mut self.rng);
            made.push((start, start.stamp, form));
        }
        let entries = keys.iter().map(|key| round.entry(*key));
        let pages: Vec<(SwapEntry, &[u8])> = entries.zip(self.batch.chunks(unit)).collect();
        let results = self.guarded(|| round.store.store_units(&pages));
        let results = self.batch_done("store_batch", keys.len(), results);
        for (at, (key, made)) in keys.iter().zip(made).enumerate() {
            let result = results.as_ref().and_then(|results| results.get(at));
            let mut outcome = self.stored("store_batch", made, result, false);
            if let (Outcome::Stored(version) | Outcome::StoredLate(version), true) =
                (outcome, keys[at + 1..].contains(key))
            {
                outcome = Outcome::Passing(version);
            }
            self.note(*key, "store_batch", made.0.stamp, outcome);
        }
        drop(marks);
    }

    fn load_batch(&mut self) {
        let (round, (keys, once)) = (self.round, self.keys_of_batch());
        if round.config.device != Device::None && self.rng.below(4) == 0 {
            // Then most of the pages are on the device.
            self.shrink();
        }
        round.run.tally.ran(Action::LoadBatch);
        let begin = |key: &u32| round.marks.begin(*key, Action::LoadBatch, &round.run.tally);
        let marks: Vec<_> = once.iter().map(begin).collect();
        let entries: Vec<SwapEntry> = keys.iter().map(|key| round.entry(*key)).collect();
        let start = self.begin();
        let unit = round.config.unit;
        let pages = &mut self.batch[..keys.len() * unit];
        let (results, _) = loading(|| catch(round, || round.store.load_units(&entries, pages)));
        let results = self.batch_done("load_batch", keys.len(), results).unwrap_or_default();
        for (at, (key, result)) in keys.iter().zip(results).enumerate() {
            let page = &self.batch[at * unit..][..unit];
            let outcome = self.loaded("load_batch", *key, start, result, page);
            self.note(*key, "load_batch", start.stamp, outcome);
        }
        drop(marks);
    }

    /// Returns the results of a batch. Reports a finding if there is not exactly one result per page.
    /// If the whole batch was refused, reports a finding and returns None, since no rule allows that.
    /// Also returns None if the call panicked.
    fn batch_done<T>(
        &self,
        call: &str,
        asked: usize,
        done: Option<Result<Vec<T>, BatchError>>,
    ) -> Option<Vec<T>> {
        match done? {
            Ok(answers) => {
                self.check_answers(call, asked, answers.len());
                Some(answers)
            }
            Err(error) => {
                self.refused(call, None, &error);
                None
            }
        }
    }

    fn check_answers(&self, call: &str, asked: usize, answers: usize) {
        if answers != asked {
            let what = format!("{call} of {asked} pages gave {answers} answers");
            self.round.run.findings.report("answers missing", what);
        }
    }

    // Actions on the whole store; each returns whether it did anything.

    fn area(&mut self) -> bool {
        let (round, area) = (self.round, self.rng.below(2) as u32);
        let start = self.stamp();
        let done = self.guarded(|| round.store.invalidate_area(area as u8));
        let outcome = done.map_or(Outcome::MaybeDropped, |_| Outcome::Cleared);
        for key in (0..round.config.keys as u32).filter(|key| key & 1 == area) {
            self.note(key, "invalidate_area", start, outcome);
        }
        true
    }

    fn entries(&mut self) -> bool {
        let round = self.round;
        let start = self.stamp();
        let listed: Vec<SwapEntry> = round.store.entries().collect();
        let mut seen = vec![false; round.config.keys];
        for entry in &listed {
            match round.key_of(*entry) {
                Some(key) => seen[key as usize] = true,
                None => {
                    let what = format!("{entry:?} is listed, and nobody stored a page there");
                    round.run.findings.report("ghost", what);
                }
            }
        }
        if let Some(pair) = listed.windows(2).find(|pair| pair[0] >= pair[1]) {
            let what = format!("{:?} is listed before {:?}", pair[0], pair[1]);
            round.run.findings.report("entries out of order", what);
        }
        for (key, seen) in seen.into_iter().enumerate() {
            let outcome = if seen { Outcome::Seen } else { Outcome::Missed };
            self.note(key as u32, "entries", start, outcome);
        }
        true
    }

    fn stats(&mut self) -> bool {
        let stats = self.round.store.stats();
        let (pages, keys) = (stats.stored_pages, self.round.config.keys);
        // A store counts a page just after it has published the page, and another thread may have
        // dropped the page in between. So the figure may be off by the pages of the calls under way.
        if pages > keys + self.round.threads * (MOST_BATCH + 1) {
            let what = format!("{pages} pages are stored under {keys} keys");
            self.round.run.findings.report("wrong figures", what);
        }
        if let Some(area) = self.round.store.area(OWN_AREA) {
            let of_area = area.stats();
            if of_area.stored_pages > pages + self.round.threads * (MOST_BATCH + 1) {
                let what = format!("{} of {pages} pages are in one area", of_area.stored_pages);
                self.round.run.findings.report("wrong figures", what);
            }
        }
        true
    }

    /// Lets other threads work for a moment.
    fn pause(&mut self) {
        match self.rng.below(4) {
            0 => thread::sleep(Duration::from_micros(self.rng.below(1500) as u64)),
            1 => thread::yield_now(),
            _ => {}
        }
    }

    fn switch(&mut self, action: Action) -> bool {
        let round = self.round;
        let of_codec = match action {
            Action::SwitchCompressor => true,
            Action::SwitchZpool => false,
            _ => self.rng.below(2) == 0,
        };
        let all = if of_codec { &round.config.codecs } else { &round.config.zpools };
        let first = self.rng.below(all.len());
        let second = (first + 1 + self.rng.below((all.len() - 1).max(1))) % all.len();
        let steps: &[usize] =
            if action == Action::Switch { &[first] } else { &[first, second, first] };
        for at in steps {
            let start = self.begin();
            let to = all[*at];
            let area = round.store.area(OWN_AREA).filter(|_| self.rng.below(2) == 0);
            let switched = self.guarded(|| match (area, of_codec) {
                (Some(area), true) => area.set_compressor(to),
                (Some(area), false) => area.set_zpool(to),
                (None, true) => round.store.set_compressor(to),
                (None, false) => round.store.set_zpool(to),
            });
            if let Some(Err(error)) = switched {
                self.build_refused("switch", start, &error);
            }
            self.pause();
        }
        true
    }

    fn build_refused(&self, call: &str, start: Start, error: &BuildError) {
        self.refused(call, self.round.facts(start).build(error), error);
    }

    fn budget(&mut self) -> usize {
        1 + self.rng.below(1 << self.rng.clone().below(7))
    }

    fn migrate(&mut self) -> bool {
        let (round, budget, start) = (self.round, self.budget(), self.begin());
        let done = self.guarded(|| as_mover(Action::Migrate, || round.store.migrate_pools(budget)));
        if let Some(Err(error)) = &done {
            self.refused("migrate_pools", round.facts(start).migrate(error), error);
        }
        true
    }

    fn recompress(&mut self) -> bool {
        let (round, budget, start) = (self.round, self.budget(), self.begin());
        let spec = round.config.codecs[self.rng.below(round.config.codecs.len())];
        let what = Recompress::new(spec).max_pages(budget);
        let what = if self.rng.below(2) == 0 { what.idle() } else { what };
        let what = if self.rng.below(4) == 0 { what.area(OWN_AREA) } else { what };
        let done = self.guarded(|| as_mover(Action::Recompress, || round.store.recompress(&what)));
        if let Some(Err(error)) = &done {
            self.refused("recompress", round.facts(start).migrate(error), error);
        }
        true
    }

    fn shrink(&mut self) -> bool {
        let (round, budget, start) = (self.round, self.budget(), self.begin());
        let area = round.store.area(OWN_AREA).filter(|_| self.rng.below(2) == 0);
        let done = self.guarded(|| {
            as_mover(Action::Shrink, || match area {
                Some(area) => area.shrink(budget),
                None => round.store.shrink(budget),
            })
        });
        if let Some(Err(error)) = &done {
            self.refused("shrink", round.facts(start).writeback(error), error);
        }
        true
    }

    fn flush_device(&mut self) -> bool {
        let (round, start) = (self.round, self.begin());
        if let Some(Err(error)) = self.guarded(|| round.store.flush_device()) {
            // A device is flushed even while writeback is off.
            let rule = round.facts(start).writeback(&error);
            self.refused("flush_device", rule.filter(|rule| *rule != Rule::NoWriteback), &error);
        }
        true
    }

    fn compact(&mut self) -> bool {
        let (round, start) = (self.round, self.begin());
        if let Some(Err(error)) = self.guarded(|| round.store.compact()) {
            let error = BuildError::Zpool(error);
            self.build_refused("compact", start, &error);
        }
        true
    }

    fn change_device(&mut self, action: Action) -> bool {
        let (round, faults) = (self.round, &self.round.config.faults);
        let Some(device) = &round.device else { return false };
        if action == Action::DeviceRecovery {
            let was = device.is_failing();
            device.set(&[]);
            return was;
        }
        if faults.is_empty() {
            return false;
        }
        device.set(&[faults[self.rng.below(faults.len())]]);
        true
    }

    fn writeback(&mut self) -> bool {
        let round = self.round;
        round.writeback.set(&round.store, self.rng.below(2) == 0, &round.run.clock);
        true
    }

    /// Sets another limit: none, the first one, or a random one of at least a page.
    fn limit(&mut self) -> bool {
        let (round, start) = (self.round, self.begin());
        let in_all = match round.limits.first {
            (Some(_), Some(_)) => self.rng.below(2) == 0,
            (None, Some(_)) => true,
            (Some(_), None) => false,
            (None, None) => return false,
        };
        let first = if in_all { round.limits.first.1 } else { round.limits.first.0 };
        let limit = match self.rng.below(4) {
            0 => None,
            1 => first,
            _ => first.map(|first| 4096 + self.rng.below(first)),
        };
        let set = if in_all {
            round.limits.will_be_in_all(limit);
            self.guarded(|| round.store.set_max_bytes(limit))
        } else {
            round.limits.will_be(limit);
            self.guarded(|| round.store.set_max_pool_bytes(limit))
        };
        if let Some(Err(error)) = set {
            self.build_refused("set_max", start, &error);
        }
        true
    }

    fn background(&mut self) -> bool {
        let round = self.round;
        if self.rng.below(2) == 0 {
            // One at a time, so that those being stopped are at most as many as the threads.
            let oldest = {
                let mut all = lock(&round.background);
                (!all.is_empty()).then(|| all.remove(0))
            };
            oldest.into_iter().for_each(|oldest| self.end_background(oldest));
            return true;
        }
        let pause = Duration::from_micros(200 + self.rng.below(3000) as u64);
        let started = match self.rng.below(4) {
            0 => {
                let from = self.rng.below(100) as u8;
                let policy =
                    ShrinkerPolicy::default().from_percent(from).most_pages(16).pause(pause);
                match round.store.shrink_in_background(policy) {
                    Ok(shrinker) => Some(Background::Shrinker(shrinker)),
                    Err(error) => {
                        self.shrinker_refused(from, &error);
                        None
                    }
                }
            }
            1 => {
                let percent = self.rng.below(101) as u8;
                let policy = CleanerPolicy::default().free_percent(percent).pause(pause);
                match round.store.clean_in_background(policy) {
                    Ok(cleaner) => Some(Background::Cleaner(cleaner)),
                    Err(WritebackError::NoDevice) if round.device.is_none() => None,
                    Err(error) => {
                        self.refused("clean_in_background", None, &error);
                        None
                    }
                }
            }
            2 => {
                let policy = CompactorPolicy::default().time_percent(50).pause(pause);
                round.store.compact_in_background(policy).ok().map(Background::Compactor)
            }
            _ => {
                let chunk = self.budget();
                let started = round.store.migrate_pools_in_background(chunk, pause);
                started.ok().map(Background::Migration)
            }
        };
        let Some(started) = started else { return false };
        let mut all = lock(&round.background);
        all.push(started);
        let oldest = (all.len() > MOST_BACKGROUND).then(|| all.remove(0));
        drop(all);
        oldest.into_iter().for_each(|oldest| self.end_background(oldest));
        true
    }

    fn shrinker_refused(&self, from_percent: u8, error: &WritebackError) {
        let (config, limits) = (&self.round.config, self.round.limits.first);
        let fits = match error {
            // The limit may have been lifted.
            WritebackError::NoLimit => {
                let of_area = config.own_area.and_then(|own| own.limit);
                (limits == (None, None) && of_area.is_none())
                    || config.weights[Action::Limit as usize] > 0
            }
            WritebackError::NoDevice => self.round.device.is_none(),
            WritebackError::Thresholds { .. } => from_percent > config.accept_percent,
            _ => false,
        };
        if !fits {
            self.refused("shrink_in_background", None, error);
        }
    }

    /// Stops all background threads and checks their reports.
    pub fn stop_background(&self) {
        let all = std::mem::take(&mut *lock(&self.round.background));
        all.into_iter().for_each(|one| self.end_background(one));
    }

    fn end_background(&self, one: Background) {
        // The error may have happened at any time of the round.
        let facts = self.round.facts(self.round.began);
        match &one {
            Background::Shrinker(shrinker) => {
                if let Some(error) = shrinker.report().last_error {
                    self.refused("shrink_in_background", facts.writeback(&error), &error);
                }
            }
            Background::Cleaner(cleaner) => {
                if let Some(error) = cleaner.report().last_error {
                    self.refused("clean_in_background", facts.writeback(&error), &error);
                }
            }
            Background::Migration(migration) => {
                if let Some(error) = migration.report().last_error {
                    self.refused("migrate_pools_in_background", facts.migrate(&error), &error);
                }
            }
            Background::Compactor(_) => {}
        }
        drop(one);
    }

    fn fork(&mut self) -> bool {
        match crate::fork::child_drops(self.round) {
            Ok(()) => true,
            Err(what) => {
                self.round.run.findings.report("fork", what);
                true
            }
        }
    }

    /// Stores a page under every key. All other threads are at rest.
    pub fn store_all(&mut self) {
        for key in 0..self.round.config.keys as u32 {
            self.store(key, false);
        }
    }

    /// Checks, loads and drops the page of every key. All other threads are at rest.
    pub fn visit_all(&mut self) {
        self.entries();
        for key in 0..self.round.config.keys as u32 {
            self.contains(key);
            self.load_key(key);
            if self.rng.below(2) == 0 {
                self.take_key(key);
            } else {
                self.invalidate_key(key);
            }
            self.contains(key);
        }
    }
}

/// Does what [`Driver::guarded`] does, for a call that writes into the thread's own pages.
fn catch<T>(round: &Round<'_>, call: impl FnOnce() -> T) -> Option<T> {
    let result = catch_unwind(AssertUnwindSafe(call)).ok();
    if result.is_none() {
        let text = take_panic().unwrap_or_else(|| "a panic that torture ordered".to_owned());
        round.run.findings.report("panic", text);
    }
    result
}
