//! The naive store: a sharded concurrent map from the page number to a boxed LZ4 block. There is
//! one for each of three allocators.
//!
//! The blocks come from the chosen allocator, the map's own tables from the system's. The map
//! compresses with liblz4, through the calls with which the bare liblz4 is timed.

use std::alloc::{GlobalAlloc, Layout, System};
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::Arc;

use compressors::{Compressor, CompressorCtx};
use dashmap::DashMap;
use measure::{Contestant, Memory, Page, Worker};

use crate::bare;
use crate::error::{Error, Result};
use crate::source::PAGE;

/// The allocator of the blocks.
pub(crate) trait Heap: 'static {
    const ALLOC: &'static (dyn GlobalAlloc + Sync);

    /// Returns as much free memory to the system as the allocator can.
    fn purge();
}

/// The allocator of the system's C library, with its defaults.
pub(crate) struct Libc;
/// jemalloc, with its defaults.
pub(crate) struct Jemalloc;
/// mimalloc, with its defaults.
pub(crate) struct Mimalloc;

impl Heap for Libc {
    const ALLOC: &'static (dyn GlobalAlloc + Sync) = &System;

    fn purge() {
        #[cfg(all(target_os = "linux", target_env = "gnu"))]
        // SAFETY: the call takes no pointer and may be made at any time.
        unsafe {
            libc::malloc_trim(0);
        }
    }
}

impl Heap for Jemalloc {
    const ALLOC: &'static (dyn GlobalAlloc + Sync) = &tikv_jemallocator::Jemalloc;

    fn purge() {
        use std::ptr::null_mut;
        // SAFETY: the name ends in a zero byte. This control takes no input and returns no output,
        // so the other pointers may be null.
        unsafe {
            let name = c"arena.4096.purge".as_ptr();
            tikv_jemalloc_sys::mallctl(name, null_mut(), null_mut(), null_mut(), 0);
        }
    }
}

impl Heap for Mimalloc {
    const ALLOC: &'static (dyn GlobalAlloc + Sync) = &mimalloc::MiMalloc;

    fn purge() {
        // SAFETY: the call takes no pointer and may be made at any time.
        unsafe { libmimalloc_sys::mi_collect(true) }
    }
}

/// Makes every allocator return free memory to the system.
pub(crate) fn purge_all() {
    Libc::purge();
    Jemalloc::purge();
    Mimalloc::purge();
}

/// A block of bytes from the allocator `H`, used like a `Box<[u8]>`.
struct Block<H: Heap> {
    bytes: NonNull<u8>,
    len: usize,
    heap: PhantomData<H>,
}

// SAFETY: a block owns its bytes, as a `Box<[u8]>` does, and the allocator may free them on any
// thread.
unsafe impl<H: Heap> Send for Block<H> {}
// SAFETY: a shared reference to a block gives access to its bytes only by shared reference.
unsafe impl<H: Heap> Sync for Block<H> {}

impl<H: Heap> Block<H> {
    fn of(bytes: &[u8], page: usize) -> Result<Self> {
        let no_memory = || Error::Keeps { what: "a store", page, reason: "no memory".into() };
        let layout = Layout::array::<u8>(bytes.len().max(1)).map_err(|_| no_memory())?;
        // SAFETY: the size of the layout is at least one byte.
        let to = NonNull::new(unsafe { H::ALLOC.alloc(layout) }).ok_or_else(no_memory)?;
        // SAFETY: the heap has just allocated at least `bytes.len()` bytes, which nobody else uses.
        unsafe { to.as_ptr().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        Ok(Block { bytes: to, len: bytes.len(), heap: PhantomData })
    }

    fn get(&self) -> &[u8] {
        // SAFETY: `of` wrote `len` bytes there, and the block owns them until it is dropped.
        unsafe { std::slice::from_raw_parts(self.bytes.as_ptr(), self.len) }
    }
}

impl<H: Heap> Drop for Block<H> {
    fn drop(&mut self) {
        if let Ok(layout) = Layout::array::<u8>(self.len.max(1)) {
            // SAFETY: `of` allocated these bytes from this heap with the same layout. The block is
            // being dropped, so nobody has a reference to them.
            unsafe { H::ALLOC.dealloc(self.bytes.as_ptr(), layout) };
        }
    }
}

pub(crate) struct Map<H: Heap> {
    blocks: DashMap<u64, Block<H>>,
    compressor: Arc<dyn Compressor>,
}

impl<H: Heap> Map<H> {
    pub(crate) fn new(compressor: &str) -> Result<Self> {
        Ok(Map { blocks: DashMap::new(), compressor: bare::build(compressor)? })
    }
}

impl<H: Heap> Contestant<Error> for Map<H> {
    fn worker(&self) -> Result<Box<dyn Worker<Error> + '_>> {
        Ok(Box::new(Hand {
            map: self,
            ctx: self.compressor.new_ctx()?,
            packed: vec![1; self.compressor.max_compressed_len(PAGE)],
        }))
    }

    fn free(&self, page: usize) -> Result<()> {
        self.blocks.remove(&(page as u64));
        Ok(())
    }

    fn tidy(&self) -> Result<()> {
        self.blocks.shrink_to_fit();
        H::purge();
        Ok(())
    }

    fn memory(&self) -> Result<Memory> {
        let compressed_bytes = self.blocks.iter().map(|block| block.len).sum();
        Ok(Memory { compressed_bytes: Some(compressed_bytes), ..Memory::default() })
    }
}

struct Hand<'a, H: Heap> {
    map: &'a Map<H>,
    ctx: Box<dyn CompressorCtx>,
    packed: Vec<u8>,
}

impl<H: Heap> Worker<Error> for Hand<'_, H> {
    fn store(&mut self, first: usize, pages: &[Page]) -> Result<()> {
        let len = self.ctx.compress(&pages[0], &mut self.packed)?;
        self.map.blocks.insert(first as u64, Block::of(&self.packed[..len], first)?);
        Ok(())
    }

    fn load(&mut self, first: usize, into: &mut [Page]) -> Result<bool> {
        let Some(block) = self.map.blocks.get(&(first as u64)) else { return Ok(false) };
        let page = &mut into[0][..];
        match self.map.compressor.stateless() {
            Some(codec) => codec.decompress(block.get(), page)?,
            None => self.ctx.decompress(block.get(), page)?,
        }
        Ok(true)
    }
}
