//! When memory runs out, no call on a built store aborts or panics, except those in `ENDS_THE_PROCESS`. The
//! tests run in their own process. There the allocator refuses allocations of the thread under test: a
//! certain one, all from a certain one on, or one in every few.
#![cfg(all(target_os = "linux", not(miri)))]
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "an allocator; a failure in a test's helper is the test's own message, and a child that \
              aborts has printed what it was doing"
)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::time::Duration;

use common::{at, eventually, page};
use compressors::{AcompEngine, CompressorError};
use zpool_api::ZpoolError;
use zswap_core::device::{DeviceError, MemorySwapDevice};
use zswap_core::{
    AreaSettings, BatchError, CompactorPolicy, DictionaryPolicy, LimitReason, LoadError,
    MigrateError, PAGE_SIZE, Page, Recompress, ShrinkerPolicy, StoreError, WritebackError, Zswap,
    ZswapBuilder,
};

/// Says which allocations of a thread are refused. `Only(n)` refuses the `n`th, counted from 1; `From(n)` the
/// `n`th and all later ones; `Every(n)` every `n`th.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Plan {
    None,
    Only(u64),
    From(u64),
    Every(u64),
}

thread_local! {
    static PLAN: Cell<Plan> = const { Cell::new(Plan::None) };
    static ASKED: Cell<u64> = const { Cell::new(0) };
    static REFUSED: Cell<u64> = const { Cell::new(0) };
    /// The number of allocations refused to this thread so far, in all calls.
    static EVER_REFUSED: Cell<u64> = const { Cell::new(0) };
}

struct Refusing;

// SAFETY: forwards to the system's allocator, or returns null, which means failure. The default `realloc` and
// `alloc_zeroed` use these two functions.
unsafe impl GlobalAlloc for Refusing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if PLAN.get() != Plan::None {
            let asked = ASKED.get() + 1;
            ASKED.set(asked);
            let refused = match PLAN.get() {
                Plan::None => false,
                Plan::Only(n) => asked == n,
                Plan::From(n) => asked >= n,
                Plan::Every(n) => asked % n == 0,
            };
            if refused {
                REFUSED.set(REFUSED.get() + 1);
                return core::ptr::null_mut();
            }
        }
        // SAFETY: the caller keeps the contract of `alloc` for `layout`, and `System.alloc` has the same
        // contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: `at` came from `alloc`, with this layout.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Refusing = Refusing;

/// Makes a call, and refuses its allocations according to `plan`.
fn short<T>(plan: Plan, call: impl FnOnce() -> T) -> T {
    ASKED.set(0);
    REFUSED.set(0);
    PLAN.set(plan);
    let done = call();
    PLAN.set(Plan::None);
    EVER_REFUSED.set(EVER_REFUSED.get() + REFUSED.get());
    done
}

const CHILD: &str = "ZSWAP_OUT_OF_MEMORY_CHILD";

/// Runs a test of this file again in a child process, and passes `word` to it. Returns the child's exit
/// status and output.
fn in_child(test: &str, word: &str) -> (ExitStatus, String) {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads", "1"])
        .env(CHILD, word)
        .env("RUST_BACKTRACE", "0")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout) + String::from_utf8_lossy(&child.stderr);
    (child.status, said.into_owned())
}

/// Returns the word that was passed to this child process; `None` if this is not a child process.
fn word() -> Option<String> {
    std::env::var(CHILD).ok()
}

/// A store, with the seeds of the pages that it must hold.
struct Rig {
    store: Arc<Zswap>,
    held: BTreeMap<u64, u64>,
    /// Whether the store has a limit and a device.
    limited: bool,
}

const PAGES: u64 = 40;
/// The seed of a same-filled page with a pattern that needs a place in the side table.
const PATTERN: u64 = 16;
const TEXT: u64 = 8_000_005;
const NOISE: u64 = 8_000_001;

fn builder(zpool: &str, codec: &str) -> ZswapBuilder {
    Zswap::builder().zpool(zpool).compressor(codec)
}

impl Rig {
    fn new(zpool: &str, codec: &str, limited: bool) -> Rig {
        let builder = builder(zpool, codec);
        let builder = if limited {
            let engine = AcompEngine::new(1, 2).unwrap();
            let device = Arc::new(MemorySwapDevice::new(1 << 16));
            builder
                .max_pool_bytes(16 * PAGE_SIZE)
                .checksums(true)
                .swap_device(device)
                .acomp(Arc::new(engine))
        } else {
            builder
        };
        let store = Arc::new(builder.build().unwrap());
        let mut rig = Rig { store, held: BTreeMap::new(), limited };
        (0..PAGES).for_each(|n| rig.put(n, n));
        // A store at its limit may have written nearly all pages back. Store more pages until at least ten
        // are in the pool.
        let mut more = PAGES..2 * PAGES;
        while rig.store.stats().pools[0].objects < 10 {
            let n = more.next().unwrap();
            rig.put(n, n);
        }
        rig
    }

    fn put(&mut self, offset: u64, seed: u64) {
        self.store.store(at(offset), &page(seed)).unwrap();
        self.held.insert(offset, seed);
    }

    /// Checks that the store refused a page because an allocation was refused.
    fn expected(&self, error: &StoreError) {
        let short = match error {
            StoreError::Index { .. } => true,
            StoreError::Pool { source, .. } => is_short(source),
            StoreError::Compress { source, .. } => is_codec_short(source),
            StoreError::PoolLimit { reason: LimitReason::DeviceFailed, .. } => {
                // The device failed for lack of memory, in this call or a moment ago. The store tries it
                // again soon.
                assert!(self.limited && EVER_REFUSED.get() > 0, "{error}");
                return;
            }
            _ => false,
        };
        assert!(short && REFUSED.get() > 0, "{} refused: {error}", REFUSED.get());
    }

    fn expected_load(error: &LoadError) {
        let short = match error {
            LoadError::Decompress { source, .. } => is_codec_short(source),
            LoadError::Pool { source, .. } => is_short(source),
            _ => false,
        };
        assert!(short && REFUSED.get() > 0, "{} refused: {error}", REFUSED.get());
    }

    fn store(&mut self, plan: Plan, offset: u64, seed: u64) {
        let page = page(seed);
        match short(plan, || self.store.store(at(offset), &page)) {
            Ok(()) => drop(self.held.insert(offset, seed)),
            Err(error) => {
                self.expected(&error);
                self.held.remove(&offset);
            }
        }
    }

    fn replace(&mut self, plan: Plan, offset: u64, seed: u64) {
        let page = page(seed);
        match short(plan, || self.store.try_replace(at(offset), &page)) {
            Ok(()) => drop(self.held.insert(offset, seed)),
            Err(error) => self.expected(&error),
        }
    }

    fn load(&self, plan: Plan, offset: u64) {
        let mut back = Box::new([0; PAGE_SIZE]);
        match short(plan, || self.store.load(at(offset), &mut back)) {
            Ok(()) => assert!(back == page(self.held[&offset])),
            Err(error) => Self::expected_load(&error),
        }
    }

    fn take(&mut self, plan: Plan, offset: u64) {
        let mut back = Box::new([0; PAGE_SIZE]);
        match short(plan, || self.store.take(at(offset), &mut back)) {
            Ok(()) => assert!(Some(back) == self.held.remove(&offset).map(page)),
            Err(error) => Self::expected_load(&error),
        }
    }

    /// Checks that the store holds every page, and that it works when memory is available again.
    fn check(&mut self) {
        let mut back = Box::new([0; PAGE_SIZE]);
        for (offset, seed) in &self.held {
            self.store.load(at(*offset), &mut back).unwrap();
            assert!(back == page(*seed), "entry {offset}");
        }
        let there: Vec<u64> = self.store.entries().map(|entry| entry.offset()).collect();
        assert!(there.iter().eq(self.held.keys()), "{there:?}");
        assert_eq!((self.store.len(), self.store.stats().stored_pages), (there.len(), there.len()));
        for (offset, seed) in [(1 << 50, TEXT), (3, NOISE), (4, PATTERN + 24)] {
            // The device may have failed. The store tries it again soon.
            eventually("a store after a shortage", || {
                self.store.try_replace(at(offset), &page(seed)).is_ok()
            });
            self.store.load(at(offset), &mut back).unwrap();
            assert!(back == page(seed));
            self.held.insert(offset, seed);
        }
        self.store.compact().unwrap();
        if self.limited {
            self.store.shrink(1).unwrap();
        }
    }
}

fn is_short(error: &ZpoolError) -> bool {
    matches!(error, ZpoolError::OutOfMemory { .. } | ZpoolError::OutOfMetadata { .. })
}

fn is_codec_short(error: &CompressorError) -> bool {
    matches!(error, CompressorError::OutOfMemory { .. })
}

fn expected_migrate(rig: &Rig, error: &MigrateError) {
    match error {
        MigrateError::Store(error) => rig.expected(error),
        MigrateError::Load(error) => Rig::expected_load(error),
        _ => panic!("{error}"),
    }
}

fn expected_batch(error: &BatchError) {
    let short = matches!(error, BatchError::OutOfMemory { .. });
    assert!(short && REFUSED.get() > 0, "{} refused: {error}", REFUSED.get());
}

type Call = (&'static str, fn(&mut Rig, Plan));

/// Calls of every kind on a store.
const CALLS: &[Call] = &[
    ("store of a new entry", |rig, plan| rig.store(plan, 1 << 40, TEXT)),
    ("store of noise", |rig, plan| rig.store(plan, 1 << 30, NOISE)),
    ("store of a pattern", |rig, plan| rig.store(plan, 1 << 20, PATTERN)),
    ("store of another page", |rig, plan| rig.store(plan, 5, TEXT)),
    ("try_replace", |rig, plan| rig.replace(plan, 6, TEXT)),
    ("try_replace by noise", |rig, plan| rig.replace(plan, 7, NOISE)),
    ("try_replace by a pattern", |rig, plan| rig.replace(plan, 4, PATTERN)),
    ("load of the oldest", |rig, plan| rig.load(plan, 1)),
    ("load", |rig, plan| rig.load(plan, PAGES - 1)),
    ("load of a pattern", |rig, plan| rig.load(plan, PATTERN)),
    ("take of the oldest", |rig, plan| rig.take(plan, 2)),
    ("take", |rig, plan| rig.take(plan, PAGES - 2)),
    ("invalidate", |rig, plan| {
        for offset in [0, 1, 9, PATTERN, PAGES - 1] {
            assert!(short(plan, || rig.store.invalidate(at(offset))));
            rig.held.remove(&offset);
        }
    }),
    ("invalidate_area", |rig, plan| {
        let gone = short(plan, || rig.store.invalidate_area(0));
        assert_eq!(gone, rig.held.len());
        rig.held.clear();
    }),
    ("entries, contains, len", |rig, plan| {
        let count = short(plan, || {
            let store = &*rig.store;
            assert!(!store.is_empty() && store.len() > 1);
            store.entries().filter(|entry| store.contains(*entry)).count()
        });
        assert_eq!(count, rig.held.len());
    }),
    ("stats", |rig, plan| {
        let stats = short(plan, || rig.store.stats());
        assert_eq!(stats.stored_pages, rig.held.len());
        assert!(stats.memory_bytes() > 0 && (REFUSED.get() > 0 || stats.pools.len() == 1));
    }),
    ("memory_bytes", |rig, _| {
        let bytes = short(Plan::From(1), || rig.store.memory_bytes());
        assert_eq!((bytes, ASKED.get()), (rig.store.stats().memory_bytes(), 0));
    }),
    ("trim and compact", |rig, plan| {
        (0..PAGES).filter(|n| n % 3 > 0).for_each(|n| {
            rig.store.invalidate(at(n));
            rig.held.remove(&n);
        });
        short(plan, || {
            rig.store.trim();
            rig.store.compact()
        })
        .unwrap();
    }),
    ("shrink", |rig, plan| {
        let objects = rig.store.stats().pools[0].objects;
        match short(plan, || rig.store.shrink(5)) {
            Err(WritebackError::NoDevice) => assert!(!rig.limited),
            Err(WritebackError::Load(error)) => Rig::expected_load(&error),
            Err(WritebackError::Device { source: DeviceError::OutOfMemory, .. }) => {
                assert!(REFUSED.get() > 0);
            }
            done => assert_eq!(done, Ok(objects.min(5))),
        }
    }),
    ("migrate_pools", |rig, plan| {
        let other = if rig.store.stats().pools[0].compressor == "null" { "lz4" } else { "null" };
        rig.store.set_compressor(other).unwrap();
        match short(plan, || rig.store.migrate_pools(10)) {
            // At the limit, making room for the first page may have written all other pages back.
            Ok(done) => assert!(rig.limited || done.moved == 10 && done.left > 0),
            Err(error) => expected_migrate(rig, &error),
        }
    }),
    ("recompress", |rig, plan| {
        rig.store.recompress(&Recompress::new("zstd:level=19").max_pages(4)).unwrap();
        if rig.store.stats().pools.len() == 1 {
            // No page takes less memory with that compressor. So its pool was empty and was dropped. The next
            // call would build it again, and may abort.
            return;
        }
        match short(plan, || rig.store.recompress(&Recompress::new("zstd:level=19").max_pages(8))) {
            Ok(_) => {}
            Err(error) => expected_migrate(rig, &error),
        }
    }),
    ("settings", |rig, plan| {
        short(plan, || {
            rig.store.set_writeback_enabled(false);
            rig.store.set_writeback_enabled(true);
            assert!(rig.store.set_max_bytes(Some(1)).is_err());
            rig.store.set_max_bytes(Some(64 << 20)).unwrap();
            rig.store.set_max_bytes(None).unwrap();
            rig.store.set_max_pool_bytes(Some(1)).unwrap();
            rig.store.set_max_pool_bytes(Some(15 * PAGE_SIZE)).unwrap();
            rig.store.set_max_pool_bytes(rig.limited.then_some(16 * PAGE_SIZE)).unwrap();
        });
    }),
    ("store_batch", |rig, plan| {
        let seeds = [TEXT, NOISE, PATTERN, TEXT + 8, TEXT + 1, TEXT + 16, TEXT + 24, NOISE + 8];
        let pages: Vec<_> = seeds.map(page).into();
        let offsets = [1 << 44, 11, 1 << 45, 12, 13, 1 << 46, 14, 13];
        let batch: Vec<_> =
            offsets.iter().zip(&pages).map(|(offset, page)| (at(*offset), &**page)).collect();
        match short(plan, || rig.store.store_batch(&batch)) {
            Ok(results) => {
                assert_eq!(results.len(), batch.len());
                for ((offset, seed), result) in offsets.iter().zip(seeds).zip(results) {
                    match result {
                        Ok(()) => drop(rig.held.insert(*offset, seed)),
                        Err(error) => {
                            rig.expected(&error);
                            rig.held.remove(offset);
                        }
                    }
                }
            }
            Err(error) => expected_batch(&error),
        }
    }),
    ("load_batch", |rig, plan| {
        let entries: Vec<_> = (0..PAGES).step_by(3).map(at).collect();
        let mut pages: Vec<Page> = vec![[0; PAGE_SIZE]; entries.len()];
        match short(plan, || rig.store.load_batch(&entries, &mut pages)) {
            Ok(results) => {
                for ((entry, back), result) in entries.iter().zip(pages).zip(results) {
                    match result {
                        Ok(()) => assert!(*page(rig.held[&entry.offset()]) == back),
                        Err(error) => Rig::expected_load(&error),
                    }
                }
            }
            Err(error) => expected_batch(&error),
        }
    }),
];

/// Makes each call many times, each time under another plan, until the plans have refused each of its
/// allocations.
fn every_call(zpool: &str, codec: &str) {
    let (mut most, mut refused) = (0, 0);
    for limited in [false, true] {
        for (name, call) in CALLS {
            let mut once = |plan| {
                eprintln!("{name}, limited {limited}: {plan:?}");
                let mut rig = Rig::new(zpool, codec, limited);
                REFUSED.set(0);
                call(&mut rig, plan);
                let struck = REFUSED.get();
                rig.check();
                refused += struck;
                struck > 0
            };
            let only = (1..).take_while(|n| once(Plan::Only(*n))).count();
            let from = (1..).take_while(|n| once(Plan::From(*n))).count();
            for n in 2..5 {
                once(Plan::Every(n));
            }
            most = most.max(only).max(from);
        }
    }
    assert!(most >= 3 && refused > 100, "{most} allocations in a call, {refused} refused");
}

/// Makes random calls, and refuses one in every few of their allocations.
fn a_long_run(zpool: &str, codec: &str) {
    for limited in [false, true] {
        for every in [1, 2, 3, 7] {
            eprintln!("a long run, limited {limited}, every {every}");
            let mut rig = Rig::new(zpool, codec, limited);
            let mut rng = zpool_base::sync::test_rng::Rng::new(every);
            for round in 0..600 {
                let plan = Plan::Every(every);
                let offset = rng.next() >> 8 & !(0xffff << rng.below(40));
                match rng.below(8) {
                    0..4 => rig.store(plan, offset, 8000 + round),
                    4 => rig.replace(plan, offset, 8000 + round),
                    5 => {
                        let known = rig.held.range(offset..).next();
                        if let Some((known, _)) = known {
                            rig.load(plan, *known);
                        }
                    }
                    6 => {
                        let known = rig.held.range(offset..).next().map(|(known, _)| *known);
                        if let Some(known) = known {
                            rig.take(plan, known);
                        }
                    }
                    _ => {
                        let there = short(plan, || rig.store.invalidate(at(offset)));
                        assert_eq!(there, rig.held.remove(&offset).is_some());
                    }
                }
            }
            rig.check();
        }
    }
}

fn codecs_with(test: &str, zpool: &str) {
    match word() {
        Some(codec) => {
            every_call(zpool, &codec);
            a_long_run(zpool, &codec);
        }
        None => {
            for codec in ["lz4", "zstd", "deflate", "null"] {
                let (status, said) = in_child(test, codec);
                let tail = said.len().saturating_sub(2000);
                let tail = said.char_indices().find(|(at, _)| *at >= tail).map_or(0, |(at, _)| at);
                assert!(
                    status.success() && said.contains("1 passed"),
                    "{codec}: {}",
                    &said[tail..]
                );
            }
        }
    }
}

#[test]
fn no_call_over_zsmalloc_aborts() {
    codecs_with("no_call_over_zsmalloc_aborts", "zsmalloc");
}

#[test]
fn no_call_over_z3fold_aborts() {
    codecs_with("no_call_over_z3fold_aborts", "z3fold");
}

#[test]
fn no_call_over_zbud_aborts() {
    codecs_with("no_call_over_zbud_aborts", "zbud");
}

/// An area with pools of its own, in the store of the test below.
const OWN_AREA: u8 = 8;

/// A call with its name.
type Named = (&'static str, fn(&Rig));

/// The calls that abort the process if their first allocation is refused. Each of them builds something.
/// `docs/architecture.md` has the same list.
const ENDS_THE_PROCESS: &[Named] = &[
    ("`ZswapBuilder::build`", |_| drop(Zswap::builder().build())),
    ("`Zswap::set_zpool`", |rig| drop(rig.store.set_zpool("zbud"))),
    ("`Zswap::set_compressor`", |rig| drop(rig.store.set_compressor("null"))),
    ("`Zswap::add_area`", |rig| drop(rig.store.add_area(9, AreaSettings::default()))),
    ("`AreaRef::set_zpool`", |rig| {
        drop(rig.store.area(OWN_AREA).map(|area| area.set_zpool("zbud")))
    }),
    ("`AreaRef::set_compressor`", |rig| {
        drop(rig.store.area(OWN_AREA).map(|area| area.set_compressor("null")));
    }),
    ("`Zswap::recompress`, when an area has no living pool that was built from its text", |rig| {
        drop(rig.store.recompress(&Recompress::new("null").max_pages(1)));
    }),
    ("`Zswap::shrink_in_background`", |rig| {
        drop(rig.store.shrink_in_background(ShrinkerPolicy::default()));
    }),
    ("`Zswap::compact_in_background`", |rig| {
        drop(rig.store.compact_in_background(CompactorPolicy::default()));
    }),
    ("`Zswap::migrate_pools_in_background`", |rig| {
        drop(rig.store.migrate_pools_in_background(1, Duration::ZERO));
    }),
    (
        "`Zswap::train_dictionaries_in_background`, and its thread when it builds a pool for a dictionary",
        |rig| drop(rig.store.train_dictionaries_in_background(DictionaryPolicy::default())),
    ),
];

#[test]
fn what_ends_the_process_is_on_a_list_and_builds_something() {
    if let Some(word) = word() {
        let rig = Rig::new("zsmalloc", "lz4", true);
        rig.store.add_area(OWN_AREA, AreaSettings::default()).unwrap();
        let (_, call) = ENDS_THE_PROCESS[word.parse::<usize>().unwrap()];
        return short(Plan::From(1), || call(&rig));
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/architecture.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (_, section) = text.split_once("## Without memory\n").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let listed: Vec<_> = section.lines().filter_map(|line| line.strip_prefix("* ")).collect();
    assert!(ENDS_THE_PROCESS.iter().map(|(what, _)| *what).eq(listed), "{section}");
    for (n, (what, _)) in ENDS_THE_PROCESS.iter().enumerate() {
        let name = "what_ends_the_process_is_on_a_list_and_builds_something";
        let (status, said) = in_child(name, &n.to_string());
        // If the process does not end in this way, the call does not belong in the list.
        assert!(!status.success() && said.contains("memory allocation of"), "{what}: {said}");
    }
}

/// A compressed unit of more than 4096 bytes is copied to the heap while the store makes room for it.
#[test]
fn a_large_unit_needs_no_memory_for_a_copy_to_make_room() {
    let unit = 65_536;
    let content = |seed: u64| -> Vec<u8> {
        (0..16).flat_map(|part| *page((seed * 16 + part) * 8 + 5)).collect()
    };
    let made = builder("zbud", "lz4").unit(unit).max_pool_bytes(4 * unit);
    let store = made.swap_device(Arc::new(MemorySwapDevice::new(1 << 16))).build().unwrap();
    (0..20).for_each(|n| store.store_unit(at(n), &content(n)).unwrap());
    let mut refusals = 0;
    for n in 0..80 {
        let (entry, new) = (at(100 + n), content(100 + n));
        let stored = short(Plan::Only(1 + n % 4), || store.store_unit(entry, &new));
        refusals += REFUSED.get();
        match stored {
            Ok(()) => {
                let mut back = vec![0; unit];
                store.load_unit(entry, &mut back).unwrap();
                assert!(back == new, "page {n}");
            }
            // The limit is no reason to refuse a page of a store with a device.
            Err(StoreError::Pool { source: ZpoolError::OutOfMemory { source }, .. }) => {
                panic!("page {n}: {source:?}");
            }
            Err(error) => assert!(!store.contains(entry), "page {n}: {error:?}"),
        }
    }
    assert!(refusals > 5, "{refusals} allocations were refused");
}
