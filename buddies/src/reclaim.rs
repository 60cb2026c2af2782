//! The reclaim loop: offers the objects of the oldest pages to a callback and frees what it gives up.
//!
//! A page that is being looked at is off all lists and kept by reclaim's own reference, so nobody
//! else allocates in it, reclaims it or frees it. No lock is held while the callback runs. The
//! reference is given up on every way out, a panic included.
//!
//! A call visits pages that were put on the LRU before it began. Pages that it puts back count as
//! new, so none is visited twice and every call ends.

use zpool_api::lockdep::might_sleep;
use zpool_api::{Evict, Evicted, Handle, ObjRead};

/// A pool whose pages can be reclaimed.
pub trait Reclaim {
    /// The LRU's clock.
    fn now(&self) -> u64;

    /// Takes the oldest page put on the LRU before `before` off all lists, with a reference of
    /// reclaim's own.
    fn begin(&self, before: u64) -> Option<u32>;

    /// Pins the `nth` object of a page; none if there is no live one.
    fn read(&self, page: u32, nth: usize) -> Option<(Handle, ObjRead<'_>)>;

    /// Frees an object, if it is there still.
    fn free(&self, handle: Handle);

    /// Gives reclaim's reference up: the page goes back to its lists as the newest, or is freed, if
    /// this was the last reference; tells which.
    fn end(&self, page: u32) -> bool;

    /// Objects of a page at most.
    const OBJECTS: usize;
}

/// Reclaim's reference to one page; given up by `finish`, or by the drop when the callback panics.
struct UnderReclaim<'a, P: Reclaim> {
    pool: &'a P,
    page: u32,
    ended: bool,
}

impl<P: Reclaim> UnderReclaim<'_, P> {
    fn finish(mut self) -> bool {
        self.ended = true;
        self.pool.end(self.page)
    }
}

impl<P: Reclaim> Drop for UnderReclaim<'_, P> {
    fn drop(&mut self) {
        if !self.ended {
            self.pool.end(self.page);
        }
    }
}

/// See [`zpool_api::Zpool::reclaim`]; the pages freed.
pub fn reclaim<P: Reclaim>(pool: &P, target_pages: usize, evict: &dyn Evict) -> usize {
    might_sleep("reclaim");
    let before = pool.now();
    let mut freed = 0;
    while freed < target_pages {
        let Some(page) = pool.begin(before) else { break };
        let under = UnderReclaim { pool, page, ended: false };
        for nth in 0..P::OBJECTS {
            let Some((handle, object)) = pool.read(page, nth) else { continue };
            if evict.evict(handle, object) == Evicted::Keep {
                // The page stays whatever becomes of the other objects.
                break;
            }
            // The callback may have freed it already; its handle is stale then, and no other
            // object's.
            pool.free(handle);
        }
        freed += usize::from(under.finish());
    }
    freed
}
