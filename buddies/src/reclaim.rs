//! The reclaim loop: offers the objects of the oldest pages to a callback, and frees the objects that it
//! evicts.
//!
//! While reclaim visits a page, the page is off all lists, and reclaim has a reference to it. So nobody
//! else allocates in the page, reclaims it or frees it. No lock is held while the callback runs. At the end
//! of the visit, reclaim gives its reference up, or hands it to the lists, even if the callback panics.
//!
//! A call visits only pages that were put on the LRU before the call began. If it puts a page back, the
//! page counts as new. If the callback stores objects in other pages, these count as new, too. So a call
//! visits no page twice. And the number of callbacks never exceeds the number of objects that the pages of
//! the LRU had at the start, whatever the callbacks do and whatever is being read.

use zpool_api::{Evict, Evicted, Handle, ObjRead};
use zpool_base::lockdep::might_sleep;
use zpool_base::unwind::in_destructor;

/// A pool whose pages can be reclaimed.
pub(crate) trait Reclaim {
    /// Whether this process made the pool. A callback may fork and return in the child.
    fn is_here(&self) -> bool;

    /// Frees the objects that readers left to the pool.
    fn finish_left(&self);

    /// Returns the time on the LRU's clock.
    fn now(&self) -> u64;

    /// Takes the oldest page off all lists, and takes over the lists' reference to it. Returns `None` if no
    /// page of the LRU was put there before the time `before`.
    fn begin(&self, before: u64) -> Option<u32>;

    /// Pins the `nth` object of a page and returns its handle and the guard. Returns `None` if this object
    /// is not live or has too many readers.
    fn read(&self, page: u32, nth: usize) -> Option<(Handle, ObjRead<'_>)>;

    /// Frees an object, if it still exists.
    fn free(&self, handle: Handle);

    /// Ends the visit of a page. If the page has objects, puts it back on its lists as the newest page, and
    /// gives reclaim's reference to the lists. If it has none, gives reclaim's reference up. Returns true
    /// if this freed the page.
    fn end(&self, page: u32) -> bool;

    /// The greatest number of objects that a page can have.
    const OBJECTS: usize;
}

/// Reclaim's reference to one page. `finish` gives it up. If the callback panics, the drop gives it up.
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
        if !self.ended && self.pool.is_here() {
            in_destructor(|| {
                let _freed = self.pool.end(self.page);
            });
        }
    }
}

/// Reclaims as [`zpool_api::Zpool::reclaim`] describes, and returns the number of pages freed. If a
/// callback forks and returns in the child, the child's call ends at once and leaks the page that it is
/// visiting.
pub(crate) fn reclaim<P: Reclaim>(pool: &P, target_pages: usize, evict: &dyn Evict) -> usize {
    might_sleep("reclaim");
    let before = pool.now();
    let mut freed = 0;
    while freed < target_pages {
        let Some(page) = pool.begin(before) else { break };
        let under = UnderReclaim { pool, page, ended: false };
        for nth in 0..P::OBJECTS {
            let Some((handle, object)) = pool.read(page, nth) else { continue };
            let answer = evict.evict(handle, object);
            if !pool.is_here() {
                return freed;
            }
            if answer == Evicted::Keep {
                // The page stays anyway, so its other objects need not be evicted.
                break;
            }
            // The callback may have freed the object already. Then the handle is stale, and this frees
            // nothing.
            pool.free(handle);
        }
        // If the callback freed an object while it had the guard, the drop of the guard left the object to
        // the pool. This may be the page's last object, so it must be freed before the visit ends.
        pool.finish_left();
        freed += usize::from(under.finish());
    }
    freed
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use core::cell::{Cell, RefCell};
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::Arc;
    use zpool_api::{BackendBits, PoolTag};

    fn handle(object: u64) -> Handle {
        Handle::new(PoolTag::new(1).unwrap(), BackendBits::new(object).unwrap())
    }

    /// A pool of pages with two places. Place `p` of page `n` holds object `10 * n + p`.
    #[derive(Default)]
    struct Toy {
        /// The pages on the LRU with their stamps, oldest first.
        lru: RefCell<Vec<(u64, u32)>>,
        clock: Cell<u64>,
        live: RefCell<Vec<u64>>,
        freed: RefCell<Vec<u64>>,
        ended: RefCell<Vec<u32>>,
    }

    impl Toy {
        fn with_pages(pages: u32) -> Self {
            let toy = Toy::default();
            for page in 0..pages {
                toy.put(page);
                toy.live.borrow_mut().extend([0, 1].map(|place| u64::from(page) * 10 + place));
            }
            toy
        }

        fn put(&self, page: u32) {
            self.lru.borrow_mut().push((self.clock.get(), page));
            self.clock.set(self.clock.get() + 1);
        }
    }

    impl Reclaim for Toy {
        const OBJECTS: usize = 2;

        fn is_here(&self) -> bool {
            true
        }

        fn finish_left(&self) {}

        fn now(&self) -> u64 {
            self.clock.get()
        }

        fn begin(&self, before: u64) -> Option<u32> {
            let mut lru = self.lru.borrow_mut();
            let &(stamp, page) = lru.first()?;
            (stamp < before).then(|| {
                lru.remove(0);
                page
            })
        }

        fn read(&self, page: u32, nth: usize) -> Option<(Handle, ObjRead<'_>)> {
            let object = u64::from(page) * 10 + nth as u64;
            let live = self.live.borrow().contains(&object);
            live.then(|| (handle(object), ObjRead::from_owner(Arc::new(b"object"), 6)))
        }

        fn free(&self, handle: Handle) {
            let object = handle.backend_bits().get();
            self.live.borrow_mut().retain(|&o| o != object);
            self.freed.borrow_mut().push(object);
        }

        fn end(&self, page: u32) -> bool {
            self.ended.borrow_mut().push(page);
            let lives = self.live.borrow().iter().any(|&object| object / 10 == u64::from(page));
            if lives {
                self.put(page);
            }
            !lives
        }
    }

    fn evict_all(_: Handle, _: ObjRead<'_>) -> Evicted {
        Evicted::Evicted
    }

    #[test]
    fn as_many_pages_are_freed_as_were_asked_for_oldest_first() {
        let toy = Toy::with_pages(4);
        assert_eq!(reclaim(&toy, 0, &evict_all), 0);
        assert_eq!(*toy.ended.borrow(), []);
        assert_eq!(reclaim(&toy, 2, &evict_all), 2);
        assert_eq!(*toy.freed.borrow(), [0, 1, 10, 11]);
        assert_eq!(*toy.ended.borrow(), [0, 1]);
        assert_eq!(reclaim(&toy, 9, &evict_all), 2, "only two pages were left");
        assert_eq!(*toy.live.borrow(), []);
    }

    #[test]
    fn a_kept_object_ends_its_pages_visit_and_no_page_has_two() {
        let toy = Toy::with_pages(3);
        let keep_page_1 = |handle: Handle, _: ObjRead<'_>| match handle.backend_bits().get() {
            10 => Evicted::Keep,
            _ => Evicted::Evicted,
        };
        assert_eq!(reclaim(&toy, 3, &keep_page_1), 2);
        assert_eq!(*toy.freed.borrow(), [0, 1, 20, 21]);
        assert_eq!(*toy.ended.borrow(), [0, 1, 2], "each once");
        assert_eq!(*toy.live.borrow(), [10, 11]);
    }

    #[test]
    fn a_panic_of_the_callback_gives_the_page_up() {
        let toy = Toy::with_pages(2);
        let fails = |_: Handle, _: ObjRead<'_>| -> Evicted { panic!("the callback's own") };
        let panicked = catch_unwind(AssertUnwindSafe(|| reclaim(&toy, 1, &fails)));
        assert!(panicked.is_err());
        assert_eq!(*toy.ended.borrow(), [0]);
        assert_eq!(reclaim(&toy, 2, &evict_all), 2, "the page can still be reclaimed");
    }
}
