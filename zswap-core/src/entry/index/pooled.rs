//! Marks the parts of the index that hold entries with pool memory.
//!
//! The clock of writeback must not visit a million same-filled entries to find ten thousand others. So
//! each inner node has a *mark* for each child. A mark says that an entry below the child may be
//! `Content::Stored`. A walk visits only marked children.
//!
//! # Rules
//! * Marks change only under the structure lock. Only `note_replaced` reads marks without that lock.
//! * Whenever the structure lock is free, a mark implies the marks above it: the whole way from the root is
//!   marked. So it is enough to read the mark of a leaf.
//! * A mark without a `Content::Stored` entry below it is *stale*. It costs a walk one visit, and the walk
//!   clears it.
//! * The root has no mark. If the root is a leaf, walks always visit it.
//!
//! # Why a walk misses no stored page
//! Suppose a thread (the *store*) has put a Stored word into an entry, its `note_replaced` has returned, and
//! the word is still Stored. Since the word was put there, the leaf and the nodes above it have stayed; only
//! new inner nodes can have come in between.
//!
//! The store did this, in order: it wrote the word, fenced, read the reference R to the leaf, read the mark M
//! beside R, and read R again. If M was not set or R had changed, it marked the whole way under the lock. A
//! thread that clears a leaf's mark does this, under the lock: it clears the mark, fences, reads all words of
//! the leaf, and sets the mark again if one of them is Stored. A mark higher up is cleared only if the node
//! below it has no mark. Consider the order of the two fences:
//!
//! * The store's fence came first. Then the thread that clears the leaf's mark sees the word, and sets the
//!   mark again.
//! * The other fence came first, and M's node is still the one above the leaf. Then the store saw M cleared,
//!   and marked the way. Or it saw M set again by a later change; if M is cleared once more after that, one
//!   of these cases applies to that clearing.
//! * A new inner node came between M's node and the leaf. If M was set, the new node starts with a mark for
//!   the leaf. So that mark can be missing for two reasons only:
//!   * The mark was cleared in the new node. The store had read R before the new node was linked; otherwise
//!     it would have seen the new node. So the store's fence came before the fence of the clearing thread,
//!     and that thread saw the word and set the mark again.
//!   * M was cleared before the new node was linked. Then the store found M not set, or it found M set again
//!     for another key after the new node was linked. In the latter case, the Acquire load of M pairs with
//!     the Release that set it, so the store also found that R had changed. R cannot have become the same
//!     again: the new node stays above the leaf as long as the leaf stays.
//!
//! So a walk that takes the lock after the store has returned finds the whole way marked, and finds the word.

use super::change::Step;
use super::keys::LeafKeys;
use super::node::{Header, Inner, Ref, Target, Words, leaf_prefix};
use super::{Index, Locked};
use crate::entry::word::Word;
use crate::sync::atomic::{Ordering, fence};

/// The result of one step of a walk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Visit {
    /// The key at which the walk continues; `None` at the end.
    pub(crate) next: Option<u64>,
    /// The number of leaves and lone entries that were read.
    pub(crate) leaves: usize,
}

/// A call of `pooled_keys` walks down from the root again and again. When its walks have visited this many
/// inner nodes and leaves, it starts no further walk and returns.
const NODES_A_CALL: usize = 128;

impl Inner<'_> {
    fn bit(digit: usize) -> u32 {
        1 << digit
    }

    /// Returns whether an entry below the child may have pool memory.
    pub(super) fn is_marked(self, digit: usize) -> bool {
        // Acquire pairs with the Release of `mark`: this thread sees every change of a reference that was
        // made before the mark was set.
        self.pooled.load(Ordering::Acquire) & Self::bit(digit) != 0
    }

    /// Returns whether any entry below the node may have pool memory. Called under the structure lock.
    pub(super) fn has_marks(self) -> bool {
        // Relaxed: marks change only under the structure lock.
        self.pooled.load(Ordering::Relaxed) != 0
    }

    /// Sets the mark of a child. Called under the structure lock.
    pub(super) fn mark(self, digit: usize) {
        // Release pairs with the Acquire of `is_marked`.
        self.pooled.fetch_or(Self::bit(digit), Ordering::Release);
    }

    /// Clears the mark of a child. Called under the structure lock.
    pub(super) fn unmark(self, digit: usize) {
        // Relaxed: a thread that must see the mark cleared holds the structure lock, or sees it because of
        // the fences.
        self.pooled.fetch_and(!Self::bit(digit), Ordering::Relaxed);
    }
}

impl Index {
    /// Updates the marks after the key's word `old` was replaced by `new`. Must be called if `old` or `new`
    /// is `Content::Stored`. The thread that replaced the word calls this after it has unlocked the entry,
    /// and holds no entry lock. Takes the structure lock only if the leaf got its first such entry or lost
    /// its last one.
    pub(crate) fn note_replaced(&self, key: u64, old: Word, new: Word) {
        if new.is_stored() {
            // Orders the write of the word before the reads of the marks. Pairs with the fence of
            // `unmark_unless_stored`; see the head of the file.
            fence(Ordering::SeqCst);
            if !self.is_way_marked(key) {
                self.mark_way(key);
            }
        } else if old.is_stored() {
            self.unmark_leaf(key, new);
        }
    }

    /// Returns whether the mark of the key's leaf is set. Takes no lock, and may return false although the
    /// mark is set. If it returns false, the caller marks the way under the lock.
    fn is_way_marked(&self, key: u64) -> bool {
        let mut slot = &self.root;
        let mut above: Option<(Inner<'_>, Header)> = None;
        loop {
            // Acquire: as in `find`.
            let at = Ref(slot.load(Ordering::Acquire));
            match at.target() {
                Target::None => return false,
                Target::Leaf(_) | Target::Lone(_) => {
                    let Some((inner, header)) = above else { return true };
                    // Relaxed: this second load of the reference comes after the Acquire of `is_marked`.
                    return inner.is_marked(header.digit(key))
                        && Ref(slot.load(Ordering::Relaxed)) == at;
                }
                Target::Inner(number) => {
                    let inner = self.inner(number);
                    // Relaxed: as in `find`.
                    let header = Header::unpack(inner.header.load(Ordering::Relaxed));
                    if above.is_some_and(|(_, above)| header.level >= above.level)
                        || !header.covers(key)
                    {
                        return false;
                    }
                    above = Some((inner, header));
                    slot = inner.child(header.digit(key));
                }
            }
        }
    }

    /// Marks the whole way to the key's leaf or lone entry. Does nothing if the key has neither.
    fn mark_way(&self, key: u64) {
        let locked = self.lock_structure();
        let way = self.way(&locked, key);
        if self.words(way.end).is_some_and(|words| words.have(key)) {
            for step in way.upwards() {
                step.inner.mark(step.digit);
            }
        }
    }

    /// Clears the mark of the key's leaf if none of the leaf's entries has pool memory now.
    fn unmark_leaf(&self, key: u64, new: Word) {
        let Some(found) = self.find(key) else { return };
        // These checks are made without the lock, so they may be wrong. Then a stale mark stays, or
        // `unmark_unless_stored` finds a Stored word and sets the mark again.
        let words = self.words(found.at);
        let any = |test: fn(Word) -> bool| words.is_some_and(|words| words.any(test));
        if any(Word::is_stored) || new.is_empty() && !any(|word| word != Word::EMPTY) {
            // In the second case all words are EMPTY, so a thread that unlocked one of them removes the leaf
            // with its mark.
            return;
        }
        let locked = self.lock_structure();
        let way = self.way(&locked, key);
        if let Some(words) = self.words(way.end).filter(|words| words.have(key)) {
            Self::unmark_unless_stored(&locked, words, way.upwards());
        }
    }

    /// Clears the leaf's mark, unless one of the leaf's entries has pool memory. If it cleared the mark, also
    /// clears each mark higher up under which no mark is left.
    fn unmark_unless_stored<'a: 's, 's>(
        _locked: &Locked<'_>,
        words: Words<'_>,
        mut upwards: impl Iterator<Item = &'s Step<'a>>,
    ) {
        let Some(lowest) = upwards.next() else { return };
        lowest.inner.unmark(lowest.digit);
        // Orders the change of the mark before the reads of the words. Pairs with the fence of
        // `note_replaced`; see the head of the file.
        fence(Ordering::SeqCst);
        if words.any(Word::is_stored) {
            lowest.inner.mark(lowest.digit);
            return;
        }
        let mut below = lowest.inner;
        for step in upwards {
            if below.has_marks() {
                return;
            }
            step.inner.unmark(step.digit);
            below = step.inner;
        }
    }

    /// Does what [`Self::leaf_keys`] does, but only for entries with pool memory: those with a word that is
    /// `Content::Stored`. Skips parts of the index that have no such entry. Visits at most 143 nodes, so
    /// `keys` may be empty although more entries follow. The next call continues at the returned `next`.
    pub(crate) fn pooled_keys(&self, from: u64, keys: &mut LeafKeys) -> Visit {
        keys.clear();
        let locked = self.lock_structure();
        let mut visit = Visit { next: Some(from), leaves: 0 };
        let mut nodes = 0;
        while let Some(at) = visit.next.filter(|_| nodes < NODES_A_CALL) {
            let (words, next) = self.marked_leaf(at, &mut nodes);
            visit.next = next;
            let Some(words) = words else { continue };
            visit.leaves += 1;
            keys.fill(words, at, Word::is_stored);
            if !keys.is_empty() {
                break;
            }
            if !words.any(Word::is_stored) {
                let way = self.way(&locked, words.first);
                Self::unmark_unless_stored(&locked, words, way.upwards());
            }
        }
        visit
    }

    /// Follows marks from the root down, towards the first marked leaf that may have keys from `from` on.
    /// Returns the words of that leaf if the way leads to one, and the key at which to continue: the first
    /// key behind the leaf, or behind the part that has no marked leaf. Adds the number of nodes on the way
    /// to `nodes`. Called under the structure lock.
    fn marked_leaf(&self, from: u64, nodes: &mut usize) -> (Option<Words<'_>>, Option<u64>) {
        let mut from = from;
        let mut slot = &self.root;
        // The first key behind everything below `slot`; `None` if there is no greater key.
        let mut behind = None;
        loop {
            // Relaxed, here and below: nodes change only under the structure lock.
            let at = Ref(slot.load(Ordering::Relaxed));
            *nodes += 1;
            match at.target() {
                Target::None => return (None, behind),
                Target::Leaf(_) | Target::Lone(_) => {
                    let words = self.words(at);
                    let words = words.filter(|words| leaf_prefix(words.first) >= leaf_prefix(from));
                    return (words, words.map_or(behind, |words| words.behind()));
                }
                Target::Inner(number) => {
                    let inner = self.inner(number);
                    let header = Header::unpack(inner.header.load(Ordering::Relaxed));
                    let Some(digit) = header.digit_from(from) else { return (None, behind) };
                    let marks = inner.pooled.load(Ordering::Relaxed) >> digit << digit;
                    if marks == 0 {
                        return (None, behind);
                    }
                    let digit = marks.trailing_zeros() as usize;
                    from = from.max(header.first_key_of(digit));
                    behind = header.key_after(digit).or(behind);
                    slot = inner.child(digit);
                }
            }
        }
    }
}
