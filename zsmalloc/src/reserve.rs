//! Reserving: a slot and a place for an object that its writer fills next.
//!
//! Under the class lock, from what costs nothing to what costs most: a place in touched pages, such a
//! place in a class little larger that has much of it, a place that touches the fewest new pages, a
//! fresh run. A run is requested without the lock; attaching it and taking its first place is one
//! step under the lock, so that no zspage without an object is ever on a list.
//!
//! Pages are charged to the pool's budget before they are touched. If they exceed it, the object goes
//! to any room that needs no page, in whatever larger class, before the reservation fails.

use core::ptr::NonNull;

use zpool_api::{PageError, PageRun, ZpoolError};
use zpool_base::lockdep::{self, Rank, might_sleep};
use zpool_base::stable::TableError;

use crate::class::{Detached, Locked, Place};
use crate::class_table::{HEADER, SizeClass};
use crate::hooks::{self, Point};
use crate::lane::Lane;
use crate::pool::{Core, LANE_STEP, NAME};
use crate::slot::Location;
use crate::zspage::{Zspage, pages_of};

/// A place whose writer is the caller.
pub(crate) struct Reserved {
    pub(crate) slot: u32,
    pub(crate) place: Place,
    pub(crate) bytes: NonNull<[u8]>,
}

/// What a reservation has in hand and has not used. Dropped, all of it goes back.
struct InHand<'a> {
    core: &'a Core,
    slot: Option<u32>,
    fresh: Option<Fresh>,
}

/// A run that is no class's yet, with a descriptor for it; its touched pages are charged, and so are
/// those that the first object touches.
struct Fresh {
    zspage: u32,
    run: PageRun,
    charged: usize,
    /// Where the first object goes.
    index: usize,
}

impl Drop for InHand<'_> {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            self.core.slots.give(slot);
        }
        if let Some(fresh) = self.fresh.take() {
            self.core.give_up_fresh(fresh);
        }
    }
}

/// Gives a reservation up that its caller will never see, because the provider panicked.
struct Unseen<'a> {
    core: &'a Core,
    slot: u32,
}

impl Drop for Unseen<'_> {
    fn drop(&mut self) {
        self.core.give_up(self.slot);
    }
}

/// Lanes that a zspage of the class gets, one an object.
fn lanes_of(size: &SizeClass) -> usize {
    usize::from(size.objects).next_multiple_of(LANE_STEP)
}

impl Core {
    /// Takes a slot and a place for `len` bytes; the caller is the place's writer afterwards.
    pub(crate) fn reserve(&self, len: usize) -> Result<Reserved, ZpoolError> {
        if !self.maker.is_here() {
            return Err(ZpoolError::Forked { backend: NAME });
        }
        if len == 0 {
            return Err(ZpoolError::EmptyObject);
        }
        if len > self.page_size {
            let max = self.page_size;
            return Err(ZpoolError::ObjectTooLarge { size: len, max, backend: NAME });
        }
        self.tidy_up();
        let bytes = (len + HEADER).min(self.page_size);
        let class = self.routes.route(self.routes.own_class(bytes)) as u16;
        let mut hand = InHand { core: self, slot: None, fresh: None };
        let reserved = self.reserve_in(class, len, &mut hand)?;
        if hand.fresh.is_some() {
            // There was room after all. Giving the run back may panic.
            let unseen = Unseen { core: self, slot: reserved.slot };
            drop(hand);
            core::mem::forget(unseen);
        }
        Ok(reserved)
    }

    fn reserve_in(
        &self,
        class: u16,
        len: usize,
        hand: &mut InHand<'_>,
    ) -> Result<Reserved, ZpoolError> {
        let mut surplus = self.surplus(class);
        loop {
            let Some(mut locked) = self.lock(class) else {
                return Err(ZpoolError::EmptyObject);
            };
            let Some(slot) = hand.slot.or_else(|| locked.inner.slots.pop(&self.slots)) else {
                drop(locked);
                hand.slot = Some(self.slots.take().map_err(|error| self.refused(error))?);
                continue;
            };
            hand.slot = Some(slot);
            let bytes = len + locked.size.header();
            if let Some(place) = locked.take_resident(bytes) {
                return Ok(self.found(locked, place, hand, len));
            }
            if let Some(other) = surplus.take() {
                drop(locked);
                if let Some(mut locked) = self.lock(other) {
                    let bytes = len + locked.size.header();
                    if let Some(place) = locked.take_resident(bytes) {
                        return Ok(self.found(locked, place, hand, len));
                    }
                }
                continue;
            }
            match locked.take_touching(bytes) {
                Ok(Some(place)) => return Ok(self.found(locked, place, hand, len)),
                Ok(None) => {}
                Err(refused) => {
                    drop(locked);
                    return self.squeeze_in(class, len, hand, refused);
                }
            }
            if let Some(Fresh { zspage, run, index, .. }) = hand.fresh.take() {
                let place = locked.attach(zspage, run.base(), run.resident(), index, bytes);
                return Ok(self.found(locked, place, hand, len));
            }
            let size = *locked.size;
            drop(locked);
            match self.fresh(&size, bytes) {
                Ok(fresh) => hand.fresh = Some(fresh),
                Err(ZpoolError::OutOfMemory { source: refused @ PageError::Limit { .. } }) => {
                    return self.squeeze_in(class, len, hand, refused);
                }
                Err(error) => return Err(error),
            }
            hooks::at(Point::FreshRun);
        }
    }

    /// Any room that needs no page, in this class or a larger one; else the budget's refusal.
    #[cold]
    fn squeeze_in(
        &self,
        class: u16,
        len: usize,
        hand: &mut InHand<'_>,
        refused: PageError,
    ) -> Result<Reserved, ZpoolError> {
        for class in class..self.classes.len() as u16 {
            if !self.classes[usize::from(class)].has_pages() {
                continue;
            }
            let Some(mut locked) = self.lock(class) else { break };
            let bytes = len + locked.size.header();
            if let Some(place) = locked.take_without_pages(bytes) {
                return Ok(self.found(locked, place, hand, len));
            }
        }
        Err(refused.into())
    }

    /// A place was found: the slot in hand is pointed at it.
    fn found(
        &self,
        mut locked: Locked<'_>,
        place: Place,
        hand: &mut InHand<'_>,
        len: usize,
    ) -> Reserved {
        // Whoever looks for a place has a slot in hand.
        let number = hand.slot.take().unwrap_or(u32::MAX);
        debug_assert!(number != u32::MAX, "a place without a slot");
        let size = locked.size;
        let start = size.start_of(place.index) + size.header();
        // A zspage has at most 2^16 bytes.
        let last = (start + len - 1) as u16;
        if let Some(slot) = self.slots.get(number) {
            slot.reserve(Location { zspage: place.zspage, last });
        }
        locked.count_bytes(len as isize);
        let base = match self.zspages.get(place.zspage) {
            Some(z) => {
                self.lane(z, place.index).bytes.write();
                z.base()
            }
            None => core::ptr::null_mut(),
        };
        drop(locked);
        debug_assert!(!base.is_null());
        if !size.huge {
            // SAFETY: the place begins in the zspage's run, and its writer is this caller.
            let header = unsafe { base.add(size.start_of(place.index)) };
            // SAFETY: the header's bytes are the place's first four (the pool's invariant 1).
            unsafe { header.cast::<[u8; HEADER]>().write(number.to_ne_bytes()) };
        }
        // SAFETY: `start` is inside the run.
        let start = unsafe { base.add(start) };
        // SAFETY: inside an allocation, hence not null.
        let start = unsafe { NonNull::new_unchecked(start) };
        Reserved { slot: number, place, bytes: NonNull::slice_from_raw_parts(start, len) }
    }

    /// A larger class, little larger than `class`, that has much touched room.
    ///
    /// Room is left in a class when the sizes that went there got classes of their own; it would
    /// wait there for objects that do not come.
    fn surplus(&self, class: u16) -> Option<u16> {
        let class = usize::from(class);
        let size = self.classes.get(class)?.size;
        let more = 32 * (self.page_size / 4096);
        (class + 1..self.classes.len())
            .take_while(|&other| {
                let other = &self.classes[other].size;
                !other.huge && (other.size - size.size) as usize <= more
            })
            .find(|&other| {
                let (free, resident) = self.classes[other].free_bytes(self.page_size);
                self.routes.is_active(other) && free > self.page_size + resident / 32
            })
            .map(|other| other as u16)
    }

    /// A run for a zspage of a class, and a descriptor, charged for an object of `bytes`, header
    /// included. No lock is held.
    fn fresh(&self, size: &SizeClass, bytes: usize) -> Result<Fresh, ZpoolError> {
        might_sleep("zsmalloc: a page request");
        let zspage = self.descriptor(size).map_err(|error| self.refused(error))?;
        // Goes back if the provider fails or panics.
        let mut bare = Bare { core: self, zspage: Some(zspage), charged: 0 };
        // What any run costs at least, so that at the limit none is requested.
        bare.charge(pages_of(self.page_size, 0, bytes).count_ones() as usize)?;
        let run = self.provider.alloc_run(usize::from(size.pages))?;
        let mut fresh = Fresh { zspage, run, charged: 0, index: 0 };
        let mut needed = first_pages(size, self.page_size, bytes, &mut fresh);
        let warm = needed | fresh.run.resident();
        if bare.charge(warm.count_ones() as usize).is_err() {
            // Pages that came warm and that the object does not need.
            for page in (0..fresh.run.pages()).filter(|page| warm & !needed >> page & 1 == 1) {
                // SAFETY: the run is this call's alone, from this provider.
                unsafe { self.provider.discard(&mut fresh.run, page..page + 1) };
            }
            needed |= fresh.run.resident();
            if let Err(refused) = bare.charge(needed.count_ones() as usize) {
                // SAFETY: allocated from this provider and attached to nothing.
                unsafe { self.provider.free_run(fresh.run) };
                return Err(refused.into());
            }
        }
        fresh.charged = bare.keep();
        Ok(fresh)
    }

    fn descriptor(&self, size: &SizeClass) -> Result<u32, TableError> {
        let lanes = lanes_of(size);
        {
            let tier = Zspage::tier(lanes);
            let _held = lockdep::acquire(Rank::Leaf);
            let mut vacant = self.vacant.lock();
            let zspage = vacant[tier];
            if let Some(z) = self.zspages.get(zspage) {
                vacant[tier] = z.next.get();
                return Ok(zspage);
            }
        }
        let first = self.lanes.extend(lanes, Lane::default)?;
        self.zspages.push(Zspage::new(first, lanes as u16))
    }

    fn give_up_fresh(&self, fresh: Fresh) {
        let Fresh { zspage, run, charged, .. } = fresh;
        self.uncharge(charged);
        let (base, touched) = (run.base().as_ptr(), run.resident());
        let detached = Detached { zspage, base, pages: run.pages(), touched };
        if std::thread::panicking() {
            // The provider may be what panics.
            self.leave(detached);
        } else {
            self.give_back(detached);
        }
    }

    fn refused(&self, error: TableError) -> ZpoolError {
        match error {
            TableError::NoMemory { bytes } => ZpoolError::OutOfMetadata { backend: NAME, bytes },
            _ => ZpoolError::TooManyObjects { backend: NAME, limit: u64::from(u32::MAX) },
        }
    }
}

/// The place of a fresh run that touches the fewest new pages, which is noted, and its pages.
fn first_pages(size: &SizeClass, page_size: usize, bytes: usize, fresh: &mut Fresh) -> u16 {
    let pages = |index: usize| {
        let start = size.start_of(index);
        pages_of(page_size, start, start + bytes)
    };
    let new = |index: &usize| (pages(*index) & !fresh.run.resident()).count_ones();
    fresh.index = (0..usize::from(size.objects)).min_by_key(new).unwrap_or(0);
    pages(fresh.index)
}

/// A descriptor without a run, and pages charged for one. Dropped, both go back.
struct Bare<'a> {
    core: &'a Core,
    zspage: Option<u32>,
    charged: usize,
}

impl Bare<'_> {
    /// Has `pages` pages charged, no more and no less.
    fn charge(&mut self, pages: usize) -> Result<(), PageError> {
        if let Some(more) = pages.checked_sub(self.charged) {
            self.core.charge(more)?;
        } else {
            self.core.uncharge(self.charged - pages);
        }
        self.charged = pages;
        Ok(())
    }

    /// Keeps both; the pages.
    fn keep(mut self) -> usize {
        self.zspage = None;
        core::mem::take(&mut self.charged)
    }
}

impl Drop for Bare<'_> {
    fn drop(&mut self) {
        self.core.uncharge(self.charged);
        if let Some(zspage) = self.zspage {
            self.core.recycle(zspage);
        }
    }
}
