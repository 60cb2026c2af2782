//! Allocation, reads and frees: where the page locks, the object words and the pages' bytes meet.
//!
//! A page has a *descriptor* in a type-stable table (three object words, the page's address, the page
//! lock with what it guards) so that any slot number leads to a word or to nothing.
//!
//! # Invariants of the bytes
//! 1. A descriptor's `base` is the start of a page of this pool's provider from `attach` until the
//!    page's last reference is put. It is stored before the first word of the page becomes OWNED and
//!    not changed while any word of it is OWNED, LIVE or PARKED: each of those has a reference.
//! 2. The bytes of a buddy belong to its word's owner in state OWNED, to the mover while the word is
//!    MOVING, and are immutable otherwise in states LIVE and PARKED. Buddies never overlap
//!    (`Page::is_sound`).
//! 3. `middle_at` says where the middle buddy is. It changes when room is taken for a middle object,
//!    or while that object's word is MOVING.
//!
//! # Order of events
//! * allocate: the page with the tightest room is taken off its list under the pool lock, and with it
//!   the lists' reference. Under its page lock an object gets room, the middle one moved if need be,
//!   and a reference; its word FREE → OWNED; the page goes back to its list. The bytes are written
//!   outside of the locks; `publish` makes the word LIVE.
//! * free, under the page lock: LIVE → OWNED → FREE, or → PARKED and later, by the last reader, →
//!   OWNED. That one leaves the object on the pool's stack (`left`); the next call that may block takes
//!   it off and, under the page lock, → FREE. The page goes where its objects say, unless an allocation
//!   or reclaim holds it; without objects it leaves the lists. The last reference frees the page.

use core::fmt;
use core::ptr::{NonNull, null_mut};
use std::sync::Arc;

use buddies::{
    CHUNKS, Freed, FreshPage, Leaves, Left, ObjWord, PageSource, PinError, READER_LIMIT, Reclaim,
    State, Word,
};
use zpool_api::{
    Evict, Handle, ObjCommit, ObjPin, ObjRead, ObjWrite, PageBudget, PageProvider, PoolTag,
    SlotRef, Zpool, ZpoolCaps, ZpoolError, ZpoolStats,
};
use zpool_base::fork::Leaked;
use zpool_base::lockdep::{self, Rank};
use zpool_base::prefetch;
use zpool_base::stable::{StableTable, TableError};
use zpool_base::unwind::{each_in_destructor, in_destructor};

use crate::page::{Buddy, Page, Slot};
use crate::states::{Lists, PageState, Who};
use crate::sync::atomic::{AtomicPtr, AtomicU8, AtomicUsize, Ordering};
use crate::sync::{MODEL, Mutex, MutexGuard, Watched, yield_now};

pub(crate) const NAME: &str = "z3fold";
const FIRST_GENERATION: u32 = 1;
/// Pages that an allocation tries: one whose middle object is read or being written may have no room.
const TRIES: u32 = 16;
/// Looks at a word before its reader sleeps: a mover is done in microseconds. None under the model
/// checker, where looking in vain teaches nothing.
const SPINS: u32 = if MODEL { 0 } else { 64 };

/// What any thread may reach by a slot number; see the module's invariants.
#[derive(Debug)]
pub(crate) struct PageDesc {
    words: [ObjWord; 3],
    base: AtomicPtr<u8>,
    /// A copy of the page's own, for readers.
    middle_at: AtomicU8,
    page: Mutex<Page>,
    /// Stand for the bytes of the buddies under the model checker.
    watched: [Watched; 3],
}

impl PageDesc {
    fn new(generation: u32) -> Self {
        PageDesc {
            words: [(); 3].map(|()| ObjWord::new(generation)),
            base: AtomicPtr::new(null_mut()),
            middle_at: AtomicU8::new(0),
            page: Mutex::new(Page::NEW),
            watched: [(); 3].map(|()| Watched::new()),
        }
    }

    fn word(&self, buddy: Buddy) -> &ObjWord {
        &self.words[buddy as usize]
    }

    fn lock(&self) -> Locked<'_, Page> {
        let held = lockdep::acquire(Rank::Zspage);
        Locked { guarded: self.page.lock(), _held: held }
    }
}

/// A lock's guard together with its lockdep entry.
struct Locked<'a, T> {
    guarded: MutexGuard<'a, T>,
    _held: lockdep::Held,
}

/// A page whose last reference is gone: its memory is to be given back, once nothing is locked.
#[must_use = "the page's memory must go back to the provider"]
struct Unreferenced(u32);

/// All of the pool; private, so that nobody else can end pins or commit objects.
pub(crate) struct Core {
    source: PageSource,
    tag: PoolTag,
    first_generation: u32,
    table: StableTable<PageDesc>,
    lists: Mutex<Lists>,
    /// Freed objects that their last readers left.
    left: Left,
    objects: AtomicUsize,
    object_bytes: AtomicUsize,
    parked: AtomicUsize,
}

/// A pool of at most three objects a page. See the crate's front page.
///
/// `Send` and `Sync`; used as `Arc<dyn Zpool>`. Dropping it gives all pages back to the provider.
///
/// In a child of the process that made it, after `fork`, every call is [`ZpoolError::Forked`], and the
/// pool and its guards are leaked when they are dropped.
pub struct Z3fold {
    core: Leaked<Core>,
}

impl Z3fold {
    /// An empty pool over `provider`. Allocates nothing yet.
    ///
    /// # Errors
    /// [`ZpoolError::UnsupportedPageSize`] for pages of less than 4 KiB or more than 64 KiB.
    pub fn new(provider: Arc<dyn PageProvider>) -> Result<Self, ZpoolError> {
        Self::with_budget(provider, None)
    }

    /// As [`Z3fold::new`], with a budget that each page is charged to while it is among the pool's
    /// [`total_pages`](Zpool::total_pages). An object that fits beside others needs none of it.
    ///
    /// # Errors
    /// As [`Z3fold::new`].
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
            lists: Mutex::new(Lists::new()),
            left: Left::new(),
            objects: AtomicUsize::new(0),
            object_bytes: AtomicUsize::new(0),
            parked: AtomicUsize::new(0),
        };
        Ok(Z3fold { core: Leaked::new(core) })
    }
}

/// Where a page belongs. `moves` is false when its middle object cannot be moved for now.
fn resting_state(page: &Page, moves: bool) -> PageState {
    if page.is_empty() {
        PageState::Leaving
    } else if page.is_headless() {
        PageState::Headless
    } else {
        match page.largest(moves) {
            0 => PageState::Buddied,
            // Not empty, so less than all 64.
            free => PageState::Unbuddied(free as u8),
        }
    }
}

impl Core {
    /// The pool lock: for the lists.
    fn lists(&self) -> Locked<'_, Lists> {
        let held = lockdep::acquire(Rank::Leaf);
        Locked { guarded: self.lists.lock(), _held: held }
    }

    fn chunk_size(&self) -> usize {
        self.source.page_size() / CHUNKS
    }

    fn chunks(&self, bytes: usize) -> usize {
        bytes.div_ceil(self.chunk_size())
    }

    /// Where a buddy of `len` bytes is; the word must be OWNED, LIVE or PARKED and held so.
    fn bytes(&self, desc: &PageDesc, buddy: Buddy, len: usize) -> NonNull<[u8]> {
        // Relaxed, both: stored before the word became OWNED, or by a mover before it ended its move;
        // whoever gets here has read that or a later value of the word with Acquire, or is the owner.
        let base = desc.base.load(Ordering::Relaxed);
        let page_size = self.source.page_size();
        let offset = match buddy {
            Buddy::First => 0,
            // Relaxed: as above.
            Buddy::Middle => {
                usize::from(desc.middle_at.load(Ordering::Relaxed)) * self.chunk_size()
            }
            Buddy::Last => page_size - self.chunks(len) * self.chunk_size(),
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
        if let Some(found) = self.reserve_in_a_page(size) {
            return Ok(found);
        }
        let fresh = self.source.alloc()?;
        // Room may have appeared meanwhile; then the page goes back, where the provider may panic.
        if let Some(found) = self.reserve_in_a_page(size) {
            let abort = AbortOnDrop(self, u64::from(found.0.number()));
            drop(fresh);
            core::mem::forget(abort);
            return Ok(found);
        }
        self.attach(fresh, size)
    }

    /// Room in the page that fits tightest; none if no page has any, or none of the [`TRIES`] that fit
    /// tightest.
    fn reserve_in_a_page(&self, size: usize) -> Option<(Slot, &PageDesc)> {
        let chunks = self.chunks(size);
        for _ in 0..TRIES {
            let page = self.lists().guarded.take_for_alloc(chunks)?;
            let desc = self.table.get(page)?;
            let mut locked = desc.lock();
            let buddy = self.make_room(desc, &mut locked.guarded, chunks);
            if let Some(buddy) = buddy {
                desc.word(buddy).claim(size);
            }
            // Without room its middle object cannot be moved for now: the page goes where it is not
            // found for an object as large.
            let to = resting_state(&locked.guarded, buddy.is_some());
            let unreferenced = self.settle(page, &mut locked.guarded, Who::Holder, to);
            drop(locked);
            self.give_back(unreferenced);
            if let Some(buddy) = buddy {
                return Some((Slot { page, buddy }, desc));
            }
        }
        None
    }

    /// Takes room in a page, its middle object moved if need be. Under the page lock.
    fn make_room(&self, desc: &PageDesc, page: &mut Page, chunks: usize) -> Option<Buddy> {
        let room = page.room(chunks)?;
        if let Some(to) = room.move_middle_to {
            if !self.move_middle(desc, page, to) {
                return None;
            }
        }
        page.occupy(room.buddy, chunks, room.at);
        if room.buddy == Buddy::Middle {
            // Relaxed: published with the word.
            desc.middle_at.store(room.at, Ordering::Relaxed);
        }
        Some(room.buddy)
    }

    /// In-page compaction: moves the middle object, unless it is read or being written. Under the
    /// page lock, which its freer takes, too.
    fn move_middle(&self, desc: &PageDesc, page: &mut Page, to: u8) -> bool {
        let word = desc.word(Buddy::Middle);
        if !word.try_move() {
            return false;
        }
        desc.watched[Buddy::Middle as usize].write();
        let len = word.peek().bytes();
        let from = self.bytes(desc, Buddy::Middle, len).cast::<u8>();
        page.set_middle_at(to);
        // Relaxed: `end_move` publishes it.
        desc.middle_at.store(to, Ordering::Relaxed);
        let to = self.bytes(desc, Buddy::Middle, len).cast::<u8>();
        // SAFETY: `len` bytes of the page at both places, which may overlap; the old one is the
        // object's, the rest of the new one is free, and readers and the freer are locked out
        // (invariant 2).
        unsafe { from.copy_to(to, len) };
        word.end_move();
        true
    }

    /// Puts a page where it belongs. A page without objects is nobody's any more: the reference of
    /// whoever held it is put. Under the page lock.
    fn settle(
        &self,
        number: u32,
        page: &mut Page,
        who: Who,
        to: PageState,
    ) -> Option<Unreferenced> {
        let settled = self.lists().guarded.settle(number, who, to);
        let last = settled && to == PageState::Leaving && page.put();
        last.then_some(Unreferenced(number))
    }

    /// Attaches a page with an object of `size` bytes in it.
    fn attach<'a>(
        &'a self,
        fresh: FreshPage<'a>,
        size: usize,
    ) -> Result<(Slot, &'a PageDesc), ZpoolError> {
        let number = self.vacant_number()?;
        let slot = Slot { page: number, buddy: Buddy::First };
        let desc = self.desc(slot)?;
        let mut locked = desc.lock();
        // Relaxed: published by the word's later Release, and by the page lock.
        desc.base.store(fresh.attach().as_ptr(), Ordering::Relaxed);
        // The lists' reference.
        locked.guarded.get();
        locked.guarded.occupy(Buddy::First, self.chunks(size), 0);
        desc.word(Buddy::First).claim(size);
        self.lists().guarded.attach(number, resting_state(&locked.guarded, true));
        Ok((slot, desc))
    }

    /// A page number without a page, which has a record and a descriptor. One that gets no descriptor is
    /// kept for the next try, so that a failure uses nothing up.
    fn vacant_number(&self) -> Result<u32, ZpoolError> {
        let refused = |bytes| ZpoolError::OutOfMetadata { backend: NAME, bytes };
        let number = {
            let mut lists = self.lists();
            match lists.guarded.take_vacant() {
                Some(number) => number,
                None => lists.guarded.new_number().map_err(refused)?,
            }
        };
        // Another thread may add the descriptor of this number, and this one that of another's.
        while self.table.len() <= number as usize {
            if let Err(error) = self.table.push(PageDesc::new(self.first_generation)) {
                self.lists().guarded.put_vacant(number);
                return Err(match error {
                    TableError::NoMemory { bytes } => refused(bytes),
                    _ => ZpoolError::TooManyObjects {
                        backend: NAME,
                        limit: 3 * Slot::MAX_PAGES as u64,
                    },
                });
            }
        }
        Ok(number)
    }

    fn desc(&self, slot: Slot) -> Result<&PageDesc, ZpoolError> {
        // A slot whose room was taken has a descriptor; a made-up one may not.
        self.table
            .get(slot.page)
            .ok_or_else(|| ZpoolError::InvalidHandle { handle: u64::from(slot.number()) })
    }

    /// A slot that is in use, and its descriptor.
    #[expect(clippy::expect_used, reason = "slots in use have descriptors, which the table keeps")]
    fn known(&self, slot: u32) -> (Slot, &PageDesc) {
        let slot = Slot::from_number(slot);
        let found = slot.and_then(|slot| Some((slot, self.table.get(slot.page)?)));
        found.expect("a slot in use has a descriptor")
    }

    /// OWNED → LIVE: the handle exists from here on.
    fn publish(&self, slot: Slot, desc: &PageDesc) -> Result<Handle, ZpoolError> {
        let bytes = desc.word(slot.buddy).peek().bytes();
        // Relaxed, here and where they are subtracted: counters, read for statistics only.
        self.objects.fetch_add(1, Ordering::Relaxed);
        self.object_bytes.fetch_add(bytes, Ordering::Relaxed);
        let generation = desc.word(slot.buddy).publish().generation();
        let bits = SlotRef::new(generation, slot.number())
            .ok_or_else(|| ZpoolError::InvalidHandle { handle: u64::from(generation) })?;
        Ok(Handle::new(self.tag, bits.to_bits()))
    }

    /// The word's owner gives the room and its reference up: OWNED → FREE. `published` as in
    /// `ObjWord::release`. Under the page lock.
    fn give_up(
        &self,
        slot: Slot,
        desc: &PageDesc,
        page: &mut Page,
        published: bool,
    ) -> Option<Unreferenced> {
        desc.watched[slot.buddy as usize].write();
        let usable = desc.word(slot.buddy).release(published);
        page.vacate(slot.buddy, usable);
        let to = resting_state(page, true);
        let unreferenced = self.settle(slot.page, page, Who::Freer, to);
        if page.put() { Some(Unreferenced(slot.page)) } else { unreferenced }
    }

    /// Gives the memory of a page without references back and lets its number serve again.
    fn give_back(&self, unreferenced: Option<Unreferenced>) {
        let Some(Unreferenced(number)) = unreferenced else { return };
        let Some(desc) = self.table.get(number) else { return };
        let usable = !desc.lock().guarded.is_retired();
        // Relaxed: all words are FREE and nobody holds the page, so nobody else looks at `base` until
        // the number serves again, which the pool lock orders after this.
        let base = desc.base.swap(null_mut(), Ordering::Relaxed);
        self.lists().guarded.detach(number, usable);
        if let Some(base) = NonNull::new(base) {
            // SAFETY: attached by `attach`; no word of it is OWNED, LIVE or PARKED, so nobody touches it
            // (invariant 2), and `base` was taken out, so it is given back once.
            unsafe { self.source.give_back(base) };
        }
    }

    /// Gives up what readers left. With nothing locked.
    fn finish_left(&self) {
        self.left.finish(self);
    }

    /// Frees an object whose handle's bits are known.
    fn free_slot(&self, at: SlotRef) -> Option<()> {
        let slot = Slot::from_number(at.slot())?;
        let desc = self.table.get(slot.page)?;
        let mut locked = desc.lock();
        let freed = desc.word(slot.buddy).free(at.generation())?;
        let (Freed::Owned(word) | Freed::Parked(word)) = freed;
        // Relaxed, here and below: counters, as in `publish`.
        self.objects.fetch_sub(1, Ordering::Relaxed);
        self.object_bytes.fetch_sub(word.bytes(), Ordering::Relaxed);
        let unreferenced = match freed {
            Freed::Owned(_) => self.give_up(slot, desc, &mut locked.guarded, true),
            Freed::Parked(_) => {
                // Relaxed: a counter.
                self.parked.fetch_add(1, Ordering::Relaxed);
                None
            }
        };
        drop(locked);
        self.give_back(unreferenced);
        Some(())
    }

    /// A parked object fell to this thread, a last reader, which leaves it on the stack: readers take no
    /// lock and call no provider.
    #[cold]
    fn leave_parked(&self, slot: Slot, desc: &PageDesc, owned: Word) {
        debug_assert_eq!(owned.state(), State::Owned);
        desc.watched[slot.buddy as usize].write();
        // Relaxed: a counter. Wrapping: its freer may count it after this.
        self.parked.fetch_sub(1, Ordering::Relaxed);
        // SAFETY: OWNED by this thread since the CAS that gave it `owned`.
        unsafe { self.left.push(self, slot.number()) };
    }

    /// Pins the object of this slot and generation.
    #[inline]
    fn read(&self, at: SlotRef) -> Result<ObjRead<'_>, PinError> {
        let not_live = PinError::NotLive(None);
        let slot = Slot::from_number(at.slot()).ok_or(not_live)?;
        let desc = self.table.get(slot.page).ok_or(not_live)?;
        match desc.word(slot.buddy).pin(at.generation()) {
            Ok(word) => {
                if word.is_moving() {
                    self.wait_for_mover(desc, slot.buddy);
                }
                desc.watched[slot.buddy as usize].read();
                let bytes = self.bytes(desc, slot.buddy, word.bytes());
                // SAFETY: the word is pinned and not being moved, so it stays LIVE or PARKED until
                // `unpin`, and its bytes immutable (invariant 2); the object's reference keeps the
                // page attached (invariant 1).
                Ok(unsafe { ObjRead::from_pin(bytes, self, u64::from(slot.number())) })
            }
            Err(error) => {
                if let PinError::NotLive(Some(owned)) = error {
                    self.leave_parked(slot, desc, owned);
                }
                Err(error)
            }
        }
    }

    /// The object is being moved: a few kilobytes at most, under the page lock. Spins briefly, lets
    /// others run, then sleeps until the lock is free: the mover may have lost its processor.
    #[cold]
    fn wait_for_mover(&self, desc: &PageDesc, buddy: Buddy) {
        let word = desc.word(buddy);
        for round in 0..SPINS {
            if !word.now().is_moving() {
                return;
            }
            if round < SPINS / 2 { core::hint::spin_loop() } else { yield_now() }
        }
        while word.now().is_moving() {
            drop(desc.lock());
        }
    }

    fn free(&self, handle: Handle) -> Result<(), ZpoolError> {
        let invalid = || ZpoolError::invalid(handle);
        let bits = handle.bits_of(self.tag).ok_or_else(invalid)?;
        self.free_slot(SlotRef::from_bits(bits)).ok_or_else(invalid)
    }
}

/// What the reclaim loop needs: it holds a page between `begin` and `end`, as an allocation does, and
/// with it the lists' reference.
impl Reclaim for Core {
    const OBJECTS: usize = Buddy::ALL.len();

    fn is_here(&self) -> bool {
        self.source.is_here()
    }

    fn finish_left(&self) {
        self.finish_left();
    }

    fn now(&self) -> u64 {
        self.lists().guarded.now()
    }

    fn begin(&self, before: u64) -> Option<u32> {
        self.lists().guarded.take_for_reclaim(before)
    }

    fn read(&self, page: u32, nth: usize) -> Option<(Handle, ObjRead<'_>)> {
        let slot = Slot { page, buddy: *Buddy::ALL.get(nth)? };
        let word = self.table.get(page)?.word(slot.buddy).peek();
        if word.state() != State::Live {
            return None;
        }
        let at = SlotRef::new(word.generation(), slot.number())?;
        let object = self.read(at).ok()?;
        Some((Handle::new(self.tag, at.to_bits()), object))
    }

    fn free(&self, handle: Handle) {
        let _ = self.free(handle);
    }

    fn end(&self, page: u32) -> bool {
        let Some(desc) = self.table.get(page) else { return false };
        let mut locked = desc.lock();
        let to = resting_state(&locked.guarded, true);
        let unreferenced = self.settle(page, &mut locked.guarded, Who::Holder, to);
        drop(locked);
        let freed = unreferenced.is_some();
        if freed {
            self.lists().guarded.count_reclaimed();
        }
        self.give_back(unreferenced);
        freed
    }
}

impl ObjPin for Core {
    #[inline]
    fn unpin(&self, token: u64) {
        if !self.source.is_here() {
            return;
        }
        // The token is of a pinned object, whose descriptor the table keeps for ever.
        let Some(slot) = Slot::from_number(token as u32) else { return };
        if let Some(desc) = self.table.get(slot.page) {
            desc.watched[slot.buddy as usize].read();
            if let Some(owned) = desc.word(slot.buddy).unpin() {
                self.leave_parked(slot, desc, owned);
            }
        }
    }
}

// SAFETY: the bytes of an OWNED object, at least a chunk of 64 or more. They do not move: a mover moves
// LIVE objects only.
unsafe impl Leaves for Core {
    fn link(&self, slot: u32) -> NonNull<[u8; 8]> {
        let (slot, desc) = self.known(slot);
        self.bytes(desc, slot.buddy, desc.word(slot.buddy).peek().bytes()).cast()
    }

    fn finish(&self, slot: u32) {
        let (slot, desc) = self.known(slot);
        let mut locked = desc.lock();
        let unreferenced = self.give_up(slot, desc, &mut locked.guarded, true);
        drop(locked);
        self.give_back(unreferenced);
    }
}

impl ObjCommit for Core {
    fn commit(&self, token: u64) -> Result<Handle, ZpoolError> {
        self.source.here()?;
        let invalid = ZpoolError::InvalidHandle { handle: token };
        let slot = Slot::from_number(token as u32).ok_or(invalid)?;
        let desc = self.desc(slot)?;
        self.publish(slot, desc)
    }

    fn abort(&self, token: u64) {
        if !self.source.is_here() {
            return;
        }
        let Some(slot) = Slot::from_number(token as u32) else { return };
        let Ok(desc) = self.desc(slot) else { return };
        let mut locked = desc.lock();
        let unreferenced = self.give_up(slot, desc, &mut locked.guarded, false);
        drop(locked);
        in_destructor(|| self.give_back(unreferenced));
    }
}

/// Gives up an object that is being made, when the provider panics.
struct AbortOnDrop<'a>(&'a Core, u64);

impl Drop for AbortOnDrop<'_> {
    fn drop(&mut self) {
        self.0.abort(self.1);
    }
}

impl Zpool for Z3fold {
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
        if let Some((slot, desc)) = slot.and_then(|s| Some((s, self.core.table.get(s.page)?))) {
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

    /// A page holds three objects at most, so a smaller share than that saves no memory.
    fn footprint(&self, len: usize) -> usize {
        len.max(self.core.source.page_size() / 3)
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
        // A reader may take a parked object off before its freer has counted it. Relaxed: as above.
        stats.parked_objects = (core.parked.load(Ordering::Relaxed) as isize).max(0) as usize;
        let lists = core.lists();
        stats.reclaimed_pages = lists.guarded.reclaimed();
        stats.metadata_bytes = stats.metadata_bytes.saturating_add(lists.guarded.memory_bytes());
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

impl fmt::Debug for Z3fold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Z3fold")
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
    use zpool_api::handle::MAX_GENERATION;
    use zpool_pages::{FailingPages, HeapPages};

    const _: fn() = || {
        fn both<T: Send + Sync>() {}
        both::<Z3fold>();
    };

    #[test]
    fn a_descriptor_is_as_small_as_the_docs_say() {
        if cfg!(target_pointer_width = "64") {
            assert_eq!(size_of::<PageDesc>(), 48);
        }
    }

    #[test]
    fn three_objects_share_a_page_and_do_not_overlap() {
        for (a, b, c) in [(1, 1, 3968), (1365, 1344, 1344), (2000, 1000, 1000), (64, 3968, 64)] {
            let pool = Z3fold::new(Arc::new(HeapPages::new())).unwrap();
            let objects = [(1u8, a), (2, b), (3, c)];
            let handles = objects.map(|(byte, len)| pool.malloc_from(&vec![byte; len]).unwrap());
            assert_eq!(pool.total_pages(), 1, "{a}, {b} and {c}");
            for (handle, (byte, len)) in handles.into_iter().zip(objects) {
                assert!(*pool.obj_read_begin(handle).unwrap() == *vec![byte; len]);
                pool.free(handle).unwrap();
            }
            assert_eq!(pool.total_pages(), 0);
        }
    }

    #[test]
    fn a_slot_is_retired_when_its_generations_are_used_up() {
        let pages = Arc::new(FailingPages::new(Arc::new(HeapPages::new())));
        let pool = Z3fold::starting_at(pages.clone(), None, MAX_GENERATION - 3).unwrap();
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
    fn too_many_readers_is_an_error_that_passes() {
        let pool = Z3fold::new(Arc::new(HeapPages::new())).unwrap();
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
            let pool = Z3fold::new(pages).unwrap();
            assert_eq!(pool.caps().max_object_size, page_size);
            let objects = [(7, page_size), (8, page_size / 2), (9, page_size / 4), (10, 1000)];
            let handles = objects.map(|(byte, len)| pool.malloc_from(&vec![byte; len]).unwrap());
            assert_eq!(pool.total_pages(), 2);
            for (handle, (byte, len)) in handles.into_iter().zip(objects) {
                assert!(*pool.obj_read_begin(handle).unwrap() == *vec![byte; len]);
            }
        }
    }
}
