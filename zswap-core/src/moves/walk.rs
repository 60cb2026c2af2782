//! Walks over the entries that hold an object of a pool. Like a clock's hand, a walk continues where the last
//! one ended, and goes around at most once.
//!
//! Same-filled pages and pages on the device have no pool memory. A walk skips whole leaves that have only
//! such entries (`index/pooled.rs`). So the cost of a walk depends on the number of pages in the pools, not on
//! the number of entries. Concurrent walks with the same hand share the entries: before a walk visits a leaf,
//! it moves the hand behind that leaf.

use crate::area::Area;
use crate::entry::index::LeafKeys;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::{SwapEntry, Zswap};

/// What a walk does after it has called `visit` for an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// It goes on with the next entry.
    On,
    /// It stops. `visit` did nothing with this entry, and the next walk begins with it.
    StopBefore,
}

/// The numbers of entries and of leaves that walks have visited.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Visited {
    pub(crate) entries: u64,
    pub(crate) leaves: u64,
}

impl Zswap {
    /// Calls `visit` for each entry of an area with an object, beginning at the hand. Ends when it has gone around once,
    /// when `visit` returns [`Step::StopBefore`], or with the first error of `visit`. After an error the hand
    /// is behind the entry that failed. Adds to `visited` what it visits.
    pub(crate) fn walk<E>(
        &self,
        area: &Area,
        hand: &AtomicU64,
        visited: &mut Visited,
        mut visit: impl FnMut(SwapEntry) -> Result<Step, E>,
    ) -> Result<(), E> {
        let mut keys = LeafKeys::new();
        // Relaxed, here and below: it does not matter where a walk begins, and the hand publishes nothing.
        let start = hand.load(Ordering::Relaxed);
        let Some(first) = self.areas.first_key(area, 0) else { return Ok(()) };
        let (mut from, mut wrapped) = match self.areas.first_key(area, start) {
            Some(from) => (from, false),
            None => (first, true),
        };
        loop {
            let mut leaf = self.index.pooled_keys(from, &mut keys);
            visited.leaves += leaf.leaves as u64;
            let in_leaf = keys.first().copied();
            if in_leaf.is_some_and(|key| self.areas.first_key(area, key) != Some(key)) {
                // A leaf of another area. All keys of a leaf are of one type.
                leaf.next = in_leaf;
                keys.clear();
            }
            leaf.next = leaf.next.and_then(|next| self.areas.first_key(area, next));
            let next = leaf.next.unwrap_or(first);
            // Relaxed: as for the load of `start`.
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
                // Move the hand back into this leaf, unless another walk has moved it on. In the rare case
                // that another walk has moved it around to the same place, some entries are visited twice.
                // Relaxed: as for the load of `start`.
                let _ = hand.compare_exchange(next, key, Ordering::Relaxed, Ordering::Relaxed);
                return back_to.map(drop).map_err(|(_, error)| error);
            }
            match leaf.next {
                Some(next) => from = next,
                None if wrapped || start <= first => return Ok(()),
                None => (from, wrapped) = (first, true),
            }
            if wrapped && from >= start {
                return Ok(());
            }
        }
    }
}
