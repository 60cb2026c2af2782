//! The course of a round: all threads act for about a second; then what remains in the store is checked.

use std::fmt::Write as _;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use zpool_base::sync::test_rng::Rng;

use crate::action::Action;
use crate::driver::{Driver, Log};
use crate::finding::{lock, take_panic};
use crate::fullness;
use crate::model::{self, Op, Violation};
use crate::round::Round;
use crate::rules::BACK_OFF;

impl Round<'_> {
    /// Runs all threads until the round's time is over, checks what remains, and judges everything.
    pub fn play(self, until: Instant) {
        let end = until.min(Instant::now() + Duration::from_millis(self.config.length));
        let mut seeds = Rng::new(self.config.seed);
        let (mut ops, mut actions) = (Vec::new(), Vec::new());
        thread::scope(|scope| {
            let workers: Vec<_> = (0..self.threads)
                .map(|me| {
                    let (round, seed) = (&self, seeds.next());
                    let named = thread::Builder::new().name(format!("torture-{me}"));
                    named.spawn_scoped(scope, move || Driver::new(round, me, seed).play())
                })
                .collect();
            let keeper = self.guards.are_used().then(|| scope.spawn(|| self.keep_guards()));
            while Instant::now() < end && !self.is_over() {
                thread::sleep(Duration::from_millis(5));
            }
            self.stop.store(true, Ordering::SeqCst);
            for worker in workers {
                match worker.map(thread::ScopedJoinHandle::join) {
                    Ok(Ok(log)) => {
                        ops.extend(log.ops);
                        actions.extend(log.actions);
                    }
                    Ok(Err(_)) => self.run.findings.report("a thread died", describe_panic()),
                    Err(error) => self.run.findings.report("no thread", error.to_string()),
                }
            }
            if keeper.is_some_and(|keeper| keeper.join().is_err()) {
                self.run.findings.report("a thread died", describe_panic());
            }
        });
        if !self.run.findings.any() {
            ops.extend(self.settle().ops);
        }
        if let Some(panic) = take_panic() {
            self.run.findings.report("panic", panic);
        }
        self.run.judged.fetch_add(ops.len() as u64, Ordering::SeqCst);
        self.judge(ops, &actions);
        self.end();
    }

    fn keep_guards(&self) {
        let mut rng = Rng::new(self.config.seed ^ 1);
        while !self.is_over() {
            thread::sleep(Duration::from_micros(100 + rng.below(2000) as u64));
            if !self.guards.are_kept() {
                self.guards.close_one();
            }
        }
    }

    /// Checks the store while everything else is at rest. The store must accept pages again if its
    /// device works again. Every page must still be there. Nothing may remain once all pages are dropped.
    fn settle(&self) -> Log {
        let mut last = Driver::new(self, self.threads, self.config.seed);
        last.stop_background();
        self.codec_panics.end();
        self.backend_panics.end();
        self.writeback.set(&self.store, true, &self.run.clock);
        while self.guards.close_one() {}
        self.at_rest.store(true, Ordering::SeqCst);
        if let Some(device) = &self.device {
            device.set(&[]);
            device.set_in_hand(fullness::IN_HAND_AT_REST);
            if !self.config.faults.is_empty() {
                // From here on no rule allows a refusal because of a failed device.
                thread::sleep(BACK_OFF + Duration::from_millis(5));
            }
            last.store_all();
        }
        last.visit_all();
        let (stats, mut wrong) = (self.store.stats(), String::new());
        let objects: usize = stats.pools.iter().map(|pool| pool.objects).sum();
        for (what, left) in [
            ("stored_pages", stats.stored_pages),
            ("same_filled_pages", stats.same_filled_pages),
            ("stored_incompressible_pages", stats.stored_incompressible_pages),
            ("compressed_bytes", stats.compressed_bytes),
            ("objects", objects),
            ("device_pages", stats.device_pages),
            ("device_segments", stats.device_segments),
            ("device_live_bytes", usize::try_from(stats.device_live_bytes).unwrap_or(usize::MAX)),
            (
                "segments written",
                self.device.as_ref().map_or(0, |device| device.written_segments()),
            ),
            ("slots written", self.pages.as_ref().map_or(0, |pages| pages.pages())),
            ("entries", self.store.entries().count()),
        ] {
            if left > 0 {
                let _ = write!(wrong, " {what}: {left};");
            }
        }
        if !wrong.is_empty() {
            let what = format!("after every page was dropped, the store still has{wrong}\n{stats}");
            self.run.findings.report("something is left", what);
        }
        last.into_log()
    }

    /// Judges every operation by the model.
    fn judge(&self, mut ops: Vec<Op>, actions: &[Deed]) {
        ops.sort_unstable_by_key(|op| op.key);
        let mut rest = &mut ops[..];
        while let Some(first) = rest.first() {
            let key = first.key;
            let (of_key, others) = rest.split_at_mut(rest.partition_point(|op| op.key == key));
            if let Some(violation) = model::check(of_key) {
                let what = history(of_key, &violation, actions);
                self.run.findings.report(violation.rule, what);
                return;
            }
            rest = others;
        }
    }

    /// Drops the store and checks that all its pages were returned to the provider.
    fn end(self) {
        let (providers, findings) = (self.providers.clone(), self.run.findings.clone());
        let failed = findings.any();
        drop(self);
        if !failed {
            providers.check_those_gone(&findings);
            if !lock(&providers.0).is_empty() {
                findings.report("pages leaked", "a page provider outlived its store".to_owned());
            }
        }
    }
}

fn describe_panic() -> String {
    take_panic().unwrap_or_else(|| "no message".to_owned())
}

/// How many operations to show before and after each operation of a contradiction.
const AROUND: usize = 8;
/// The most actions on the whole store to show.
const MOST_DEEDS: usize = 40;

/// An action on the whole store: the action, the thread, and the stamps of start and end.
type Deed = (Action, usize, u64, u64);

/// Describes a contradiction, and what happened to the key around it.
fn history(ops: &[Op], violation: &Violation, actions: &[Deed]) -> String {
    let Violation { rule, op, against } = violation;
    let mut text = format!("key {}: this operation is {rule}:\n  {}", op.key, line(op));
    if let Some(against) = against {
        let _ = write!(text, "\nagainst this one:\n  {}", line(against));
    }
    let version = match op.outcome {
        model::Outcome::Loaded(version) | model::Outcome::Took(version) => Some(version),
        _ => None,
    };
    let store = ops.iter().position(|op| {
        let stored = op.outcome.may_store();
        stored.is_some() && stored == version
    });
    let place = |wanted: &Op| ops.iter().position(|op| op == wanted);
    let centres = [store, against.as_ref().and_then(place), place(op)];
    let near = |at: usize| centres.iter().flatten().any(|centre| at.abs_diff(*centre) <= AROUND);
    let _ = write!(text, "\nhistory of the key, {} operations in the round:", ops.len());
    let mut skipped = false;
    for (at, op) in ops.iter().enumerate() {
        if near(at) {
            let _ = write!(text, "\n  {}", line(op));
            skipped = false;
        } else if !skipped {
            text.push_str("\n  ...");
            skipped = true;
        }
    }
    let from = store.map_or(op.start, |at| ops[at].start);
    let mut over: Vec<&Deed> =
        actions.iter().filter(|(_, _, start, end)| *end > from && *start < op.end).collect();
    over.sort_unstable_by_key(|(_, _, start, _)| *start);
    let last = over.len().saturating_sub(MOST_DEEDS);
    let _ = write!(text, "\nthe last actions on the whole store before it:");
    for (action, thread, start, end) in &over[last..] {
        let _ = write!(text, "\n  {start}..{end} thread {thread} {}", action.name());
    }
    text
}

fn line(op: &Op) -> String {
    let Op { thread, call, start, end, outcome, .. } = op;
    format!("{start}..{end} thread {thread} {call}: {outcome:?}")
}
