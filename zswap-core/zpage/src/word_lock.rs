//! A lock in one bit of the word that stands for a page.
//!
//! The user of the lock defines what may be done under it: see `lock.rs` of zswap-core and `table.rs` of
//! zram. A waiter spins briefly, then yields, then sleeps, since in userspace the holder may be descheduled.
//!
//! ```
//! use std::sync::atomic::{AtomicU64, Ordering};
//! use zpage::word_lock::{Waiters, lock_word};
//!
//! let (word, waiters) = (AtomicU64::new(5), Waiters::new());
//! let mut guard = lock_word(&word, &waiters);
//! assert_eq!(guard.replace(6), 5);
//! drop(guard);
//! assert_eq!(word.load(Ordering::Relaxed), 6);
//! ```
//!
//! The lock has two bits of the word, [`LOCKED`] and [`WAITERS`]. All other bits are the user's. Code that reads the
//! word without the lock must mask these two.
//!
//! # Waiting
//! A sleeper takes the mutex of the word's stripe, sets WAITERS in the word, and sleeps on the stripe's
//! condition variable. The unlocking thread swaps the word. If the old value has WAITERS, the thread takes
//! the stripe's mutex and wakes all sleepers of the stripe. A sleeper either sees the unlocked word before
//! it sleeps, or is asleep before the unlocking thread gets the mutex, so no wake-up is lost.

use crossbeam_utils::{Backoff, CachePadded};

use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Condvar, MODEL, Mutex};

/// The bit that locks a word.
pub const LOCKED: u64 = 1 << 61;
/// The bit that says that threads sleep until the word is unlocked. The unlocking thread wakes them.
pub const WAITERS: u64 = 1 << 62;

const STRIPES: usize = if MODEL { 1 } else { 16 };

#[derive(Debug, Default)]
struct Stripe {
    mutex: Mutex<()>,
    woken: Condvar,
}

/// The places where waiters sleep, for all words of a store or disk.
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
    /// Makes the places. They serve any number of words.
    pub fn new() -> Self {
        Waiters { stripes: core::array::from_fn(|_| CachePadded::default()) }
    }

    fn stripe(&self, word: &AtomicU64) -> &Stripe {
        let address = core::ptr::from_ref(word).addr();
        &self.stripes[(address >> 3) % STRIPES]
    }

    /// Sleeps until the word is seen unlocked.
    fn sleep(&self, word: &AtomicU64) {
        let stripe = self.stripe(word);
        let mut guard = stripe.mutex.lock();
        loop {
            // Relaxed: the value is only compared; the lock itself is taken by an Acquire CAS.
            let now = word.load(Ordering::Relaxed);
            if now & LOCKED == 0 {
                return;
            }
            // Relaxed: the bit is a message to the holder. The holder's swap reads it if the swap comes
            // later in the word's modification order.
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

/// A locked word. Dropping this writes the word back, unlocked.
#[derive(Debug)]
pub struct WordGuard<'a> {
    word: &'a AtomicU64,
    waiters: &'a Waiters,
    /// The value that the word will have after the unlock.
    now: u64,
}

/// Locks a word by setting [`LOCKED`].
///
/// # Blocking
/// Sleeps while another thread holds the lock.
#[inline]
pub fn lock_word<'a>(word: &'a AtomicU64, waiters: &'a Waiters) -> WordGuard<'a> {
    loop {
        // The closure accepts every word, so the first round returns.
        if let Some(guard) = lock_word_if(word, waiters, |_| true) {
            return guard;
        }
    }
}

/// Locks a word if `may` accepts its value. Waits while another thread holds the lock. Returns `None` if the
/// word is unlocked and `may` refuses its value.
///
/// ```
/// use std::sync::atomic::AtomicU64;
/// use zpage::word_lock::{Waiters, lock_word_if};
///
/// let (word, waiters) = (AtomicU64::new(5), Waiters::new());
/// assert!(lock_word_if(&word, &waiters, |now| now != 5).is_none());
/// assert!(lock_word_if(&word, &waiters, |now| now == 5).is_some());
/// ```
///
/// # Blocking
/// Sleeps while another thread holds the lock.
#[inline]
pub fn lock_word_if<'a>(
    word: &'a AtomicU64,
    waiters: &'a Waiters,
    may: impl Fn(u64) -> bool,
) -> Option<WordGuard<'a>> {
    let backoff = Backoff::new();
    loop {
        // Relaxed: the value is only compared, by the CAS below.
        let now = word.load(Ordering::Relaxed);
        if now & LOCKED == 0 {
            if !may(now) {
                return None;
            }
            // Acquire pairs with the Release of the last holder's unlock, and shows what that holder did under
            // the lock. Relaxed on failure: the loop tries again.
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
    /// Returns the value that the word will have after the unlock.
    pub fn word(&self) -> u64 {
        self.now
    }

    /// Replaces the value that the word will have after the unlock, and returns the old value. The lock's two
    /// bits in `word` are ignored.
    pub fn replace(&mut self, word: u64) -> u64 {
        core::mem::replace(&mut self.now, word & !(LOCKED | WAITERS))
    }
}

impl Drop for WordGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        // Release pairs with the Acquire of the next holder's CAS. This is a swap, not a store, because it must
        // see a WAITERS bit that was set while the lock was held.
        let before = self.word.swap(self.now, Ordering::Release);
        assert!(before & LOCKED != 0, "a word was unlocked by a thread that did not hold its lock");
        if before & WAITERS != 0 {
            self.waiters.wake(self.word);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn excludes_and_wakes_sleepers() {
        let shared = Arc::new((AtomicU64::new(0), Waiters::new()));
        let (threads, rounds) = if cfg!(miri) { (3, 20) } else { (8, 20_000) };
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                let shared = shared.clone();
                std::thread::spawn(move || {
                    for round in 0..rounds {
                        let mut word = lock_word(&shared.0, &shared.1);
                        let count = word.word();
                        if round % 64 == 0 {
                            // Long enough for others to fall asleep.
                            std::thread::yield_now();
                        }
                        word.replace(count + 1);
                    }
                })
            })
            .collect();
        for worker in workers {
            worker.join().unwrap();
        }
        assert_eq!(shared.0.load(Ordering::SeqCst), threads * rounds);
    }

    #[test]
    fn a_sleeper_wakes_when_the_holder_is_slow() {
        let shared = Arc::new((AtomicU64::new(3), Waiters::new()));
        let held = lock_word(&shared.0, &shared.1);
        let waiter = {
            let shared = shared.clone();
            std::thread::spawn(move || {
                drop(lock_word(&shared.0, &shared.1));
            })
        };
        while shared.0.load(Ordering::SeqCst) & WAITERS == 0 {
            std::thread::yield_now();
        }
        drop(held);
        waiter.join().unwrap();
        assert_eq!(shared.0.load(Ordering::SeqCst), 3);
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
    fn a_word_that_may_not_be_locked_is_not_waited_for() {
        let (word, waiters) = (AtomicU64::new(5), Waiters::new());
        assert!(lock_word_if(&word, &waiters, |now| now != 5).is_none());
        assert!(lock_word_if(&word, &waiters, |now| now == 5).is_some());
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::sync::Arc;
    use zpool_base::sync::Watched;

    /// Fails if the unlocking swap or the locking CAS is Relaxed: the writes to the watched cell are then not
    /// ordered. Also fails if the unlock does not check WAITERS, or wakes without the stripe's mutex: a sleeper
    /// then stays asleep, and loom reports the deadlock.
    #[test]
    fn loom_word_lock_excludes_and_wakes() {
        loom::model(|| {
            let shared = Arc::new((AtomicU64::new(7), Waiters::new(), Watched::new()));
            let other = {
                let shared = shared.clone();
                loom::thread::spawn(move || {
                    let word = lock_word(&shared.0, &shared.1);
                    shared.2.write();
                    drop(word);
                })
            };
            let word = lock_word(&shared.0, &shared.1);
            shared.2.write();
            drop(word);
            other.join().unwrap();
            // Acquire pairs with the Release of the unlocks.
            assert_eq!(shared.0.load(Ordering::Acquire), 7);
        });
    }
}
