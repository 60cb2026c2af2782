//! Runs the same operations on every backend. Each backend is checked against its own model.
//!
//! The model knows the bytes of every live object and of every open guard. It also keeps the
//! handles of freed objects, and operations try them again. Such a handle must never name an object
//! again.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use arbitrary::Arbitrary;
use zpool_api::{Evicted, Handle, ObjRead, PageProvider, Zpool, ZpoolConfig, ZpoolError};
use zpool_pages::{FailingPages, HeapPages};

/// An action of the evict callback. A reclaim takes its three actions in turn, again and again.
#[derive(Arbitrary, Debug, Clone, Copy)]
pub enum Verdict {
    Keep,
    Evict,
    FreeItself,
    FreeAnother(u8),
    Allocate(u16),
    ReclaimAgain,
    Panic,
}

/// An operation. The number of `Free`, `Read`, `DropGuard` and `Stale`, and `object`, are indices of
/// objects, guards or freed handles, modulo the count.
#[derive(Arbitrary, Debug)]
pub enum Op {
    Malloc(u16),
    Write { size: u16, written: u16, commit: bool },
    Free(u8),
    Read(u8),
    DropGuard(u8),
    Stale(u8),
    MadeUp(u64),
    Flipped { object: u8, bit: u8 },
    Reclaim { pages: u8, verdicts: [Verdict; 3] },
    Trim,
    Compact,
    Migrate,
    FailCall(u8),
    LimitPages(Option<u8>),
}

/// Returns a pool of each backend under test, for objects of up to `max` bytes. The pools take their
/// pages from `pages`. To test another backend, add a line here.
fn backends(pages: &Arc<FailingPages>, max: usize) -> Vec<Arc<dyn Zpool>> {
    let pages: Arc<dyn PageProvider> = pages.clone();
    let config = ZpoolConfig::new(pages.clone()).with_max_object_size(max);
    let small_chains = zsmalloc::Config::new().chain(3).step(8).generations_left(40);
    let few = zsmalloc::Zsmalloc::from_config(&config, small_chains);
    let usual = zsmalloc::Zsmalloc::from_config(&config, zsmalloc::Config::new());
    vec![
        Arc::new(zbud::Zbud::new(pages.clone()).expect("a page size that it takes")),
        Arc::new(z3fold::Z3fold::new(pages).expect("a page size that it takes")),
        Arc::new(usual.expect("a page size that it takes")),
        Arc::new(few.expect("a page size that it takes")),
    ]
}

/// Runs the first 200 operations on every backend, with pages of 4 KiB and with larger ones. Then checks
/// that each pool has returned all its pages. `size` selects the larger page and the largest object of
/// those backends whose objects may be larger than a page.
pub fn run(size: u8, ops: &[Op]) {
    let (max, large) = match size % 6 {
        0 => (4096, 16384),
        1 => (8192, 8192),
        2 => (16384, 16384),
        3 => (32768, 32768),
        4 => (65536, 65536),
        _ => (4097 + usize::from(size) * 200, 16384),
    };
    for page_size in [4096, large] {
        let heap = HeapPages::with_page_size(page_size).expect("a usual size");
        let pages = Arc::new(FailingPages::new(Arc::new(heap)));
        for pool in backends(&pages, max) {
            pages.fail_call(0);
            pages.limit_pages(usize::MAX);
            pages.isolate_all(true);
            let mut machine = Machine::new(&*pool);
            for op in ops.iter().take(200) {
                machine.step(op, &pages);
            }
            machine.finish();
            drop(pool);
            assert_eq!(pages.pages_out(), 0, "pages left out");
        }
    }
}

/// Returns the bytes of an object, which are derived from its number.
fn content(number: u64, size: usize) -> Vec<u8> {
    let seed = number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes();
    (0..size).map(|i| seed[i % 8] ^ (i / 8) as u8).collect()
}

/// The part of the model that the evict callback changes, too.
#[derive(Default)]
struct Model {
    live: BTreeMap<Handle, Vec<u8>>,
    gone: Vec<Handle>,
    made: u64,
}

impl Model {
    fn pick(&self, n: u8) -> Option<Handle> {
        self.live.keys().nth(usize::from(n) % self.live.len().max(1)).copied()
    }

    fn add(&mut self, handle: Handle, bytes: Vec<u8>) {
        assert!(!self.gone.contains(&handle), "{handle:?} came again");
        assert!(self.live.insert(handle, bytes).is_none(), "{handle:?} was given out twice");
    }

    fn remove(&mut self, handle: Handle) {
        self.live.remove(&handle).expect("it was live");
        self.gone.push(handle);
    }

    fn malloc(&mut self, pool: &dyn Zpool, size: usize) {
        self.made += 1;
        let bytes = content(self.made, size);
        match pool.malloc_from(&bytes) {
            Ok(handle) => self.add(handle, bytes),
            Err(ZpoolError::EmptyObject) => assert_eq!(size, 0),
            Err(ZpoolError::ObjectTooLarge { .. }) => assert!(size > pool.caps().max_object_size),
            Err(ZpoolError::OutOfMemory { .. }) => {}
            Err(other) => panic!("{other}"),
        }
    }

    fn free(&mut self, pool: &dyn Zpool, handle: Handle) {
        pool.free(handle).expect("it was live");
        self.remove(handle);
    }
}

struct Machine<'p> {
    pool: &'p dyn Zpool,
    model: RefCell<Model>,
    guards: Vec<(ObjRead<'p>, Vec<u8>)>,
}

/// The payload of the evict callback's deliberate panics.
struct OnPurpose;

impl<'p> Machine<'p> {
    fn new(pool: &'p dyn Zpool) -> Self {
        Machine { pool, model: RefCell::default(), guards: Vec::new() }
    }

    fn step(&mut self, op: &Op, pages: &FailingPages) {
        let pool = self.pool;
        match *op {
            Op::Malloc(size) => self.model.get_mut().malloc(pool, usize::from(size)),
            Op::Write { size, written, commit } => self.write(size, written, commit),
            Op::Free(n) => {
                let model = self.model.get_mut();
                if let Some(handle) = model.pick(n) {
                    model.free(pool, handle);
                }
            }
            Op::Read(n) => {
                let model = self.model.get_mut();
                if let Some(handle) = model.pick(n) {
                    let guard = pool.obj_read_begin(handle).expect("it is live");
                    let bytes = model.live[&handle].clone();
                    assert!(*guard == *bytes);
                    self.guards.push((guard, bytes));
                }
            }
            Op::DropGuard(n) => {
                if !self.guards.is_empty() {
                    let (guard, bytes) =
                        self.guards.swap_remove(usize::from(n) % self.guards.len());
                    assert!(*guard == *bytes, "bytes changed under a guard");
                }
            }
            Op::Stale(n) => {
                let gone = &self.model.get_mut().gone;
                let picked = gone.get(usize::from(n) % gone.len().max(1)).copied();
                if let Some(handle) = picked {
                    self.refused(handle);
                }
            }
            Op::MadeUp(word) => self.try_any(word),
            Op::Flipped { object, bit } => {
                if let Some(handle) = self.model.get_mut().pick(object) {
                    self.try_any(handle.as_u64() ^ 1 << (bit % 64));
                }
            }
            Op::Reclaim { pages, verdicts } => self.reclaim(usize::from(pages), verdicts),
            Op::Trim => {
                let cached = pool.stats().cached_pages;
                assert_eq!(pool.trim(), cached);
            }
            Op::Compact => {
                let before = pool.total_pages();
                match pool.compact() {
                    Ok(won) => {
                        assert!(pool.caps().compaction);
                        assert_eq!(before - pool.total_pages(), won);
                        assert_eq!(pool.stats().cached_pages, 0);
                    }
                    Err(error) => {
                        assert!(!pool.caps().compaction);
                        assert!(matches!(error, ZpoolError::Unsupported { .. }));
                    }
                }
            }
            Op::Migrate => {
                let before = pool.total_pages();
                match pool.migrate() {
                    Ok(done) => {
                        assert!(pool.caps().migration && pool.total_pages() <= before);
                        assert!(done.left <= self.guards.len(), "zspages stayed without a guard");
                    }
                    Err(ZpoolError::OutOfMemory { .. }) => assert!(pool.caps().migration),
                    Err(error) => {
                        assert!(!pool.caps().migration);
                        assert!(matches!(error, ZpoolError::Unsupported { .. }));
                    }
                }
            }
            Op::FailCall(n) => pages.fail_call(u64::from(n)),
            Op::LimitPages(limit) => pages.limit_pages(limit.map_or(usize::MAX, usize::from)),
        }
        self.check_counts();
    }

    fn write(&mut self, size: u16, written: u16, commit: bool) {
        let model = self.model.get_mut();
        model.made += 1;
        let bytes = content(model.made, usize::from(size));
        let Ok(mut object) = self.pool.malloc(bytes.len()) else { return };
        let written = usize::from(written).min(bytes.len());
        object.write(&bytes[..written]).expect("it fits");
        if commit {
            match object.commit() {
                Ok(handle) => {
                    assert_eq!(written, bytes.len());
                    model.add(handle, bytes);
                }
                Err(ZpoolError::NotFullyWritten { .. }) => assert!(written < bytes.len()),
                Err(other) => panic!("{other}"),
            }
        }
    }

    fn refused(&self, handle: Handle) {
        let read = self.pool.obj_read_begin(handle).map(|object| object.len());
        assert!(matches!(read, Err(ZpoolError::InvalidHandle { .. })), "{handle:?}: {read:?}");
        assert!(matches!(self.pool.free(handle), Err(ZpoolError::InvalidHandle { .. })));
    }

    fn try_any(&self, word: u64) {
        let Some(handle) = Handle::from_u64(word) else { return };
        match self.model.borrow().live.get(&handle) {
            Some(bytes) => {
                assert!(*self.pool.obj_read_begin(handle).expect("it is live") == **bytes)
            }
            None => self.refused(handle),
        }
    }

    fn reclaim(&mut self, target: usize, verdicts: [Verdict; 3]) {
        let (pool, model) = (self.pool, &self.model);
        let mut turns = verdicts.into_iter().cycle();
        let turns = RefCell::new(move || turns.next().unwrap_or(Verdict::Keep));
        let evict = |handle: Handle, object: ObjRead<'_>| {
            assert!(*object == *model.borrow().live[&handle], "not the bytes of {handle:?}");
            let verdict = turns.borrow_mut()();
            match verdict {
                Verdict::Keep => return Evicted::Keep,
                Verdict::Evict => model.borrow_mut().remove(handle),
                Verdict::FreeItself => model.borrow_mut().free(pool, handle),
                Verdict::FreeAnother(n) => {
                    let mut model = model.borrow_mut();
                    if let Some(other) = model.pick(n) {
                        model.free(pool, other);
                        if other == handle {
                            return Evicted::Evicted;
                        }
                    }
                    return Evicted::Keep;
                }
                Verdict::Allocate(size) => {
                    model.borrow_mut().malloc(pool, usize::from(size));
                    return Evicted::Keep;
                }
                Verdict::ReclaimAgain => {
                    let keep = |_: Handle, _: ObjRead<'_>| Evicted::Keep;
                    assert_eq!(pool.reclaim(1, &keep), Ok(0));
                    return Evicted::Keep;
                }
                // `resume_unwind` does not call the panic hook, which would end the fuzzer.
                Verdict::Panic => resume_unwind(Box::new(OnPurpose)),
            }
            Evicted::Evicted
        };
        match catch_unwind(AssertUnwindSafe(|| pool.reclaim(target, &evict))) {
            Ok(Err(error)) => {
                assert!(!pool.caps().reclaim);
                assert!(matches!(error, ZpoolError::Unsupported { .. }));
            }
            Ok(Ok(freed)) => {
                assert!(pool.caps().reclaim);
                assert!(freed < target + 16, "{freed} pages freed, {target} asked");
            }
            Err(payload) if payload.is::<OnPurpose>() => {}
            Err(payload) => resume_unwind(payload),
        }
    }

    fn check_counts(&self) {
        let (stats, model) = (self.pool.stats(), self.model.borrow());
        assert_eq!(stats.objects, model.live.len());
        assert_eq!(stats.object_bytes, model.live.values().map(Vec::len).sum::<usize>());
        assert!(stats.total_pages * stats.page_size >= stats.object_bytes);
        if self.guards.is_empty() {
            assert_eq!(stats.parked_objects, 0);
        }
    }

    fn finish(mut self) {
        for (guard, bytes) in self.guards.drain(..) {
            assert!(*guard == *bytes, "bytes changed under a guard");
        }
        // The last reader of a freed object may leave the object's space for the next call to free.
        self.pool.trim();
        let model = self.model.get_mut();
        for (handle, bytes) in core::mem::take(&mut model.live) {
            assert!(*self.pool.obj_read_begin(handle).expect("it is live") == *bytes);
            self.pool.free(handle).expect("it was live");
        }
        let stats = self.pool.stats();
        assert_eq!((stats.objects, stats.object_bytes, stats.parked_objects), (0, 0, 0));
        assert_eq!(stats.total_pages, 0, "an emptied pool holds pages");
    }
}
