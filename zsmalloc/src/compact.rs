//! Compaction: objects of the emptiest zspages of a class move into the fullest ones, until no page
//! can be won.
//!
//! Works in steps of a bounded number of objects, the class lock let go between them, so that
//! allocations get in. An object that is read, or being written, or parked, stays where it is: its
//! lane's write lock is tried, never waited for. A zspage of which nothing can be moved is set aside
//! until the class is done. Handles do not change: a moved object's slot is pointed at its new place
//! while its readers are locked out.

use zpool_api::lockdep::might_sleep;

use crate::class::{Detached, Locked, Place};
use crate::lane::Freed;
use crate::pool::Core;
use crate::slot::Location;
use crate::zspage::{Zspage, pages_of};

/// Objects moved under the class lock at a time: 64 KiB of them at most.
const STEP: usize = 16;
/// Fullness groups of zspages that have room.
const GROUPS: usize = 10;

impl Core {
    /// Compacts every class; the pages given back. Also gives the provider's warm ones back.
    pub(crate) fn compact(&self) -> usize {
        might_sleep("zsmalloc: compaction");
        // A class that is empty at the moment has nothing to win.
        let used = (0..self.classes.len()).filter(|&class| self.classes[class].has_pages());
        let won = used.map(|class| self.compact_class(class as u16)).sum();
        self.provider.trim();
        won
    }

    pub(crate) fn compact_class(&self, class: u16) -> usize {
        // Moving an object may touch a page that was given back, before it wins others.
        let mut won = 0isize;
        let mut aside: Vec<u32> = Vec::new();
        // Room to remember a zspage is made while nothing is locked.
        while aside.try_reserve(1).is_ok() {
            let Some(mut locked) = self.lock(class) else { break };
            let before = locked.inner.resident;
            let Some(detached) = self.step(&mut locked, &mut aside) else { break };
            won += before as isize - locked.inner.resident as isize;
            drop(locked);
            if let Some(detached) = detached {
                self.give_back(detached);
            }
        }
        for zspage in aside {
            let Some(z) = self.zspages.get(zspage) else { continue };
            let Some(mut locked) = self.lock(class) else { continue };
            let detached = locked.put_back(zspage, z, 0);
            drop(locked);
            if let Some(detached) = detached {
                won += detached.touched.count_ones() as isize;
                self.give_back(detached);
            }
        }
        loop {
            match self.give_back_holes(class) {
                0 => return won.max(0) as usize,
                pages => won += pages as isize,
            }
        }
    }

    /// Moves some objects out of the emptiest zspage; none when there is nothing left to win.
    fn step(&self, locked: &mut Locked<'_>, aside: &mut Vec<u32>) -> Option<Option<Detached>> {
        // Holes are won without moving anything.
        if locked.freeable() <= locked.inner.holes as usize {
            return None;
        }
        let (zspage, z) = (0..GROUPS).find_map(|group| locked.group(group).next())?;
        let mut moved = 0;
        for index in (0..usize::from(locked.size.objects)).rev() {
            if !self.lane(z, index).is_used() {
                continue;
            }
            let from = Place { zspage, index };
            let Some((to, target)) = self.target(locked, from, z) else { break };
            if let Some(detached) = self.relocate(locked, from, z, to, target) {
                moved += 1;
                if detached.is_some() || moved == STEP {
                    return Some(detached);
                }
            }
        }
        if moved == 0 {
            locked.isolate(z);
            aside.push(zspage);
        }
        Some(None)
    }

    /// Where an object goes: into the fullest other zspage with room in touched pages; else to such
    /// room further down in its own; else into another zspage that has to touch a page; else as far
    /// down in its own as it goes.
    fn target<'a>(
        &self,
        locked: &Locked<'a>,
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

    /// Moves an object, if nobody reads it. Its zspage, if it was the last one there.
    fn relocate(
        &self,
        locked: &mut Locked<'_>,
        from: Place,
        z: &Zspage,
        to: Place,
        target: &Zspage,
    ) -> Option<Option<Detached>> {
        let size = locked.size;
        let (old, new) = (self.lane(z, from.index), self.lane(target, to.index));
        let untouched = !target.touched.get();
        // The whole place: how long the object is shows only when it is locked.
        locked.occupy(to.zspage, target, to.index, size.size as usize, 0);
        self.fault_in(locked, target, to, untouched);
        if !old.write_trylock() {
            // Nothing was announced: the place is given up again.
            let parked = new.read_unlock();
            debug_assert!(!parked, "parked before anything was there");
            match new.free() {
                Freed::Now => {
                    let detached = locked.vacate(to.zspage, target, to.index);
                    debug_assert!(detached.is_none(), "moved into a zspage without objects");
                }
                // A passing reader: the place is left to it.
                Freed::Parked => self.count_parked(),
            }
            return None;
        }
        let slot = self.slot_of(size, z, from.index);
        let found =
            self.slots.get(slot).and_then(|s| s.load().location_of_object().map(|at| (s, at)));
        if let Some((word, at)) = found {
            let len = usize::from(at.last) + 1 - size.start_of(from.index);
            old.bytes.read();
            new.bytes.write();
            // SAFETY: the object's place is inside its zspage's run.
            let source = unsafe { z.base().add(size.start_of(from.index)) };
            // SAFETY: and the new place inside of its own.
            let copy = unsafe { target.base().add(size.start_of(to.index)) };
            // SAFETY: `len` bytes, header included, are within both places, which are two; readers
            // and movers of the old one are locked out, and the new one is this mover's alone (the
            // pool's invariant 1).
            unsafe { copy.copy_from_nonoverlapping(source, len) };
            if size.huge {
                self.note_huge_slot(target, to.index, slot);
            }
            let last = (size.start_of(to.index) + len - 1) as u16;
            // Whoever gets the old place writes there.
            old.bytes.write();
            word.move_to(Location { zspage: to.zspage, last });
        }
        old.release_moved();
        let parked = new.read_unlock();
        debug_assert!(found.is_some() && !parked, "an object without a slot at {from:?}");
        Some(locked.vacate(from.zspage, z, from.index))
    }

    /// Has the system back the pages of a place that nobody uses, before any reader is locked out.
    fn fault_in(&self, locked: &Locked<'_>, z: &Zspage, place: Place, untouched: u16) {
        let start = locked.size.start_of(place.index);
        let pages = pages_of(self.page_size, start, start + locked.size.size as usize) & untouched;
        for page in (0..16).filter(|page| pages >> page & 1 == 1) {
            // SAFETY: a page of the zspage's run.
            let byte = unsafe { z.base().add(page * self.page_size) };
            // SAFETY: the page was untouched, so that no object has a byte in it, and what it holds
            // means nothing; the class lock keeps others from taking places there.
            unsafe { byte.write_volatile(0) };
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::Zsmalloc;
    use std::sync::Arc;
    use zpool_api::{HeapPages, ObjPin, Zpool};

    /// An object that is read cannot be moved, and the place that it was to have is free again, or
    /// falls to a reader that came too late for an object that was there.
    #[test]
    fn a_move_that_fails_leaves_the_place_to_a_passing_reader() {
        for passing in [false, true] {
            let pool = Zsmalloc::new(Arc::new(HeapPages::new())).unwrap();
            let stays = pool.malloc_from(&[1; 1000]).unwrap();
            let gone = pool.malloc_from(&[2; 1000]).unwrap();
            pool.free(gone).unwrap();
            let read = pool.obj_read_begin(stays).unwrap();
            let core = &pool.core;
            let z = core.zspages.get(0).unwrap();
            let (from, to) = (Place { zspage: 0, index: 0 }, Place { zspage: 0, index: 1 });
            if passing {
                assert_eq!(core.lane(z, to.index).read_lock(), Ok(false));
            }
            let mut locked = core.lock(z.class().unwrap()).unwrap();
            assert!(core.relocate(&mut locked, from, z, to, z).is_none(), "it is read");
            drop(locked);
            let waits = usize::from(passing);
            let counts = || (usize::from(z.used.get()), pool.stats().parked_objects);
            assert_eq!(counts(), (1 + waits, waits));
            assert_eq!(pool.stats().objects, 1);
            if passing {
                core.unpin(u64::from(z.lane_number(to.index)));
            }
            assert_eq!(counts(), (1, 0));
            assert_eq!((&*read, pool.stats().objects), (&[1; 1000][..], 1));
            drop(read);
            pool.free(stays).unwrap();
            assert_eq!((pool.total_pages(), pool.stats().objects), (0, 0));
        }
    }
    /// The class lock is let go after so many objects, whatever is left to do.
    #[test]
    fn a_step_moves_a_bounded_number_of_objects() {
        let pool = Zsmalloc::new(Arc::new(HeapPages::new())).unwrap();
        let first = pool.malloc_from(&[7; 600]).unwrap();
        let core = &pool.core;
        let class = core.zspages.get(0).unwrap().class().unwrap();
        let objects = usize::from(core.classes[usize::from(class)].size.objects);
        assert!(objects >= 4 * STEP);
        let rest = (1..2 * objects).map(|_| pool.malloc_from(&[7; 600]).unwrap());
        let all: Vec<_> = [first].into_iter().chain(rest).collect();
        // Every other object of both zspages.
        all.iter().step_by(2).for_each(|handle| pool.free(*handle).unwrap());
        let used = || [0, 1].map(|n| usize::from(core.zspages.get(n).unwrap().used.get()));
        let [before, _] = used();
        let mut aside = Vec::new();
        let mut locked = core.lock(class).unwrap();
        assert!(core.step(&mut locked, &mut aside).is_some(), "there is a zspage to win");
        drop(locked);
        let [one, other] = used();
        assert_eq!(one.abs_diff(before), STEP);
        assert_eq!((one + other, aside.len()), (objects, 0));
    }
    /// Rather than have another zspage touch a page, an object goes further down in its own.
    #[cfg(all(target_os = "linux", not(miri)))]
    #[test]
    fn room_in_touched_pages_of_its_own_zspage_comes_before_a_new_page_elsewhere() {
        let pool = Zsmalloc::new(Arc::new(zpool_api::MmapPages::new())).unwrap();
        let first = pool.malloc_from(&[7; 600]).unwrap();
        let core = &pool.core;
        let z = core.zspages.get(0).unwrap();
        let objects = usize::from(core.classes[usize::from(z.class().unwrap())].size.objects);
        for _ in 1..objects {
            pool.malloc_from(&[7; 600]).unwrap();
        }
        // Another zspage, filled until the next object would touch a page.
        let mut others = vec![pool.malloc_from(&[8; 600]).unwrap()];
        let other = core.zspages.get(1).unwrap();
        while other.is_roomy() {
            others.push(pool.malloc_from(&[8; 600]).unwrap());
        }
        assert!(others.len() < objects);
        pool.free(first).unwrap();
        let locked = core.lock(z.class().unwrap()).unwrap();
        let from = Place { zspage: 0, index: objects - 1 };
        let (to, _) = core.target(&locked, from, z).unwrap();
        assert_eq!(to, Place { zspage: 0, index: 0 });
        // And one of the other's goes there, too.
        let (to, _) = core.target(&locked, Place { zspage: 1, index: 0 }, other).unwrap();
        assert_eq!(to, Place { zspage: 0, index: 0 });
    }
}
