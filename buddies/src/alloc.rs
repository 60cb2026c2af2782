//! Allocation: takes room in a page that has some, or in a new page. Moves the page's middle object if it
//! is in the way.
//!
//! Under the pool lock, an allocation takes the page with the tightest room off its lists, and takes over
//! the lists' reference to the page. Under the page's lock, it moves the middle object if necessary, and
//! gives the new object its room and a reference. Then the page goes back on a list. With a single lock,
//! the page stays on its list until it moves to another one. Afterwards the allocation claims the object's
//! word: FREE → OWNED. The owner writes the bytes without a lock. `publish` makes the word LIVE, and from
//! then on the object has a handle.

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

/// The number of pages that an allocation tries. A page that was found may still have no room, because its
/// middle object is being read or written and cannot be moved.
const TRIES: u32 = 16;

impl<L: Layout<N>, const N: usize> Core<L, N> {
    /// Takes room for `size` bytes and returns the buddy. The buddy's word is OWNED, and the caller owns
    /// it. Fails like [`zpool_api::Zpool::malloc`].
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
            // Another thread has made room in the meantime.
            drop(lists);
            if let Some(found) = self.reserve_in_a_page(chunks) {
                found.word().claim(size);
                // Dropping the fresh page returns it to the provider, which may panic. Then `abort` frees
                // the room.
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

    /// Takes room in the page with the tightest fit. Returns `None` if [`TRIES`] pages turned out to have
    /// no room, or if the lists have no further page with room.
    fn reserve_in_a_page(&self, chunks: usize) -> Option<Buddy<'_, L, N>> {
        for _ in 0..TRIES {
            let mut lists = self.lists.lock();
            // With a single lock the page may stay on its list, because the lock is held until the page
            // moves to another list.
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

    /// Puts back a page whose middle object cannot be moved now. Puts it on a list where another try for
    /// the same size does not find it.
    #[cold]
    fn pass_by(&self, page: u32, mut held: Held<'_, L, N>) {
        let to = held.page().resting_state(false);
        let unreferenced = self.settle(page, &mut held, Who::Holder, to);
        drop(held);
        self.give_back(unreferenced);
    }

    /// Takes room in a page and returns the number of the new buddy. Moves the middle object if necessary.
    /// Returns `None` if there is no room, or if the middle object cannot be moved now. The caller holds
    /// the page's lock.
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

    /// Moves the middle object to the chunk `to` (in-page compaction). Returns false if the object is being
    /// written, read or freed. The caller holds the page's lock. A thread that frees the object takes this
    /// lock, too.
    fn move_middle(&self, middle: Buddy<'_, L, N>, page: &mut Page<L, N>, to: u8) -> bool {
        if !middle.word().try_move() {
            return false;
        }
        middle.watched().write();
        let len = middle.word().peek().bytes();
        // SAFETY: the word is LIVE and MOVING. The page's lock is held, so no thread can free the object.
        let from = unsafe { middle.bytes(len, self.chunk_size) }.cast::<u8>();
        page.set_middle_at(to);
        middle.desc.middle.set(to);
        // SAFETY: the word is still LIVE and MOVING, and the page's lock is still held.
        let to = unsafe { middle.bytes(len, self.chunk_size) }.cast::<u8>();
        // SAFETY: both places are `len` bytes of the page, and they may overlap. The old place belongs to
        // the object. The part of the new place that lies outside the old one is free. Readers wait while
        // the word is MOVING, and no thread can free the object, because the page's lock is held (invariant
        // 2 of `desc.rs`).
        unsafe { from.copy_to(to, len) };
        middle.word().end_move();
        true
    }

    /// Attaches memory to a vacant page number, and takes room in the page for an object of `chunks`
    /// chunks.
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
        // This is the reference of the lists.
        guarded.get();
        guarded.occupy(Room::FIRST, chunks);
        let to = guarded.resting_state(true);
        held.lists(|lists| lists.attach(page, to));
        Buddy { slot: Slot::new(page, Room::FIRST.nth), desc }
    }

    /// Returns a page number that has a record and a descriptor, but no memory. If there is no memory for
    /// the descriptor, the number stays vacant and serves the next try. So a failure uses up nothing.
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

    /// Adds descriptors until this page number has one. If several threads do this at the same time, a
    /// thread may add a descriptor that another one needs.
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

    /// Makes the word LIVE and returns the object's handle. From now on the object can be read.
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

/// Frees the room of an object that is being made, if the provider panics.
struct AbortOnDrop<'a, L: Layout<N>, const N: usize>(&'a Core<L, N>, u32);

impl<L: Layout<N>, const N: usize> Drop for AbortOnDrop<'_, L, N> {
    fn drop(&mut self) {
        self.0.abort(u64::from(self.1));
    }
}
