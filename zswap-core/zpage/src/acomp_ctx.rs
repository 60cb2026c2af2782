//! `AcompCtx`: the codec context, mutex and buffer of one CPU and one pool, in one struct.
//!
//! # Rules
//! * Each pool has contexts of its own, one per CPU. The first use on a CPU makes the CPU's context. Dropping
//!   the pool drops its contexts.
//! * If making a context fails, most likely for lack of memory, the caller gets another CPU's context, and
//!   waits for it if necessary. The next use on that CPU tries to make the context again. A use fails only if
//!   no CPU has a context.
//! * If a codec panics, only that call fails. The context is dropped, and the next use makes a new one.
//! * In zswap-core a context's lock is the outermost lock: nobody waits for a context while holding an entry
//!   lock or a backend's lock (`might_sleep` checks this). In zram the lock of a slot comes before the context's
//!   lock: a thread may sleep while it holds a slot's lock.
//! * The holder of a context may block in the codec, and in the backend while the backend requests a page. It
//!   must not shrink, reclaim, do device I/O or call a user's callback.
//! * A context is not re-entrant. A codec or backend may call back into a store on the thread that holds a
//!   context. Then every call that needs a context fails with [`CodecFault::Reentrant`] instead of waiting for
//!   ever. That includes calls to another store, and calls after the thread has migrated to another CPU. Calls
//!   that need no context work.
//! * A fault handler's store has contexts of its own, which a thread that already holds a context, or whose
//!   thread-locals are gone, may take once. A thread that holds one of these and asks for any context gets
//!   [`CodecFault::Reentrant`]. If its thread-locals are gone, that is not noticed, and it may wait for ever.
//!
//! The CPU number only selects the context; the mutex makes it exclusive. So a thread that migrates while it
//! holds a context is slower, not wrong. A thread on the CPU makes the context. So this thread touches the
//! context's memory first, and by default the system places that memory near the CPU.
//!
//! A thread that finds its context locked waits for it. The holder has migrated or is descheduled, so it
//! might seem better to take a neighbour's context. Measurements (docs/architecture.md) show that it is
//! worse: threads on the neighbour's CPU then have to wait, too, and find the context's memory in the wrong
//! cache.

use core::fmt;
// These are from std even under loom: they serve a statistic, and no modelled protocol depends on it.
use std::sync::atomic::{AtomicUsize, Ordering};

use compressors::guard;
use compressors::{Compressor, CompressorCtx, CompressorError};
use crossbeam_utils::CachePadded;
use once_cell::sync::OnceCell;
use zpool_base::lockdep::might_sleep;
use zpool_base::unwind::{caught, dropped};

use crate::PAGE_SIZE;
use crate::cpu;
use crate::sync::{Mutex, MutexGuard, thread_bits};

/// The largest output buffer that a codec gets for a unit of `unit` bytes: 64 pages, or four units if that is
/// more. A codec may ask for any length, and the whole buffer is zeroed, so there must be a limit.
const fn most_output(unit: usize) -> usize {
    let (pages, units) = (64 * PAGE_SIZE, 4 * unit);
    if pages > units { pages } else { units }
}

/// Returns the bytes of output buffer that a codec needs to compress `unit` bytes.
///
/// # Errors
/// [`CompressorError::OutputTooLarge`] if the codec asks for more than [`most_output`];
/// [`CompressorError::Panicked`] if its `max_compressed_len` panics.
pub(crate) fn output_len(
    compressor: &dyn Compressor,
    unit: usize,
) -> Result<usize, CompressorError> {
    let panicked = CompressorError::Panicked { operation: "max_compressed_len" };
    let (len, max) =
        (caught(|| compressor.max_compressed_len(unit)).ok_or(panicked)?, most_output(unit));
    if len > max {
        return Err(CompressorError::OutputTooLarge { len, max });
    }
    Ok(len)
}

/// The bit of [`HELD`] of a context that is not a fault handler's.
const ORDINARY: u8 = 1;
/// The bit of [`HELD`] of a fault handler's context.
const FAULT_HANDLERS: u8 = 2;

thread_bits! {
    /// Which kinds of contexts this thread holds, of any pool or store.
    HELD
}

/// What a context's mutex guards.
#[derive(Debug)]
struct Tools {
    codec: Box<dyn CompressorCtx>,
    /// The output buffer, long enough for the longest output that the codec announces for a unit.
    buffer: Box<[u8]>,
}

#[derive(Debug, Default)]
struct AcompCtx {
    /// `None` before the first use, and after the codec panicked.
    tools: Mutex<Option<Tools>>,
    /// Heap bytes of the tools. Readers do not take the lock.
    bytes: AtomicUsize,
}

/// Why a codec call failed.
#[derive(Debug)]
pub enum CodecFault {
    /// This thread already holds a context, or the thread is ending. If the codec is a fault handler's
    /// ([`Codec::in_fault_handler`](crate::Codec::in_fault_handler)): this thread already holds a context of a fault
    /// handler's codec.
    Reentrant,
    /// The codec failed, or no context could be set up.
    Failed(CompressorError),
}

/// A CPU's context, in a boxed slice of length 1. The slice is made from a `Vec`, which can report that there is
/// no memory. `Box::new` cannot.
type Place = Box<[CachePadded<AcompCtx>]>;

/// A pool's contexts, one per CPU.
pub(crate) struct AcompCtxs {
    by_cpu: Box<[OnceCell<Place>]>,
    /// The bytes of the longest input that the contexts are prepared for.
    unit: usize,
    /// Whether these are contexts of a fault handler's store.
    in_fault_handler: bool,
}

/// A locked context. It is unlocked when this is dropped.
#[derive(Debug)]
pub struct HeldCtx<'a> {
    tools: MutexGuard<'a, Option<Tools>>,
    bytes: &'a AtomicUsize,
    _mark: Mark,
}

/// Marks the thread as holding a context until this is dropped, also if a panic drops it. It has the bit of the
/// context's kind. The other bit may be set for an outer context, so a drop leaves it.
#[derive(Debug)]
struct Mark(u8);

impl Mark {
    fn set(in_fault_handler: bool) -> Result<Mark, CodecFault> {
        let own = if in_fault_handler { FAULT_HANDLERS } else { ORDINARY };
        let mut before = None;
        let _ = HELD.try_with(|held| {
            before = Some(held.get());
            if may_take(before, in_fault_handler) {
                held.set(held.get() | own);
            }
        });
        if may_take(before, in_fault_handler) { Ok(Mark(own)) } else { Err(CodecFault::Reentrant) }
    }
}

/// Returns whether a thread with these bits may take a context. `None`: the thread is ending and its bits are
/// destroyed, so a nested use could not be detected.
fn may_take(held: Option<u8>, in_fault_handler: bool) -> bool {
    match held {
        // A fault cannot be refused.
        None => in_fault_handler,
        Some(held) if in_fault_handler => held & FAULT_HANDLERS == 0,
        Some(held) => held == 0,
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        let _ = HELD.try_with(|held| held.set(held.get() & !self.0));
    }
}

impl Default for AcompCtxs {
    fn default() -> Self {
        Self::new()
    }
}

impl AcompCtxs {
    /// Makes a place for each CPU. No place has a context yet.
    pub(crate) fn new() -> Self {
        let by_cpu = (0..cpu::places()).map(|_| OnceCell::new()).collect();
        AcompCtxs { by_cpu, unit: PAGE_SIZE, in_fault_handler: false }
    }

    /// Sets the length in bytes of the longest input. Contexts that were made before keep their length, so this is
    /// called before the first one is made.
    pub(crate) fn set_unit(&mut self, unit: usize) {
        self.unit = unit;
    }

    /// Returns the length in bytes of the longest input.
    #[inline]
    pub(crate) fn unit(&self) -> usize {
        self.unit
    }

    /// Sets whether these are contexts of a fault handler's store.
    pub(crate) fn set_in_fault_handler(&mut self, in_fault_handler: bool) {
        self.in_fault_handler = in_fault_handler;
    }

    /// Locks this CPU's context, and makes the context on first use. If the context cannot be made, locks
    /// another CPU's.
    ///
    /// # Errors
    /// [`CodecFault::Reentrant`] if this thread already holds a context or is ending; if these are contexts of a
    /// fault handler's store, only if it already holds one of such a store. [`CodecFault::Failed`] if this CPU's
    /// context could not be made and no other CPU has one.
    ///
    /// # Blocking
    /// Sleeps while another thread holds the context.
    #[inline]
    pub(crate) fn hold(&self, compressor: &dyn Compressor) -> Result<HeldCtx<'_>, CodecFault> {
        self.hold_of(cpu::current(), compressor)
    }

    /// Does what `hold` does, for the given CPU. Any CPU number is valid. A CPU that was added after the pool was
    /// made may have a number for which there is no place; it shares another CPU's place.
    #[inline]
    fn hold_of(&self, cpu: usize, compressor: &dyn Compressor) -> Result<HeldCtx<'_>, CodecFault> {
        might_sleep("waiting for an AcompCtx");
        let mark = Mark::set(self.in_fault_handler)?;
        // The number of places is a power of two.
        let own = cpu & (self.by_cpu.len() - 1);
        let (ctx, tools) = match self.own(own, compressor) {
            Ok(held) => held,
            Err(error) => self.anothers(own).ok_or(CodecFault::Failed(error))?,
        };
        Ok(HeldCtx { tools, bytes: &ctx.bytes, _mark: mark })
    }

    /// Locks a CPU's own context, and makes it if the CPU has none.
    #[inline]
    fn own(&self, cpu: usize, compressor: &dyn Compressor) -> Result<Locked<'_>, CompressorError> {
        let ctx = &self.by_cpu[cpu].get_or_try_init(place)?[0];
        let mut tools = ctx.tools.lock();
        if tools.is_none() {
            let made = Tools::set_up(compressor, self.unit)?;
            let bytes = caught(|| made.codec.memory_bytes()).unwrap_or(0);
            // Relaxed, here and below: a statistic, which publishes nothing.
            ctx.bytes.store(bytes.saturating_add(made.buffer.len()), Ordering::Relaxed);
            *tools = Some(made);
        }
        Ok((ctx, tools))
    }

    /// Locks another CPU's context: the first that is not locked. If all are locked, waits for the first one.
    /// Returns `None` if no other CPU has a context.
    #[cold]
    fn anothers(&self, own: usize) -> Option<Locked<'_>> {
        let places = self.by_cpu.len();
        let others = || (1..places).filter_map(|n| self.by_cpu[(own + n) % places].get());
        let free = others().find_map(|place| {
            let ctx: &AcompCtx = &place[0];
            Some((ctx, ctx.tools.try_lock()?)).filter(|(_, tools)| tools.is_some())
        });
        free.or_else(|| {
            others().find_map(|place| {
                let ctx: &AcompCtx = &place[0];
                Some((ctx, ctx.tools.lock())).filter(|(_, tools)| tools.is_some())
            })
        })
    }

    /// Returns the heap bytes of the contexts made so far and of their places.
    pub(crate) fn memory_bytes(&self) -> usize {
        let made = self.by_cpu.iter().filter_map(OnceCell::get);
        // Relaxed: as in `own`.
        let bytes =
            made.map(|place| [place[0].bytes.load(Ordering::Relaxed), size_of_val(&**place)]);
        bytes.flatten().fold(size_of_val(&*self.by_cpu), usize::saturating_add)
    }
}

impl Drop for AcompCtxs {
    fn drop(&mut self) {
        for place in self.by_cpu.iter_mut().filter_map(OnceCell::get_mut) {
            let tools = place[0].tools.lock().take();
            // Drops each context separately: if the destructor of one panics, the others are still dropped.
            dropped(tools);
        }
    }
}

type Locked<'a> = (&'a AcompCtx, MutexGuard<'a, Option<Tools>>);

fn place() -> Result<Place, CompressorError> {
    let refused = CompressorError::OutOfMemory { codec: "acomp", what: "a CPU's context" };
    let mut place = Vec::new();
    place.try_reserve_exact(1).map_err(|_| refused)?;
    place.push(CachePadded::new(AcompCtx::default()));
    Ok(place.into_boxed_slice())
}

impl Tools {
    fn set_up(compressor: &dyn Compressor, unit: usize) -> Result<Tools, CompressorError> {
        let len = output_len(compressor, unit)?;
        let mut buffer = Vec::new();
        let refused = CompressorError::OutOfMemory { codec: "acomp", what: "the codec's buffer" };
        buffer.try_reserve_exact(len).map_err(|_| refused)?;
        buffer.resize(len, 0);
        // The codec's context is made last, so no error path has to drop it.
        let codec = guard::new_ctx_for(compressor, unit)?;
        Ok(Tools { buffer: buffer.into_boxed_slice(), codec })
    }
}

impl HeldCtx<'_> {
    /// Compresses a page, or up to [`Codec::unit`](crate::Codec::unit) bytes, into [`output`](Self::output) and
    /// returns the length that the codec reports. The length is not checked; [`Codec::kept`](crate::Codec::kept) checks it.
    ///
    /// # Errors
    /// The codec's errors, and [`CompressorError::Panicked`] if it panics. A panic drops the context: every
    /// later call on this value fails with [`CompressorError::Panicked`], too.
    #[inline]
    pub fn compress(&mut self, page: &[u8]) -> Result<usize, CompressorError> {
        let gone = CompressorError::Panicked { operation: "compress" };
        let tools = self.tools.as_mut().ok_or(gone)?;
        let done = guard::compress(&mut *tools.codec, page, &mut tools.buffer);
        self.judged(done)
    }

    /// Decompresses `bytes` and fills `page` with the result.
    ///
    /// # Errors
    /// Those of [`compress`](Self::compress).
    #[inline]
    pub fn decompress(&mut self, bytes: &[u8], page: &mut [u8]) -> Result<(), CompressorError> {
        let gone = CompressorError::Panicked { operation: "decompress" };
        let tools = self.tools.as_mut().ok_or(gone)?;
        let done = guard::decompress(&mut *tools.codec, bytes, page);
        self.judged(done)
    }

    /// Returns the output buffer, which begins with the compressed bytes of the last page. After a panic, returns
    /// an empty slice.
    #[inline]
    pub fn output(&self) -> &[u8] {
        self.tools.as_ref().map_or(&[], |tools| &tools.buffer)
    }

    /// If `done` says that the codec panicked, drops the context. Returns `done`.
    #[inline]
    fn judged<T>(&mut self, done: Result<T, CompressorError>) -> Result<T, CompressorError> {
        if matches!(done, Err(CompressorError::Panicked { .. })) {
            // Relaxed: as in `own`.
            self.bytes.store(0, Ordering::Relaxed);
            dropped(self.tools.take());
        }
        done
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
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    #[derive(Debug, Default)]
    struct Counting {
        made: AtomicUsize,
        fail: AtomicUsize,
        wants: usize,
        /// The number of living contexts, and whether their calls panic.
        shared: Arc<Shared>,
    }

    #[derive(Debug, Default)]
    struct Shared {
        live: AtomicUsize,
        panics: AtomicBool,
    }

    #[derive(Debug)]
    struct Ctx(Arc<Shared>, Box<dyn CompressorCtx>);

    impl Ctx {
        fn step(&self) {
            if self.0.panics.load(Ordering::SeqCst) {
                std::panic::resume_unwind(Box::new("on purpose"));
            }
        }
    }

    impl CompressorCtx for Ctx {
        fn compress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, CompressorError> {
            self.step();
            self.1.compress(src, dst)
        }
        fn decompress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<(), CompressorError> {
            self.step();
            self.1.decompress(src, dst)
        }
        fn memory_bytes(&self) -> usize {
            self.step();
            1
        }
    }

    impl Drop for Ctx {
        fn drop(&mut self) {
            self.0.live.fetch_sub(1, Ordering::SeqCst);
            self.step();
        }
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
            self.shared.live.fetch_add(1, Ordering::SeqCst);
            Ok(Box::new(Ctx(self.shared.clone(), compressors::build("null")?.new_ctx()?)))
        }
    }

    #[test]
    fn made_on_first_use_and_reused() {
        let (ctxs, codec) = (AcompCtxs::new(), Counting::default());
        let empty = ctxs.memory_bytes();
        // One use more than there are places, so some place is used twice.
        for _ in 0..=cpu::places() {
            assert_eq!(ctxs.hold(&codec).unwrap().output().len(), PAGE_SIZE + 8);
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
        // A CPU with a number that is too large shares a place, and so a context.
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
            // Another CPU's context is free during the wait.
            let other = || ctxs.hold_of(1, &codec).is_ok();
            assert!(cpu::places() == 1 || scope.spawn(other).join().unwrap());
            assert!(!waits.is_finished(), "the context is still held");
            drop(held);
            waits.join().unwrap();
        });
    }

    #[test]
    fn a_failed_set_up_leaves_nothing_and_is_tried_again() {
        let (ctxs, codec) = (AcompCtxs::new(), Counting::default());
        codec.fail.store(2, Ordering::SeqCst);
        assert!(matches!(ctxs.hold_of(0, &codec), Err(CodecFault::Failed(_))));
        // The CPU's place stays, and is empty.
        let empty = ctxs.memory_bytes();
        assert!(matches!(ctxs.hold_of(0, &codec), Err(CodecFault::Failed(_))));
        assert_eq!(ctxs.memory_bytes(), empty);
        assert!(ctxs.hold_of(0, &codec).is_ok());
        assert!(ctxs.memory_bytes() > empty + PAGE_SIZE);
    }

    #[test]
    fn a_codec_that_wants_more_room_than_any_needs_gets_an_error_and_nothing_is_touched() {
        let max = 64 * PAGE_SIZE;
        let most = max - PAGE_SIZE - 8;
        let gib = |n: usize| n.saturating_mul(1 << 30);
        for wants in [most + 1, gib(1), gib(20), usize::MAX / 2] {
            let (ctxs, codec) = (AcompCtxs::new(), Counting { wants, ..Counting::default() });
            let Err(CodecFault::Failed(error)) = ctxs.hold(&codec) else { panic!("{wants}") };
            let len = codec.max_compressed_len(PAGE_SIZE);
            assert_eq!(error, CompressorError::OutputTooLarge { len, max });
            let said = error.to_string();
            assert!(said.contains(&len.to_string()) && said.contains("262144"), "{said}");
        }
        // Zeroing 256 KiB per CPU takes Miri half a minute.
        if cfg!(not(miri)) {
            let codec = Counting { wants: most, ..Counting::default() };
            assert_eq!(AcompCtxs::new().hold(&codec).unwrap().output().len(), max);
        }
        let registry = compressors::Registry::builtin();
        for name in registry.names() {
            let codec = registry.build(name).unwrap();
            for unit in [PAGE_SIZE, 16 * PAGE_SIZE] {
                assert!(output_len(&*codec, unit).unwrap() <= 2 * unit, "{name}");
            }
        }
    }

    #[test]
    fn a_nested_use_is_an_error_also_of_another_pool() {
        let (ctxs, other, codec) = (AcompCtxs::new(), AcompCtxs::new(), Counting::default());
        let held = ctxs.hold(&codec).unwrap();
        assert!(matches!(ctxs.hold(&codec), Err(CodecFault::Reentrant)));
        assert!(matches!(other.hold(&codec), Err(CodecFault::Reentrant)));
        drop(held);
        assert!(ctxs.hold(&codec).is_ok());
    }

    fn of_a_fault_handler() -> AcompCtxs {
        let mut ctxs = AcompCtxs::new();
        ctxs.set_in_fault_handler(true);
        ctxs
    }

    #[test]
    fn a_fault_handlers_context_may_be_taken_within_another_once() {
        let (ctxs, codec) = (AcompCtxs::new(), Counting::default());
        let (handlers, others) = (of_a_fault_handler(), of_a_fault_handler());
        let reentrant = |held: Result<HeldCtx<'_>, CodecFault>| {
            assert!(matches!(held, Err(CodecFault::Reentrant)), "{held:?}");
        };
        for _ in 0..2 {
            let held = ctxs.hold(&codec).unwrap();
            for _ in 0..2 {
                let inner = handlers.hold(&codec).unwrap();
                [&ctxs, &handlers, &others].iter().for_each(|ctxs| reentrant(ctxs.hold(&codec)));
                drop(inner);
                reentrant(ctxs.hold(&codec));
            }
            drop(held);
            let alone = handlers.hold(&codec).unwrap();
            [&ctxs, &handlers, &others].iter().for_each(|ctxs| reentrant(ctxs.hold(&codec)));
            drop(alone);
        }
        // The outer context may be dropped first.
        let held = ctxs.hold(&codec).unwrap();
        let inner = handlers.hold(&codec).unwrap();
        drop(held);
        [&ctxs, &others].iter().for_each(|ctxs| reentrant(ctxs.hold(&codec)));
        drop(inner);
        assert!(ctxs.hold(&codec).is_ok());
    }

    #[test]
    fn without_thread_locals_only_a_fault_handlers_context_is_taken() {
        assert!(may_take(None, true) && !may_take(None, false));
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

    #[test]
    fn without_memory_for_its_own_a_cpu_uses_anothers() {
        let (ctxs, codec) = (AcompCtxs::new(), Counting::default());
        if cpu::places() == 1 {
            return;
        }
        codec.fail.store(1, Ordering::SeqCst);
        assert!(matches!(ctxs.hold_of(1, &codec), Err(CodecFault::Failed(_))), "nobody has one");
        drop(ctxs.hold_of(0, &codec).unwrap());
        codec.fail.store(usize::MAX, Ordering::SeqCst);
        let mut held = ctxs.hold_of(1, &codec).unwrap();
        assert_eq!(held.compress(&[3; PAGE_SIZE]), Ok(PAGE_SIZE));
        assert_eq!(held.output()[..PAGE_SIZE], [3; PAGE_SIZE]);
        assert_eq!(codec.made.load(Ordering::SeqCst), 1);
        std::thread::scope(|scope| {
            // Both the context's own CPU and another CPU wait for it.
            let owner = scope.spawn(|| drop(ctxs.hold_of(0, &codec).unwrap()));
            let other = scope.spawn(|| drop(ctxs.hold_of(1, &codec).unwrap()));
            std::thread::yield_now();
            assert!(!owner.is_finished() && !other.is_finished());
            drop(held);
            owner.join().unwrap();
            other.join().unwrap();
        });
        // When there is memory again, CPU 1 makes its own context.
        codec.fail.store(0, Ordering::SeqCst);
        drop(ctxs.hold_of(1, &codec).unwrap());
        assert_eq!(codec.made.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn a_context_in_which_the_codec_panicked_is_made_anew() {
        let (ctxs, codec) = (AcompCtxs::new(), Counting::default());
        let mut page = [0; PAGE_SIZE];
        let panicked = |operation| CompressorError::Panicked { operation };
        for round in 1..4 {
            let mut held = ctxs.hold_of(0, &codec).unwrap();
            let len = held.compress(&[round; PAGE_SIZE]).unwrap();
            let bytes = held.output()[..len].to_vec();
            held.decompress(&bytes, &mut page).unwrap();
            assert_eq!(page, [round; PAGE_SIZE]);
            let (made, filled) = (codec.made.load(Ordering::SeqCst), ctxs.memory_bytes());
            assert_eq!((made, codec.shared.live.load(Ordering::SeqCst)), (round.into(), 1));
            // The context's destructor panics, too. It runs once.
            codec.shared.panics.store(true, Ordering::SeqCst);
            let (failed, name) = match round {
                1 => (held.compress(&page).map(drop), "compress"),
                _ => (held.decompress(&bytes, &mut page), "decompress"),
            };
            codec.shared.panics.store(false, Ordering::SeqCst);
            assert_eq!(failed, Err(panicked(name)));
            assert_eq!(codec.shared.live.load(Ordering::SeqCst), 0);
            // The held value has no context any more, and makes none.
            assert_eq!(held.compress(&page), Err(panicked("compress")));
            assert_eq!(held.decompress(&bytes, &mut page), Err(panicked("decompress")));
            assert!(held.output().is_empty() && ctxs.memory_bytes() < filled);
        }
        // A context can be used although its `memory_bytes` panics. Dropping the pool drops all contexts
        // although their destructors panic.
        codec.shared.panics.store(true, Ordering::SeqCst);
        drop(ctxs.hold_of(0, &codec).unwrap());
        drop(ctxs.hold_of(1, &codec).unwrap());
        drop(ctxs);
        assert_eq!(codec.shared.live.load(Ordering::SeqCst), 0);
    }
}
