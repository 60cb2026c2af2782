//! Reclaim: offers the objects of the oldest pages to a callback and frees what it gives up.
//!
//! A page that is being looked at is off the LRU and off its unbuddied list, and kept by reclaim's
//! own use (`pages.rs`), so nobody else allocates in it, reclaims it or frees it. No lock is held
//! while the callback runs. [`UnderReclaim`] ends that use on every way out, a panic included.
//!
//! A call visits pages that were put on the LRU before it began. Pages that it puts back count as
//! new, so none is visited twice and every call ends.

use zpool_api::lockdep::might_sleep;
use zpool_api::{Evict, Evicted};

use crate::pages::{Buddy, Slot};
use crate::pool::Core;

/// Reclaim's use of one page; ended by `finish`, or by the drop when the callback panics.
struct UnderReclaim<'a> {
    core: &'a Core,
    page: u32,
    ended: bool,
}

impl UnderReclaim<'_> {
    fn begin(core: &Core, before: u64) -> Option<UnderReclaim<'_>> {
        let page = core.lock().pages.begin_reclaim(before)?;
        Some(UnderReclaim { core, page, ended: false })
    }

    fn end(&mut self) -> bool {
        self.ended = true;
        let detached = self.core.lock().pages.end_reclaim(self.page);
        let freed = detached.is_some();
        if let Some(detached) = detached {
            self.core.give_back(detached);
        }
        freed
    }

    /// Ends the use; tells whether the page was freed.
    fn finish(mut self) -> bool {
        self.end()
    }
}

impl Drop for UnderReclaim<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.end();
        }
    }
}

impl Core {
    /// See [`zpool_api::Zpool::reclaim`].
    pub(crate) fn reclaim(&self, target_pages: usize, evict: &dyn Evict) -> usize {
        might_sleep("zbud: reclaim");
        let before = self.lock().pages.now();
        let mut freed = 0;
        while freed < target_pages {
            let Some(page) = UnderReclaim::begin(self, before) else { break };
            for buddy in Buddy::BOTH {
                let slot = Slot { page: page.page, buddy };
                let Some((handle, object)) = self.read_current(slot) else { continue };
                if evict.evict(handle, object) == Evicted::Keep {
                    // The page stays whatever becomes of the other object.
                    break;
                }
                // The callback may have freed it already; its handle is stale then, and no other
                // object's.
                let _ = self.free(handle);
            }
            freed += usize::from(page.finish());
        }
        freed
    }
}
