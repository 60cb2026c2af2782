//! Allocation: room in a page, or a fresh page; the middle object moved if it stands in the way.
//!
//! The page with the tightest room is taken off its list under the pool lock, and with it the lists'
//! reference. Under its lock an object gets room, the middle one moved if need be, and a reference; the
//! page goes back to its list. Who was given room claims the word: FREE → OWNED. The bytes are written
//! outside of the locks; `publish` makes the word LIVE, and the handle exists from there on.

use zpool_api::{Handle, ObjCommit, ZpoolError};
use zpool_base::stable::TableError;
use zpool_base::unwind::in_destructor;

use crate::core::{Core, Held, LockedLists};
use crate::desc::{Buddy, PageDesc};
use crate::layout::{Layout, Room, Slot};
use crate::locks::{HeldPage, Locking};
use crate::middle::{MIDDLE, Middle};
use crate::page::Page;
use crate::source::FreshPage;
use crate::states::Who;

/// Pages that an allocation tries: one whose middle object is read or being written may have no room.
const TRIES: u32 = 16;

impl<L: Layout<N>, const N: usize> Core<L, N> {
    /// Takes room for `size` bytes: the word is OWNED afterwards, the caller its owner.
    pub(crate) fn reserve(&self, size: usize) -> Result<Buddy<'_, L, N>, ZpoolError> {
        if size == 0 {
            return Err(ZpoolError::EmptyObject);
        }
        let max = self.source.page_size();
        if size > max {
            return Err(ZpoolError::ObjectTooLarge { size, max, backend: L::NAME });
        }
        self.finish_left();
        let chunks = self.chunk_size.chunks(size);
        if let Some(found) = self.reserve_in_a_page(chunks) {
            found.word().claim(size);
            return Ok(found);
        }
        let fresh = self.source.alloc()?;
        let mut lists = self.lists.lock();
        if lists.tightest(chunks).is_some() {
            // Room appeared meanwhile.
            drop(lists);
            if let Some(found) = self.reserve_in_a_page(chunks) {
                found.word().claim(size);
                // The provider may panic when it gets the page back.
                let abort = AbortOnDrop(self, found.slot.number());
                drop(fresh);
                core::mem::forget(abort);
                return Ok(found);
            }
            lists = self.lists.lock();
        }
        let (page, lists) = self.vacant_number(lists)?;
        let found = self.attach(fresh, lists, page, chunks);
        found.word().claim(size);
        Ok(found)
    }

    /// Room in the page that fits tightest; none if no page has any, or none of the [`TRIES`] that fit
    /// tightest.
    fn reserve_in_a_page(&self, chunks: usize) -> Option<Buddy<'_, L, N>> {
        for _ in 0..TRIES {
            let mut lists = self.lists.lock();
            // With one lock the page may stay where it is: the lock is held until it is put elsewhere.
            let page =
                if L::Locks::ONE { lists.tightest(chunks) } else { lists.take_for_alloc(chunks) }?;
            let desc = self.desc(page);
            let mut held = self.lock_found(lists, page, desc);
            let guarded = held.page();
            if let Some(nth) = self.make_room(desc, page, guarded, chunks) {
                let to = guarded.resting_state(true);
                held.lists(|lists| {
                    if L::Locks::ONE {
                        lists.move_to_front(page, to);
                    } else {
                        lists.settle(page, Who::Holder, to);
                    }
                });
                return Some(Buddy { slot: Slot::new(page, nth), desc });
            }
            self.pass_by(page, held);
        }
        None
    }

    /// Puts a page back whose middle object cannot be moved for now: where it is not found for an object
    /// as large.
    #[cold]
    fn pass_by(&self, page: u32, mut held: Held<'_, L, N>) {
        let to = held.page().resting_state(false);
        let unreferenced = self.settle(page, &mut held, Who::Holder, to);
        drop(held);
        self.give_back(unreferenced);
    }

    /// Takes room in a page, its middle object moved if need be. Under the page's lock.
    fn make_room(
        &self,
        desc: &PageDesc<L, N>,
        number: u32,
        page: &mut Page<L, N>,
        chunks: usize,
    ) -> Option<usize> {
        let room = page.room(chunks)?;
        if let Some(to) = room.move_middle_to {
            let middle = Buddy { slot: Slot::new(number, MIDDLE), desc };
            if !self.move_middle(middle, page, to) {
                return None;
            }
        }
        page.occupy(room, chunks);
        if L::Middle::MOVES && room.nth == MIDDLE {
            desc.middle.set(room.at);
        }
        Some(room.nth)
    }

    /// In-page compaction: moves the middle object, unless it is read or being written. Under the
    /// page's lock, which its freer takes, too.
    fn move_middle(&self, middle: Buddy<'_, L, N>, page: &mut Page<L, N>, to: u8) -> bool {
        if !middle.word().try_move() {
            return false;
        }
        middle.watched().write();
        let len = middle.word().peek().bytes();
        // SAFETY: LIVE, and the freer is locked out.
        let from = unsafe { middle.bytes(len, self.chunk_size) }.cast::<u8>();
        page.set_middle_at(to);
        middle.desc.middle.set(to);
        // SAFETY: as above.
        let to = unsafe { middle.bytes(len, self.chunk_size) }.cast::<u8>();
        // SAFETY: `len` bytes of the page at both places, which may overlap; the old one is the
        // object's, the rest of the new one is free, and readers and the freer are locked out
        // (invariant 2).
        unsafe { from.copy_to(to, len) };
        middle.word().end_move();
        true
    }

    /// Attaches memory to a vacant page, with an object of `chunks` chunks in it.
    fn attach<'a>(
        &'a self,
        fresh: FreshPage<'a>,
        lists: LockedLists<'a, L, N>,
        page: u32,
        chunks: usize,
    ) -> Buddy<'a, L, N> {
        let desc = self.desc(page);
        let mut held = self.lock_found(lists, page, desc);
        desc.attach(fresh.attach());
        let guarded = held.page();
        // The lists' reference.
        guarded.get();
        guarded.occupy(Room::FIRST, chunks);
        let to = guarded.resting_state(true);
        held.lists(|lists| lists.attach(page, to));
        Buddy { slot: Slot::new(page, Room::FIRST.nth), desc }
    }

    /// A page number without a page, which has a record and a descriptor. One that gets no descriptor is
    /// kept for the next try, so that a failure uses nothing up.
    fn vacant_number<'a>(
        &'a self,
        mut lists: LockedLists<'a, L, N>,
    ) -> Result<(u32, LockedLists<'a, L, N>), ZpoolError> {
        let refused = |bytes| ZpoolError::OutOfMetadata { backend: L::NAME, bytes };
        let page = match lists.take_vacant() {
            Some(page) => page,
            None => lists.new_number(L::Locks::parts(|| Page::NEW).1).map_err(refused)?,
        };
        if self.table.len() <= page as usize {
            drop(lists);
            self.add_descriptors(page)?;
            lists = self.lists.lock();
        }
        Ok((page, lists))
    }

    /// Adds descriptors until this page number has one. Another thread may add it, and this one that of
    /// another's.
    #[cold]
    fn add_descriptors(&self, page: u32) -> Result<(), ZpoolError> {
        while self.table.len() <= page as usize {
            if let Err(error) = self.table.push(PageDesc::new(self.first_generation)) {
                self.lists.lock().put_vacant(page);
                let (backend, limit) = (L::NAME, N as u64 * Slot::<N>::MAX_PAGES as u64);
                return Err(match error {
                    TableError::NoMemory { bytes } => ZpoolError::OutOfMetadata { backend, bytes },
                    _ => ZpoolError::TooManyObjects { backend, limit },
                });
            }
        }
        Ok(())
    }

    /// OWNED → LIVE: the handle exists from here on.
    #[inline]
    pub(crate) fn publish(&self, buddy: Buddy<'_, L, N>) -> Handle {
        self.objects.add(1);
        self.object_bytes.add(buddy.word().peek().bytes() as u64);
        self.handle(buddy, buddy.word().publish().generation())
    }
}

impl<L: Layout<N>, const N: usize> ObjCommit for Core<L, N> {
    fn commit(&self, token: u64) -> Result<Handle, ZpoolError> {
        self.source.here()?;
        Ok(self.publish(self.known(token as u32)))
    }

    fn abort(&self, token: u64) {
        if self.source.is_here() {
            in_destructor(|| self.give_up_now(self.known(token as u32), false));
        }
    }
}

/// Gives up an object that is being made, when the provider panics.
struct AbortOnDrop<'a, L: Layout<N>, const N: usize>(&'a Core<L, N>, u32);

impl<L: Layout<N>, const N: usize> Drop for AbortOnDrop<'_, L, N> {
    fn drop(&mut self) {
        self.0.abort(u64::from(self.1));
    }
}
