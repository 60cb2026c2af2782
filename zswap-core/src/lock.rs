//! The lock bit of an entry, and waiting for it.
//!
//! # Rules
//! * Held for a few dozen instructions: to look at or replace the word and to pin its object.
//!   Never during compression, decompression, device I/O or user code other than the backend's
//!   `obj_read_begin`. Nothing blocks under it.
//! * Order: entry lock, then the backend's locks. Nobody waits for an AcompCtx under it.
//! * A thread holds at most one.
//! * A waiter spins briefly, yields, then sleeps: in userspace the holder may be descheduled.
//!
//! # Waiting
//! A sleeper sets WAITERS in the word, under the mutex of the word's stripe, and sleeps on the
//! stripe's condition variable. Who unlocks swaps the word, sees WAITERS in what it replaced, takes
//! the stripe's mutex and wakes everybody there. The sleeper either sees the unlocked word before
//! it sleeps, or sleeps before the mutex is free, so no wake-up is lost.

use crossbeam_utils::{Backoff, CachePadded};
use zpool_base::lockdep::{self, Rank};

use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::sync::{Condvar, MODEL, Mutex};
use crate::word::{LOCKED, WAITERS, Word};

const STRIPES: usize = if MODEL { 1 } else { 16 };

#[derive(Debug, Default)]
struct Stripe {
    mutex: Mutex<()>,
    woken: Condvar,
}

/// Where waiters sleep, for all words of a store.
#[derive(Debug)]
pub struct Waiters {
    stripes: [CachePadded<Stripe>; STRIPES],
}

impl Default for Waiters {
    fn default() -> Self {
        Self::new()
    }
}

impl Waiters {
    /// For any number of words.
    pub fn new() -> Self {
        Waiters { stripes: core::array::from_fn(|_| CachePadded::default()) }
    }

    fn stripe(&self, word: &AtomicU64) -> &Stripe {
        let address = core::ptr::from_ref(word).addr();
        &self.stripes[(address >> 3) % STRIPES]
    }

    /// Sleeps until the word was seen unlocked.
    fn sleep(&self, word: &AtomicU64) {
        let stripe = self.stripe(word);
        let mut guard = stripe.mutex.lock();
        loop {
            // Relaxed: the value is only compared; the lock itself is taken by an Acquire CAS.
            let now = word.load(Ordering::Relaxed);
            if now & LOCKED == 0 {
                return;
            }
            // Relaxed: the bit is a message to the holder's swap, which reads it in any case if it
            // comes later in the word's own order.
            let relaxed = Ordering::Relaxed;
            let marked = now & WAITERS != 0
                || word.compare_exchange(now, now | WAITERS, relaxed, relaxed).is_ok();
            if marked {
                guard = stripe.woken.wait(guard);
            }
        }
    }

    fn wake(&self, word: &AtomicU64) {
        let stripe = self.stripe(word);
        drop(stripe.mutex.lock());
        stripe.woken.notify_all();
    }
}

/// A locked word. Dropping it writes the word back, unlocked.
#[derive(Debug)]
pub struct WordGuard<'a> {
    word: &'a AtomicU64,
    waiters: &'a Waiters,
    /// What the word will hold when unlocked.
    now: u64,
}

/// Locks a word by [`LOCKED`]. Sleeps while another thread holds it.
#[inline]
pub fn lock_word<'a>(word: &'a AtomicU64, waiters: &'a Waiters) -> WordGuard<'a> {
    loop {
        // Any word may be locked, so the first round is the last.
        if let Some(guard) = lock_word_if(word, waiters, |_| true) {
            return guard;
        }
    }
}

/// As [`lock_word`], unless the word, unlocked, is one that `may` does not let be locked.
#[inline]
fn lock_word_if<'a>(
    word: &'a AtomicU64,
    waiters: &'a Waiters,
    may: impl Fn(u64) -> bool,
) -> Option<WordGuard<'a>> {
    let backoff = Backoff::new();
    loop {
        // Relaxed: only compared by the CAS.
        let now = word.load(Ordering::Relaxed);
        if now & LOCKED == 0 {
            if !may(now) {
                return None;
            }
            // Acquire pairs with the Release of the last holder's unlock: what it did under the
            // lock is seen. Relaxed on failure: try again.
            let (won, failed) = (Ordering::Acquire, Ordering::Relaxed);
            if word.compare_exchange_weak(now, now | LOCKED, won, failed).is_ok() {
                return Some(WordGuard { word, waiters, now });
            }
            continue;
        }
        if MODEL || backoff.is_completed() {
            waiters.sleep(word);
        } else {
            backoff.snooze();
        }
    }
}

impl WordGuard<'_> {
    /// The word, as it will be unlocked.
    pub fn word(&self) -> u64 {
        self.now
    }

    /// Puts another word in place; gives what was there. The bits of the lock are its own.
    pub fn replace(&mut self, word: u64) -> u64 {
        core::mem::replace(&mut self.now, word & !(LOCKED | WAITERS))
    }
}

impl Drop for WordGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        // Release pairs with the Acquire of the next holder's CAS. A swap, not a store: it must
        // see a WAITERS bit set meanwhile.
        let before = self.word.swap(self.now, Ordering::Release);
        debug_assert!(before & LOCKED != 0);
        if before & WAITERS != 0 {
            self.waiters.wake(self.word);
        }
    }
}

/// A locked entry word. Dropping it writes the word back, unlocked.
#[derive(Debug)]
pub(crate) struct EntryGuard<'a> {
    guard: WordGuard<'a>,
    /// Guarded by the lock: the checksum of the entry's page, in stores that keep them.
    sum: Option<&'a AtomicU32>,
    _held: lockdep::Held,
}

/// Locks an entry word; `None` if it is dead. May sleep while another thread holds it, never for long.
#[inline]
pub(crate) fn lock<'a>(word: &'a AtomicU64, waiters: &'a Waiters) -> Option<EntryGuard<'a>> {
    let held = lockdep::acquire(Rank::Entry);
    let guard = lock_word_if(word, waiters, |now| !Word::from_raw(now).is_dead())?;
    Some(EntryGuard { guard, sum: None, _held: held })
}

impl<'a> EntryGuard<'a> {
    /// The same entry, with the place of its checksum.
    pub(crate) fn with_sum(self, sum: Option<&'a AtomicU32>) -> Self {
        EntryGuard { sum, ..self }
    }

    /// The checksum of the entry's page, if the store keeps them.
    pub(crate) fn sum(&self) -> Option<u32> {
        // Relaxed: read and written by the lock's holder only.
        self.sum.map(|sum| sum.load(Ordering::Relaxed))
    }

    /// Notes the checksum of the entry's page, if the store keeps them.
    pub(crate) fn set_sum(&mut self, value: Option<u32>) {
        if let (Some(sum), Some(value)) = (self.sum, value) {
            // Relaxed: as in `sum`.
            sum.store(value, Ordering::Relaxed);
        }
    }

    /// The word, as it will be unlocked.
    pub(crate) fn word(&self) -> Word {
        Word::from_raw(self.guard.word())
    }

    /// Puts another word in place; gives what was there.
    pub(crate) fn replace(&mut self, word: Word) -> Word {
        Word::from_raw(self.guard.replace(word.raw()))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::word::Content;
    use std::sync::Arc;

    #[test]
    fn excludes_and_wakes_sleepers() {
        let shared = Arc::new((AtomicU64::new(Word::EMPTY.raw()), Waiters::new()));
        let (threads, rounds) = if cfg!(miri) { (3, 20) } else { (8, 20_000) };
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                let shared = shared.clone();
                std::thread::spawn(move || {
                    for round in 0..rounds {
                        let mut entry = lock(&shared.0, &shared.1).unwrap();
                        let Content::SameFilled(count) = entry.word().content() else {
                            assert_eq!(entry.word(), Word::EMPTY);
                            entry.replace(Word::new(Content::SameFilled(1)));
                            continue;
                        };
                        if round % 64 == 0 {
                            // Long enough that others come to sleep.
                            std::thread::yield_now();
                        }
                        entry.replace(Word::new(Content::SameFilled(count + 1)));
                    }
                })
            })
            .collect();
        for worker in workers {
            worker.join().unwrap();
        }
        let end = Word::from_raw(shared.0.load(Ordering::SeqCst));
        assert_eq!(end, Word::new(Content::SameFilled(threads * rounds)));
    }

    #[test]
    fn a_sleeper_wakes_when_the_holder_is_slow() {
        let shared = Arc::new((AtomicU64::new(Word::EMPTY.raw()), Waiters::new()));
        let held = lock(&shared.0, &shared.1).unwrap();
        let waiter = {
            let shared = shared.clone();
            std::thread::spawn(move || {
                drop(lock(&shared.0, &shared.1).unwrap());
            })
        };
        while !Word::from_raw(shared.0.load(Ordering::SeqCst)).has_waiters() {
            std::thread::yield_now();
        }
        drop(held);
        waiter.join().unwrap();
        assert_eq!(shared.0.load(Ordering::SeqCst), Word::EMPTY.raw());
    }

    #[test]
    fn neighbouring_words_are_waited_for_apart() {
        let waiters = Waiters::new();
        let words: [AtomicU64; STRIPES] = core::array::from_fn(|_| AtomicU64::new(0));
        let mut stripes = words.each_ref().map(|word| core::ptr::from_ref(waiters.stripe(word)));
        stripes.sort_unstable();
        assert!(stripes.windows(2).all(|pair| pair[0] != pair[1]), "{stripes:?}");
    }

    #[test]
    fn the_bits_of_the_lock_are_not_the_holders_to_change() {
        let (word, waiters) = (AtomicU64::new(5), Waiters::new());
        let mut guard = lock_word(&word, &waiters);
        assert_eq!(guard.replace(LOCKED | WAITERS | 6), 5);
        assert_eq!(guard.replace(LOCKED | 7), 6);
        assert_eq!(guard.replace(WAITERS | 8), 7);
        assert_eq!(word.load(Ordering::SeqCst), LOCKED | 5, "nothing is seen before the unlock");
        drop(guard);
        assert_eq!(word.load(Ordering::SeqCst), 8);
    }

    #[test]
    fn a_dead_word_cannot_be_locked() {
        let word = AtomicU64::new(Word::DEAD.raw());
        assert!(lock(&word, &Waiters::new()).is_none());
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::sync::Arc;
    use zpool_base::sync::Watched;

    /// Fails if the unlocking swap is Relaxed or the locking CAS is Relaxed (the watched cell), if
    /// the unlock does not look for WAITERS or wakes without the stripe's mutex (a sleeper stays
    /// asleep: loom reports the deadlock).
    #[test]
    fn loom_entry_lock_excludes_and_wakes() {
        loom::model(|| {
            let shared =
                Arc::new((AtomicU64::new(Word::EMPTY.raw()), Waiters::new(), Watched::new()));
            let other = {
                let shared = shared.clone();
                loom::thread::spawn(move || {
                    let entry = lock(&shared.0, &shared.1).unwrap();
                    shared.2.write();
                    drop(entry);
                })
            };
            let entry = lock(&shared.0, &shared.1).unwrap();
            shared.2.write();
            drop(entry);
            other.join().unwrap();
            // Acquire pairs with the Release of the unlocks.
            assert_eq!(shared.0.load(Ordering::Acquire), Word::EMPTY.raw());
        });
    }
}
