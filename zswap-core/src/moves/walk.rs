//! A walk over the entries that hold an object of a pool, like a clock's hand: it continues where the last
//! one ended, and goes around at most once.
//!
//! Patterns and pages on the device have no pool memory: their entries are skipped leaf by leaf
//! (`index/pooled.rs`), so the cost of a walk depends on the pages in the pools. Concurrent walks of one
//! hand share the entries: the walk that takes a leaf moves the hand behind it.

use crate::entry::index::LeafKeys;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::{SwapEntry, Zswap};

/// What comes after an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// The next one.
    On,
    /// This entry was not visited: the next walk begins with it.
    StopBefore,
}

/// Entries and leaves of the index that walks have visited.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Visited {
    pub(crate) entries: u64,
    pub(crate) leaves: u64,
}

impl Zswap {
    /// Visits each entry with an object once, starting at the hand. After an error the hand is behind the
    /// entry that failed.
    pub(crate) fn walk<E>(
        &self,
        hand: &AtomicU64,
        visited: &mut Visited,
        mut visit: impl FnMut(SwapEntry) -> Result<Step, E>,
    ) -> Result<(), E> {
        let mut keys = LeafKeys::new();
        // Relaxed, here and below: where a walk begins decides nothing, and the hand publishes nothing.
        let start = hand.load(Ordering::Relaxed);
        let (mut from, mut wrapped) = (start, false);
        loop {
            let leaf = self.index.pooled_keys(from, &mut keys);
            visited.leaves += leaf.leaves as u64;
            let next = leaf.next.unwrap_or(0);
            // Relaxed: as above.
            hand.store(next, Ordering::Relaxed);
            for key in keys.iter().copied() {
                if wrapped && key >= start {
                    return Ok(());
                }
                visited.entries += 1;
                let back_to = match visit(SwapEntry::from_key(key)) {
                    Ok(Step::On) => continue,
                    Ok(Step::StopBefore) => Ok(key),
                    Err(error) => Err((key.wrapping_add(1), error)),
                };
                let key = match &back_to {
                    Ok(key) | Err((key, _)) => *key,
                };
                // Back into this leaf, unless another walk has moved the hand on. If that has moved it to
                // the same place, some entries are visited again.
                // Relaxed: as above.
                let _ = hand.compare_exchange(next, key, Ordering::Relaxed, Ordering::Relaxed);
                return back_to.map(drop).map_err(|(_, error)| error);
            }
            match leaf.next {
                Some(next) => from = next,
                None if wrapped || start == 0 => return Ok(()),
                None => (from, wrapped) = (0, true),
            }
            if wrapped && from >= start {
                return Ok(());
            }
        }
    }
}
