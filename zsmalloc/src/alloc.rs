//! Allocation: takes a slot and a place for an object. The object's writer then fills the place and
//! publishes the slot.
//!
//! The search for a place tries the cheapest kind first:
//! 1. a place in touched pages;
//! 2. a place in touched pages of a slightly larger class that has much free room there;
//! 3. in the fullest zspage that has room, the place that touches the fewest new pages;
//! 4. a fresh run.
//!
//! Each attempt holds the class lock. No class lock is held while a run, or a slot of the pool's
//! table, is requested. Attaching the run and taking its first place is one step under the lock, so
//! no zspage without an object is ever on a list.
//!
//! Pages are charged to the pool's budget before they are touched. If the budget refuses them, a
//! bounded search looks for any place that needs no new page, in this class or a larger one. If it
//! finds none, the allocation fails.

use core::ptr::NonNull;

use zpool_api::{Handle, ObjCommit, ObjWrite, PageError, SlotRef, ZpoolError};

use crate::class::{ClassGuard, Place};
use crate::class_table::HEADER;
use crate::free::Unpublished;
use crate::fresh::Fresh;
use crate::hooks::{self, Point};
use crate::shared::{Core, NAME};
use crate::slot::Location;
use crate::zspages::LaneRef;

/// A slot and a place that are reserved for the caller. The place's lane counts the caller as its
/// writer.
struct Reserved {
    slot: u32,
    place: Place,
    bytes: NonNull<[u8]>,
}

/// A free slot that a reservation holds. Dropping it returns the slot.
struct SlotInHand<'a> {
    core: &'a Core,
    slot: u32,
}

impl SlotInHand<'_> {
    fn keep(self) -> u32 {
        let slot = self.slot;
        core::mem::forget(self);
        slot
    }
}

impl Drop for SlotInHand<'_> {
    fn drop(&mut self) {
        self.core.slots.give(self.slot);
    }
}

/// A reservation that the caller has not received yet. It is dropped only if the provider panics;
/// dropping it gives the reservation up.
struct Unseen<'a> {
    core: &'a Core,
    slot: u32,
}

impl Drop for Unseen<'_> {
    fn drop(&mut self) {
        // SAFETY: the call that reserved the slot panics, so its caller never receives the bytes.
        unsafe { self.core.give_up(self.slot) };
    }
}

/// The result of searching a class's zspages.
enum Search {
    Found(Place),
    /// There is a place, but the budget refuses the pages that it needs.
    Refused(PageError),
    /// No zspage has room.
    Full,
}

impl Core {
    pub(crate) fn malloc(&self, len: usize) -> Result<ObjWrite<'_>, ZpoolError> {
        let reserved = self.reserve(len)?;
        self.accounts.count_uncommitted(len);
        // SAFETY: the guard is the place's writer: nobody else accesses the bytes until commit or
        // abort (invariant 1 of the pool).
        Ok(unsafe { ObjWrite::in_place(reserved.bytes, self, u64::from(reserved.slot)) })
    }

    pub(crate) fn malloc_from(&self, bytes: &[u8]) -> Result<Handle, ZpoolError> {
        let Reserved { slot, place, bytes: to } = self.reserve(bytes.len())?;
        let to = to.cast::<u8>().as_ptr();
        // SAFETY: the destination has `bytes.len()` bytes, and this call is its writer (invariant 1
        // of the pool), so it cannot overlap `bytes`, which the caller borrows elsewhere.
        unsafe { to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        // SAFETY: this call reserved the slot and the place, and has written the bytes.
        Ok(unsafe { self.publish(slot, place) })
    }

    /// Makes a written object visible and returns its handle.
    ///
    /// # Safety
    /// The caller reserved the slot for this place, and has finished writing there.
    #[expect(clippy::expect_used, reason = "`Slot::invalidate` ends a slot at the last generation")]
    unsafe fn publish(&self, slot: u32, place: Place) -> Handle {
        // SAFETY: the caller reserved the slot and has written the object, as this function requires.
        let generation = unsafe { self.slots.at(slot).publish() };
        // The caller does not have the handle yet, but another thread might guess it and free the
        // object. Then the place is parked, and this thread must free it.
        let lane = self.zspages.at(place.zspage).lane_number(place.index);
        // SAFETY: the writer has been counted since `reserve`, and is done.
        unsafe { self.unlock_reader(LaneRef { zspage: place.zspage, lane }) };
        let bits = SlotRef::new(generation, slot).expect("a slot's generation fits in a handle");
        Handle::new(self.tag, bits.to_bits())
    }

    /// Takes a slot and a place for `len` bytes, and makes the caller the place's writer. Fails if
    /// `len` is 0 or larger than the pool admits, or if no slot or no page is available.
    fn reserve(&self, len: usize) -> Result<Reserved, ZpoolError> {
        self.check_maker()?;
        if len == 0 {
            return Err(ZpoolError::EmptyObject);
        }
        if len > self.max_object {
            let max = self.max_object;
            return Err(ZpoolError::ObjectTooLarge { size: len, max, backend: NAME });
        }
        self.tidy_up();
        let class = self.routes.route(self.routes.class_of(len)) as u16;
        let mut fresh = None;
        let reserved = self.reserve_in(class, len, &mut fresh)?;
        if fresh.is_some() {
            // The object found room without the run. Returning the run may panic.
            let unseen = Unseen { core: self, slot: reserved.slot };
            drop(fresh);
            core::mem::forget(unseen);
        }
        Ok(reserved)
    }

    /// Takes a slot and a place for an object of `class`. If it requested a run and then found room
    /// without it, leaves the run in `fresh`.
    fn reserve_in<'a>(
        &'a self,
        class: u16,
        len: usize,
        fresh: &mut Option<Fresh<'a>>,
    ) -> Result<Reserved, ZpoolError> {
        let surplus = self.surplus(class);
        let (mut locked, slot) = self.lock_with_slot(class)?;
        let bytes = len + locked.size.header();
        if let Some(other) = surplus {
            if let Some(place) = locked.take_resident(bytes) {
                return Ok(self.found(locked, place, slot, len));
            }
            drop(locked);
            let mut larger = self.lock(other);
            if let Some(place) = larger.take_resident(len + larger.size.header()) {
                return Ok(self.found(larger, place, slot, len));
            }
            drop(larger);
            locked = self.lock(class);
        }
        loop {
            match search(&mut locked, bytes) {
                Search::Found(place) => return Ok(self.found(locked, place, slot, len)),
                Search::Refused(refused) => {
                    drop(locked);
                    return self.squeeze_in(class, len, slot, refused);
                }
                Search::Full => {}
            }
            if let Some(fresh) = fresh.take() {
                // SAFETY: the run was requested below, for this class and this number of bytes.
                let place = unsafe { fresh.attach(&mut locked, bytes) };
                return Ok(self.found(locked, place, slot, len));
            }
            let size = *locked.size;
            drop(locked);
            match self.fresh(&size, bytes) {
                Ok(run) => *fresh = Some(run),
                Err(ZpoolError::OutOfMemory { source: refused @ PageError::Limit { .. } }) => {
                    return self.squeeze_in(class, len, slot, refused);
                }
                Err(error) => return Err(error),
            }
            hooks::at(Point::FreshRun);
            // Others may have made room meanwhile.
            locked = self.lock(class);
        }
    }

    /// Takes a free slot, from the class if it has one, else from the pool, and locks the class. Fails if
    /// the pool has no free slot and its table cannot grow.
    fn lock_with_slot(&self, class: u16) -> Result<(ClassGuard<'_>, SlotInHand<'_>), ZpoolError> {
        let mut locked = self.lock(class);
        if let Some(slot) = locked.inner.slots.pop(&self.slots) {
            return Ok((locked, SlotInHand { core: self, slot }));
        }
        drop(locked);
        let slot = self.slots.take().map_err(|error| self.refused(error))?;
        let slot = SlotInHand { core: self, slot };
        Ok((self.lock(class), slot))
    }

    /// Takes any place that needs no new page, in this class or one whose places are less than a page
    /// longer: a short object in a much longer place would keep whole pages that it does not use. If the
    /// search finds no such place, returns the budget's refusal.
    #[cold]
    fn squeeze_in(
        &self,
        class: u16,
        len: usize,
        slot: SlotInHand<'_>,
        refused: PageError,
    ) -> Result<Reserved, ZpoolError> {
        let longest = self.class(class).size.size as usize + self.page_size();
        for class in class..self.class_numbers().end {
            let candidate = self.class(class);
            if candidate.size.size as usize >= longest {
                break;
            }
            if !candidate.has_pages() {
                continue;
            }
            let mut locked = self.lock(class);
            let bytes = len + locked.size.header();
            if let Some(place) = locked.take_without_pages(bytes) {
                return Ok(self.found(locked, place, slot, len));
            }
        }
        Err(refused.into())
    }

    /// Points the slot at a place that was just taken under the lock, drops the lock, and writes the
    /// object's header.
    fn found(
        &self,
        mut locked: ClassGuard<'_>,
        place: Place,
        slot: SlotInHand<'_>,
        len: usize,
    ) -> Reserved {
        let slot = slot.keep();
        let size = locked.size;
        let start = size.start_of(place.index) + size.header();
        // A zspage has at most 2^16 bytes.
        let last = (start + len - 1) as u16;
        // SAFETY: the caller owned the slot, and claimed the place under the class lock, which is
        // still held.
        unsafe { self.slots.at(slot).reserve(Location { zspage: place.zspage, last }) };
        locked.count_bytes(len as isize);
        let z = self.zspages.at(place.zspage);
        self.lane(z, place.index).bytes.write();
        let base = z.base();
        drop(locked);
        if !size.huge {
            // SAFETY: the place begins in the zspage's run, which does not move while its writer is
            // counted.
            let header = unsafe { base.add(size.start_of(place.index)) };
            // SAFETY: the header is the place's first four bytes, and the caller is its writer
            // (invariant 1 of the pool).
            unsafe { header.cast::<[u8; HEADER]>().write(slot.to_ne_bytes()) };
        }
        // SAFETY: `start` is inside the run.
        let start = unsafe { base.add(start) };
        Reserved { slot, place, bytes: NonNull::slice_from_raw_parts(start, len) }
    }

    /// Returns an active class that is slightly larger than `class` and has much free room in touched
    /// pages. Returns None if there is no such class.
    ///
    /// Objects of smaller sizes go to a class until classes of their own become active. After that,
    /// the class has room that its own sizes might never fill.
    fn surplus(&self, class: u16) -> Option<u16> {
        let size = self.class(class).size;
        let more = 32 * (self.page_size() / 4096);
        (class + 1..self.class_numbers().end)
            .take_while(|&other| {
                let other = &self.class(other).size;
                !other.huge && (other.size - size.size) as usize <= more
            })
            .find(|&other| {
                let (free, resident) = self.class(other).free_bytes(self.page_size());
                self.routes.is_active(usize::from(other)) && free > self.page_size() + resident / 32
            })
    }
}

/// Takes a place for `bytes`, header included. Prefers a place in touched pages; otherwise takes one
/// that touches few new pages, and charges these.
fn search(locked: &mut ClassGuard<'_>, bytes: usize) -> Search {
    if let Some(place) = locked.take_resident(bytes) {
        return Search::Found(place);
    }
    match locked.take_touching(bytes) {
        Ok(Some(place)) => Search::Found(place),
        Ok(None) => Search::Full,
        Err(refused) => Search::Refused(refused),
    }
}

impl ObjCommit for Core {
    fn commit(&self, token: u64) -> Result<Handle, ZpoolError> {
        self.check_maker()?;
        // A token is the number of the slot.
        let slot = token as u32;
        let Unpublished { place, len } = self.unpublished(slot);
        self.accounts.uncount_uncommitted(len);
        // SAFETY: the guard reserved the slot, has written the bytes, and is consumed.
        Ok(unsafe { self.publish(slot, place) })
    }

    fn abort(&self, token: u64) {
        if !self.maker.is_here() {
            return;
        }
        let slot = token as u32;
        self.accounts.uncount_uncommitted(self.unpublished(slot).len);
        // SAFETY: the guard reserved the slot and is being dropped.
        unsafe { self.give_up(slot) };
    }
}
