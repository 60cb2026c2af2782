//! The zspages of one size class, which the class lock guards, and the operations on them while the
//! lock is held.
//!
//! The class lock is held for a bounded number of steps: no system call, no `PageProvider` call, no
//! waiting and no user code runs under it, and only leaf locks are taken under it. A thread holds
//! at most one class lock.
//!
//! The zspages are on lists. A *roomy* zspage has a free place whose pages are all touched, so that
//! filling it costs no memory. A *tight* zspage has no such place. Roomy and tight zspages each have
//! one list for every tenth of fullness; allocation takes from the fullest zspages. Full zspages
//! have a list, too. An *isolated* zspage is on no list until its holder puts it back. Meanwhile, a
//! free in it changes its counts, but neither puts it on a list nor detaches it.
//!
//! Only this file changes the lists and counts, and it panics if they are inconsistent. The safety
//! sections state what callers must guarantee: which run a zspage gets, and which place is freed.

use zpool_api::{PageError, PageRun};
use zpool_base::counter::Counter;
use zpool_base::lockdep;

use crate::accounts::Accounts;
use crate::class_table::SizeClass;
use crate::slot::Chain;
use crate::sync::atomic::Ordering;
use crate::sync::counters::AtomicU32;
use crate::sync::{MODEL, Mutex, MutexGuard};
use crate::zspage::{NIL, ROOMY, Zspage, objects_of_page, pages_of, place_pages};
use crate::zspages::Zspages;

/// The number of fullness groups: one for each tenth, and one for full zspages.
pub(crate) const GROUPS: usize = 11;
const FULL: usize = GROUPS - 1;
/// The most tight zspages that are searched for room for a short object.
const SEARCHED: usize = 16;

/// One size class of a pool.
#[derive(Debug)]
pub(crate) struct Class {
    pub(crate) size: SizeClass,
    inner: Mutex<Inner>,
    /// A copy of `inner.resident` that can be read without the lock.
    resident: AtomicU32,
    /// A copy of `inner.used` that can be read without the lock.
    used: AtomicU32,
    /// Bytes of objects, live or being written. Changed under the class lock.
    bytes: Counter,
}

#[derive(Debug)]
pub(crate) struct Inner {
    tight: [u32; GROUPS],
    roomy: [u32; GROUPS],
    pub(crate) slots: Chain,
    pub(crate) zspages: u32,
    /// Touched pages.
    pub(crate) resident: u32,
    /// Touched pages without an object.
    pub(crate) holes: u32,
    /// Places taken by objects that live, are being written, or are parked.
    pub(crate) used: u32,
}

impl Class {
    pub(crate) fn new(size: SizeClass) -> Self {
        let inner = Inner {
            tight: [NIL; GROUPS],
            roomy: [NIL; GROUPS],
            slots: Chain::EMPTY,
            zspages: 0,
            resident: 0,
            holes: 0,
            used: 0,
        };
        Class {
            size,
            inner: Mutex::new(inner),
            resident: AtomicU32::new(0),
            used: AtomicU32::new(0),
            bytes: Counter::default(),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }

    /// Returns whether any page is touched. Takes no lock, so the answer is a guess.
    pub(crate) fn has_pages(&self) -> bool {
        // Relaxed: a guess.
        self.resident.load(Ordering::Relaxed) != 0
    }

    /// Returns the number of places taken and the bytes of objects. Takes no lock.
    pub(crate) fn counts(&self) -> (usize, usize) {
        // Relaxed: each number is correct, but the two may be of different moments.
        (self.used.load(Ordering::Relaxed) as usize, self.bytes.get() as usize)
    }

    /// Returns two guesses, since it takes no lock: how many bytes of touched pages lie outside of
    /// taken places, and the bytes of all touched pages.
    pub(crate) fn free_bytes(&self, page_size: usize) -> (usize, usize) {
        // Relaxed, both: only the choice of a class depends on them.
        let resident = self.resident.load(Ordering::Relaxed) as usize * page_size;
        let used = self.used.load(Ordering::Relaxed) as usize * self.size.size as usize;
        (resident.saturating_sub(used), resident)
    }
}

/// A place for an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) zspage: u32,
    pub(crate) index: usize,
}

/// A zspage without objects that has left its class. Its run must be returned once the lock is
/// dropped. The descriptor is vacant, and the run is from the pool's provider. The holder of this
/// value is the only owner of both.
#[derive(Debug)]
#[must_use = "the run must go back to the provider"]
pub(crate) struct Detached {
    zspage: u32,
    run: PageRun,
}

impl Detached {
    /// Joins a descriptor and the run that has to be returned.
    ///
    /// # Safety
    /// The descriptor is vacant, and the run is from the pool's provider. The caller is the only
    /// owner of both.
    pub(crate) unsafe fn new(zspage: u32, run: PageRun) -> Self {
        Detached { zspage, run }
    }

    pub(crate) fn into_parts(self) -> (u32, PageRun) {
        (self.zspage, self.run)
    }

    /// Returns the number of resident pages of the run.
    pub(crate) fn resident_pages(&self) -> usize {
        self.run.resident_pages()
    }
}

/// The outcome of putting an isolated zspage back.
#[derive(Debug)]
#[must_use = "the run of an emptied one must go back to the provider"]
pub(crate) enum Putback {
    /// The zspage has objects, and is on a list again.
    Listed,
    /// The zspage's last object was freed while it was isolated. Its run must be returned.
    Emptied(Detached),
}

/// A walk over two lists of zspages, under their class's lock.
pub(crate) struct Walk<'a> {
    zspages: &'a Zspages,
    at: u32,
    /// The head of the second list; NIL once the walk has reached that list.
    then: u32,
}

impl<'a> Iterator for Walk<'a> {
    type Item = (u32, &'a Zspage);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.at == NIL {
            self.at = core::mem::replace(&mut self.then, NIL);
        }
        let zspage = self.at;
        let z = self.zspages.linked(zspage)?;
        self.at = z.next.get();
        Some((zspage, z))
    }
}

/// Holds the class lock and gives access to what it guards.
pub(crate) struct ClassGuard<'a> {
    pub(crate) number: u16,
    pub(crate) size: &'a SizeClass,
    class: &'a Class,
    zspages: &'a Zspages,
    accounts: &'a Accounts,
    pub(crate) inner: MutexGuard<'a, Inner>,
    _held: lockdep::Held,
}

impl<'a> ClassGuard<'a> {
    /// Locks `class`. `number` is the class's number; its zspages are in the table `zspages`.
    pub(crate) fn new(
        number: u16,
        class: &'a Class,
        zspages: &'a Zspages,
        accounts: &'a Accounts,
    ) -> Self {
        let held = lockdep::acquire(lockdep::Rank::Pool);
        let inner = class.lock();
        ClassGuard { number, size: &class.size, class, zspages, accounts, inner, _held: held }
    }

    fn page_size(&self) -> usize {
        self.accounts.page_size
    }

    fn objects(&self) -> usize {
        usize::from(self.size.objects)
    }

    /// Takes a place for `bytes`, header included, in touched pages. Returns None if no zspage is roomy.
    pub(crate) fn take_resident(&mut self, bytes: usize) -> Option<Place> {
        for group in (0..FULL).rev() {
            let zspage = self.inner.roomy[group];
            if let Some(z) = self.zspages.linked(zspage) {
                let index = self.room_of_roomy(z);
                // `index` is the first place with room. No new page is touched, so the search for
                // the next one can start after it.
                return Some(self.obj_malloc(zspage, z, index, bytes, index + 1));
            }
        }
        None
    }

    /// Takes a place for `bytes`, header included, in the fullest tight zspage, and charges the pages
    /// that this touches. Of the zspage's free places it takes the one that touches the fewest new
    /// pages. Returns None if no tight zspage has room, and an error if the budget refuses the pages.
    pub(crate) fn take_touching(&mut self, bytes: usize) -> Result<Option<Place>, PageError> {
        for group in (0..FULL).rev() {
            let zspage = self.inner.tight[group];
            if let Some(z) = self.zspages.linked(zspage) {
                let (index, new) = self.cheapest(z, bytes);
                self.accounts.charge(new)?;
                return Ok(Some(self.obj_malloc(zspage, z, index, bytes, 0)));
            }
        }
        Ok(None)
    }

    #[expect(clippy::expect_used, reason = "`list_of` puts no other zspage on a roomy list")]
    fn room_of_roomy(&self, z: &Zspage) -> usize {
        self.resident_room(z, 0).expect("a zspage on a roomy list has a place in touched pages")
    }

    /// Returns the free place for `bytes` that touches the fewest new pages, and the number of these
    /// pages. The zspage must be on a list and must not be full.
    #[expect(clippy::expect_used, reason = "`list_of` puts no full zspage on such a list")]
    fn cheapest(&self, z: &Zspage, bytes: usize) -> (usize, usize) {
        let touched = z.touched.get();
        let new = |index: usize| {
            let start = self.size.start_of(index);
            (pages_of(self.page_size(), start, start + bytes) & !touched).count_ones() as usize
        };
        let free = (0..self.objects()).filter(|&i| !self.zspages.lane(z, i).is_used());
        let cheapest = free.map(|index| (index, new(index))).min_by_key(|(_, new)| *new);
        cheapest.expect("a zspage that is not full has a free place")
    }

    /// Takes a place for `bytes`, header included, that needs no new page. Returns None if it finds no
    /// such place. A free place of a tight zspage always has untouched pages, but a short object may
    /// fit into its touched part. Only the `SEARCHED` fullest tight zspages are searched.
    pub(crate) fn take_without_pages(&mut self, bytes: usize) -> Option<Place> {
        if let Some(place) = self.take_resident(bytes) {
            return Some(place);
        }
        let tight = (0..FULL).rev().flat_map(|group| self.group(group));
        let (zspage, z, index) = tight.take(SEARCHED).find_map(|(zspage, z)| {
            let (index, new) = self.cheapest(z, bytes);
            (new == 0).then_some((zspage, z, index))
        })?;
        Some(self.obj_malloc(zspage, z, index, bytes, 0))
    }

    /// Returns the lowest free place, at or after `from`, whose pages are all touched. Returns None if
    /// there is no such place.
    pub(crate) fn resident_room(&self, z: &Zspage, from: usize) -> Option<usize> {
        if usize::from(z.used.get()) == self.objects() {
            return None;
        }
        let touched = z.touched.get();
        (from..self.objects()).find(|&index| {
            !self.zspages.lane(z, index).is_used()
                && place_pages(self.size, self.page_size(), index) & !touched == 0
        })
    }

    /// Takes the free place `index` for an object of `bytes`, header included, which the caller
    /// will write. The caller has charged the pages that the object touches. The lane becomes USED
    /// and counts the caller as its writer. The search for the zspage's next free place in touched
    /// pages begins at the place `from`: the caller knows that no earlier place is free in touched
    /// pages.
    pub(crate) fn obj_malloc(
        &mut self,
        zspage: u32,
        z: &Zspage,
        index: usize,
        bytes: usize,
        from: usize,
    ) -> Place {
        assert!(index < self.objects(), "place {index} is beyond its zspage");
        let start = self.size.start_of(index);
        let pages = pages_of(self.page_size(), start, start + bytes);
        self.zspages.lane(z, index).claim();
        self.fill_holes(z, place_pages(self.size, self.page_size(), index));
        self.touch(z, pages);
        z.used.set(z.used.get() + 1);
        self.count_used(1);
        if z.is_isolated() {
            return Place { zspage, index };
        }
        let room = self.resident_room(z, from);
        debug_assert_eq!(room, self.resident_room(z, 0));
        let list = self.list_of(z, room.is_some());
        self.fix_fullness_group(zspage, z, list);
        Place { zspage, index }
    }

    /// Takes an object off the counts of its zspage. If the zspage then has no object and is not
    /// isolated, detaches and returns it. Otherwise returns None.
    ///
    /// # Safety
    /// The zspage is of this class, and the caller has cleared USED in the place's lane while
    /// holding this guard. Invariant 4 of `zspage.rs` depends on it: `used` is the number of USED
    /// lanes, and the run is returned when no lane is USED.
    #[expect(clippy::expect_used, reason = "the caller cleared a USED lane of the zspage")]
    pub(crate) unsafe fn obj_free(
        &mut self,
        zspage: u32,
        z: &Zspage,
        index: usize,
    ) -> Option<Detached> {
        let used = z.used.get().checked_sub(1);
        z.used.set(used.expect("a zspage in which an object is freed has one"));
        self.count_used(-1);
        let pages = place_pages(self.size, self.page_size(), index);
        self.dig_holes(z, pages);
        if z.is_isolated() {
            return None;
        }
        let roomy = z.is_roomy() || pages & !z.touched.get() == 0;
        let list = self.list_of(z, roomy);
        self.fix_fullness_group(zspage, z, list);
        self.detach_if_empty(zspage, z)
    }

    /// Marks the pages of a freed place as holes, except those that another object overlaps.
    fn dig_holes(&mut self, z: &Zspage, pages: u16) {
        let mut holes = 0;
        let mut left = pages & z.touched.get() & !z.holes.get();
        while left != 0 {
            let page = left.trailing_zeros() as usize;
            left &= left - 1;
            let mut overlapping = objects_of_page(self.size, self.page_size(), page);
            if !overlapping.any(|index| self.zspages.lane(z, index).is_used()) {
                holes |= 1 << page;
            }
        }
        z.holes.set(z.holes.get() | holes);
        self.count_holes(holes.count_ones() as i32);
    }

    fn fill_holes(&mut self, z: &Zspage, pages: u16) {
        let filled = z.holes.get() & pages;
        if filled != 0 {
            z.holes.set(z.holes.get() & !filled);
            self.count_holes(-(filled.count_ones() as i32));
        }
    }

    fn touch(&mut self, z: &Zspage, pages: u16) {
        let new = pages & !z.touched.get();
        if new != 0 {
            z.touched.set(z.touched.get() | new);
            self.count_resident(new.count_ones() as i32);
        }
    }

    /// Turns a fresh run into a zspage of this class, and takes the place `index` in it. The run's
    /// resident pages become holes, except those of that place. The caller has charged all pages that
    /// are counted here.
    ///
    /// # Safety
    /// The descriptor is vacant, belongs to the caller alone, and has lanes for the objects of this
    /// class. The run is from the pool's provider and has this class's length.
    pub(crate) unsafe fn attach(
        &mut self,
        zspage: u32,
        run: PageRun,
        index: usize,
        bytes: usize,
    ) -> Place {
        let z = self.zspages.at(zspage);
        assert!(
            z.class().is_none() && z.lanes() >= self.objects(),
            "zspage {zspage} is not vacant, or too short for its class"
        );
        let resident = run.resident();
        // SAFETY: invariant 2 of `zspage.rs`: the caller owns the run and gives it to the zspage.
        // The descriptor is vacant, so none of its lanes is USED (invariant 1 there).
        unsafe { z.set_base(Some(run.base())) };
        z.touched.set(resident);
        z.holes.set(resident);
        z.used.set(0);
        self.count_resident(resident.count_ones() as i32);
        self.count_holes(resident.count_ones() as i32);
        self.inner.zspages += 1;
        // SAFETY: invariant 1 of `zspage.rs`: this class's lock is held, and the descriptor was
        // vacant. No lane is USED, and the caller promises that the run has the class's length.
        unsafe { z.set_class(Some(self.number)) };
        // Isolated, because the zspage is on no list yet: `obj_malloc` must not unlink it.
        z.set_isolated(true);
        let place = self.obj_malloc(zspage, z, index, bytes, 0);
        z.set_isolated(false);
        self.link(zspage, z, self.list_of(z, self.resident_room(z, 0).is_some()));
        place
    }

    /// Marks `pages` as touched, and charges those that were not touched before, even if that exceeds
    /// the budget's limit. The pages belong to a place that is about to be taken. Until then, the newly
    /// touched pages are holes.
    pub(crate) fn prepare(&mut self, zspage: u32, z: &Zspage, pages: u16) {
        let new = pages & !z.touched.get();
        if new == 0 {
            return;
        }
        self.accounts.charge_beyond(new.count_ones() as usize);
        self.touch(z, new);
        z.holes.set(z.holes.get() | new);
        self.count_holes(new.count_ones() as i32);
        if !z.is_isolated() {
            let list = self.list_of(z, self.resident_room(z, 0).is_some());
            self.fix_fullness_group(zspage, z, list);
        }
    }

    fn detach_if_empty(&mut self, zspage: u32, z: &Zspage) -> Option<Detached> {
        if z.used.get() != 0 {
            return None;
        }
        assert!(!z.is_isolated(), "zspage {zspage} is detached while it is isolated");
        self.unlink(z);
        let touched = z.touched.get();
        self.count_resident(-(touched.count_ones() as i32));
        self.count_holes(-(z.holes.get().count_ones() as i32));
        self.inner.zspages -= 1;
        // SAFETY: the run is taken away from the zspage below.
        let run = unsafe { self.run_of(z) };
        // SAFETY: invariant 4 of `zspage.rs`: `used` is 0, so no lane is USED, and none becomes so
        // while the class lock is held.
        unsafe { z.set_base(None) };
        z.touched.set(0);
        z.holes.set(0);
        // SAFETY: as above; this class's lock is held and there is no new class.
        unsafe { z.set_class(None) };
        Some(Detached { zspage, run })
    }

    /// Returns the run of a zspage of this class, as a second value for the same memory.
    ///
    /// # Safety
    /// Either the caller takes the run away from the zspage; or the caller uses only pages that no
    /// object overlaps, and forgets the value.
    pub(crate) unsafe fn run_of(&self, z: &Zspage) -> PageRun {
        // SAFETY: invariant 2 of `zspage.rs`: the base begins a run of the class's length from the
        // provider, and its touched pages are the resident ones (invariant 3 there). The caller
        // promises that nobody else uses the memory.
        unsafe { PageRun::new(z.base(), usize::from(self.size.pages), z.touched.get()) }
    }

    /// Takes a zspage off its list. Until `putback`, only frees change the zspage, and no free detaches it.
    pub(crate) fn isolate(&mut self, z: &Zspage) {
        assert!(!z.is_isolated(), "a zspage is isolated twice");
        assert!(z.used.get() > 0, "a zspage without an object was on a list");
        self.unlink(z);
        z.set_isolated(true);
    }

    /// Gives an isolated zspage another run and returns the old one. `needed` are the pages that the
    /// objects occupy, which are the same in both runs.
    ///
    /// # Safety
    /// The zspage is of this class. The caller holds the write lock of every USED lane, and has
    /// copied the objects to the same offsets of `fresh`, a run of the class's length from the
    /// pool's provider.
    pub(crate) unsafe fn rebase(&mut self, z: &Zspage, fresh: PageRun, needed: u16) -> PageRun {
        let touched = fresh.resident();
        assert!(
            z.is_isolated() && needed & !touched == 0,
            "the objects of an isolated zspage are in touched pages"
        );
        // SAFETY: the fresh run replaces this one in the zspage below.
        let old = unsafe { self.run_of(z) };
        let holes = touched & !needed;
        let more = |new: u16, old: u16| new.count_ones() as i32 - old.count_ones() as i32;
        // These pages are charged even if that exceeds the budget's limit, because touching them
        // frees others.
        self.accounts.charge_beyond(more(touched, z.touched.get()).max(0) as usize);
        self.count_resident(more(touched, z.touched.get()));
        self.count_holes(more(holes, z.holes.get()));
        // SAFETY: invariant 2 of `zspage.rs`: the fresh run belongs to the zspage from now on. The
        // class lock and the write locks of all objects are held, and the objects were copied.
        unsafe { z.set_base(Some(fresh.base())) };
        z.touched.set(touched);
        z.holes.set(holes);
        old
    }

    /// Puts an isolated zspage back on a list, or detaches it if it has no object left. The pages
    /// `released` were returned to the system while it was isolated.
    pub(crate) fn putback(&mut self, zspage: u32, z: &Zspage, released: u16) -> Putback {
        assert!(
            z.is_isolated() && released & !z.holes.get() == 0,
            "zspage {zspage} was not isolated, or an object's page was given back"
        );
        // Skipped under the model checker, which would count each load as a step.
        let locked = |index| !MODEL && self.zspages.lane(z, index).is_write_locked();
        // This checks every lane, so it is done only in debug builds.
        debug_assert!(!(0..self.objects()).any(locked), "zspage {zspage} has locked lanes");
        z.touched.set(z.touched.get() & !released);
        z.holes.set(z.holes.get() & !released);
        self.count_resident(-(released.count_ones() as i32));
        self.count_holes(-(released.count_ones() as i32));
        z.set_isolated(false);
        let list = self.list_of(z, self.resident_room(z, 0).is_some());
        self.link(zspage, z, list);
        self.detach_if_empty(zspage, z).map_or(Putback::Listed, Putback::Emptied)
    }

    /// Walks the zspages of one fullness group: roomy ones first, then tight ones.
    pub(crate) fn group(&self, group: usize) -> Walk<'a> {
        let (roomy, tight) = (self.inner.roomy[group], self.inner.tight[group]);
        Walk { zspages: self.zspages, at: roomy, then: tight }
    }

    fn list_of(&self, z: &Zspage, roomy: bool) -> u16 {
        let group = self.group_of(z) as u16;
        if roomy && group != FULL as u16 { ROOMY | group } else { group }
    }

    pub(crate) fn group_of(&self, z: &Zspage) -> usize {
        let used = usize::from(z.used.get());
        if used == self.objects() { FULL } else { used * 10 / self.objects() }
    }

    fn fix_fullness_group(&mut self, zspage: u32, z: &Zspage, list: u16) {
        if z.list.get() != list {
            self.unlink(z);
            self.link(zspage, z, list);
        }
    }

    fn head(&mut self, list: u16) -> &mut u32 {
        let family = if list & ROOMY != 0 { &mut self.inner.roomy } else { &mut self.inner.tight };
        &mut family[usize::from(list & !ROOMY)]
    }

    fn link(&mut self, zspage: u32, z: &Zspage, list: u16) {
        let head = self.head(list);
        let next = core::mem::replace(head, zspage);
        z.list.set(list);
        z.prev.set(NIL);
        z.next.set(next);
        if let Some(next) = self.zspages.linked(next) {
            next.prev.set(zspage);
        }
    }

    #[inline(always)]
    fn unlink(&mut self, z: &Zspage) {
        let (prev, next) = (z.prev.get(), z.next.get());
        match self.zspages.linked(prev) {
            Some(prev) => prev.next.set(next),
            None => *self.head(z.list.get()) = next,
        }
        if let Some(next) = self.zspages.linked(next) {
            next.prev.set(prev);
        }
    }

    /// Adds `change` to the bytes of the class's objects.
    pub(crate) fn count_bytes(&mut self, change: isize) {
        self.class.bytes.add(change as u64);
    }

    fn count_used(&mut self, change: i32) {
        self.inner.used = changed(self.inner.used, change);
        // Relaxed: the copy is written under the class lock, and read only for guesses.
        self.class.used.store(self.inner.used, Ordering::Relaxed);
    }

    fn count_resident(&mut self, change: i32) {
        if change == 0 {
            return;
        }
        self.inner.resident = changed(self.inner.resident, change);
        // Relaxed: as above.
        self.class.resident.store(self.inner.resident, Ordering::Relaxed);
        self.accounts.count_resident(change);
    }

    fn count_holes(&mut self, change: i32) {
        if change != 0 {
            self.inner.holes = changed(self.inner.holes, change);
            self.accounts.count_holes(change);
        }
    }

    /// Returns how many resident pages would be freed if the objects were packed as densely as
    /// possible.
    pub(crate) fn can_compact(&self) -> usize {
        let (used, objects) = (self.inner.used as usize, self.objects());
        let rest = (used % objects) * self.size.size as usize;
        let whole = self.size.start_of(objects).div_ceil(self.page_size());
        let needed = used / objects * whole + rest.div_ceil(self.page_size());
        (self.inner.resident as usize).saturating_sub(needed)
    }
}

#[expect(clippy::expect_used, reason = "each count is reduced only by what was added to it")]
fn changed(count: u32, change: i32) -> u32 {
    count.checked_add_signed(change).expect("a count of a class stays between 0 and 2^32")
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::class_table::HEADER;
    use crate::lane::Freed;
    use crate::{Config, Zsmalloc};
    use std::sync::Arc;
    use zpool_api::{Handle, Zpool};
    use zpool_base::sync::test_rng::Rng;
    use zpool_pages::HeapPages;

    /// Checks every lane of a class against the counts. Returns the touched pages and the holes.
    fn recount(pool: &Zsmalloc, number: u16) -> (usize, usize) {
        let locked = pool.core.lock(number);
        let (size, page_size) = (*locked.size, pool.core.accounts.page_size);
        let objects = usize::from(size.objects);
        let (mut zspages, mut used, mut resident, mut holes) = (0, 0, 0, 0);
        for group in 0..GROUPS {
            for family in [&locked.inner.roomy, &locked.inner.tight] {
                let mut prev = NIL;
                let mut at = family[group];
                while let Some(z) = pool.core.zspages.linked(at) {
                    assert_eq!((z.class(), z.prev.get()), (Some(number), prev));
                    let taken = |&index: &usize| pool.core.lane(z, index).is_used();
                    let places = (0..objects).filter(taken);
                    let needed = places.clone().map(|i| place_pages(&size, page_size, i));
                    let needed = needed.fold(0, |all, pages| all | pages);
                    let here = places.count();
                    assert!(here > 0 && here == usize::from(z.used.get()), "{here} in {z:?}");
                    assert_eq!(z.holes.get(), z.touched.get() & !needed, "{z:?}");
                    let room = (0..objects).any(|index| {
                        let pages = place_pages(&size, page_size, index);
                        !taken(&index) && pages & !z.touched.get() == 0
                    });
                    assert_eq!(z.is_roomy(), room, "{z:?}");
                    assert!(core::ptr::eq(family, &locked.inner.roomy) == room);
                    let tenths = if here == objects { 10 } else { here * 10 / objects };
                    assert_eq!(tenths, group);
                    zspages += 1;
                    used += here;
                    resident += z.touched.get().count_ones() as usize;
                    holes += z.holes.get().count_ones() as usize;
                    prev = at;
                    at = z.next.get();
                }
            }
            assert_eq!(locked.group(group).count() > 0, {
                locked.inner.roomy[group] != NIL || locked.inner.tight[group] != NIL
            });
        }
        let counted = &locked.inner;
        assert_eq!(
            (counted.zspages, counted.used, counted.resident, counted.holes),
            (zspages as u32, used as u32, resident as u32, holes as u32)
        );
        let class = &pool.core.classes[usize::from(number)];
        assert_eq!((class.counts().0, class.has_pages()), (used, resident != 0));
        let free = (resident * page_size).saturating_sub(used * size.size as usize);
        assert_eq!(class.free_bytes(page_size), (free, resident * page_size));
        // If the objects are packed as densely as possible, they need all pages of the full zspages,
        // and some of the last one.
        let pages =
            |n| (0..n).fold(0, |all, i| all | place_pages(&size, page_size, i)).count_ones();
        let whole = if used < objects { 0 } else { used / objects * pages(objects) as usize };
        let packed = whole + pages(used % objects) as usize;
        assert_eq!(locked.can_compact(), resident.saturating_sub(packed));
        (resident, holes)
    }

    fn recount_all(pool: &Zsmalloc) {
        // Under Miri, only the few classes that are in use are examined.
        let examined = |&number: &u16| {
            !cfg!(miri) || pool.core.classes[usize::from(number)].lock().zspages > 0
        };
        let classes = (0..pool.core.classes.len() as u16).filter(examined);
        let all: Vec<_> = classes.map(|number| recount(pool, number)).collect();
        assert_eq!(pool.core.accounts.resident(), all.iter().map(|(resident, _)| resident).sum());
        assert_eq!(pool.core.accounts.holes(), all.iter().map(|(_, holes)| holes).sum());
        let figures = pool.class_stats();
        let used: usize = figures.iter().map(|class| class.obj_used).sum();
        let pages: usize = figures.iter().map(|class| class.pages_used).sum();
        let stats = pool.stats();
        assert_eq!((used, pages), (stats.objects + stats.parked_objects, stats.total_pages));
        for class in figures {
            let size = &pool.core.classes[class.class].size;
            assert_eq!(class.size, size.size as usize);
            assert_eq!(class.pages_per_zspage, usize::from(size.pages));
            let zspages: usize = class.zspages.iter().sum();
            assert!(zspages > 0);
            assert_eq!(class.obj_allocated, zspages * usize::from(size.objects));
        }
    }

    /// Stores, frees, compacts and migrates at random, and recounts after each step.
    fn churn(pool: &Zsmalloc, steps: usize, seed: u64) {
        const SMALL: [usize; 8] = [20, 100, 600, 1300, 2000, 3000, 3300, 4096];
        const LARGE: [usize; 8] = [20, 3000, 4097, 5400, 8192, 9000, 21_000, 65536];
        let sizes = if pool.caps().max_object_size > 4096 { LARGE } else { SMALL };
        let mut rng = Rng::new(seed);
        let mut live: Vec<(Handle, usize, u8)> = Vec::new();
        for step in 0..steps {
            // For 200 steps mostly stores, then for 200 steps mostly frees.
            let grow = if step / 200 % 2 == 0 { 3 } else { 1 };
            if rng.below(4) < grow || live.is_empty() {
                let (len, byte) = (sizes[rng.below(8)], step as u8);
                live.push((pool.malloc_from(&vec![byte; len]).unwrap(), len, byte));
            } else {
                let (handle, len, byte) = live.swap_remove(rng.below(live.len()));
                assert!(*pool.obj_read_begin(handle).unwrap() == *vec![byte; len]);
                // Every other object is freed while it is being read.
                let read = (step % 2 == 0).then(|| pool.obj_read_begin(handle).unwrap());
                pool.free(handle).unwrap();
                let stats = pool.stats();
                assert_eq!(stats.parked_objects, usize::from(read.is_some()));
                if !cfg!(miri) {
                    recount_all(pool);
                }
            }
            if step % 97 == 96 {
                pool.compact().unwrap();
            }
            if step % 211 == 210 {
                let moved = pool.migrate_within(0..usize::MAX).unwrap();
                assert!(moved.zspages > 0 && moved.left == 0);
            }
            // A recount takes seconds under Miri, so it is done only after every eighth step.
            if !cfg!(miri) || step % 8 == 7 {
                recount_all(pool);
            }
            let stats = pool.stats();
            let bytes: usize = live.iter().map(|(_, len, _)| len).sum();
            assert_eq!((stats.objects, stats.object_bytes), (live.len(), bytes));
        }
        for (handle, ..) in live {
            pool.free(handle).unwrap();
        }
        recount_all(pool);
        assert_eq!((pool.total_pages(), pool.class_stats()), (0, vec![]));
    }

    /// An object may be shorter than its place, and end before a page that the whole place would touch.
    #[test]
    fn the_place_is_taken_that_touches_the_fewest_new_pages() {
        let pool = Zsmalloc::new(Arc::new(HeapPages::new())).unwrap();
        let core = &pool.core;
        let mut tried = 0;
        for number in 0..core.classes.len() as u16 {
            let size = core.classes[usize::from(number)].size;
            let end = |index| size.start_of(index) + size.size as usize;
            let over = (2..usize::from(size.objects))
                .find(|&index| (1..64).contains(&(end(index) % 4096)));
            let Some(over) = over.filter(|_| (2100..4000).contains(&size.size)) else { continue };
            let handle = pool.malloc_from(&vec![1; size.size as usize - HEADER]).unwrap();
            let ours = |z: &Zspage| z.class() == Some(number);
            let Some((zspage, z)) = core.zspages.iter().find(|(_, z)| ours(z)) else {
                // The class is not active yet.
                pool.free(handle).unwrap();
                continue;
            };
            let first = place_pages(&size, 4096, 0);
            let short = size.size as usize - end(over) % 4096;
            let start = size.start_of(over);
            let mut locked = core.lock(number);
            locked.isolate(z);
            let touched = first | pages_of(4096, start, start + short);
            // SAFETY: the zspage's own run, with other pages touched: its objects do not move.
            let run = unsafe { PageRun::new(z.base(), usize::from(size.pages), touched) };
            // SAFETY: as above; nobody reads the objects.
            let _ = unsafe { locked.rebase(z, run, first) };
            assert!(matches!(locked.putback(zspage, z, 0), Putback::Listed) && !z.is_roomy());
            let resident = core.accounts.resident();
            assert_eq!(locked.take_touching(short), Ok(Some(Place { zspage, index: over })));
            assert_eq!(core.accounts.resident(), resident);
            // When the object is freed, pages of its place that it never touched do not become
            // holes.
            let lane = core.lane(z, over);
            assert!(!lane.read_unlock_for_test() && lane.free_for_test() == Freed::Now);
            // SAFETY: the lane was cleared just now, under the class lock.
            assert!(unsafe { locked.obj_free(zspage, z, over) }.is_none());
            assert_eq!(z.holes.get(), z.touched.get() & !first);
            let again = locked.take_touching(short).unwrap();
            assert_eq!(again.map(|place| place.index), Some(over));
            assert_eq!(locked.take_touching(short), Ok(Some(Place { zspage, index: 1 })));
            assert_eq!(core.accounts.resident(), resident + 1);
            tried += 1;
        }
        assert!(tried > 0);
    }

    #[test]
    fn counts_are_what_a_recount_finds() {
        // Zspages are short under Miri, because their lanes are checked one by one.
        let (steps, chain) = if cfg!(miri) { (8, 1) } else { (500, 16) };
        let config = Config::new().chain(chain);
        churn(&Zsmalloc::with_config(Arc::new(HeapPages::new()), config).unwrap(), steps, 7);
    }

    /// The same test with pages that become resident one by one.
    #[cfg(all(target_os = "linux", not(miri)))]
    #[test]
    fn counts_are_what_a_recount_finds_of_mapped_pages() {
        churn(&Zsmalloc::new(Arc::new(zpool_pages::MmapPages::new())).unwrap(), 500, 8);
    }

    /// The same test with objects that are larger than a page.
    #[test]
    fn counts_are_what_a_recount_finds_of_large_objects() {
        let (steps, chain) = if cfg!(miri) { (8, 3) } else { (500, 16) };
        #[cfg(all(target_os = "linux", not(miri)))]
        let pages = Arc::new(zpool_pages::MmapPages::new());
        #[cfg(not(all(target_os = "linux", not(miri))))]
        let pages = Arc::new(HeapPages::new());
        let pages = zpool_api::ZpoolConfig::new(pages).with_max_object_size(65536);
        let config = Config::new().chain(chain);
        churn(&Zsmalloc::from_config(&pages, config).unwrap(), steps, 9);
    }

    #[test]
    fn what_a_zspage_cannot_do_twice_panics() {
        let pool = Zsmalloc::new(Arc::new(HeapPages::new())).unwrap();
        let handle = pool.malloc_from(&[1; 600]).unwrap();
        let core = &pool.core;
        let z = core.zspages.at(0);
        let number = z.class().unwrap();
        type Break = fn(&mut ClassGuard<'_>, &Zspage);
        let breaks: [Break; 3] = [
            |locked, z| {
                let beyond = locked.objects();
                locked.obj_malloc(0, z, beyond, 600, 0);
            },
            |locked, z| {
                let _ = locked.putback(0, z, 0);
            },
            |locked, z| {
                // SAFETY: the value is not used: `attach` panics first, since the zspage has a class.
                let run = unsafe { locked.run_of(z) };
                // SAFETY: as above.
                unsafe { locked.attach(0, run, 0, 600) };
            },
        ];
        for (which, broken) in breaks.into_iter().enumerate() {
            let call = || broken(&mut core.lock(number), z);
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(call));
            assert!(result.is_err(), "{which}");
        }
        // Nothing was changed before the panics.
        assert_eq!(z.used.get(), 1);
        assert_eq!(pool.obj_read_begin(handle).unwrap()[..], [1; 600]);
    }
}
