//! The state of a pool, and the functions that find descriptors by number and lock pages.

use std::sync::Arc;

use zpool_api::{Handle, PageBudget, PageProvider, PoolTag, SlotRef, ZpoolError};
use zpool_base::counter::Counter;
use zpool_base::stable::StableTable;
use zpool_base::unwind::each_in_destructor;

use crate::chunks::ChunkSize;
use crate::desc::{Buddy, PageDesc};
use crate::layout::{Layout, Slot};
use crate::left::Left;
use crate::locks::{ListsOf, Locked, Locking, PoolLock};
use crate::page::Page;
use crate::source::PageSource;

/// A page of layout `L` while it is locked.
pub(crate) type Held<'a, L, const N: usize> =
    <<L as Layout<N>>::Locks as Locking>::Held<'a, Page<L, N>>;

/// The lists of a pool with layout `L` while they are locked.
pub(crate) type LockedLists<'a, L, const N: usize> =
    Locked<'a, ListsOf<<L as Layout<N>>::Locks, Page<L, N>>>;

/// The whole state of a pool. It is private to the crate, so that nobody else can end pins or commit
/// objects.
pub(crate) struct Core<L: Layout<N>, const N: usize> {
    pub(crate) source: PageSource,
    pub(crate) chunk_size: ChunkSize,
    pub(crate) tag: PoolTag,
    pub(crate) first_generation: u32,
    pub(crate) table: StableTable<PageDesc<L, N>>,
    pub(crate) lists: PoolLock<L::Locks, Page<L, N>>,
    /// Freed objects that their last readers left to the pool.
    pub(crate) left: Left,
    pub(crate) objects: Counter,
    pub(crate) object_bytes: Counter,
    /// The number of PARKED objects. It may be below 0 for a moment, if the last reader subtracts one
    /// before the thread that freed the object adds one.
    pub(crate) parked: Counter,
}

impl<L: Layout<N>, const N: usize> Core<L, N> {
    pub(crate) fn new(
        provider: Arc<dyn PageProvider>,
        budget: Option<Arc<PageBudget>>,
        first_generation: u32,
    ) -> Result<Self, ZpoolError> {
        let source = PageSource::new(L::NAME, provider, budget)?;
        Ok(Core {
            chunk_size: ChunkSize::of_page(source.page_size()),
            source,
            tag: PoolTag::next(),
            first_generation,
            table: StableTable::with_limit(Slot::<N>::MAX_PAGES),
            lists: PoolLock::new(),
            left: Left::new(),
            objects: Counter::default(),
            object_bytes: Counter::default(),
            parked: Counter::default(),
        })
    }

    /// Returns the buddy with this slot number, or `None` if there is none. Any number may be passed.
    #[inline]
    pub(crate) fn find(&self, slot: u32) -> Option<Buddy<'_, L, N>> {
        let slot = Slot::from_number(slot)?;
        Some(Buddy { slot, desc: self.table.get(slot.page)? })
    }

    /// Returns the buddy with this slot number, which must be in use.
    #[expect(clippy::expect_used, reason = "slots in use have descriptors, which the table keeps")]
    #[inline]
    pub(crate) fn known(&self, slot: u32) -> Buddy<'_, L, N> {
        self.find(slot).expect("a slot in use has a descriptor")
    }

    /// Returns the descriptor of the page with this number, which must be in use.
    #[expect(clippy::expect_used, reason = "page numbers are given out with a descriptor")]
    #[inline]
    pub(crate) fn desc(&self, page: u32) -> &PageDesc<L, N> {
        self.table.get(page).expect("a page number in use has a descriptor")
    }

    /// Locks a page that was found in the lists. `lists` is the guard of these lists. With page locks, this
    /// unlocks the lists.
    #[inline]
    pub(crate) fn lock_found<'a>(
        &'a self,
        lists: LockedLists<'a, L, N>,
        page: u32,
        desc: &'a PageDesc<L, N>,
    ) -> Held<'a, L, N> {
        L::Locks::lock_found(lists, &self.lists, page, &desc.page)
    }

    /// Locks a page and returns the guard.
    #[inline]
    pub(crate) fn lock<'a>(&'a self, page: u32, desc: &'a PageDesc<L, N>) -> Held<'a, L, N> {
        L::Locks::lock(&self.lists, page, &desc.page)
    }

    /// Returns the handle of a buddy's object with this generation.
    #[expect(clippy::expect_used, reason = "the word keeps generations within a handle's bits")]
    pub(crate) fn handle(&self, buddy: Buddy<'_, L, N>, generation: u32) -> Handle {
        let bits = SlotRef::new(generation, buddy.slot.number());
        Handle::new(self.tag, bits.expect("an object's generation fits in a handle").to_bits())
    }

    /// Returns the slot and generation in a handle. Fails with `InvalidHandle` if the handle has another
    /// pool's tag.
    #[inline]
    pub(crate) fn slot_of(&self, handle: Handle) -> Result<SlotRef, ZpoolError> {
        let bits = handle.bits_of(self.tag).ok_or_else(|| ZpoolError::invalid(handle))?;
        Ok(SlotRef::from_bits(bits))
    }
}

impl<L: Layout<N>, const N: usize> Drop for Core<L, N> {
    fn drop(&mut self) {
        let source = &self.source;
        each_in_destructor(self.table.iter().filter_map(|desc| {
            let base = desc.detach()?;
            // SAFETY: the page is attached. Guards borrow the pool, so only forgotten guards can be left,
            // and these never touch the page.
            Some(move || unsafe { source.give_back(base) })
        }));
    }
}
