//! Models of the protocol: two or three threads touch, evict, pin and discard the same pages.
//!
//! Memory and store are toys. A call of the system, and a touch by the program, is one step for the checker: an access
//! of an atomic of the page, and what follows it up to the next step. The system orders touches with calls that map or
//! unmap the page, and nothing else. Everything else the protocol must order: each page's memory, each slot and each
//! entry of the store is a cell that the checker watches. If two threads use one at a time, the model fails.

use std::cell::UnsafeCell;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock, Weak};

use loom::sync::atomic::Ordering::{self, AcqRel, Acquire, Release};
use loom::thread::{self, JoinHandle};
use zpool_base::sync::Watched;
use zswap_core::{LoadError, PAGE_SIZE, Page, StoreError, SwapEntry};

use crate::OnFull;
use crate::backend::{Backend, BackendKind, InLimbo};
use crate::clean::{CleanPages, Policy};
use crate::cold::Cold;
use crate::counters::Counters;
use crate::engine::{Buffers, Engine, Settings, blocks_for};
use crate::error::Trouble;
use crate::fault::Access;
use crate::limbo::{BLOCK, Limbo, SPARE_BLOCKS, Slots};
use crate::number::Number;
use crate::room::Room;
use crate::streams::Streams;
use crate::sync::{Mutex, atomic};
use crate::table::Table;
use crate::word::{MOST, State};

const BOTH: [BackendKind; 2] = [BackendKind::Move, BackendKind::Guard];

/// Memory for a page, that may be there. Its content is a number.
struct Frame {
    watched: Watched,
    page: Box<UnsafeCell<Page>>,
    is_there: AtomicBool,
}

// SAFETY: the checker runs one thread at a time, and the page is used between two steps of the checker only. The one
// exception, a page that the evictor compresses, is watched.
unsafe impl Sync for Frame {}

impl Frame {
    fn new() -> Frame {
        let page = Box::new(UnsafeCell::new([0; PAGE_SIZE]));
        Frame { watched: Watched::new(), page, is_there: false.into() }
    }

    fn get(&self) -> u64 {
        assert!(self.is_there.load(Relaxed), "a page without memory is read");
        // SAFETY: as for `Sync`.
        head(unsafe { &*self.page.get() })
    }

    fn set(&self, n: u64) {
        assert!(self.is_there.load(Relaxed), "a page without memory is written");
        // SAFETY: as for `Sync`.
        let page = unsafe { &mut *self.page.get() };
        page[..8].copy_from_slice(&n.to_le_bytes());
    }

    /// The system gives it memory with this content.
    fn allocate(&self, n: u64) {
        assert!(!self.is_there.swap(true, Relaxed), "memory is given twice");
        self.set(n);
    }

    /// The system takes its memory away.
    fn free(&self) -> u64 {
        let n = self.get();
        self.is_there.store(false, Relaxed);
        n
    }
}

fn head(page: &[u8]) -> u64 {
    page.iter().zip(0..8).map(|(byte, i)| u64::from(*byte) << (8 * i)).sum()
}

const MAPPED: u32 = 1;
const PROTECTED: u32 = 2;

/// A page as the processor sees it.
struct Mapped {
    /// Changed by each step.
    step: atomic::AtomicU32,
    /// [`MAPPED`], [`PROTECTED`].
    bits: AtomicU32,
    frame: Frame,
}

/// Memory that behaves as that of one of the two backends.
struct Toy {
    kind: BackendKind,
    pages: Vec<Mapped>,
    /// The limbo's memory, of [`BackendKind::Move`].
    slots: Vec<Frame>,
    /// How many of the next calls that bring a page back from the limbo fail.
    failing: AtomicU32,
    /// How many of the next takings fail.
    busy: AtomicU32,
    /// Whose memory this is.
    world: OnceLock<Weak<World>>,
}

impl Toy {
    fn new(kind: BackendKind, pages: usize, slots: usize) -> Toy {
        let page =
            || Mapped { step: atomic::AtomicU32::new(0), bits: 0.into(), frame: Frame::new() };
        Toy {
            kind,
            pages: (0..pages).map(|_| page()).collect(),
            slots: (0..slots).map(|_| Frame::new()).collect(),
            failing: 0.into(),
            busy: 0.into(),
            world: OnceLock::new(),
        }
    }

    /// Touches a page, and adds `n` to its content. Returns what it was; `None` if that raises a signal.
    fn touch(&self, page: usize, n: u64) -> Option<u64> {
        let page = &self.pages[page];
        page.step.fetch_add(1, AcqRel);
        let bits = page.bits.load(Relaxed);
        if bits & MAPPED == 0 || n > 0 && bits & PROTECTED != 0 {
            return None;
        }
        let was = page.frame.get();
        if n > 0 {
            page.frame.set(was + n);
        }
        Some(was)
    }

    /// Maps a page whose content is in its frame. All that this thread did before is before each touch.
    fn map(&self, page: usize, protect: bool) {
        let page = &self.pages[page];
        page.step.fetch_add(1, Release);
        page.frame.watched.write();
        let bits = if protect { MAPPED | PROTECTED } else { MAPPED };
        assert_eq!(page.bits.swap(bits, Relaxed), 0, "a page is mapped over another one");
        if let Some(world) = self.world.get().and_then(Weak::upgrade) {
            assert!(self.in_use() <= world.engine.room.resident(), "memory that is not charged");
        }
    }

    /// Unmaps a page. All touches were before.
    fn unmap(&self, page: usize) {
        let page = &self.pages[page];
        page.step.fetch_add(1, Acquire);
        page.frame.watched.write();
        assert_ne!(page.bits.swap(0, Relaxed), 0, "a page is unmapped that is not mapped");
    }

    fn moves(&self) -> bool {
        self.kind == BackendKind::Move
    }

    fn fails(count: &AtomicU32) -> bool {
        count.fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1)).is_ok()
    }

    /// Returns how many pages of memory are in use.
    fn in_use(&self) -> usize {
        let frames = self.pages.iter().map(|page| &page.frame).chain(&self.slots);
        frames.filter(|frame| frame.is_there.load(Relaxed)).count()
    }
}

impl Backend for Arc<Toy> {
    fn unfill(&self, first: usize, pages: usize) {
        if self.releases_first() {
            let targets = (first..first + pages).map(|page| InLimbo { page, slot: MOST as usize });
            targets.for_each(|target| self.release(&[target]).unwrap());
        }
    }

    fn take(&self, first: usize, slot: usize, pages: usize) -> usize {
        if Toy::fails(&self.busy) {
            return 0;
        }
        for n in 0..pages {
            self.unmap(first + n);
            if self.moves() {
                let slot = &self.slots[slot + n];
                slot.watched.write();
                slot.allocate(self.pages[first + n].frame.free());
            }
        }
        pages
    }

    unsafe fn limbo<'a>(&'a self, at: InLimbo, room: &'a mut [u8]) -> &'a [u8] {
        let frame = if self.moves() { &self.slots[at.slot] } else { &self.pages[at.page].frame };
        frame.watched.read();
        let n = frame.get();
        if self.moves() {
            // SAFETY: the caller's contract; the cell above notices if somebody writes it meanwhile.
            return unsafe { (*frame.page.get()).as_slice() };
        }
        room[..8].copy_from_slice(&n.to_le_bytes());
        room
    }

    fn copies(&self) -> bool {
        !self.moves()
    }

    fn put_back(&self, at: InLimbo) -> io::Result<()> {
        if Toy::fails(&self.failing) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if self.moves() {
            self.slots[at.slot].watched.write();
            self.pages[at.page].frame.allocate(self.slots[at.slot].free());
        }
        self.map(at.page, false);
        Ok(())
    }

    fn copy_back(&self, at: InLimbo, protect: bool) -> io::Result<bool> {
        if Toy::fails(&self.failing) {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        if self.moves() {
            self.slots[at.slot].watched.read();
            self.pages[at.page].frame.allocate(self.slots[at.slot].get());
        }
        self.map(at.page, protect);
        Ok(self.moves())
    }

    fn target(&self, page: usize) -> io::Result<Option<*mut u8>> {
        if self.moves() {
            return Ok(None);
        }
        let frame = &self.pages[page].frame;
        frame.watched.write();
        if !frame.is_there.load(Relaxed) {
            frame.allocate(0);
        }
        Ok(Some(frame.page.get().cast()))
    }

    fn fill(&self, first: usize, bytes: &[u8], pages: usize, protect: bool) -> io::Result<()> {
        for n in 0..pages {
            if self.moves() {
                self.pages[first + n].frame.allocate(head(&bytes[n * PAGE_SIZE..]));
            }
            self.map(first + n, protect);
        }
        Ok(())
    }

    fn zero(&self, first: usize, pages: usize) -> io::Result<()> {
        for page in first..first + pages {
            self.pages[page].frame.allocate(0);
            self.map(page, false);
        }
        Ok(())
    }

    fn repair(&self, page: usize, _protect: bool) -> io::Result<bool> {
        self.pages[page].step.fetch_add(1, AcqRel);
        // No program of these models drops a page.
        assert_ne!(self.pages[page].bits.load(Relaxed), 0, "a resident page is not mapped");
        Ok(false)
    }

    fn can_protect(&self) -> bool {
        self.moves()
    }

    fn unprotect(&self, page: usize) -> io::Result<()> {
        let page = &self.pages[page];
        page.step.fetch_add(1, Release);
        assert_ne!(page.bits.fetch_and(!PROTECTED, Relaxed), 0, "a clean page is not mapped");
        Ok(())
    }

    fn release(&self, pages: &[InLimbo]) -> io::Result<()> {
        for at in pages {
            let page = &self.pages[at.page];
            let frame = if self.moves() { &self.slots[at.slot] } else { &page.frame };
            assert!(self.moves() || page.bits.load(Relaxed) == 0, "a mapped page loses its memory");
            frame.watched.write();
            frame.free();
        }
        Ok(())
    }

    fn releases_first(&self) -> bool {
        !self.moves()
    }

    fn discard(&self, first: usize, pages: usize) -> io::Result<()> {
        for page in first..first + pages {
            self.unmap(page);
            self.pages[page].frame.free();
        }
        Ok(())
    }

    fn base(&self) -> *mut u8 {
        core::ptr::null_mut()
    }

    fn unit(&self) -> usize {
        PAGE_SIZE
    }
}

/// A store. It fails the model if it has no page that is loaded, has one already that is stored, or if two threads use
/// one entry at a time.
struct ToyStore {
    entries: Vec<(Watched, AtomicUsize)>,
    /// How many of the next stores are refused.
    refused: AtomicU32,
    /// How many of the next loads fail, after they have written something.
    unreadable: AtomicU32,
}

/// Nothing is stored.
const NONE: usize = usize::MAX;

impl ToyStore {
    fn has(&self, page: usize) -> bool {
        self.entries[page].1.load(Relaxed) != NONE
    }
}

impl Cold for Arc<ToyStore> {
    fn load(&self, page: usize, to: &mut [u8]) -> Result<(), LoadError> {
        self.entries[page].0.read();
        assert!(self.has(page), "a page is lost");
        to.fill(0);
        if Toy::fails(&self.unreadable) {
            to[0] = 99;
            return Err(LoadError::NotFound { entry: SwapEntry::new(0, page as u64).unwrap() });
        }
        to[..8].copy_from_slice(&(self.entries[page].1.load(Relaxed) as u64).to_le_bytes());
        Ok(())
    }

    fn store(&self, page: usize, from: &[u8]) -> Result<(), StoreError> {
        self.entries[page].0.write();
        assert!(!self.has(page), "a page is stored over another content");
        if Toy::fails(&self.refused) {
            let entry = SwapEntry::new(0, page as u64).unwrap();
            return Err(StoreError::Incompressible { entry, page_size: PAGE_SIZE });
        }
        self.entries[page].1.store(head(from) as usize, Relaxed);
        Ok(())
    }

    fn invalidate(&self, page: usize) {
        self.entries[page].0.write();
        assert!(self.has(page), "a copy is dropped twice");
        self.entries[page].1.store(NONE, Relaxed);
    }

    fn memory_bytes(&self) -> usize {
        0
    }

    fn squeeze(&self) {}
}

/// A region of some pages, and what its program does.
struct World {
    engine: Engine,
    memory: Arc<Toy>,
    store: Arc<ToyStore>,
}

impl World {
    fn new(kind: BackendKind, pages: usize) -> Arc<World> {
        Self::limited(kind, pages, None)
    }

    fn limited(kind: BackendKind, pages: usize, resident: Option<usize>) -> Arc<World> {
        let blocks = blocks_for(pages, 10) + SPARE_BLOCKS;
        let memory = Arc::new(Toy::new(kind, pages, blocks * BLOCK));
        let entries = (0..pages).map(|_| (Watched::new(), NONE.into())).collect();
        let store = Arc::new(ToyStore { entries, refused: 0.into(), unreadable: 0.into() });
        let on_full = OnFull::Abort;
        let engine = Engine {
            table: Table::new(pages).unwrap(),
            slots: Slots::new(blocks).unwrap(),
            limbo: Mutex::new(Limbo::new(blocks)),
            backend: Box::new(memory.clone()),
            cold: Box::new(store.clone()),
            room: Room::new(resident.map(|pages| pages * PAGE_SIZE), None, false, PAGE_SIZE),
            clean: Policy::new(CleanPages::Always),
            streams: Streams::default(),
            counters: Counters::default(),
            settings: Settings { on_full, fault_around: false, limbo_percent: 10 },
            table_bytes: Number::new(0),
            staging_bytes: Number::new(0),
            pinned: Number::new(0),
            on_their_way: Number::new(0),
            cold_pages: Number::new(0),
            refusal: std::sync::Mutex::default(),
            freed: Number::new(0),
            grace: Number::new(0),
        };
        engine.refresh();
        let world = Arc::new(World { engine, memory, store });
        assert!(world.memory.world.set(Arc::downgrade(&world)).is_ok());
        world
    }

    /// Makes a region whose pages all have the content 1, and are in memory.
    fn resident(kind: BackendKind, pages: usize) -> Arc<World> {
        let world = Self::new(kind, pages);
        (0..pages).for_each(|page| world.write(page));
        world
    }

    /// Makes a region whose pages all have the content 1, and are in the store.
    fn cold(kind: BackendKind, pages: usize) -> Arc<World> {
        let world = Self::resident(kind, pages);
        world.evict();
        (0..pages).for_each(|page| assert_eq!(world.state(page), State::Cold));
        world
    }

    /// Makes a region whose pages all have the content 1, are in memory and in the store.
    fn clean(pages: usize) -> Arc<World> {
        let world = Self::cold(BackendKind::Move, pages);
        (0..pages).for_each(|page| assert_eq!(world.read(page), 1));
        (0..pages).for_each(|page| assert_eq!(world.state(page), State::Clean));
        world
    }

    /// A step before a call, which the checker tries before and after each call of the toys for the first page. Without
    /// it, the checker explores too little where each of two threads loads a word and then changes it.
    fn begin(&self) {
        // Relaxed: publishes nothing.
        self.memory.pages[0].step.fetch_add(1, Ordering::Relaxed);
    }

    fn state(&self, page: usize) -> State {
        self.engine.table.get(page).state()
    }

    fn fault(&self, page: usize, access: Access) -> Result<usize, Trouble> {
        self.begin();
        let (mut window, mut room) = (vec![0; 2 * PAGE_SIZE], vec![0; PAGE_SIZE]);
        self.engine.fault(page, access, &mut Buffers { window: &mut window, room: &mut room })
    }

    fn touch(&self, page: usize, n: u64) -> u64 {
        let access = if n > 0 { Access::Write } else { Access::Read };
        loop {
            if let Some(was) = self.memory.touch(page, n) {
                return was;
            }
            self.fault(page, access).unwrap();
        }
    }

    /// Adds 1 to the content.
    fn write(&self, page: usize) {
        self.touch(page, 1);
    }

    fn read(&self, page: usize) -> u64 {
        self.touch(page, 0)
    }

    fn pin(&self, page: usize) {
        self.engine.pinned.add(1);
        self.fault(page, Access::Pin).unwrap();
    }

    fn unpin(&self, page: usize) {
        self.begin();
        self.engine.unpin(page);
    }

    /// Evicts every page that may be taken.
    fn evict(&self) -> usize {
        self.begin();
        self.engine.evict_range(0, self.engine.table.pages(), &mut vec![0; PAGE_SIZE])
    }

    /// Evicts as a fault does that needs room.
    fn evict_by_clock(&self) -> usize {
        self.begin();
        self.engine.evict(&mut vec![0; PAGE_SIZE], true).freed
    }

    fn discard(&self) -> usize {
        self.begin();
        self.engine.discard(0, self.engine.table.pages())
    }

    /// Starts `run` on another thread of the model.
    fn beside<T: 'static>(
        self: &Arc<World>,
        run: impl FnOnce(&World) -> T + 'static,
    ) -> JoinHandle<T> {
        let world = self.clone();
        thread::spawn(move || run(&world))
    }

    /// Checks that nothing is left under way, that every count is right, and that the pages have these contents. Then
    /// discards them, and checks that no memory is left.
    fn settle(&self, contents: &[u64]) {
        self.check();
        for (page, content) in contents.iter().enumerate() {
            assert_eq!(self.read(page), *content, "page {page}");
        }
        while self.engine.limbo.lock().blocks() > 0 {
            self.evict_by_clock();
        }
        self.check();
        self.discard();
        self.check();
        assert_eq!((self.memory.in_use(), self.engine.room.resident()), (0, 0));
    }

    fn check(&self) {
        let engine = &self.engine;
        let mut cold = 0;
        for page in 0..engine.table.pages() {
            let word = engine.table.get(page);
            assert!(!word.state().is_owned() && !word.is_storing() && !word.has_waiters());
            assert_eq!(word.has_copy(), self.store.has(page), "{word:?}");
            cold += isize::from(word.state() == State::Cold);
        }
        assert_eq!(engine.cold_pages.get() as isize, cold);
        assert_eq!(engine.room.resident(), self.memory.in_use(), "charged, and in memory");
        assert_eq!((engine.pinned.get(), engine.on_their_way.get()), (0, 0));
        assert_eq!(engine.limbo.lock().drains().0, 0);
    }
}

/// Runs a model with either kind of memory.
fn with_both(model: impl Fn(BackendKind) + Sync + Send + Copy + 'static) {
    for kind in BOTH {
        loom::model(move || model(kind));
    }
}

#[test]
fn loom_region_write_against_eviction() {
    with_both(|kind| {
        let world = World::resident(kind, 1);
        let evictor = world.beside(World::evict);
        world.write(0);
        world.write(0);
        evictor.join().unwrap();
        world.settle(&[3]);
    });
}

#[test]
fn loom_region_fault_against_fault() {
    with_both(|kind| {
        let world = World::cold(kind, 1);
        let other = world.beside(|world| world.write(0));
        world.write(0);
        other.join().unwrap();
        world.settle(&[3]);
    });
}

#[test]
fn loom_region_first_touch_against_first_touch() {
    with_both(|kind| {
        let world = World::new(kind, 1);
        let other = world.beside(|world| world.write(0));
        world.write(0);
        other.join().unwrap();
        world.settle(&[2]);
    });
}

/// Two threads may wait for the one that fills the page.
#[test]
fn loom_region_three_faults_on_one_page() {
    with_both(|kind| {
        let world = World::cold(kind, 1);
        let others = [0, 1].map(|_| world.beside(|world| world.write(0)));
        world.write(0);
        others.into_iter().for_each(|other| other.join().unwrap());
        world.settle(&[4]);
    });
}

/// While one thread compresses the page, it comes back, is written, and another thread evicts it again.
#[test]
fn loom_region_rescue_and_eviction_against_eviction() {
    with_both(|kind| {
        let world = World::resident(kind, 1);
        let evictor = world.beside(World::evict);
        world.write(0);
        world.evict();
        evictor.join().unwrap();
        world.settle(&[2]);
    });
}

#[test]
fn loom_region_write_against_two_evictions() {
    with_both(|kind| {
        let world = World::resident(kind, 1);
        let evictors = [0, 1].map(|_| world.beside(World::evict));
        world.write(0);
        evictors.into_iter().for_each(|evictor| assert!(evictor.join().unwrap() <= 1));
        world.settle(&[2]);
    });
}

/// The pages go through the queue of blocks, and each thread drains what another one took.
#[test]
fn loom_region_clock_against_clock() {
    with_both(|kind| {
        let world = World::resident(kind, 3);
        let evictor = world.beside(World::evict_by_clock);
        world.write(2);
        world.evict_by_clock();
        evictor.join().unwrap();
        world.settle(&[1, 1, 2]);
    });
}

#[test]
fn loom_region_write_to_a_clean_page_against_eviction() {
    loom::model(|| {
        let world = World::clean(1);
        let evictor = world.beside(World::evict);
        world.write(0);
        evictor.join().unwrap();
        world.settle(&[2]);
    });
}

#[test]
fn loom_region_read_of_a_clean_page_against_eviction() {
    loom::model(|| {
        let world = World::clean(1);
        let evictor = world.beside(World::evict);
        assert_eq!(world.read(0), 1);
        world.write(0);
        evictor.join().unwrap();
        world.settle(&[2]);
    });
}

#[test]
fn loom_region_write_against_read_of_a_cold_page() {
    with_both(|kind| {
        let world = World::cold(kind, 1);
        let reader = world.beside(|world| world.read(0));
        world.write(0);
        let read = reader.join().unwrap();
        assert!(read == 1 || read == 2, "{read}");
        world.settle(&[2]);
    });
}

#[test]
fn loom_region_pin_against_eviction() {
    with_both(|kind| {
        let world = World::resident(kind, 1);
        let evictor = world.beside(World::evict);
        world.pin(0);
        // As in a system call: a signal would be an error.
        assert_eq!(world.memory.touch(0, 1), Some(1), "a pinned page is there, and writable");
        world.unpin(0);
        evictor.join().unwrap();
        world.settle(&[2]);
    });
}

#[test]
fn loom_region_pin_of_a_clean_page_against_pin_and_eviction() {
    // Three threads take too long with the usual bound.
    let mut model = loom::model::Builder::new();
    model.preemption_bound = model.preemption_bound.map(|bound| bound.min(2));
    model.check(|| {
        let world = World::clean(1);
        let pinner = |world: &World| {
            world.pin(0);
            assert!(world.memory.touch(0, 1).is_some(), "a pinned page is there, and writable");
            world.unpin(0);
        };
        let (other, evictor) = (world.beside(pinner), world.beside(World::evict));
        pinner(&world);
        other.join().unwrap();
        evictor.join().unwrap();
        world.settle(&[3]);
    });
}

#[test]
fn loom_region_discard_against_eviction() {
    with_both(|kind| {
        let world = World::resident(kind, 2);
        let evictor = world.beside(World::evict);
        assert_eq!(world.discard(), 2);
        evictor.join().unwrap();
        world.settle(&[0, 0]);
    });
}

#[test]
fn loom_region_discard_of_a_clean_page_against_eviction() {
    loom::model(|| {
        let world = World::clean(1);
        let evictor = world.beside(World::evict);
        assert_eq!(world.discard(), 1);
        evictor.join().unwrap();
        world.settle(&[0]);
    });
}

#[test]
fn loom_region_discard_and_write_against_eviction() {
    with_both(|kind| {
        let world = World::resident(kind, 1);
        let evictor = world.beside(World::evict);
        world.discard();
        world.write(0);
        world.evict();
        evictor.join().unwrap();
        world.settle(&[1]);
    });
}

#[test]
fn loom_region_discard_against_fault() {
    with_both(|kind| {
        let world = World::cold(kind, 1);
        let writer = world.beside(|world| world.write(0));
        let discarded = world.discard();
        writer.join().unwrap();
        let content = world.read(0);
        // A fault's repair pins the page for a moment, and pinned pages keep their content.
        assert!(content == 1 || content == if discarded == 1 { 0 } else { 2 }, "{content}");
        world.settle(&[content]);
    });
}

#[test]
fn loom_region_discard_against_discard() {
    with_both(|kind| {
        let world = World::resident(kind, 2);
        let other = world.beside(World::discard);
        assert_eq!(world.discard() + other.join().unwrap(), 2);
        world.settle(&[0, 0]);
    });
}

#[test]
fn loom_region_discard_against_pin() {
    with_both(|kind| {
        let world = World::resident(kind, 1);
        let pinner = world.beside(|world| {
            world.pin(0);
            let first = world.memory.touch(0, 1);
            let second = world.memory.touch(0, 1);
            assert_eq!(first.map(|n| n + 1), second, "a pinned page keeps its content");
            world.unpin(0);
        });
        world.discard();
        pinner.join().unwrap();
        let content = world.read(0);
        assert!([0, 2, 3].contains(&content), "{content}");
        world.settle(&[content]);
    });
}

/// Getting the page back fails, while the block of its slot is drained.
#[test]
fn loom_region_failed_rescue_against_eviction() {
    with_both(|kind| {
        let world = World::resident(kind, 1);
        world.memory.failing.store(2, Relaxed);
        let evictor = world.beside(World::evict);
        while world.memory.touch(0, 1).is_none() {
            // An error leaves the page as it was.
            let _ = world.fault(0, Access::Write);
        }
        evictor.join().unwrap();
        world.memory.failing.store(0, Relaxed);
        world.settle(&[2]);
    });
}

/// The thread that drains the block may wait for the rescue that fails, and nobody touches the page again.
#[test]
fn loom_region_failed_rescue_wakes_who_waits() {
    with_both(|kind| {
        let world = World::resident(kind, 1);
        world.memory.failing.store(2, Relaxed);
        let evictor = world.beside(World::evict);
        let _ = world.fault(0, Access::Prefetch);
        evictor.join().unwrap();
        world.memory.failing.store(0, Relaxed);
        world.settle(&[1]);
    });
}

#[test]
fn loom_region_refused_page_against_write() {
    with_both(|kind| {
        let world = World::resident(kind, 1);
        world.store.refused.store(1, Relaxed);
        let evictor = world.beside(World::evict);
        world.write(0);
        evictor.join().unwrap();
        world.settle(&[2]);
    });
}

/// As above, and the page's memory cannot be moved back but only copied.
#[test]
fn loom_region_refused_page_that_is_copied_against_write() {
    with_both(|kind| {
        let world = World::resident(kind, 1);
        world.store.refused.store(1, Relaxed);
        world.memory.failing.store(1, Relaxed);
        let evictor = world.beside(World::evict);
        while world.memory.touch(0, 1).is_none() {
            let _ = world.fault(0, Access::Write);
        }
        evictor.join().unwrap();
        world.memory.failing.store(0, Relaxed);
        world.settle(&[2]);
    });
}

#[test]
fn loom_region_refused_page_against_discard() {
    with_both(|kind| {
        let world = World::resident(kind, 1);
        world.store.refused.store(1, Relaxed);
        let evictor = world.beside(World::evict);
        assert_eq!(world.discard(), 1);
        evictor.join().unwrap();
        world.settle(&[0]);
    });
}

#[test]
fn loom_region_busy_page_against_write() {
    with_both(|kind| {
        let world = World::cold(kind, 1);
        world.read(0);
        world.memory.busy.store(1, Relaxed);
        let evictor = world.beside(World::evict);
        world.write(0);
        evictor.join().unwrap();
        world.settle(&[2]);
    });
}

/// What a load that fails has written is gone when the page is touched after it was discarded.
#[test]
fn loom_region_failed_load_against_discard() {
    with_both(|kind| {
        let world = World::cold(kind, 1);
        world.store.unreadable.store(1, Relaxed);
        let other = world.beside(|world| {
            let _ = world.fault(0, Access::Prefetch);
        });
        world.discard();
        other.join().unwrap();
        world.store.unreadable.store(0, Relaxed);
        world.settle(&[0]);
    });
}

/// One thread brings two pages at once, of which another thread wants one.
#[test]
fn loom_region_prefetch_against_fault() {
    with_both(|kind| {
        let world = World::cold(kind, 2);
        let other = world.beside(|world| world.write(1));
        world.fault(0, Access::Prefetch).unwrap();
        world.write(0);
        other.join().unwrap();
        world.settle(&[2, 2]);
    });
}

/// There is memory for one page, which one thread takes while another thread needs it.
#[test]
fn loom_region_search_for_room_against_eviction() {
    with_both(|kind| {
        let world = World::limited(kind, 2, Some(1));
        world.write(0);
        let evictor = world.beside(World::evict);
        world.write(1);
        evictor.join().unwrap();
        world.settle(&[1, 1]);
    });
}

/// The memory for one page is that of a slot, whose page was discarded and is touched again: the thread that touches it
/// owns the page, and waits for the one that drains the slot.
#[test]
fn loom_region_search_for_room_after_a_discard() {
    with_both(|kind| {
        let world = World::limited(kind, 1, Some(1));
        world.write(0);
        let evictor = world.beside(World::evict);
        world.discard();
        world.write(0);
        evictor.join().unwrap();
        world.settle(&[1]);
    });
}
