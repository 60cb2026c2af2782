//! Memory of a region for collections: an allocator in the sense of `allocator-api2`.
//!
//! `placement.rs` decides where blocks lie; this file does the rest: it locks, gives pages up, copies and fills bytes.
//!
//! # Rules
//! * The placement's mutex has the rank of a leaf: under it no memory of the region is touched, no page is given up, and no
//!   other lock is taken. So no fault happens under it, and one that waits for a device delays nobody else's call.
//! * Pages go back before their block is free: while the caller's block still has them, or while nobody has them
//!   ([`Vacated`]). A block that is placed lies in pages that are zero, or that the placement knows as dirty.
//! * Blocks are reached by pointers that come from the region's base. No slice of the region is ever made beside them.
//!
//! # Files
//!
//! | file | contents |
//! |---|---|
//! | `placement.rs` | where blocks lie |
//! | `slabs.rs`, `classes.rs` | small blocks |
//! | `runs.rs` | large blocks, and free pages |
//! | `records.rs`, `side_table.rs` | the tables of both |

mod classes;
mod placement;
mod records;
mod runs;
mod side_table;
mod slabs;

use core::alloc::Layout;
use core::fmt;
use core::ops::{Deref, DerefMut, Range};
use core::ptr::{self, NonNull};
use std::sync::Arc;

use allocator_api2::alloc::{AllocError, Allocator};

use crate::error::{AdviceError, BuildError, Chosen, LimitError, PinError, RangeError};
use crate::word::State;
use crate::{Pinned, Region, RegionStats};
use classes::Class;
use placement::{Block, Placement, Vacated};
use zpool_base::fork::Leaked;
use zpool_base::lockdep::{Rank, acquire};
use zpool_base::sync::{Mutex, yield_now};
use zswap_core::{BuildError as StoreBuildError, MigrateError, PAGE_SIZE, PoolMigration};

/// How many bytes of a large block are copied before the old ones are given up.
const STEP: usize = 256 << 10;

/// How often memory that other threads are about to free is waited for.
const PATIENCE: usize = 64;

/// Allocates memory in a region: for `hashbrown`'s maps, for `allocator_api2`'s `Vec` and `Box`, and for whatever else has
/// an allocator as a parameter. What the collections do not touch becomes cold, and is compressed.
/// [`Region::into_allocator`] returns one.
///
/// ```
/// use allocator_api2::vec::Vec;
/// use zswap_region::{Region, RegionAllocator};
///
/// struct Log {
///     lines: hashbrown::HashMap<u64, Vec<u8, RegionAllocator>, std::hash::RandomState, RegionAllocator>,
/// }
///
/// # // SAFETY: the program keeps the rules of the crate's front page.
/// # let Ok(region) = (unsafe { Region::builder().capacity(64 << 20).budget(4 << 20).build() }) else { return };
/// let memory = region.into_allocator().unwrap();
/// let lines = hashbrown::HashMap::with_hasher_in(Default::default(), memory.clone());
/// let mut log = Log { lines };
/// for n in 0..10_000u64 {
///     let mut line = Vec::new_in(memory.clone());
///     line.resize(800, n as u8);
///     log.lines.insert(n, line);
/// }
/// assert_eq!(log.lines[&4711][..], [103; 800]);
/// let stats = memory.stats();
/// assert!(stats.memory_bytes <= 4 << 20 && memory.allocated_bytes() > 8 << 20);
/// ```
///
/// A handle, `Clone`, `Send` and `Sync`: the region lives until the last clone is dropped. Each collection has one.
/// No handle gives a slice of the region, since the collections have references to its bytes.
///
/// # Frees
/// Memory that is freed is used again. A page in which no block is left takes no memory, neither resident nor
/// compressed: it is given up at once ([`Region::discard`]). Exceptions are at most one slab of 1 to 7 pages for each of
/// 36 sizes, which [`trim`](RegionAllocator::trim) gives up, and pages that are pinned when their block is freed. A page
/// that was given up may come back, as zeros, when it follows a sequence of touches
/// ([`fault_around`](crate::RegionBuilder::fault_around)); nobody touches it, so it becomes cold.
///
/// Neither a free nor the search for a place touches the region: all tables are outside, 0.02 to 0.09 bytes for each byte
/// of a page of blocks. The budget bounds them, too.
///
/// # Choosing a capacity
/// Address space costs nothing, but a region that is fragmented, or whose largest table is growing, needs more of
/// it than its blocks have bytes: a map that grows has its old table and its new one. Twice to four times what the blocks
/// have is a good capacity.
///
/// # Errors
/// An allocation fails if there is no range that is long enough. Limits are not checked here: they hold when memory is
/// touched, and [`OnFull`](crate::OnFull) says what happens if there is no room.
///
/// # Blocking
/// One mutex, held for the search alone. A free of the last block of a page drops the page, as [`Region::discard`] does.
///
/// # Fork
/// In a child, all allocations fail, frees do nothing, and a touch of a block raises SIGSEGV.
#[derive(Clone)]
pub struct RegionAllocator(Arc<Leaked<Shared>>);

struct Shared {
    region: Region,
    tables: Mutex<Tables>,
}

struct Tables {
    placement: Placement,
    /// The bytes of tables that the region counts.
    counted: usize,
}

impl Region {
    /// Makes the region an allocator. What it held is given up.
    ///
    /// # Errors
    /// [`BuildError::AllocatorUnit`] if the region's pages have more than 4096 bytes: blocks are placed, and given up, in
    /// pages of that length. [`BuildError::System`] if there is no address space for the tables. The region is dropped.
    pub fn into_allocator(self) -> Result<RegionAllocator, BuildError> {
        if self.unit() != PAGE_SIZE {
            return Err(BuildError::AllocatorUnit { unit: self.unit() });
        }
        let tables =
            |source| BuildError::System { doing: "mapping the allocator's tables", source };
        let pages = (self.len() / PAGE_SIZE) as u32;
        let placement = Placement::new(pages, self.as_ptr().addr() / PAGE_SIZE).map_err(tables)?;
        if self.is_here() {
            // No page is pinned, since pins borrow the region: all become zero.
            self.served().engine.discard(0, pages as usize);
        }
        let tables = Mutex::new(Tables { placement, counted: 0 });
        let allocator = RegionAllocator(Arc::new(Leaked::new(Shared { region: self, tables })));
        allocator.place_with(|_| ());
        Ok(allocator)
    }
}

impl RegionAllocator {
    fn region(&self) -> &Region {
        &self.0.region
    }

    /// Calls a function of the placement, and counts what its tables take.
    fn place_with<R>(&self, call: impl FnOnce(&mut Placement) -> R) -> R {
        let _held = acquire(Rank::Leaf);
        let mut tables = self.0.tables.lock();
        let result = call(&mut tables.placement);
        let bytes = tables.placement.table_bytes();
        if bytes > tables.counted {
            self.region().served().engine.table_bytes.add(bytes - tables.counted);
            tables.counted = bytes;
        }
        result
    }

    /// Makes bytes zero, page by page, and frees what they take. Returns whether some may not be zero.
    fn give_up(&self, bytes: Range<usize>) -> bool {
        let (first, end) = (bytes.start.div_ceil(PAGE_SIZE), bytes.end / PAGE_SIZE);
        let engine = &self.region().served().engine;
        engine.discard(first, end);
        // Pinned pages keep their content. A page that came back since then is zero, and merely counts as dirty.
        (first..end).any(|page| {
            engine.table.is_touched(page) && engine.table.get(page).state() != State::Never
        })
    }

    /// Gives up pages without blocks, and frees them.
    fn finish(&self, mut vacated: Option<Vacated>) {
        while let Some(pages) = vacated {
            let dirty = self.give_up(pages.bytes.clone());
            vacated = self.place_with(|placement| placement.finish(pages, dirty));
        }
    }

    fn place(&self, layout: Layout) -> Result<Block, AllocError> {
        if !self.region().is_here() {
            return Err(AllocError);
        }
        let (size, align) = (layout.size(), layout.align());
        for _ in 0..PATIENCE {
            let (block, idle, giving_up) = self.place_with(|placement| {
                let giving_up = placement.is_giving_up();
                let block = placement.take(size, align);
                let idle = if block.is_none() { placement.idle() } else { None };
                (block, idle, giving_up)
            });
            if let Some(block) = block {
                return Ok(block);
            }
            if idle.is_some() {
                self.finish(idle);
                self.trim();
            } else if giving_up {
                yield_now();
            } else {
                break;
            }
        }
        Err(AllocError)
    }

    /// Returns the bytes of a block, from `start` on in the region.
    fn block(&self, start: usize, len: usize) -> NonNull<[u8]> {
        // SAFETY: the region's mapping does not begin at address 0.
        let base = unsafe { NonNull::new_unchecked(self.region().as_ptr()) };
        // SAFETY: blocks lie in the region.
        let first = unsafe { base.add(start) };
        NonNull::slice_from_raw_parts(first, len)
    }

    /// Returns where a block begins in the region.
    fn start_of(&self, block: NonNull<u8>) -> usize {
        block.addr().get().wrapping_sub(self.region().as_ptr().addr())
    }

    /// Moves a block to a new one with the alignment of `new`.
    ///
    /// # Safety
    /// As for `grow` and `shrink`: the block is this allocator's, and `old` and `new` have a size.
    unsafe fn move_to(
        &self,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        let to = self.allocate(new)?;
        let bytes = old.size().min(new.size());
        let start = self.start_of(block);
        let mut at = 0;
        while at < bytes {
            let len = (bytes - at).min(STEP);
            // SAFETY: both blocks have at least `bytes` bytes.
            let source = unsafe { block.add(at) };
            // SAFETY: as above.
            let target = unsafe { to.cast::<u8>().add(at) };
            // SAFETY: the caller owns the one block, and this function the other, so they do not overlap.
            unsafe { target.copy_from_nonoverlapping(source, len) };
            if bytes > STEP {
                // So the block does not take its memory twice. It is a large one, and this caller's until it is freed.
                self.give_up(start + at..start + at + len);
            }
            at += len;
        }
        // SAFETY: the caller gave the block up to this function.
        unsafe { self.deallocate(block, old) };
        Ok(to)
    }

    /// Returns the region's figures. `table_bytes` of this allocator are in `memory_bytes`.
    pub fn stats(&self) -> RegionStats {
        self.region().stats()
    }

    /// Returns the length of the region in bytes.
    pub fn capacity(&self) -> usize {
        self.region().len()
    }

    /// Returns the bytes of all blocks, each rounded up to what a block of its size takes.
    pub fn allocated_bytes(&self) -> usize {
        if self.region().is_here() { self.place_with(|placement| placement.live()) } else { 0 }
    }

    /// Returns the bytes of memory that the allocator's tables take. They never shrink.
    pub fn memory_bytes(&self) -> usize {
        if self.region().is_here() {
            self.place_with(|placement| placement.table_bytes())
        } else {
            0
        }
    }

    /// Gives up the pages that are kept for the next small blocks.
    pub fn trim(&self) {
        while self.region().is_here() {
            let Some(idle) = self.place_with(Placement::idle) else { break };
            self.finish(Some(idle));
        }
    }

    /// Returns where a value lies in the region, in bytes, or `None` if it is somewhere else. For
    /// [`prefetch`](RegionAllocator::prefetch) and [`advise_cold`](RegionAllocator::advise_cold).
    pub fn range_of<T: ?Sized>(&self, value: &T) -> Option<Range<usize>> {
        let start =
            ptr::from_ref(value).cast::<u8>().addr().wrapping_sub(self.region().as_ptr().addr());
        let len = size_of_val(value);
        (start < self.capacity() && len <= self.capacity() - start).then(|| start..start + len)
    }

    /// Brings evicted pages of a range back before they are touched ([`Region::prefetch`]). Returns how many came.
    ///
    /// # Errors
    /// Those of [`Region::prefetch`].
    ///
    /// # Blocking
    /// As [`Region::prefetch`].
    pub fn prefetch(&self, range: Range<usize>) -> Result<usize, AdviceError> {
        self.region().prefetch(range)
    }

    /// Evicts the resident pages of a range ([`Region::advise_cold`]). Returns how many left.
    ///
    /// # Errors
    /// Those of [`Region::advise_cold`].
    ///
    /// # Blocking
    /// As [`Region::advise_cold`].
    pub fn advise_cold(&self, range: Range<usize>) -> Result<usize, RangeError> {
        self.region().advise_cold(range)
    }

    /// Keeps bytes resident for system calls ([`Region::pin`]), as long as the result lives. It takes a borrow of the bytes
    /// or their owner, so that they are not freed meanwhile: `&[u8]`, `&mut [u8]`, a `Vec<u8, RegionAllocator>`.
    ///
    /// ```
    /// # use allocator_api2::vec::Vec;
    /// # use zswap_region::Region;
    /// use std::io::Read;
    ///
    /// # // SAFETY: the program keeps the rules of the crate's front page.
    /// # let Ok(region) = (unsafe { Region::builder().capacity(1 << 20).resident_bytes(1 << 20).build() }) else { return Ok(()) };
    /// let memory = region.into_allocator().unwrap();
    /// let mut buffer = Vec::new_in(memory.clone());
    /// buffer.resize(5000, 0);
    /// let mut pinned = memory.pin(&mut buffer[..])?;
    /// let got = std::fs::File::open("/proc/self/status")?.read(&mut pinned)?;
    /// drop(pinned);
    /// assert!(buffer.starts_with(b"Name:") && got < 5000);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`Region::pin`]; [`PinError::Range`] if the bytes are not in the region.
    ///
    /// # Blocking
    /// As [`Region::pin`].
    pub fn pin<B: Deref<Target = [u8]>>(&self, bytes: B) -> Result<PinnedBytes<'_, B>, PinError> {
        let range = if bytes.is_empty() { Some(0..0) } else { self.range_of(&*bytes) };
        let range = range.ok_or_else(|| {
            let start = (*bytes).as_ptr().addr().wrapping_sub(self.region().as_ptr().addr());
            RangeError { range: start..start.wrapping_add(bytes.len()), len: self.capacity() }
        })?;
        Ok(PinnedBytes { pinned: self.region().pin(range)?, bytes })
    }

    /// Changes the limit on everything ([`Region::set_budget`]).
    ///
    /// # Errors
    /// Those of [`Region::set_budget`].
    ///
    /// # Blocking
    /// As [`Region::set_budget`].
    pub fn set_budget(&self, bytes: Option<usize>) -> Result<(), LimitError> {
        self.region().set_budget(bytes)
    }

    /// Changes the limit on resident pages ([`Region::set_resident_bytes`]).
    ///
    /// # Errors
    /// Those of [`Region::set_resident_bytes`].
    ///
    /// # Blocking
    /// As [`Region::set_resident_bytes`].
    pub fn set_resident_bytes(&self, bytes: Option<usize>) -> Result<(), LimitError> {
        self.region().set_resident_bytes(bytes)
    }

    /// Changes the backend for new cold pages ([`Region::set_zpool`]).
    ///
    /// # Errors
    /// Those of [`Region::set_zpool`].
    pub fn set_zpool(&self, name: &str) -> Result<(), StoreBuildError> {
        self.region().set_zpool(name)
    }

    /// Changes the compressor for new cold pages ([`Region::set_compressor`]).
    ///
    /// # Errors
    /// Those of [`Region::set_compressor`].
    pub fn set_compressor(&self, spec: &str) -> Result<(), StoreBuildError> {
        self.region().set_compressor(spec)
    }

    /// Moves up to `budget` pages of older pools into the current one ([`Region::migrate_pools`]).
    ///
    /// # Errors
    /// Those of [`Region::migrate_pools`].
    pub fn migrate_pools(&self, budget: usize) -> Result<PoolMigration, MigrateError> {
        self.region().migrate_pools(budget)
    }

    /// Returns which backend the region uses, and why.
    pub fn backend(&self) -> &Chosen {
        self.region().backend()
    }
}

/// Returns a block of no bytes at a multiple of the alignment.
fn nothing(layout: Layout) -> NonNull<[u8]> {
    let dangling = ptr::without_provenance_mut(layout.align());
    // SAFETY: an alignment is not 0.
    NonNull::slice_from_raw_parts(unsafe { NonNull::new_unchecked(dangling) }, 0)
}

fn is_aligned(block: NonNull<u8>, layout: Layout) -> bool {
    block.addr().get() % layout.align() == 0
}

// SAFETY: blocks lie in the region's mapping, which lives until the last clone of this handle is dropped, wherever the
// handles move. The placement gives no byte to two blocks, and none of a block to anything else before it is freed. Bytes of
// a block keep their values: pages are given up only if no live block has bytes in them, or, while a block moves, if they
// were copied.
unsafe impl Allocator for RegionAllocator {
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        if layout.size() == 0 {
            return Ok(nothing(layout));
        }
        let block = self.place(layout)?;
        Ok(self.block(block.start, block.len))
    }

    fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        if layout.size() == 0 {
            return Ok(nothing(layout));
        }
        let block = self.place(layout)?;
        let memory = self.block(block.start, block.len);
        // SAFETY: the bytes are the block's, which nobody else has yet.
        unsafe { memory.cast::<u8>().write_bytes(0, block.zero_from) };
        Ok(memory)
    }

    unsafe fn deallocate(&self, block: NonNull<u8>, layout: Layout) {
        if layout.size() > 0 && self.region().is_here() {
            let start = self.start_of(block);
            let vacated = self.place_with(|placement| placement.free(start));
            self.finish(vacated);
        }
    }

    unsafe fn grow(
        &self,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        if old.size() == 0 {
            return self.allocate(new);
        }
        if !self.region().is_here() {
            return Err(AllocError);
        }
        if is_aligned(block, new) {
            let start = self.start_of(block);
            if let Some(grown) = self.place_with(|placement| placement.grow(start, new.size())) {
                return Ok(NonNull::slice_from_raw_parts(block, grown.len));
            }
        }
        // SAFETY: the caller's promise; a block that grows has a size.
        unsafe { self.move_to(block, old, new) }
    }

    unsafe fn grow_zeroed(
        &self,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        if old.size() == 0 {
            return self.allocate_zeroed(new);
        }
        if !self.region().is_here() {
            return Err(AllocError);
        }
        let start = self.start_of(block);
        let in_place = || {
            is_aligned(block, new)
                .then(|| self.place_with(|placement| placement.grow(start, new.size())))
        };
        let (memory, zero_from) = match in_place().flatten() {
            Some(grown) => (NonNull::slice_from_raw_parts(block, grown.len), grown.zero_from),
            None => {
                // SAFETY: the caller's promise; a block that grows has a size.
                let memory = unsafe { self.move_to(block, old, new) }?;
                (memory, memory.len())
            }
        };
        // SAFETY: the block is at least as long as it was asked for before.
        let tail = unsafe { memory.cast::<u8>().add(old.size()) };
        // SAFETY: the bytes are the block's, behind those that it keeps.
        unsafe { tail.write_bytes(0, zero_from.saturating_sub(old.size())) };
        Ok(memory)
    }

    unsafe fn shrink(
        &self,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        if new.size() == 0 {
            // SAFETY: the caller's promise.
            unsafe { self.deallocate(block, old) };
            return Ok(nothing(new));
        }
        if !self.region().is_here() {
            return Err(AllocError);
        }
        let start = self.start_of(block);
        let (class, len) = self.place_with(|placement| placement.look_up(start));
        let wanted = Class::of(new.size(), new.align());
        let moved = if wanted != class || !is_aligned(block, new) {
            // SAFETY: the caller's promise; both layouts have a size.
            unsafe { self.move_to(block, old, new) }
        } else {
            Err(AllocError)
        };
        if moved.is_ok() || !is_aligned(block, new) {
            return moved;
        }
        if class.is_some() {
            return Ok(NonNull::slice_from_raw_parts(block, len));
        }
        // The tail is the caller's until it is given up.
        let dirty = self.give_up(start + new.size()..start + len);
        let len = self.place_with(|placement| placement.truncate(start, new.size(), dirty));
        Ok(NonNull::slice_from_raw_parts(block, len))
    }
}

impl fmt::Debug for RegionAllocator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegionAllocator").field("region", self.region()).finish_non_exhaustive()
    }
}

/// Bytes of a region that stay resident and writable until this is dropped. [`RegionAllocator::pin`] returns it. It
/// dereferences to the bytes.
#[must_use = "the pages are unpinned when this is dropped"]
#[derive(Debug)]
pub struct PinnedBytes<'a, B> {
    /// Dropped first: the bytes' pages go back only if they are not pinned.
    pinned: Pinned<'a>,
    bytes: B,
}

impl<B> PinnedBytes<'_, B> {
    /// Unpins the bytes and returns what was pinned.
    pub fn into_inner(self) -> B {
        drop(self.pinned);
        self.bytes
    }
}

impl<B: Deref<Target = [u8]>> Deref for PinnedBytes<'_, B> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl<B: DerefMut<Target = [u8]>> DerefMut for PinnedBytes<'_, B> {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}
