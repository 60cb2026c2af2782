//! The model: which versions each load may have seen, judged after the fact.
//!
//! A round leaves a list of operations for each key, with their stamps and outcomes. Threads share
//! nothing else while the round runs. Each operation took effect at some moment between its start and
//! its end, so several orders may be possible. The model checks only conditions that hold in all of
//! these orders. So every finding is a fault, and no order has to be guessed.
//!
//! * **stale**: a load found a version that another operation had replaced or removed. That operation
//!   left the key in a different state. It began after some operation had witnessed the version, and
//!   ended before the load began.
//! * **lost**: nothing was found, although a page was there before. Since then, no operation ran that
//!   can have removed it. And during the call, no store ran that may have removed the older page before
//!   it stored its own.
//! * **ghost**: a page was found, although the key was empty before. Since then, no operation ran that
//!   can have stored a page.
//! * **taken twice**: a version was taken by two operations.
//! * **after its take**: a version was found after it was taken.
//! * **after its batch**: a version was found after a batch that stored a later page under its key.
//! * **from nowhere**: a version was found before its store began, or was never stored.

use std::collections::HashMap;

/// The outcome of an operation, as its caller saw it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// A store that succeeded.
    Stored(u64),
    /// A store that succeeded. To make room, it may first have removed the older page.
    StoredLate(u64),
    /// A store that succeeded, but the same batch stored a later page under the key.
    Passing(u64),
    /// A store that was refused: the key is empty afterwards.
    Refused,
    /// A store that may have succeeded, left the older page, or removed it.
    MaybeStored(u64),
    /// A load that found this version.
    Loaded(u64),
    /// Nothing was there.
    Missed,
    /// A take that got this version.
    Took(u64),
    /// A call that removed the page that was there.
    Dropped,
    /// A call that removed the page, if one was there.
    Cleared,
    /// A call that panicked and may have removed a page.
    MaybeDropped,
    /// A call that found that a page was there.
    Seen,
    /// A call that reveals and changes nothing: a load that failed, or a refusal that keeps the page.
    Unknown,
}

/// What is known about a key at some moment of an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Known {
    Version(u64),
    Something,
    Nothing,
}

impl Outcome {
    /// Returns the state that the operation found, as far as its outcome reveals it.
    fn before(self) -> Option<Known> {
        match self {
            Outcome::Loaded(version) | Outcome::Took(version) => Some(Known::Version(version)),
            Outcome::Seen | Outcome::Dropped => Some(Known::Something),
            Outcome::Missed => Some(Known::Nothing),
            _ => None,
        }
    }

    /// Returns the state that the operation left, as far as its outcome reveals it.
    fn after(self) -> Option<Known> {
        match self {
            Outcome::Stored(version) | Outcome::StoredLate(version) | Outcome::Loaded(version) => {
                Some(Known::Version(version))
            }
            Outcome::Seen => Some(Known::Something),
            Outcome::Refused
            | Outcome::Missed
            | Outcome::Took(_)
            | Outcome::Dropped
            | Outcome::Cleared => Some(Known::Nothing),
            Outcome::Passing(_)
            | Outcome::MaybeStored(_)
            | Outcome::MaybeDropped
            | Outcome::Unknown => None,
        }
    }

    /// Returns the version that the operation may have stored.
    pub fn may_store(self) -> Option<u64> {
        match self {
            Outcome::Stored(version)
            | Outcome::StoredLate(version)
            | Outcome::Passing(version)
            | Outcome::MaybeStored(version) => Some(version),
            _ => None,
        }
    }

    fn may_remove(self) -> bool {
        matches!(
            self,
            Outcome::Refused
                | Outcome::MaybeStored(_)
                | Outcome::Took(_)
                | Outcome::Dropped
                | Outcome::Cleared
                | Outcome::MaybeDropped
        )
    }
}

/// One operation on one key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Op {
    /// The key.
    pub key: u32,
    /// The thread.
    pub thread: u16,
    /// The name of the call.
    pub call: &'static str,
    /// Stamp from before the call.
    pub start: u64,
    /// Stamp from after the call.
    pub end: u64,
    /// Its outcome.
    pub outcome: Outcome,
}

/// An operation that cannot have seen what it reports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Violation {
    /// The rule, in up to three words.
    pub rule: &'static str,
    /// The operation.
    pub op: Op,
    /// The operation that it contradicts, if any.
    pub against: Option<Op>,
}

/// The latest operations on a key, each with the state in which it left the key.
#[derive(Default)]
struct Latest {
    /// The operation that started last.
    first: Option<(Known, Op)>,
    /// Of the operations that left the key in another state than `first` did, the one that started last.
    other: Option<(Known, Op)>,
}

impl Latest {
    fn add(&mut self, known: Known, op: Op) {
        match self.first {
            Some((same, first)) if same == known => {
                if op.start > first.start {
                    self.first = Some((known, op));
                }
            }
            Some((_, first)) if op.start > first.start => {
                self.other = self.first.replace((known, op));
            }
            Some(_) => {
                if self.other.is_none_or(|(_, other)| op.start > other.start) {
                    self.other = Some((known, op));
                }
            }
            None => self.first = Some((known, op)),
        }
    }

    fn unlike(&self, known: Known) -> Option<Op> {
        [self.first, self.other].into_iter().flatten().find(|(k, _)| *k != known).map(|(_, op)| op)
    }
}

/// Operations, sorted by their starts. For each: its start, and the latest end among it and the
/// operations before it.
struct Ends(Vec<(u64, u64)>);

impl Ends {
    fn of(ops: &[Op], chosen: impl Fn(&Op) -> bool) -> Self {
        let mut latest = 0;
        let ends = ops.iter().filter(|op| chosen(op)).map(|op| {
            latest = latest.max(op.end);
            (op.start, latest)
        });
        Ends(ends.collect())
    }

    /// Returns whether an operation that started before `before` ended after `after`.
    fn overlap(&self, after: u64, before: u64) -> bool {
        let until = self.0.partition_point(|(start, _)| *start < before);
        until > 0 && self.0[until - 1].1 > after
    }
}

/// What is known about one version.
#[derive(Clone, Copy, Default)]
struct Life {
    store: Option<Op>,
    /// The earliest stamp by which the version is known to have been there.
    there_by: Option<u64>,
    take: Option<Op>,
}

/// Judges all operations on one key, given in any order. If some contradict others, returns one of them:
/// the first double take, or else the one that started first. Otherwise returns None.
pub fn check(ops: &mut [Op]) -> Option<Violation> {
    ops.sort_unstable_by_key(|op| op.start);
    let mut lives: HashMap<u64, Life> = HashMap::new();
    for op in &*ops {
        let known = [
            op.outcome.may_store(),
            match op.outcome.before() {
                Some(Known::Version(version)) => Some(version),
                _ => None,
            },
        ];
        let Some(version) = known.into_iter().flatten().next() else { continue };
        let life = lives.entry(version).or_default();
        if op.outcome.may_store().is_some() {
            life.store = Some(*op);
        }
        if !matches!(op.outcome, Outcome::MaybeStored(_) | Outcome::Passing(_)) {
            life.there_by = Some(life.there_by.map_or(op.end, |by| by.min(op.end)));
        }
        if matches!(op.outcome, Outcome::Took(_)) {
            if let Some(first) = life.take.replace(*op) {
                return Some(Violation { rule: "taken twice", op: *op, against: Some(first) });
            }
        }
    }
    let removers = Ends::of(ops, |op| op.outcome.may_remove());
    let late = Ends::of(ops, |op| matches!(op.outcome, Outcome::StoredLate(_)));
    let storers = Ends::of(ops, |op| op.outcome.may_store().is_some());
    let mut by_end: Vec<&Op> = ops.iter().filter(|op| op.outcome.after().is_some()).collect();
    by_end.sort_unstable_by_key(|op| op.end);
    let mut ended = by_end.into_iter().peekable();
    let mut latest = Latest::default();
    let (mut full, mut empty): (Option<Op>, Option<Op>) = (None, None);
    for op in &*ops {
        while let Some(past) = ended.next_if(|past| past.end < op.start) {
            let Some(known) = past.outcome.after() else { continue };
            if known != Known::Something {
                latest.add(known, *past);
            }
            let place = if known == Known::Nothing { &mut empty } else { &mut full };
            if place.is_none_or(|place| past.start > place.start) {
                *place = Some(*past);
            }
        }
        let wrong = |rule, against| Some(Violation { rule, op: *op, against });
        match op.outcome.before() {
            None => {}
            Some(Known::Version(version)) => {
                let life = lives.get(&version).copied().unwrap_or_default();
                let Some(store) = life.store else { return wrong("from nowhere", None) };
                if store.start > op.end {
                    return wrong("from nowhere", Some(store));
                }
                if let Some(take) = life.take.filter(|take| take.end < op.start) {
                    return wrong("after its take", Some(take));
                }
                if matches!(store.outcome, Outcome::Passing(_)) && store.end < op.start {
                    return wrong("after its batch", Some(store));
                }
                let later = latest.unlike(Known::Version(version));
                let there_by = life.there_by.unwrap_or(u64::MAX);
                if let Some(later) = later.filter(|later| later.start > there_by) {
                    return wrong("stale", Some(later));
                }
            }
            Some(Known::Nothing) => {
                let removed = |full: &Op| {
                    removers.overlap(full.start, op.end) || late.overlap(op.start, op.end)
                };
                if let Some(full) = full.filter(|full| !removed(full)) {
                    return wrong("lost", Some(full));
                }
            }
            Some(Known::Something) => {
                let since = empty.map_or(0, |empty| empty.start);
                if !storers.overlap(since, op.end) {
                    return wrong("ghost", empty);
                }
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::Outcome::*;
    use super::*;

    fn judge(ops: &[(u64, u64, Outcome)]) -> Option<&'static str> {
        let op = |&(start, end, outcome)| Op { key: 0, thread: 0, call: "", start, end, outcome };
        let mut ops: Vec<Op> = ops.iter().map(op).collect();
        check(&mut ops).map(|violation| violation.rule)
    }

    #[test]
    fn what_follows_in_turn_is_allowed() {
        assert_eq!(judge(&[]), None);
        let turns = [
            (1, 2, Missed),
            (3, 4, Stored(1)),
            (5, 6, Loaded(1)),
            (7, 8, Seen),
            (9, 10, Stored(2)),
            (11, 12, Loaded(2)),
            (13, 14, Took(2)),
            (15, 16, Missed),
            (17, 18, Stored(3)),
            (19, 20, Dropped),
            (21, 22, Missed),
            (23, 24, Stored(4)),
            (25, 26, Refused),
            (27, 28, Missed),
            (29, 30, Stored(5)),
            (31, 32, Cleared),
            (33, 34, Missed),
        ];
        assert_eq!(judge(&turns), None);
    }

    #[test]
    fn an_older_version_after_a_newer_one_is_stale() {
        assert_eq!(
            judge(&[(1, 2, Stored(1)), (3, 4, Stored(2)), (5, 6, Loaded(1))]),
            Some("stale")
        );
        // The last load is stale, even if only the load before it shows that version 2 came later.
        let seen = [(1, 2, Stored(1)), (3, 20, Stored(2)), (5, 6, Loaded(2)), (7, 8, Loaded(1))];
        assert_eq!(judge(&seen), Some("stale"));
        // The second of three versions is stale after the third.
        let third = [
            (1, 2, Stored(1)),
            (3, 4, Stored(2)),
            (5, 6, Stored(1 << 40)),
            (7, 8, Loaded(1 << 40)),
            (9, 10, Loaded(2)),
        ];
        assert_eq!(judge(&third), Some("stale"));
    }

    #[test]
    fn a_version_is_stale_after_anything_that_left_nothing() {
        for gone in [Refused, Dropped, Cleared, Missed] {
            // Something may have removed it, so that `Missed` is allowed.
            let ops = [(1, 2, Stored(1)), (3, 4, MaybeDropped), (5, 6, gone), (7, 8, Loaded(1))];
            assert_eq!(judge(&ops), Some("stale"), "{gone:?}");
        }
        let taken = [(1, 2, Stored(1)), (3, 4, Took(1)), (5, 6, Loaded(1))];
        assert_eq!(judge(&taken), Some("after its take"));
    }

    #[test]
    fn what_overlaps_may_have_come_in_either_order() {
        let stores = [(1, 10, Stored(1)), (2, 9, Stored(2))];
        for seen in [1, 2] {
            assert_eq!(judge(&[stores[0], stores[1], (11, 12, Loaded(seen))]), None);
            assert_eq!(judge(&[stores[0], stores[1], (3, 4, Loaded(seen))]), None);
        }
        // Once one version was seen after the other, the order cannot reverse.
        let back = [stores[0], stores[1], (11, 12, Loaded(1)), (13, 14, Loaded(2))];
        assert_eq!(judge(&back), Some("stale"));
        // A load that overlaps the overwrite sees either version.
        for seen in [1, 2] {
            let ops = [(1, 2, Stored(1)), (3, 6, Stored(2)), (4, 5, Loaded(seen))];
            assert_eq!(judge(&ops), None);
        }
        // One overwrite overlaps the load, and another was over before it.
        let past = [(1, 2, Stored(1)), (3, 4, Stored(2)), (5, 8, Stored(3)), (6, 7, Loaded(1))];
        assert_eq!(judge(&past), Some("stale"));
    }

    #[test]
    fn a_page_that_nothing_removed_is_lost() {
        assert_eq!(judge(&[(1, 2, Stored(1)), (3, 4, Missed)]), Some("lost"));
        assert_eq!(judge(&[(1, 2, Stored(1)), (3, 4, Dropped), (5, 6, Missed)]), None);
        // The removal was over before the store began.
        let before = [(1, 2, Cleared), (3, 4, Stored(1)), (5, 6, Missed)];
        assert_eq!(judge(&before), Some("lost"));
        // A removal overlaps the store or the load.
        assert_eq!(judge(&[(1, 4, Stored(1)), (2, 3, Dropped), (5, 6, Missed)]), None);
        assert_eq!(judge(&[(1, 2, Stored(1)), (3, 8, Took(1)), (4, 5, Missed)]), None);
        // The page was seen after the only removal was over.
        let seen = [(1, 2, Stored(1)), (3, 6, Cleared), (7, 8, Seen), (9, 10, Missed)];
        assert_eq!(judge(&seen), Some("ghost"));
        let loaded = [(1, 5, Stored(1)), (2, 3, Cleared), (6, 7, Loaded(1)), (8, 9, Missed)];
        assert_eq!(judge(&loaded), Some("lost"));
    }

    #[test]
    fn a_page_that_nobody_stored_is_a_ghost() {
        assert_eq!(judge(&[(1, 2, Seen)]), Some("ghost"));
        assert_eq!(judge(&[(1, 2, Dropped)]), Some("ghost"));
        assert_eq!(judge(&[(1, 2, Loaded(7))]), Some("from nowhere"));
        assert_eq!(judge(&[(1, 2, Loaded(7)), (3, 4, Stored(7))]), Some("from nowhere"));
        assert_eq!(judge(&[(1, 4, Stored(7)), (2, 3, Loaded(7))]), None);
        let gone = [(1, 2, Stored(1)), (3, 4, Dropped), (5, 6, Dropped)];
        assert_eq!(judge(&gone), Some("ghost"));
        assert_eq!(
            judge(&[(1, 2, Stored(1)), (3, 8, Stored(2)), (4, 5, Dropped), (6, 7, Seen)]),
            None
        );
    }

    #[test]
    fn a_version_is_taken_once() {
        let twice = [(1, 2, Stored(1)), (3, 9, Took(1)), (4, 8, Took(1))];
        assert_eq!(judge(&twice), Some("taken twice"));
        // The version is taken while it is being stored, and not seen afterwards.
        assert_eq!(judge(&[(1, 10, Stored(1)), (2, 3, Took(1)), (4, 5, Missed)]), None);
        let after = [(1, 10, Stored(1)), (2, 3, Took(1)), (4, 5, Loaded(1))];
        assert_eq!(judge(&after), Some("after its take"));
    }

    #[test]
    fn a_store_that_gave_the_older_page_up_leaves_a_gap_while_it_runs_and_not_after() {
        let late = [(1, 2, Stored(1)), (3, 9, StoredLate(2))];
        assert_eq!(judge(&[late[0], late[1], (4, 5, Missed), (10, 11, Loaded(2))]), None);
        assert_eq!(judge(&[late[0], late[1], (10, 11, Missed)]), Some("lost"));
        assert_eq!(judge(&[late[0], late[1], (10, 11, Loaded(1))]), Some("stale"));
        assert_eq!(judge(&[late[0], (3, 9, Stored(2)), (4, 5, Missed)]), Some("lost"));
        // A page that was once missing does not come back.
        assert_eq!(judge(&[late[0], late[1], (4, 5, Missed), (6, 7, Loaded(1))]), Some("stale"));
    }

    #[test]
    fn of_a_batch_the_later_page_stays() {
        let batch = [(1, 9, Passing(1)), (2, 9, Stored(2))];
        for seen in [1, 2] {
            assert_eq!(judge(&[batch[0], batch[1], (3, 4, Loaded(seen))]), None);
        }
        assert_eq!(judge(&[batch[0], batch[1], (10, 11, Loaded(2))]), None);
        let earlier = [batch[0], batch[1], (10, 11, Loaded(1))];
        assert_eq!(judge(&earlier), Some("after its batch"));
        let refused = [batch[0], (2, 9, Refused), (10, 11, Loaded(1))];
        assert_eq!(judge(&refused), Some("after its batch"));
    }

    #[test]
    fn a_call_that_panicked_allows_either_and_proves_neither() {
        for then in [Missed, Loaded(1), Loaded(2)] {
            assert_eq!(judge(&[(1, 2, Stored(1)), (3, 4, MaybeStored(2)), (5, 6, then)]), None);
        }
        for then in [Missed, Loaded(1)] {
            assert_eq!(judge(&[(1, 2, Stored(1)), (3, 4, MaybeDropped), (5, 6, then)]), None);
        }
        assert_eq!(judge(&[(1, 2, Stored(1)), (3, 4, Unknown), (5, 6, Missed)]), Some("lost"));
    }
}
