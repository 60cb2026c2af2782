//! Allocation, reads and frees: where the pool lock, the object words and the pages' bytes meet.
//!
//! A page has a *descriptor* (two object words and the page's address) in a type-stable table, so
//! that any slot number leads to a word or to nothing, and a *record* under the pool lock.
//!
//! # Invariants of the bytes
//! 1. A descriptor's `base` is the start of a page of this pool's provider from `attach` to the
//!    moment the page's last user is gone. It is stored before the first word of the page becomes
//!    OWNED and not changed while any word of it is OWNED, LIVE or PARKED.
//! 2. The bytes of a buddy belong to its word's owner in state OWNED, and are immutable in states
//!    LIVE and PARKED. First and last buddy never overlap: together they have at most 64 chunks.
//!
//! # Order of events
//! * allocate: room is taken under the pool lock, which makes the caller the word's owner: FREE →
//!   OWNED; the bytes are written outside of the lock; `publish` makes the word LIVE.
//! * free: LIVE → OWNED, or → PARKED and later, by the last reader, → OWNED; then under the pool
//!   lock → FREE and the room is given up; if the page has no user left its memory goes back to
//!   the provider outside of the lock. A last reader leaves the object on the pool's stack (`left`),
//!   still OWNED; the next call that may block gives it up.

use core::fmt;
use core::ptr::{NonNull, null_mut};
use std::sync::Arc;

use zpool_api::{
    Evict, Handle, ObjCommit, ObjPin, ObjRead, ObjWrite, PageBudget, PageProvider, PoolTag,
    SlotRef, Zpool, ZpoolCaps, ZpoolError, ZpoolStats,
};
use zpool_base::fork::Leaked;
use zpool_base::lockdep::{self, Rank};
use zpool_base::prefetch;
use zpool_base::stable::{StableTable, TableError};
use zpool_base::unwind::{each_in_destructor, in_destructor};

use buddies::{
    CHUNKS, Freed, FreshPage, Leaves, Left, ObjWord, PageSource, PinError, READER_LIMIT, State,
    Word,
};

use crate::pages::{Buddy, Detached, Pages, Slot};
use crate::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use crate::sync::{Mutex, MutexGuard, Watched};

pub(crate) const NAME: &str = "zbud";
const FIRST_GENERATION: u32 = 1;

/// What any thread may reach by a slot number; see the module's invariants.
#[derive(Debug)]
pub(crate) struct PageDesc {
    pub(crate) words: [ObjWord; 2],
    base: AtomicPtr<u8>,
    /// Stand for the bytes of the two buddies under the model checker.
    watched: [Watched; 2],
}

impl PageDesc {
    fn new(generation: u32) -> Self {
        PageDesc {
            words: [ObjWord::new(generation), ObjWord::new(generation)],
            base: AtomicPtr::new(null_mut()),
            watched: [Watched::new(), Watched::new()],
        }
    }

    pub(crate) fn word(&self, buddy: Buddy) -> &ObjWord {
        &self.words[buddy as usize]
    }
}

/// The pool lock's guard together with its lockdep entry.
pub(crate) struct Locked<'a> {
    pub(crate) pages: MutexGuard<'a, Pages>,
    _held: lockdep::Held,
}

/// All of the pool; private, so that nobody else can end pins or commit objects.
pub(crate) struct Core {
    pub(crate) source: PageSource,
    tag: PoolTag,
    first_generation: u32,
    pub(crate) table: StableTable<PageDesc>,
    pages: Mutex<Pages>,
    /// Freed objects that their last readers left.
    left: Left,
    objects: AtomicUsize,
    object_bytes: AtomicUsize,
    parked: AtomicUsize,
}

/// A pool of at most two objects a page. See the crate's front page.
///
/// `Send` and `Sync`; used as `Arc<dyn Zpool>`. Dropping it gives all pages back to the provider.
///
/// In a child of the process that made it, after `fork`, every call is [`ZpoolError::Forked`], and the
/// pool and its guards are leaked when they are dropped.
pub struct Zbud {
    core: Leaked<Core>,
}

impl Zbud {
    /// An empty pool over `provider`. Allocates nothing yet.
    ///
    /// # Errors
    /// [`ZpoolError::UnsupportedPageSize`] for pages of less than 4 KiB or more than 64 KiB.
    pub fn new(provider: Arc<dyn PageProvider>) -> Result<Self, ZpoolError> {
        Self::with_budget(provider, None)
    }

    /// As [`Zbud::new`], with a budget that each page is charged to while it is among the pool's
    /// [`total_pages`](Zpool::total_pages). An object that fits beside another needs none of it.
    ///
    /// # Errors
    /// As [`Zbud::new`].
    pub fn with_budget(
        provider: Arc<dyn PageProvider>,
        budget: Option<Arc<PageBudget>>,
    ) -> Result<Self, ZpoolError> {
        Self::starting_at(provider, budget, FIRST_GENERATION)
    }

    pub(crate) fn starting_at(
        provider: Arc<dyn PageProvider>,
        budget: Option<Arc<PageBudget>>,
        first_generation: u32,
    ) -> Result<Self, ZpoolError> {
        let core = Core {
            source: PageSource::new(NAME, provider, budget)?,
            tag: PoolTag::next(),
            first_generation,
            table: StableTable::with_limit(Slot::MAX_PAGES),
            pages: Mutex::new(Pages::new()),
            left: Left::new(),
            objects: AtomicUsize::new(0),
            object_bytes: AtomicUsize::new(0),
            parked: AtomicUsize::new(0),
        };
        Ok(Zbud { core: Leaked::new(core) })
    }
}

impl Core {
    pub(crate) fn lock(&self) -> Locked<'_> {
        let held = lockdep::acquire(Rank::Pool);
        Locked { pages: self.pages.lock(), _held: held }
    }

    fn chunk_size(&self) -> usize {
        self.source.page_size() / CHUNKS
    }

    /// Where a buddy of `len` bytes is; the word must be OWNED, LIVE or PARKED and held so.
    fn bytes(&self, desc: &PageDesc, buddy: Buddy, len: usize) -> NonNull<[u8]> {
        // Relaxed: stored before the word became OWNED; whoever gets here has read that or a later
        // value of the word with Acquire, or holds the pool lock, or is the owner.
        let base = desc.base.load(Ordering::Relaxed);
        let page_size = self.source.page_size();
        let offset = match buddy {
            Buddy::First => 0,
            Buddy::Last => page_size - len.div_ceil(self.chunk_size()) * self.chunk_size(),
        };
        debug_assert!(!base.is_null() && offset + len <= page_size);
        // SAFETY: `base` is the start of a page (invariant 1), and `offset` is inside of it.
        let start = unsafe { base.add(offset) };
        // SAFETY: inside an allocation, hence not null.
        let start = unsafe { NonNull::new_unchecked(start) };
        NonNull::slice_from_raw_parts(start, len)
    }

    /// Takes room for `size` bytes: the word is OWNED afterwards, the caller its owner.
    fn reserve(&self, size: usize) -> Result<(Slot, &PageDesc), ZpoolError> {
        if size == 0 {
            return Err(ZpoolError::EmptyObject);
        }
        let page_size = self.source.page_size();
        if size > page_size {
            return Err(ZpoolError::ObjectTooLarge { size, max: page_size, backend: NAME });
        }
        self.finish_left();
        let chunks = size.div_ceil(self.chunk_size());
        let found = self.lock().pages.take_room(chunks);
        let slot = match found {
            Some(slot) => slot,
            None => {
                let fresh = self.source.alloc()?;
                return self.attach(fresh, chunks, size);
            }
        };
        self.claim(slot, size)
    }

    /// Attaches a page, or gives it back if room appeared meanwhile. With an object of `size` bytes.
    fn attach<'a>(
        &'a self,
        fresh: FreshPage<'a>,
        chunks: usize,
        size: usize,
    ) -> Result<(Slot, &'a PageDesc), ZpoolError> {
        let mut locked = self.lock();
        if let Some(slot) = locked.pages.take_room(chunks) {
            drop(locked);
            let claimed = self.claim(slot, size)?;
            // The provider may panic when it gets the page back.
            let abort = AbortOnDrop(self, u64::from(slot.number()));
            drop(fresh);
            core::mem::forget(abort);
            return Ok(claimed);
        }
        let page = match locked.pages.take_vacant() {
            Some(page) => page,
            None => match self.new_page_number(&mut locked) {
                Ok(page) => page,
                Err(error) => {
                    drop(locked);
                    return Err(error);
                }
            },
        };
        if let Some(desc) = self.table.get(page) {
            // Relaxed: published by the word's later Release, and by the pool lock.
            desc.base.store(fresh.attach().as_ptr(), Ordering::Relaxed);
        }
        let slot = locked.pages.attach(page, chunks);
        drop(locked);
        self.claim(slot, size)
    }

    fn new_page_number(&self, locked: &mut Locked<'_>) -> Result<u32, ZpoolError> {
        let refused = |bytes| ZpoolError::OutOfMetadata { backend: NAME, bytes };
        locked.pages.reserve().map_err(refused)?;
        let page = self.table.push(PageDesc::new(self.first_generation)).map_err(|e| match e {
            TableError::NoMemory { bytes } => refused(bytes),
            _ => ZpoolError::TooManyObjects { backend: NAME, limit: 2 * Slot::MAX_PAGES as u64 },
        })?;
        locked.pages.add_record(page);
        Ok(page)
    }

    /// The word of a slot whose room was just taken: FREE → OWNED.
    fn claim(&self, slot: Slot, size: usize) -> Result<(Slot, &PageDesc), ZpoolError> {
        let desc = self.desc(slot)?;
        desc.word(slot.buddy).claim(size);
        Ok((slot, desc))
    }

    fn desc(&self, slot: Slot) -> Result<&PageDesc, ZpoolError> {
        // A slot whose room was taken has a descriptor; a made-up one may not.
        self.table
            .get(slot.page)
            .ok_or_else(|| ZpoolError::InvalidHandle { handle: u64::from(slot.number()) })
    }

    /// The descriptor of a slot that is in use.
    #[expect(clippy::expect_used, reason = "slots in use have descriptors, which the table keeps")]
    fn known(&self, slot: Slot) -> &PageDesc {
        self.table.get(slot.page).expect("a slot in use has a descriptor")
    }

    /// OWNED → LIVE: the handle exists from here on.
    fn publish(&self, slot: Slot, desc: &PageDesc) -> Result<Handle, ZpoolError> {
        let bytes = desc.word(slot.buddy).peek().bytes();
        // Relaxed, here and where they are subtracted: counters, read for statistics only.
        self.objects.fetch_add(1, Ordering::Relaxed);
        self.object_bytes.fetch_add(bytes, Ordering::Relaxed);
        let live = desc.word(slot.buddy).publish();
        let generation = live.generation();
        let bits = SlotRef::new(generation, slot.number())
            .ok_or_else(|| ZpoolError::InvalidHandle { handle: u64::from(generation) })?;
        Ok(Handle::new(self.tag, bits.to_bits()))
    }

    /// The word's owner gives the room up: OWNED → FREE. `published` as in `ObjWord::release`.
    fn give_up(&self, slot: Slot, desc: &PageDesc, published: bool) {
        let detached = {
            let mut locked = self.lock();
            let usable = desc.word(slot.buddy).release(published);
            locked.pages.vacate(slot, usable)
        };
        if let Some(detached) = detached {
            self.give_back(detached);
        }
    }

    /// Gives a detached page's memory back and lets its number serve again.
    pub(crate) fn give_back(&self, detached: Detached) {
        let Detached(page) = detached;
        let Some(desc) = self.table.get(page) else { return };
        // Relaxed: both words are FREE and the page is Vacant, so nobody else looks at `base`
        // until the number is recycled under the pool lock, which orders the two.
        let base = desc.base.swap(null_mut(), Ordering::Relaxed);
        self.lock().pages.recycle(page);
        if let Some(base) = NonNull::new(base) {
            // SAFETY: attached by `attach`; no word of it is OWNED, LIVE or PARKED, so nobody touches it
            // (invariant 2), and `base` was taken out, so it is given back once.
            unsafe { self.source.give_back(base) };
        }
    }

    /// Gives up what readers left. With nothing locked.
    pub(crate) fn finish_left(&self) {
        self.left.finish(self);
    }

    /// Frees an object whose handle's bits are known.
    fn free_slot(&self, at: SlotRef) -> Option<()> {
        let slot = Slot::from_number(at.slot());
        let desc = self.table.get(slot.page)?;
        let freed = desc.word(slot.buddy).free(at.generation())?;
        let (Freed::Owned(word) | Freed::Parked(word)) = freed;
        // Relaxed, here and below: counters, as in `publish`.
        self.objects.fetch_sub(1, Ordering::Relaxed);
        self.object_bytes.fetch_sub(word.bytes(), Ordering::Relaxed);
        match freed {
            Freed::Owned(_) => {
                self.recycle_bytes(desc, slot);
                self.give_up(slot, desc, true);
            }
            Freed::Parked(_) => {
                // Relaxed: a counter.
                self.parked.fetch_add(1, Ordering::Relaxed);
            }
        }
        Some(())
    }

    /// Tells the model checker that the owner may write the bytes from here on.
    fn recycle_bytes(&self, desc: &PageDesc, slot: Slot) {
        desc.watched[slot.buddy as usize].write();
    }

    /// A parked object fell to this thread, a last reader, which leaves it on the stack: readers take no
    /// lock and call no provider.
    fn leave_parked(&self, slot: Slot, desc: &PageDesc, owned: Option<Word>) {
        if let Some(word) = owned {
            debug_assert_eq!(word.state(), State::Owned);
            self.recycle_bytes(desc, slot);
            // Wrapping: the freer may count its parked object after its reader took it off.
            self.parked.fetch_sub(1, Ordering::Relaxed);
            // SAFETY: OWNED by this thread since the CAS that gave it `owned`.
            unsafe { self.left.push(self, slot.number()) };
        }
    }

    /// Pins the object of this slot and generation.
    #[inline]
    fn read(&self, at: SlotRef) -> Result<ObjRead<'_>, PinError> {
        let slot = Slot::from_number(at.slot());
        let desc = self.table.get(slot.page).ok_or(PinError::NotLive(None))?;
        match desc.word(slot.buddy).pin(at.generation()) {
            Ok(word) => {
                desc.watched[slot.buddy as usize].read();
                let bytes = self.bytes(desc, slot.buddy, word.bytes());
                // SAFETY: the word is pinned, so it stays LIVE or PARKED until `unpin`, and its
                // bytes immutable (invariant 2); the page stays attached (invariant 1).
                Ok(unsafe { ObjRead::from_pin(bytes, self, u64::from(slot.number())) })
            }
            Err(error) => {
                if let PinError::NotLive(owned) = error {
                    self.leave_parked(slot, desc, owned);
                }
                Err(error)
            }
        }
    }

    /// Pins the buddy's object if it is live, whatever its generation. For reclaim.
    pub(crate) fn read_current(&self, slot: Slot) -> Option<(Handle, ObjRead<'_>)> {
        let word = self.table.get(slot.page)?.word(slot.buddy).peek();
        if word.state() != State::Live {
            return None;
        }
        let at = SlotRef::new(word.generation(), slot.number())?;
        let object = self.read(at).ok()?;
        Some((Handle::new(self.tag, at.to_bits()), object))
    }

    pub(crate) fn free(&self, handle: Handle) -> Result<(), ZpoolError> {
        let bits = handle.bits_of(self.tag).ok_or_else(|| ZpoolError::invalid(handle))?;
        self.free_slot(SlotRef::from_bits(bits)).ok_or_else(|| ZpoolError::invalid(handle))
    }
}

impl ObjPin for Core {
    #[inline]
    fn unpin(&self, token: u64) {
        if !self.source.is_here() {
            return;
        }
        let slot = Slot::from_number(token as u32);
        // The token is of a pinned object, whose descriptor the table keeps for ever.
        if let Some(desc) = self.table.get(slot.page) {
            desc.watched[slot.buddy as usize].read();
            let owned = desc.word(slot.buddy).unpin();
            self.leave_parked(slot, desc, owned);
        }
    }
}

// SAFETY: the bytes of an OWNED object, at least a chunk of 64 or more.
unsafe impl Leaves for Core {
    fn link(&self, slot: u32) -> NonNull<[u8; 8]> {
        let slot = Slot::from_number(slot);
        let desc = self.known(slot);
        self.bytes(desc, slot.buddy, desc.word(slot.buddy).peek().bytes()).cast()
    }

    fn finish(&self, slot: u32) {
        let slot = Slot::from_number(slot);
        let desc = self.known(slot);
        self.recycle_bytes(desc, slot);
        self.give_up(slot, desc, true);
    }
}

impl ObjCommit for Core {
    fn commit(&self, token: u64) -> Result<Handle, ZpoolError> {
        self.source.here()?;
        let slot = Slot::from_number(token as u32);
        let desc = self.desc(slot)?;
        self.publish(slot, desc)
    }

    fn abort(&self, token: u64) {
        if !self.source.is_here() {
            return;
        }
        let slot = Slot::from_number(token as u32);
        if let Ok(desc) = self.desc(slot) {
            in_destructor(|| self.give_up(slot, desc, false));
        }
    }
}

/// Gives up an object that is being made, when the provider panics.
struct AbortOnDrop<'a>(&'a Core, u64);

impl Drop for AbortOnDrop<'_> {
    fn drop(&mut self) {
        self.0.abort(self.1);
    }
}

impl Zpool for Zbud {
    fn name(&self) -> &'static str {
        NAME
    }

    fn tag(&self) -> PoolTag {
        self.core.tag
    }

    fn caps(&self) -> ZpoolCaps {
        let page_size = self.core.source.page_size();
        ZpoolCaps::new(page_size).with_reclaim().with_alignment(self.core.chunk_size())
    }

    fn malloc(&self, size: usize) -> Result<ObjWrite<'_>, ZpoolError> {
        self.core.source.here()?;
        let (slot, desc) = self.core.reserve(size)?;
        desc.watched[slot.buddy as usize].write();
        let bytes = self.core.bytes(desc, slot.buddy, size);
        // SAFETY: the word is OWNED and the guard its owner, so the bytes are its alone until
        // commit or abort (invariant 2).
        Ok(unsafe { ObjWrite::in_place(bytes, &*self.core, u64::from(slot.number())) })
    }

    fn malloc_from(&self, bytes: &[u8]) -> Result<Handle, ZpoolError> {
        self.core.source.here()?;
        let (slot, desc) = self.core.reserve(bytes.len())?;
        desc.watched[slot.buddy as usize].write();
        let to = self.core.bytes(desc, slot.buddy, bytes.len()).cast::<u8>();
        // SAFETY: `to` is `bytes.len()` bytes of a page that belong to this owner alone (invariant
        // 2), so they cannot overlap `bytes`, which somebody else lent.
        unsafe { to.as_ptr().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        self.core.publish(slot, desc)
    }

    fn free(&self, handle: Handle) -> Result<(), ZpoolError> {
        self.core.source.here()?;
        // In this order the object is freed also if the provider panics over what readers left.
        let freed = self.core.free(handle);
        self.core.finish_left();
        freed
    }

    fn prefetch(&self, handle: Handle) {
        let slot = Slot::from_number(SlotRef::from_bits(handle.backend_bits()).slot());
        if let Some(desc) = self.core.table.get(slot.page) {
            prefetch::look_soon(desc.word(slot.buddy));
        }
    }

    fn obj_read_begin(&self, handle: Handle) -> Result<ObjRead<'_>, ZpoolError> {
        self.core.source.here()?;
        let bits = handle.bits_of(self.core.tag).ok_or_else(|| ZpoolError::invalid(handle))?;
        self.core.read(SlotRef::from_bits(bits)).map_err(|error| match error {
            PinError::NotLive(_) => ZpoolError::invalid(handle),
            PinError::TooManyReaders => {
                ZpoolError::TooManyReaders { handle: handle.as_u64(), limit: READER_LIMIT }
            }
        })
    }

    /// A page holds two objects at most, so a smaller share than that saves no memory.
    fn footprint(&self, len: usize) -> usize {
        len.max(self.core.source.page_size() / 2)
    }

    fn total_pages(&self) -> usize {
        if self.core.is_here() { self.core.source.total_pages() } else { 0 }
    }

    fn reclaim(&self, target_pages: usize, evict: &dyn Evict) -> Result<usize, ZpoolError> {
        self.core.source.here()?;
        self.core.finish_left();
        let freed = buddies::reclaim(&*self.core, target_pages, evict);
        // A callback may have returned in a child.
        self.core.source.here()?;
        Ok(freed)
    }

    fn trim(&self) -> usize {
        if !self.core.is_here() {
            return 0;
        }
        self.core.finish_left();
        self.core.source.provider().trim()
    }

    fn stats(&self) -> ZpoolStats {
        let core = &self.core;
        let mut stats = ZpoolStats::default();
        stats.page_size = core.source.page_size();
        if !core.is_here() {
            return stats;
        }
        stats.cached_pages = core.source.provider().cached_pages();
        let provider = core.source.provider().metadata_bytes();
        stats.metadata_bytes = core.table.memory_bytes().saturating_add(provider);
        stats.total_pages = core.source.total_pages();
        // Relaxed: counters, each right by itself.
        stats.objects = core.objects.load(Ordering::Relaxed);
        stats.object_bytes = core.object_bytes.load(Ordering::Relaxed);
        // A reader may take a parked object off before its freer has counted it.
        stats.parked_objects = (core.parked.load(Ordering::Relaxed) as isize).max(0) as usize;
        let locked = core.lock();
        stats.reclaimed_pages = locked.pages.reclaimed();
        stats.metadata_bytes = stats.metadata_bytes.saturating_add(locked.pages.memory_bytes());
        stats
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        let source = &self.source;
        each_in_destructor(self.table.iter().filter_map(|desc| {
            // Relaxed: `&mut self` excludes every other access.
            let base = NonNull::new(desc.base.swap(null_mut(), Ordering::Relaxed))?;
            // SAFETY: a page that `attach` attached. Guards borrow the pool, so none is left that would
            // touch it; forgotten ones cannot.
            Some(move || unsafe { source.give_back(base) })
        }));
    }
}

impl fmt::Debug for Zbud {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Zbud")
            .field("tag", &self.core.tag)
            .field("page_size", &self.core.source.page_size())
            // Relaxed: a counter.
            .field("objects", &self.core.objects.load(Ordering::Relaxed))
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use zpool_api::PageRun;
    use zpool_api::handle::MAX_GENERATION;
    use zpool_pages::{FailingPages, HeapPages};

    const _: fn() = || {
        fn both<T: Send + Sync>() {}
        both::<Zbud>();
    };

    fn pool() -> Zbud {
        Zbud::new(Arc::new(HeapPages::new())).unwrap()
    }

    #[test]
    fn two_objects_share_a_page_and_do_not_overlap() {
        let pool = pool();
        for (a, b) in [(1, 4032), (64, 4032), (2048, 2048), (4000, 64), (4032, 1)] {
            let first = pool.malloc_from(&vec![1; a]).unwrap();
            let last = pool.malloc_from(&vec![2; b]).unwrap();
            assert_eq!(pool.total_pages(), 1, "{a} and {b}");
            assert_eq!(*pool.obj_read_begin(first).unwrap(), *vec![1; a]);
            assert_eq!(*pool.obj_read_begin(last).unwrap(), *vec![2; b]);
            pool.free(first).unwrap();
            pool.free(last).unwrap();
            assert_eq!(pool.total_pages(), 0);
        }
    }

    #[test]
    fn a_slot_is_retired_when_its_generations_are_used_up() {
        let pages = Arc::new(FailingPages::new(Arc::new(HeapPages::new())));
        let pool = Zbud::starting_at(pages.clone(), None, MAX_GENERATION - 3).unwrap();
        let mut seen = HashSet::new();
        for round in 0..40u8 {
            let handle = pool.malloc_from(&[round; 10]).unwrap();
            assert!(seen.insert(handle), "a handle came twice");
            assert_eq!(&*pool.obj_read_begin(handle).unwrap(), &[round; 10]);
            pool.free(handle).unwrap();
        }
        for handle in &seen {
            assert!(pool.obj_read_begin(*handle).is_err() && pool.free(*handle).is_err());
        }
        // 4 generations a slot: a page number serves 4 times and is not used again.
        assert_eq!(pool.core.table.len(), 10);
        assert_eq!((pool.total_pages(), pages.pages_out()), (0, 0));
    }

    #[test]
    fn a_retired_buddy_leaves_its_neighbour_alone() {
        let pool = Zbud::starting_at(Arc::new(HeapPages::new()), None, MAX_GENERATION).unwrap();
        let stays = pool.malloc_from(&[1; 100]).unwrap();
        let goes = pool.malloc_from(&[2; 100]).unwrap();
        pool.free(goes).unwrap();
        let elsewhere = pool.malloc_from(&[3; 100]).unwrap();
        assert_eq!(pool.total_pages(), 2, "the used-up slot must not be given again");
        assert_eq!(&*pool.obj_read_begin(stays).unwrap(), &[1; 100]);
        for handle in [stays, elsewhere] {
            pool.free(handle).unwrap();
        }
        assert_eq!(pool.total_pages(), 0);
    }

    #[test]
    fn too_many_readers_is_an_error_that_passes() {
        let pool = pool();
        let handle = pool.malloc_from(b"popular").unwrap();
        let word = pool.core.table.get(0).unwrap().word(Buddy::First);
        word.set_readers_for_test(READER_LIMIT);
        assert!(matches!(
            pool.obj_read_begin(handle),
            Err(ZpoolError::TooManyReaders { limit: READER_LIMIT, .. })
        ));
        word.set_readers_for_test(0);
        assert_eq!(&*pool.obj_read_begin(handle).unwrap(), b"popular");
    }

    #[test]
    fn larger_pages_hold_larger_objects() {
        for page_size in [16384, 65536] {
            let pages = Arc::new(HeapPages::with_page_size(page_size).unwrap());
            let pool = Zbud::new(pages).unwrap();
            assert_eq!(pool.caps().max_object_size, page_size);
            let whole = pool.malloc_from(&vec![7; page_size]).unwrap();
            let half = pool.malloc_from(&vec![8; page_size / 2]).unwrap();
            let other = pool.malloc_from(&vec![9; page_size / 2]).unwrap();
            assert_eq!((pool.total_pages(), pool.stats().pool_bytes()), (2, 2 * page_size));
            for (handle, byte, len) in
                [(whole, 7, page_size), (half, 8, page_size / 2), (other, 9, page_size / 2)]
            {
                let object = pool.obj_read_begin(handle).unwrap();
                assert!(*object == *vec![byte; len]);
            }
        }
    }

    #[derive(Debug)]
    struct OddPages;
    // SAFETY: gives out no run at all.
    unsafe impl PageProvider for OddPages {
        fn page_size(&self) -> usize {
            2048
        }
        fn alloc_run(&self, pages: usize) -> Result<PageRun, zpool_api::PageError> {
            Err(zpool_api::PageError::RunLength { pages, max: 0 })
        }
        unsafe fn free_run(&self, _run: PageRun) {}
        unsafe fn discard(&self, _run: &mut PageRun, _pages: core::ops::Range<usize>) {}
        fn cached_pages(&self) -> usize {
            0
        }
        fn trim(&self) -> usize {
            0
        }
        fn metadata_bytes(&self) -> usize {
            0
        }
    }

    #[test]
    fn odd_page_sizes_are_refused() {
        assert!(matches!(
            Zbud::new(Arc::new(OddPages)),
            Err(ZpoolError::UnsupportedPageSize { page_size: 2048, .. })
        ));
    }
}
