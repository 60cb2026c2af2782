//! Allocating: a slot and a place for an object, which its writer fills next and publishes.
//!
//! Under the class lock, from what costs nothing to what costs most: a place in touched pages, such a
//! place in a class little larger that has much of it, a place that touches the fewest new pages, a
//! fresh run. A run is requested without the lock; attaching it and taking its first place is one
//! step under the lock, so that no zspage without an object is ever on a list.
//!
//! Pages are charged to the pool's budget before they are touched. If they exceed it, the object goes
//! to any room that needs no page, in whatever larger class, before the reservation fails.

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

/// A place whose writer is the caller: counted in the lane, with a slot that is reserved.
struct Reserved {
    slot: u32,
    place: Place,
    bytes: NonNull<[u8]>,
}

/// A free slot that a reservation has in hand. Dropped, it goes back.
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

/// Gives a reservation up that its caller will never see, because the provider panicked.
struct Unseen<'a> {
    core: &'a Core,
    slot: u32,
}

impl Drop for Unseen<'_> {
    fn drop(&mut self) {
        // SAFETY: reserved by the call that ends here, whose caller never got the bytes.
        unsafe { self.core.give_up(self.slot) };
    }
}

/// What a search of a class's zspages came to.
enum Search {
    Found(Place),
    /// The place that there is takes pages that the budget refuses.
    Refused(PageError),
    /// No zspage has room.
    Full,
}

impl Core {
    pub(crate) fn malloc(&self, len: usize) -> Result<ObjWrite<'_>, ZpoolError> {
        let reserved = self.reserve(len)?;
        self.accounts.count_uncommitted(len);
        // SAFETY: the place's writer is the guard: nobody else touches the bytes until commit or
        // abort (invariant 1 of the pool).
        Ok(unsafe { ObjWrite::in_place(reserved.bytes, self, u64::from(reserved.slot)) })
    }

    pub(crate) fn malloc_from(&self, bytes: &[u8]) -> Result<Handle, ZpoolError> {
        let Reserved { slot, place, bytes: to } = self.reserve(bytes.len())?;
        let to = to.cast::<u8>().as_ptr();
        // SAFETY: `bytes.len()` bytes of a place whose writer is this call (invariant 1 of the pool),
        // so they cannot overlap `bytes`, which somebody else lent.
        unsafe { to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        // SAFETY: reserved by this call, which has written the bytes.
        Ok(unsafe { self.publish(slot, place) })
    }

    /// Makes a written object visible; its handle.
    ///
    /// # Safety
    /// The caller reserved the slot for this place, and writes there no more.
    #[expect(clippy::expect_used, reason = "`Slot::invalidate` ends a slot at the last generation")]
    unsafe fn publish(&self, slot: u32, place: Place) -> Handle {
        // SAFETY: by the caller's promise.
        let generation = unsafe { self.slots.at(slot).publish() };
        // The handle is not out yet, but a guess might free the object: then the place is this
        // thread's to free.
        let lane = self.zspages.at(place.zspage).lane_number(place.index);
        // SAFETY: the writer is counted since `reserve`, and is done.
        unsafe { self.unlock_reader(LaneRef { zspage: place.zspage, lane }) };
        let bits = SlotRef::new(generation, slot).expect("a slot's generation fits in a handle");
        Handle::new(self.tag, bits.to_bits())
    }

    /// Takes a slot and a place for `len` bytes; the caller is the place's writer afterwards.
    fn reserve(&self, len: usize) -> Result<Reserved, ZpoolError> {
        self.check_maker()?;
        if len == 0 {
            return Err(ZpoolError::EmptyObject);
        }
        if len > self.page_size() {
            let max = self.page_size();
            return Err(ZpoolError::ObjectTooLarge { size: len, max, backend: NAME });
        }
        self.tidy_up();
        let bytes = (len + HEADER).min(self.page_size());
        let class = self.routes.route(self.routes.own_class(bytes)) as u16;
        let mut fresh = None;
        let reserved = self.reserve_in(class, len, &mut fresh)?;
        if fresh.is_some() {
            // There was room after all. Giving the run back may panic.
            let unseen = Unseen { core: self, slot: reserved.slot };
            drop(fresh);
            core::mem::forget(unseen);
        }
        Ok(reserved)
    }

    /// A run that was requested and turned out not to be needed is left in `fresh`.
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
                // SAFETY: requested below, for this class and this many bytes.
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

    /// Locks a class, with a free slot: one of the class, else of the pool.
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

    /// Any room that needs no page, in this class or a larger one; else the budget's refusal.
    #[cold]
    fn squeeze_in(
        &self,
        class: u16,
        len: usize,
        slot: SlotInHand<'_>,
        refused: PageError,
    ) -> Result<Reserved, ZpoolError> {
        for class in class..self.class_numbers().end {
            if !self.class(class).has_pages() {
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

    /// A place was taken under the lock: the slot in hand is pointed at it.
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
        // SAFETY: the slot was in hand, and the place was claimed by this call, under the lock that is
        // still held.
        unsafe { self.slots.at(slot).reserve(Location { zspage: place.zspage, last }) };
        locked.count_bytes(len as isize);
        let z = self.zspages.at(place.zspage);
        self.lane(z, place.index).bytes.write();
        let base = z.base();
        drop(locked);
        if !size.huge {
            // SAFETY: the place begins in the zspage's run, which stays where it is while its writer is
            // counted.
            let header = unsafe { base.add(size.start_of(place.index)) };
            // SAFETY: the header's bytes are the place's first four, and the caller is its writer
            // (invariant 1 of the pool).
            unsafe { header.cast::<[u8; HEADER]>().write(slot.to_ne_bytes()) };
        }
        // SAFETY: `start` is inside the run.
        let start = unsafe { base.add(start) };
        Reserved { slot, place, bytes: NonNull::slice_from_raw_parts(start, len) }
    }

    /// A larger class, little larger than `class`, that has much touched room.
    ///
    /// Room is left in a class when the sizes that went there got classes of their own; it would
    /// wait there for objects that do not come.
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

/// A place for `bytes`, header included, in touched pages; else the one that touches the fewest new
/// pages, which are charged.
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
        // SAFETY: the guard reserved the slot and is used up: it has written the bytes.
        Ok(unsafe { self.publish(slot, place) })
    }

    fn abort(&self, token: u64) {
        if !self.maker.is_here() {
            return;
        }
        let slot = token as u32;
        self.accounts.uncount_uncommitted(self.unpublished(slot).len);
        // SAFETY: the guard reserved the slot, and is dropped.
        unsafe { self.give_up(slot) };
    }
}
