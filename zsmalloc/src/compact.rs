//! Compaction: moves objects from the emptiest zspages of a class into the fullest, until no more
//! page can be freed.
//!
//! It works in steps of a bounded number of objects and drops the class lock between them, so that
//! allocations can proceed. An object that is being read or written, or is parked, stays in place:
//! compaction tries to take its lane's write lock, but never waits for it. Handles do not change: a
//! moved object's slot is pointed at its new place while its readers are locked out.
//!
//! # Why it ends
//! A *visit* of a class takes its zspages one by one as the *source*. A source is isolated until
//! the visit ends or the source is empty, so each zspage is the source at most once, and never a
//! target afterwards. The places of a source are visited at most once each, from last to first. So
//! a visit examines no more places than the class has at its start, whatever guards are open and
//! whatever others do meanwhile.
//!
//! After the moves, a visit returns holes, a few zspages at a time. It stops when one of these
//! steps frees no page. But the provider, or other threads, may make new holes as fast as the visit
//! returns them. So compaction as a whole is bounded, too: it does no more work than there was at
//! its start (`Core::work`).
//!
//! Compaction in parts can end a visit early. It visits the classes in turn (`progress.rs`).

use zpool_api::Compaction;
use zpool_base::lockdep::{self, Rank, might_sleep};

use crate::class::{ClassGuard, Detached, Place, Putback};
use crate::class_table::{HEADER, SizeClass};
use crate::holes;
use crate::hooks::{self, Point};
use crate::progress::Visit;
use crate::shared::Core;
use crate::slot::Location;
use crate::zspage::{NIL, Zspage, place_pages};

/// The most objects that are moved before the class lock is dropped: this number if they are smaller
/// than a page, fewer if they are larger. With 4 KiB pages they have at most 64 KiB.
const STEP: usize = 16;
/// The number of fullness groups whose zspages have room.
const GROUPS: usize = 10;
/// The most objects that a call of `compact_some` moves.
const SOME_MOVES: usize = 256;
/// About the most visits that a call of `compact_some` makes. A visit of a taken place counts as 1,
/// a search for holes as `holes::AT_ONCE`.
const SOME_VISITS: usize = 4096;

/// What compaction may still do before it must stop.
struct Bounds {
    pages: usize,
    moves: usize,
    /// Taken places to visit, plus `holes::AT_ONCE` for each search for holes.
    visits: usize,
}

impl Bounds {
    /// Returns bounds that limit only the visits.
    fn of(visits: usize) -> Self {
        Bounds { pages: usize::MAX, moves: usize::MAX, visits }
    }

    #[cfg(test)]
    fn none() -> Self {
        Bounds::of(usize::MAX)
    }

    fn are_reached(&self) -> bool {
        self.pages == 0 || self.moves == 0 || self.visits == 0
    }
}

/// A visit of a class, with the zspages that it has isolated. Dropping it puts them back.
struct Run<'a> {
    core: &'a Core,
    class: u16,
    /// The source, and how many of its places remain to be visited.
    source: Option<(u32, usize)>,
    /// A linked list of former sources that kept objects.
    aside: u32,
    /// How many more zspages may become the source.
    sources: usize,
}

/// The outcome of a step of a visit.
enum Step {
    /// There is more to do.
    More,
    /// The source became empty.
    Emptied(Detached),
    /// No more page can be freed.
    Done,
}

/// The outcome of moving an object.
#[derive(Debug, PartialEq, Eq)]
enum Moved {
    Yes,
    /// The object is being read or written, or is parked.
    Busy,
    /// No better place exists.
    Nowhere,
}

impl Run<'_> {
    /// Puts one zspage back, the source first. Returns None when no zspage remains.
    fn putback_one(&mut self) -> Option<Putback> {
        let zspage = match self.source.take() {
            Some((zspage, _)) => zspage,
            None => self.aside,
        };
        let z = self.core.zspages.linked(zspage)?;
        if zspage == self.aside {
            self.aside = z.next.get();
        }
        Some(self.core.lock(self.class).putback(zspage, z, 0))
    }
}

impl Drop for Run<'_> {
    /// Puts back what remains because the provider panicked. Leaves emptied zspages to a later call.
    fn drop(&mut self) {
        while let Some(putback) = self.putback_one() {
            if let Putback::Emptied(detached) = putback {
                self.core.leave(detached);
            }
        }
    }
}

impl Core {
    /// Compacts every class and returns the number of pages freed. Also makes the provider release
    /// its cached pages, which are not counted.
    pub(crate) fn compact(&self) -> usize {
        might_sleep("zsmalloc: compaction");
        let mut bounds = Bounds::of(self.work());
        self.tidy_up();
        let won: isize =
            self.class_numbers().map(|class| self.visit(class, &mut bounds).balance).sum();
        self.provider.trim();
        won.max(0).unsigned_abs()
    }

    /// Returns the most visits that compaction needs if nobody else changes the pool. It needs one
    /// visit for each place. For holes it needs `AT_ONCE` visits for each page, and `AT_ONCE` more for
    /// each class, because the last search in a class finds no hole.
    fn work(&self) -> usize {
        let of = |class: u16| {
            let locked = self.lock(class);
            let places = locked.inner.zspages as usize * usize::from(locked.size.objects);
            places + holes::AT_ONCE * (locked.inner.resident as usize + 1)
        };
        self.class_numbers().filter(|&class| self.class(class).has_pages()).map(of).sum()
    }

    /// Returns the limit on visits of classes in one pass of compaction in parts. A pass needs fewer
    /// unless other threads interfere: each visit frees a page, moves 256 objects, visits 4096 places,
    /// or is the last of its class in a round.
    fn most_visits(&self) -> usize {
        let objects: usize = self.classes.iter().map(|class| class.counts().0).sum();
        8 * self.classes.len() + 2 * self.accounts.resident() + objects / 16
    }

    /// Continues the pass under way, or starts one. Returns when it has freed `pages` pages (0 counts
    /// as 1), moved `SOME_MOVES` objects or made `SOME_VISITS` visits, or when the pass has ended.
    pub(crate) fn compact_some(&self, pages: usize) -> Compaction {
        might_sleep("zsmalloc: compaction");
        self.tidy_up();
        let mut bounds = Bounds { pages: pages.max(1), moves: SOME_MOVES, visits: SOME_VISITS };
        let mut all = Compaction::default();
        let begun = {
            let _held = lockdep::acquire(Rank::Leaf);
            self.progress.lock().join(|| self.most_visits())
        };
        while !bounds.are_reached() && !all.complete {
            let class = {
                let _held = lockdep::acquire(Rank::Leaf);
                self.progress.lock().class
            };
            let visit = self.visit(class as u16, &mut bounds);
            let _held = lockdep::acquire(Rank::Leaf);
            let mut progress = self.progress.lock();
            let noted = progress.note(class, self.classes.len(), visit);
            all.pages += noted.pages;
            // The pass has also ended if another thread, or a call from the provider, has ended it.
            all.complete = noted.complete || progress.passes != begun;
        }
        all
    }

    #[cfg(all(test, loom))]
    pub(crate) fn compact_class(&self, class: u16) -> isize {
        self.visit(class, &mut Bounds::none()).balance
    }

    /// Visits a class: moves objects and returns holes until it can free no more or reaches a bound.
    fn visit(&self, class: u16, bounds: &mut Bounds) -> Visit {
        let mut visit = Visit { done: true, ..Visit::default() };
        // A class without touched pages has nothing to free.
        if !self.class(class).has_pages() {
            return visit;
        }
        let visits = bounds.visits;
        let mut run = Run { core: self, class, source: None, aside: NIL, sources: 0 };
        let mut first = true;
        loop {
            let mut locked = self.lock(class);
            if core::mem::take(&mut first) {
                run.sources = locked.inner.zspages as usize;
                visit.places = run.sources * usize::from(locked.size.objects);
            }
            if bounds.are_reached() {
                visit.done = false;
                break;
            }
            let before = locked.inner.resident;
            let step = self.step(&mut locked, &mut run, bounds);
            // Negative if moves have touched new pages and have not freed others yet.
            let won = before as isize - locked.inner.resident as isize;
            drop(locked);
            visit.balance += won;
            bounds.pages = bounds.pages.saturating_sub(won.max(0).unsigned_abs());
            match step {
                Step::More => {}
                Step::Emptied(detached) => self.give_back(detached),
                Step::Done => break,
            }
        }
        while let Some(putback) = run.putback_one() {
            if let Putback::Emptied(detached) = putback {
                let pages = detached.resident_pages();
                visit.balance += pages as isize;
                visit.emptied += pages;
                self.give_back(detached);
            }
        }
        visit.visited = visits - bounds.visits;
        loop {
            if bounds.pages == 0 || bounds.visits == 0 {
                visit.done = false;
                break;
            }
            bounds.visits = bounds.visits.saturating_sub(holes::AT_ONCE);
            let pages = self.give_back_holes(class);
            if pages == 0 {
                break;
            }
            visit.balance += pages as isize;
            bounds.pages = bounds.pages.saturating_sub(pages);
        }
        visit
    }

    /// Moves some objects out of the source. If there is no source, first makes the emptiest zspage
    /// the source.
    fn step(&self, locked: &mut ClassGuard<'_>, run: &mut Run<'_>, bounds: &mut Bounds) -> Step {
        // Done if holes are all that can be freed: they are freed without moving anything. Done for
        // a huge class, too: a huge object is alone in its pages, so moving it frees nothing.
        if locked.can_compact() <= locked.inner.holes as usize || locked.size.huge {
            return Step::Done;
        }
        let Some((zspage, mut left)) = run.source.or_else(|| self.next_source(locked, run)) else {
            return Step::Done;
        };
        let z = self.zspages.at(zspage);
        let mut moved = 0;
        let most = (STEP * self.page_size() / locked.size.size as usize).clamp(1, STEP);
        while left > 0 && z.used.get() > 0 {
            run.source = Some((zspage, left));
            if moved == most || bounds.moves == 0 || bounds.visits == 0 {
                return Step::More;
            }
            left -= 1;
            if !self.lane(z, left).is_used() {
                continue;
            }
            bounds.visits -= 1;
            match self.relocate(locked, Place { zspage, index: left }, z) {
                Moved::Yes => {
                    moved += 1;
                    bounds.moves -= 1;
                }
                Moved::Busy => {}
                Moved::Nowhere => left = 0,
            }
        }
        run.source = None;
        if z.used.get() == 0 {
            return match locked.putback(zspage, z, 0) {
                Putback::Listed => Step::More,
                Putback::Emptied(detached) => Step::Emptied(detached),
            };
        }
        z.next.set(run.aside);
        run.aside = zspage;
        Step::More
    }

    /// Isolates the emptiest zspage, and returns it with the number of its places. Returns None if the
    /// visit has used up its sources, or if no zspage has room.
    fn next_source(&self, locked: &mut ClassGuard<'_>, run: &mut Run<'_>) -> Option<(u32, usize)> {
        run.sources = run.sources.checked_sub(1)?;
        let (zspage, z) = (0..GROUPS).find_map(|group| locked.group(group).next())?;
        locked.isolate(z);
        Some((zspage, usize::from(locked.size.objects)))
    }

    /// Chooses a new place for an object: the first of these that exists.
    /// 1. Room in touched pages of the fullest other zspage.
    /// 2. Room in touched pages of the object's own zspage, at an earlier place.
    /// 3. A place in another zspage that touches a new page.
    /// 4. The lowest free place in the object's own zspage, if it is an earlier place.
    ///
    /// Returns None if none of them exists.
    fn target<'a>(
        &self,
        locked: &ClassGuard<'a>,
        from: Place,
        z: &'a Zspage,
    ) -> Option<(Place, &'a Zspage)> {
        let other = |roomy: bool| {
            let fullest_first = (0..GROUPS).rev().flat_map(|group| locked.group(group));
            fullest_first
                .filter(|(zspage, other)| *zspage != from.zspage && other.is_roomy() == roomy)
                .find_map(|(zspage, other)| {
                    let index = if roomy {
                        locked.resident_room(other, 0)
                    } else {
                        let all = 0..usize::from(locked.size.objects);
                        all.into_iter().find(|&index| !self.lane(other, index).is_used())
                    };
                    index.map(|index| (Place { zspage, index }, other))
                })
        };
        let own = || {
            let index = locked.resident_room(z, 0).filter(|&index| index < from.index)?;
            Some((Place { zspage: from.zspage, index }, z))
        };
        let further_down = || {
            let index = (0..from.index).find(|&index| !self.lane(z, index).is_used())?;
            Some((Place { zspage: from.zspage, index }, z))
        };
        other(true).or_else(own).or_else(|| other(false)).or_else(further_down)
    }

    /// Moves an object of an isolated source to a better place. Leaves it in place if somebody uses the
    /// object, or if no place is better.
    fn relocate(&self, locked: &mut ClassGuard<'_>, from: Place, z: &Zspage) -> Moved {
        assert!(z.is_isolated(), "the source {from:?} is on a list");
        hooks::at(Point::Relocation);
        let size = locked.size;
        let old = self.lane(z, from.index);
        if !old.is_idle() {
            return Moved::Busy;
        }
        let Some((to, target)) = self.target(locked, from, z) else { return Moved::Nowhere };
        assert!(
            to != from && (to.zspage == from.zspage || !target.is_isolated()),
            "{to:?} is no target for {from:?}"
        );
        // Prepare all pages of the place: the object's length is not known before its lane is locked.
        let pages = place_pages(size, self.page_size(), to.index);
        let untouched = pages & !target.touched.get();
        locked.prepare(to.zspage, target, pages);
        self.fault_in(target, untouched);
        if !old.write_trylock() {
            // A reader came first. The slot was not changed and no place was taken.
            return Moved::Busy;
        }
        locked.obj_malloc(to.zspage, target, to.index, size.size as usize, 0);
        // SAFETY: the class lock is held, the old lane is write-locked, and the new place was taken
        // for this object; both zspages are of the locked class.
        unsafe { self.move_object(size, (from, z), (to, target)) };
        // SAFETY: the class lock is held, `write_trylock` above locked this lane, and `move_object`
        // has pointed the object's slot at its new place.
        unsafe { old.release_moved() };
        // SAFETY: `obj_malloc` above counted this writer, and the object has been written.
        let parked = unsafe { self.lane(target, to.index).read_unlock() };
        assert!(!parked, "{to:?} was freed before its object was moved there");
        // SAFETY: `release_moved` has just cleared the lane, under the lock of the zspage's class.
        let detached = unsafe { locked.obj_free(from.zspage, z, from.index) };
        assert!(detached.is_none(), "the source {from:?} was detached");
        Moved::Yes
    }

    /// Copies an object to its new place and points its slot there.
    ///
    /// # Safety
    /// The lock of the class of both zspages is held. The caller has write-locked the old lane, and
    /// has claimed the new one for this object. The class is not huge.
    #[expect(clippy::expect_used, reason = "invariants 1 and 3 of the pool")]
    unsafe fn move_object(
        &self,
        size: &SizeClass,
        (from, z): (Place, &Zspage),
        (to, target): (Place, &Zspage),
    ) {
        let start = size.start_of(from.index);
        // SAFETY: the place begins in its zspage's run.
        let source = unsafe { z.base().add(start) };
        // SAFETY: the new place begins in its zspage's run.
        let copy = unsafe { target.base().add(size.start_of(to.index)) };
        // SAFETY: the place is USED. Its object is published, since the lane was idle, so the header was
        // written; nobody writes while the lane is locked (invariant 1 of the pool).
        let number = u32::from_ne_bytes(unsafe { source.cast::<[u8; HEADER]>().read() });
        let slot = self.slots.at(number);
        let at = slot.load().location_of_object().expect("the header of an object names its slot");
        assert!(
            at.zspage == from.zspage && size.index_of(at.last) == from.index,
            "the slot of the object at {from:?} leads to {at:?}"
        );
        let len = usize::from(at.last) + 1 - start;
        let (old, new) = (self.lane(z, from.index), self.lane(target, to.index));
        old.bytes.read();
        new.bytes.write();
        // SAFETY: `len` bytes, header included, lie within each of the two places, which differ.
        // Readers and other movers of the old one are locked out, and the new one belongs to this
        // mover alone (invariant 1 of the pool).
        unsafe { copy.copy_from_nonoverlapping(source, len) };
        // Shows the model checker that the next owner of the old place will write there.
        old.bytes.write();
        let last = (size.start_of(to.index) + len - 1) as u16;
        // SAFETY: invariant 3 of the pool: the new place is USED and the object was copied there.
        // The old lane, through which its readers come, is write-locked.
        unsafe { slot.move_to(Location { zspage: to.zspage, last }) };
    }

    /// Writes to untouched pages. This makes them resident before any reader is locked out, since a
    /// page fault takes long. The caller holds the class lock.
    fn fault_in(&self, z: &Zspage, untouched: u16) {
        for page in (0..16).filter(|page| untouched >> page & 1 == 1) {
            // SAFETY: the page is in the zspage's run.
            let byte = unsafe { z.base().add(page * self.page_size()) };
            // SAFETY: the page was untouched, so no object has a byte in it and its contents do not
            // matter. The class lock keeps others from taking places there.
            unsafe { byte.write_volatile(0) };
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::{Config, Zsmalloc};
    use std::sync::Arc;
    use zpool_api::Zpool;
    use zpool_pages::HeapPages;

    /// An object that is being read is not moved, although another place is free. After the read it
    /// is moved there, even though a passing reader is counted in the lane of that place.
    #[test]
    fn an_object_that_is_read_is_not_moved() {
        let pool = Zsmalloc::new(Arc::new(HeapPages::new())).unwrap();
        let gone = pool.malloc_from(&[2; 1000]).unwrap();
        let stays = pool.malloc_from(&[1; 1000]).unwrap();
        pool.free(gone).unwrap();
        let read = pool.obj_read_begin(stays).unwrap();
        let core = &pool.core;
        let z = core.zspages.at(0);
        let at = Place { zspage: 0, index: 1 };
        assert!(core.lane(z, 0).read_lock().is_ok_and(|found| !found.is_held()));
        let relocate = || {
            let mut locked = core.lock(z.class().unwrap());
            locked.isolate(z);
            let moved = core.relocate(&mut locked, at, z);
            assert!(matches!(locked.putback(0, z, 0), Putback::Listed));
            moved
        };
        assert_eq!((relocate(), z.used.get()), (Moved::Busy, 1));
        assert_eq!(*read, [1; 1000]);
        drop(read);
        // Now the object can be moved, and the passing reader stays counted in the new place's
        // lane.
        assert_eq!((relocate(), z.used.get()), (Moved::Yes, 1));
        assert_eq!(pool.obj_read_begin(stays).unwrap()[..], [1; 1000]);
        assert!(!core.lane(z, 0).is_idle() && !core.lane(z, 0).read_unlock_for_test());
        assert!(core.lane(z, 0).is_idle());
        pool.free(stays).unwrap();
        assert_eq!((pool.total_pages(), pool.stats().objects), (0, 0));
    }

    /// A step ends, and the class lock is dropped, after a limited number of moves, even if many
    /// objects remain.
    #[test]
    fn a_step_moves_a_bounded_number_of_objects() {
        // Zspages are short under Miri, because their lanes are checked one by one.
        let (chain, len) = if cfg!(miri) { (1, 90) } else { (16, 600) };
        let config = Config::new().chain(chain);
        let pool = Zsmalloc::with_config(Arc::new(HeapPages::new()), config).unwrap();
        let object = vec![7; len];
        let first = pool.malloc_from(&object).unwrap();
        let core = &pool.core;
        let class = core.zspages.at(0).class().unwrap();
        let objects = usize::from(core.classes[usize::from(class)].size.objects);
        assert!(objects > 2 * STEP + 2);
        let rest = (1..2 * objects).map(|_| pool.malloc_from(&object).unwrap());
        let all: Vec<_> = [first].into_iter().chain(rest).collect();
        // Free every other object of both zspages.
        all.iter().step_by(2).for_each(|handle| pool.free(*handle).unwrap());
        let used = || [0, 1].map(|n| usize::from(core.zspages.at(n).used.get()));
        let [before, _] = used();
        let mut run = Run { core, class, source: None, aside: NIL, sources: 2 };
        let mut locked = core.lock(class);
        let step = core.step(&mut locked, &mut run, &mut Bounds::none());
        assert!(matches!(step, Step::More), "a zspage can still be emptied");
        drop(locked);
        let [one, other] = used();
        assert_eq!(one.abs_diff(before), STEP);
        assert_eq!((one + other, run.aside), (objects, NIL));
    }

    /// An object moves to an earlier place in its own zspage rather than touch a page of another zspage.
    #[cfg(all(target_os = "linux", not(miri)))]
    #[test]
    fn room_in_touched_pages_of_its_own_zspage_comes_before_a_new_page_elsewhere() {
        let pool = Zsmalloc::new(Arc::new(zpool_pages::MmapPages::new())).unwrap();
        let first = pool.malloc_from(&[7; 600]).unwrap();
        let core = &pool.core;
        let z = core.zspages.at(0);
        let objects = usize::from(core.classes[usize::from(z.class().unwrap())].size.objects);
        for _ in 1..objects {
            pool.malloc_from(&[7; 600]).unwrap();
        }
        // Another zspage, filled until its next object would touch a page.
        let mut others = vec![pool.malloc_from(&[8; 600]).unwrap()];
        let other = core.zspages.at(1);
        while other.is_roomy() {
            others.push(pool.malloc_from(&[8; 600]).unwrap());
        }
        assert!(others.len() < objects);
        pool.free(first).unwrap();
        let mut locked = core.lock(z.class().unwrap());
        locked.isolate(z);
        let from = Place { zspage: 0, index: objects - 1 };
        let (to, _) = core.target(&locked, from, z).unwrap();
        assert_eq!(to, Place { zspage: 0, index: 0 });
        // An object of the other zspage would move to the same place.
        assert!(matches!(locked.putback(0, z, 0), Putback::Listed));
        let (to, _) = core.target(&locked, Place { zspage: 1, index: 0 }, other).unwrap();
        assert_eq!(to, Place { zspage: 0, index: 0 });
    }
}
