//! AcompCtx: codec context, mutex and buffer of one CPU and one pool, in one struct.
//!
//! # Rules
//! * A context is made on its CPU's first use and dropped with its pool. Nothing of it is shared
//!   with another pool. Setting it up may fail; then nothing is left of it and the next use tries
//!   again.
//! * It is the outermost lock. Its holder may block in the codec and in the backend (a page
//!   request), but makes no shrink, reclaim, device I/O or user callback under it. Nobody waits for
//!   a context while holding an entry lock or a backend's lock (`might_sleep` checks it).
//! * It is not re-entrant: a codec or backend that calls back into a store on the thread that
//!   holds a context gets [`Busy::Reentrant`] where it would need one, instead of a deadlock,
//!   whatever CPU it is on by then. Calls that need no context go through.
//!
//! The CPU only chooses the context; the mutex makes it exclusive. So a thread that is moved to
//! another CPU meanwhile is slower, not wrong. It is made by a thread on that CPU, which also touches
//! its memory first.
//!
//! Who finds the context busy waits for it. Its holder is on another CPU by now or descheduled, and a
//! neighbour's context looks tempting; it was measured (docs/architecture.md) and is worse: the
//! neighbour waits in turn, and finds its context's memory in the wrong cache.

use core::fmt;

use compressors::{Compressor, CompressorCtx, CompressorError};
use crossbeam_utils::CachePadded;
use once_cell::sync::OnceCell;
use zpool_api::lockdep::might_sleep;

use crate::PAGE_SIZE;
use crate::cpu;
use crate::sync::{Mutex, MutexGuard, thread_flag};

thread_flag! {
    /// Whether this thread holds a context, of whatever pool or store.
    HOLDS_ONE
}

/// What a context's mutex guards.
#[derive(Debug)]
pub struct Tools {
    /// The codec's context.
    pub codec: Box<dyn CompressorCtx>,
    /// As long as the codec's worst case for a page.
    pub buffer: Box<[u8]>,
}

struct AcompCtx {
    tools: Mutex<Tools>,
    /// Heap bytes of the codec context and the buffer.
    bytes: usize,
}

/// Why a context could not be had.
#[derive(Debug)]
pub enum Busy {
    /// This thread holds one already.
    Reentrant,
    /// Setting it up failed.
    SetUp(CompressorError),
}

/// A pool's contexts, one a CPU.
pub struct AcompCtxs {
    by_cpu: Box<[OnceCell<Box<CachePadded<AcompCtx>>>]>,
}

/// A context, held until dropped.
#[derive(Debug)]
pub struct HeldCtx<'a> {
    tools: MutexGuard<'a, Tools>,
    _mark: Mark,
}

/// This thread holds a context while this lives; on every way out, a panic included.
#[derive(Debug)]
struct Mark;

impl Mark {
    fn set() -> Result<Mark, Busy> {
        match HOLDS_ONE.try_with(|holds| holds.replace(true)) {
            Ok(false) => Ok(Mark),
            // The second arm: the thread is ending and its marks are gone, so nested uses could not
            // be told from others.
            Ok(true) | Err(_) => Err(Busy::Reentrant),
        }
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        let _ = HOLDS_ONE.try_with(|holds| holds.set(false));
    }
}

impl Default for AcompCtxs {
    fn default() -> Self {
        Self::new()
    }
}

impl AcompCtxs {
    /// Room for every CPU; makes no context yet.
    pub fn new() -> Self {
        AcompCtxs { by_cpu: (0..cpu::places()).map(|_| OnceCell::new()).collect() }
    }

    /// This CPU's context. Waits for whoever else uses it; makes it on first use.
    #[inline]
    pub fn hold(&self, compressor: &dyn Compressor) -> Result<HeldCtx<'_>, Busy> {
        self.hold_of(cpu::current(), compressor)
    }

    /// The context of a CPU, also of one that was not there when the pool was made.
    #[inline]
    fn hold_of(&self, cpu: usize, compressor: &dyn Compressor) -> Result<HeldCtx<'_>, Busy> {
        might_sleep("waiting for an AcompCtx");
        let mark = Mark::set()?;
        // The number of places is a power of two.
        let cell = &self.by_cpu[cpu & (self.by_cpu.len() - 1)];
        let ctx = cell.get_or_try_init(|| AcompCtx::set_up(compressor)).map_err(Busy::SetUp)?;
        Ok(HeldCtx { tools: ctx.tools.lock(), _mark: mark })
    }

    /// Heap bytes of the contexts made so far.
    pub fn memory_bytes(&self) -> usize {
        let made = self.by_cpu.iter().filter_map(OnceCell::get);
        made.map(|ctx| ctx.bytes + size_of::<CachePadded<AcompCtx>>()).sum::<usize>()
            + size_of_val(&*self.by_cpu)
    }
}

impl AcompCtx {
    fn set_up(compressor: &dyn Compressor) -> Result<Box<CachePadded<Self>>, CompressorError> {
        let codec = compressor.new_ctx()?;
        let mut buffer = Vec::new();
        // A codec may ask for anything; it is told, not the allocator's abort handler.
        let len = compressor.max_compressed_len(PAGE_SIZE);
        let refused = CompressorError::OutOfMemory { codec: "acomp", what: "the codec's buffer" };
        buffer.try_reserve_exact(len).map_err(|_| refused)?;
        buffer.resize(len, 0);
        let buffer = buffer.into_boxed_slice();
        let bytes = codec.memory_bytes() + buffer.len();
        let tools = Mutex::new(Tools { codec, buffer });
        Ok(Box::new(CachePadded::new(AcompCtx { tools, bytes })))
    }
}

impl HeldCtx<'_> {
    /// The codec context and the buffer.
    pub fn tools(&mut self) -> &mut Tools {
        &mut self.tools
    }
}

impl fmt::Debug for AcompCtxs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let made = self.by_cpu.iter().filter(|cell| cell.get().is_some()).count();
        f.debug_struct("AcompCtxs")
            .field("cpus", &self.by_cpu.len())
            .field("made", &made)
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[derive(Debug, Default)]
    struct Counting {
        made: AtomicUsize,
        fail: AtomicUsize,
        wants: usize,
    }

    impl Compressor for Counting {
        fn name(&self) -> &str {
            "counting"
        }
        fn spec(&self) -> String {
            "counting".into()
        }
        fn max_compressed_len(&self, len: usize) -> usize {
            len + 8 + self.wants
        }
        fn new_ctx(&self) -> Result<Box<dyn CompressorCtx>, CompressorError> {
            if self.fail.load(Ordering::SeqCst) > 0 {
                self.fail.fetch_sub(1, Ordering::SeqCst);
                return Err(CompressorError::OutOfMemory { codec: "counting", what: "a test" });
            }
            self.made.fetch_add(1, Ordering::SeqCst);
            compressors::build("null")?.new_ctx()
        }
    }

    #[test]
    fn made_on_first_use_and_reused() {
        let (ctxs, codec) = (AcompCtxs::new(), Counting::default());
        let empty = ctxs.memory_bytes();
        // As many uses as make sure that some CPU is met twice.
        for _ in 0..=cpu::places() {
            assert_eq!(ctxs.hold(&codec).unwrap().tools().buffer.len(), PAGE_SIZE + 8);
        }
        let made = codec.made.load(Ordering::SeqCst);
        assert!((1..=cpu::places()).contains(&made));
        assert!(ctxs.memory_bytes() >= empty + made * PAGE_SIZE);
    }

    #[test]
    fn a_cpu_that_appears_later_has_a_context_too() {
        let (ctxs, codec) = (AcompCtxs::new(), Counting::default());
        let places = cpu::places();
        drop(ctxs.hold_of(0, &codec).unwrap());
        assert_eq!(codec.made.load(Ordering::SeqCst), 1);
        drop(ctxs.hold_of(places - 1, &codec).unwrap());
        assert_eq!(codec.made.load(Ordering::SeqCst), if places == 1 { 1 } else { 2 });
        // Beyond all that the system announced: it shares one.
        for cpu in [places, 3 * places - 1, usize::MAX] {
            drop(ctxs.hold_of(cpu, &codec).unwrap());
        }
        assert_eq!(codec.made.load(Ordering::SeqCst), if places == 1 { 1 } else { 2 });
    }

    #[test]
    fn who_finds_it_busy_waits_for_it() {
        let (ctxs, codec) = (AcompCtxs::new(), Counting::default());
        let held = ctxs.hold_of(0, &codec).unwrap();
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| drop(ctxs.hold_of(0, &codec).unwrap()));
            // Another CPU's is free meanwhile.
            let other = || ctxs.hold_of(1, &codec).is_ok();
            assert!(cpu::places() == 1 || scope.spawn(other).join().unwrap());
            assert!(!waits.is_finished(), "its holder is still at it");
            drop(held);
            waits.join().unwrap();
        });
    }

    #[test]
    fn a_failed_set_up_leaves_nothing_and_is_tried_again() {
        let (ctxs, codec) = (AcompCtxs::new(), Counting::default());
        codec.fail.store(1, Ordering::SeqCst);
        let empty = ctxs.memory_bytes();
        assert!(matches!(ctxs.hold(&codec), Err(Busy::SetUp(_))));
        assert_eq!(ctxs.memory_bytes(), empty);
        assert!(ctxs.hold(&codec).is_ok());
    }

    #[test]
    fn a_codec_that_wants_a_buffer_beyond_all_memory_gets_an_error() {
        let (ctxs, codec) =
            (AcompCtxs::new(), Counting { wants: usize::MAX / 2, ..Counting::default() });
        assert!(matches!(ctxs.hold(&codec), Err(Busy::SetUp(CompressorError::OutOfMemory { .. }))));
    }

    #[test]
    fn a_nested_use_is_an_error_also_of_another_pool() {
        let (ctxs, other, codec) = (AcompCtxs::new(), AcompCtxs::new(), Counting::default());
        let held = ctxs.hold(&codec).unwrap();
        assert!(matches!(ctxs.hold(&codec), Err(Busy::Reentrant)));
        assert!(matches!(other.hold(&codec), Err(Busy::Reentrant)));
        drop(held);
        assert!(ctxs.hold(&codec).is_ok());
    }

    #[test]
    fn a_panic_lets_go_of_it() {
        let (ctxs, codec) = (AcompCtxs::new(), Counting::default());
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _held = ctxs.hold(&codec);
            panic!("on purpose");
        }));
        assert!(panicked.is_err());
        assert!(ctxs.hold(&codec).is_ok());
    }
}
