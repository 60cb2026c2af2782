//! Promotion: a page that is loaded from the device comes back into a pool (`promotion.rs` says when).
//!
//! Promotion uses room that is there. It never writes pages back to make room. It compresses the page, so the load
//! waits for this CPU's compression context, and perhaps for memory from the system. A store
//! that is always at its limit promotes little, unless a background shrinker keeps room free.

use crate::counters::Counter;
use crate::entry::word::Word;
use crate::moves::promotion::Promotion;
use crate::store::stored_content;
use crate::{SwapEntry, Zswap};
use zpool_api::PageBudget;

impl Zswap {
    /// Returns the word of a page on the device after it was loaded.
    #[inline]
    pub(crate) fn seen_on_device(&self, word: Word) -> Word {
        word.seen_in(self.turnover.now())
    }

    /// Puts a page that was just loaded from the device into the current pool, if the policy wants that and there
    /// is room. `word` is what the entry held before the load. The caller has kept the object's segment pinned
    /// since it read the word.
    #[inline]
    pub(crate) fn promote_if_wanted(&self, entry: SwapEntry, word: Word, page: &[u8]) {
        let Some(seen) = word.seen_on_device() else { return };
        let soon = |seen: u8| self.turnover.now().wrapping_sub(seen) & 3 <= 1;
        let wanted = match self.areas.of(entry).promotion {
            Promotion::Never => false,
            Promotion::SecondLoad => seen.is_some_and(soon),
            Promotion::Always => true,
        };
        if wanted {
            self.promote(entry, word, page);
        }
    }

    fn promote(&self, entry: SwapEntry, word: Word, page: &[u8]) {
        let area = self.areas.of(entry);
        let is_full = |budget: &PageBudget| budget.used() >= budget.limit();
        if is_full(self.limits.budget()) || is_full(area.limits.budget()) {
            return;
        }
        let pool = area.pools.current();
        let Ok(stored) = pool.put(page, self.store_incompressible, &mut None) else { return };
        let new = stored_content(area, pool, stored);
        let promoted = |now: Word| now.moved_to(new).referenced();
        let replaced = self.replace_if_same(entry, word, promoted);
        area.counters.add(Counter::PromotedPages, i64::from(replaced));
        let left = if replaced { word.content() } else { new };
        // SAFETY: `left` is in no entry. It is the object on the device, which this thread took out of the entry,
        // or the new object, which was not installed. It is discarded only here.
        unsafe { self.discard(entry, left) };
    }
}
