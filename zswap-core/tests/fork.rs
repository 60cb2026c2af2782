//! A child is forked while the parent's threads use the store, and may hold any of its locks. In the child,
//! each call returns an error or the result that an empty store would return, and each drop does nothing. In
//! the parent nothing changes.
#![cfg(all(target_os = "linux", not(miri)))]
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "fork; a failure in a test's helper is the test's own message"
)]

mod common;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use common::{at, page};
use compressors::AcompEngine;
use zpool_api::ZpoolError;
use zpool_base::sync::test_rng::Rng;
use zswap_core::device::{DeviceError, FileSwapDevice, Geometry, MemorySwapDevice, SwapDevice};
use zswap_core::{
    BackgroundCleaner, BackgroundCompactor, BackgroundMigration, BackgroundShrinker, BatchError,
    BuildError, CleanerPolicy, CleanerReport, CompactorPolicy, Entries, LoadError, MigrateError,
    MigrationReport, PAGE_SIZE, Recompress, ShrinkerPolicy, StoreError, WritebackError, Zswap,
};

const PAGES: u64 = 150;
/// The pages of the device. It has twice the room for all pages that the threads store, so that cleaning always
/// finds some.
const ROOM: u64 = 1200;

/// A store, with all that a program may use together with it: an engine, a device and background threads.
struct World {
    store: Arc<Zswap>,
    engine: Arc<AcompEngine>,
    memory: Option<Arc<MemorySwapDevice>>,
    file: Option<Arc<FileSwapDevice>>,
    shrinker: BackgroundShrinker,
    cleaner: BackgroundCleaner,
    compactor: BackgroundCompactor,
    migration: BackgroundMigration,
}

fn world(zpool: &str, codec: &str, path: Option<&Path>) -> World {
    let engine = Arc::new(AcompEngine::new(1, 2).unwrap());
    let memory = path.is_none().then(|| Arc::new(MemorySwapDevice::new(ROOM)));
    let file = path.map(|path| Arc::new(FileSwapDevice::create(path, ROOM).unwrap()));
    let device: Arc<dyn SwapDevice> = match (&memory, &file) {
        (Some(memory), _) => memory.clone(),
        (_, Some(file)) => file.clone(),
        _ => unreachable!(),
    };
    let builder = Zswap::builder().zpool(zpool).compressor(codec).checksums(true);
    let builder = builder.max_pool_bytes(40 * PAGE_SIZE).swap_device(device).acomp(engine.clone());
    let store = Arc::new(builder.build().unwrap());
    let none = Duration::ZERO;
    let shrinker = store.shrink_in_background(ShrinkerPolicy::default().pause(none)).unwrap();
    let policy = CleanerPolicy::default().free_percent(80).pause(none);
    let cleaner = store.clean_in_background(policy).unwrap();
    let compactor = store.compact_in_background(CompactorPolicy::default().pause(none)).unwrap();
    let migration = store.migrate_pools_in_background(1, none).unwrap();
    World { store, engine, memory, file, shrinker, cleaner, compactor, migration }
}

/// Stores, loads and drops pages of the thread's own entries until `stop` is set. Returns which page each
/// entry holds at the end.
fn work(store: &Zswap, thread: u64, stop: &AtomicBool) -> BTreeMap<u64, u64> {
    let mut held = BTreeMap::new();
    let mut rng = Rng::new(thread);
    let mut back = Box::new([0; PAGE_SIZE]);
    while !stop.load(SeqCst) {
        let offset = (thread << 20) + rng.next() % PAGES;
        let seed = rng.next() % 1_000_000;
        match rng.below(12) {
            0..4 => {
                store.store(at(offset), &page(seed)).unwrap();
                held.insert(offset, seed);
            }
            4 | 5 => {
                let seeds: Vec<u64> = (seed..seed + 4).collect();
                let pages: Vec<_> = seeds.iter().map(|seed| page(*seed)).collect();
                let base = offset & !3;
                let batch: Vec<_> =
                    (base..).map(at).zip(pages.iter().map(|page| &**page)).collect();
                for (n, done) in store.store_batch(&batch).unwrap().into_iter().enumerate() {
                    done.unwrap();
                    held.insert(base + n as u64, seeds[n]);
                }
                let entries: Vec<_> = batch.iter().map(|(entry, _)| *entry).collect();
                let mut back = vec![[0; PAGE_SIZE]; entries.len()];
                for done in store.load_batch(&entries, &mut back).unwrap() {
                    done.unwrap();
                }
            }
            6 => assert_eq!(store.invalidate(at(offset)), held.remove(&offset).is_some()),
            7 => match (store.take(at(offset), &mut back), held.remove(&offset)) {
                (Ok(()), Some(seed)) => assert!(back == page(seed)),
                (Err(LoadError::NotFound { .. }), None) => {}
                other => panic!("{other:?}"),
            },
            8 => drop(store.shrink(3).unwrap()),
            9 => drop(store.compact().unwrap()),
            10 => {
                store.set_compressor(["lz4", "zstd", "null"][rng.below(3)]).unwrap();
                let _done = store.migrate_pools(4).unwrap();
                assert!(store.stats().stored_pages <= 1 << 20);
            }
            _ => match (store.load(at(offset), &mut back), held.get(&offset)) {
                (Ok(()), Some(seed)) => assert!(back == page(*seed)),
                (Err(LoadError::NotFound { .. }), None) => {}
                other => panic!("{other:?}"),
            },
        }
    }
    held
}

/// Drops a value as its last owner would, however many owners it has in the parent.
fn drop_last<T: ?Sized>(value: &Arc<T>) {
    let value = Arc::as_ptr(value);
    // SAFETY: `value` is borrowed, so the allocation is alive and the count is at least 1. The caller exits
    // without using or dropping its `Arc`.
    let owned = unsafe { Arc::from_raw(value) };
    for _ in 1..Arc::strong_count(&owned) {
        // SAFETY: the count is above 1. The other owners are leaked, or belong to threads that this process
        // does not have, so none of them uses its reference.
        unsafe { Arc::decrement_strong_count(value) };
    }
    drop(owned);
}

/// Returns whether each call of the device fails, since this is a child.
fn refuses(device: &dyn SwapDevice) -> bool {
    device.discard(0);
    let read = device.read(0, 0, &mut [0; PAGE_SIZE]);
    [read, device.write_segment(0, &[7; PAGE_SIZE]), device.flush()]
        .iter()
        .all(|result| *result == Err(DeviceError::Forked))
}

/// Runs the child's checks. Returns the number of the first one that fails; `None` if all succeed.
fn in_child(world: &World, entries: &mut Entries<'_>, path: &Path) -> Option<u32> {
    let store = &world.store;
    let entry = at(1 << 20);
    let text = page(5);
    let mut pages = [[0; PAGE_SIZE]];
    let build = |done: Result<(), BuildError>| matches!(done, Err(BuildError::Forked));
    let checks: [&mut dyn FnMut() -> bool; 33] = [
        &mut || store.store(entry, &text) == Err(StoreError::Forked { entry }),
        &mut || store.try_replace(entry, &text) == Err(StoreError::Forked { entry }),
        &mut || store.load(entry, &mut [0; PAGE_SIZE]) == Err(LoadError::Forked { entry }),
        &mut || store.take(entry, &mut [0; PAGE_SIZE]) == Err(LoadError::Forked { entry }),
        &mut || matches!(store.store_batch(&[(entry, &text)]), Err(BatchError::Forked)),
        &mut || matches!(store.load_batch(&[entry], &mut pages), Err(BatchError::Forked)),
        &mut || store.shrink(1) == Err(WritebackError::Forked),
        &mut || store.flush_device() == Err(WritebackError::Forked),
        &mut || matches!(store.compact(), Err(ZpoolError::Forked { .. })),
        &mut || matches!(store.migrate_pools(1), Err(MigrateError::Forked)),
        &mut || {
            matches!(
                store.recompress(&Recompress::new("zstd").max_pages(1)),
                Err(MigrateError::Forked)
            )
        },
        &mut || build(store.set_zpool("zbud")),
        &mut || build(store.set_compressor("lz4")) && build(store.set_compressor("unknown")),
        &mut || build(store.set_max_pool_bytes(None)) && build(store.set_max_bytes(None)),
        &mut || {
            let started = store.shrink_in_background(ShrinkerPolicy::default());
            matches!(started, Err(WritebackError::Forked))
        },
        &mut || {
            let started = store.clean_in_background(CleanerPolicy::default());
            matches!(started, Err(WritebackError::Forked))
        },
        &mut || store.compact_in_background(CompactorPolicy::default()).is_err(),
        &mut || store.migrate_pools_in_background(1, Duration::ZERO).is_err(),
        &mut || !store.invalidate(entry) && store.invalidate_area(0) == 0,
        &mut || !store.contains(entry) && store.is_empty() && store.trim() == 0,
        &mut || store.stats().stored_pages == 0 && store.stats().memory_bytes() == 0,
        &mut || store.entries().next().is_none() && entries.next().is_none(),
        &mut || world.shrinker.report().steps == 0 && world.compactor.report().looks == 0,
        &mut || world.migration.report() == MigrationReport::default(),
        &mut || world.cleaner.report() == CleanerReport::default(),
        &mut || {
            world.memory.as_ref().is_none_or(|device| {
                let forked = refuses(&**device);
                forked && device.segments() == 0 && device.bytes() == 0
            })
        },
        &mut || {
            world
                .file
                .as_ref()
                .is_none_or(|device| refuses(&**device) && device.memory_bytes() == 0)
        },
        // Drop the handles of background threads, as their owner would.
        &mut || {
            // SAFETY: the child does not use or drop the handle again: it exits without running the parent's
            // destructors.
            drop(unsafe { core::ptr::read(&raw const world.shrinker) });
            true
        },
        &mut || {
            // SAFETY: as for the shrinker above.
            drop(unsafe { core::ptr::read(&raw const world.cleaner) });
            // SAFETY: as for the shrinker above.
            drop(unsafe { core::ptr::read(&raw const world.compactor) });
            // SAFETY: as for the shrinker above.
            drop(unsafe { core::ptr::read(&raw const world.migration) });
            true
        },
        &mut || {
            drop_last(store);
            true
        },
        &mut || {
            world.memory.iter().for_each(drop_last);
            world.file.iter().for_each(drop_last);
            drop_last(&world.engine);
            true
        },
        &mut || world.file.is_none() || FileSwapDevice::create(path, 9).is_err(),
        // A store that the child itself builds works. It starts no thread: `fork_threads.rs` says why.
        &mut || {
            let device = Arc::new(MemorySwapDevice::new(100));
            let own = Zswap::builder().swap_device(device).build().unwrap();
            let mut back = [0; PAGE_SIZE];
            let batch = [(entry, &*text)];
            own.store_batch(&batch).unwrap().pop() == Some(Ok(()))
                && own.shrink(1) == Ok(1)
                && own.load(entry, &mut back).is_ok()
                && back == *text
        },
    ];
    checks.into_iter().zip(1..).find_map(|(check, n)| (!check()).then_some(n))
}

/// Forks, and runs `child` in the child process. A timer kills the child after ten seconds. Returns an error
/// if a check failed or the child was killed.
fn fork(child: impl FnOnce() -> Option<u32>) -> Result<(), String> {
    // SAFETY: the child uses only code that supports a fork, which is what this test is about, and ends by
    // `_exit`.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: only sets a timer. The timer is a watchdog: its signal ends the child.
        unsafe { libc::alarm(10) };
        let failed = catch_unwind(AssertUnwindSafe(child)).unwrap_or(Some(99));
        // SAFETY: ends the child without running any destructor or exit handler of the parent.
        unsafe { libc::_exit(failed.unwrap_or(0) as i32) };
    }
    let mut status = 0;
    // SAFETY: `pid` is a child of this process, and `status` is on this stack frame.
    let ended = unsafe { libc::waitpid(pid, &raw mut status, 0) };
    assert_eq!(ended, pid);
    match (libc::WIFEXITED(status), libc::WEXITSTATUS(status)) {
        (true, 0) => Ok(()),
        (true, failed) => Err(format!("check {failed} of the child failed")),
        _ => Err(format!("the child ended by signal {}", libc::WTERMSIG(status))),
    }
}

fn children_of_a_busy_store(zpool: &str, codec: &str, path: Option<PathBuf>) {
    let world = world(zpool, codec, path.as_deref());
    let stop = AtomicBool::new(false);
    let named = path.clone().unwrap_or_default();
    let held: Vec<BTreeMap<u64, u64>> = thread::scope(|scope| {
        let threads: Vec<_> = (1..5)
            .map(|thread| {
                let (store, stop) = (&world.store, &stop);
                scope.spawn(move || work(store, thread, stop))
            })
            .collect();
        let mut rng = Rng::new(7);
        let mut results = Vec::new();
        for _ in 0..60 {
            for _ in 0..rng.below(2000) {
                core::hint::spin_loop();
            }
            thread::sleep(Duration::from_micros(rng.next() % 3000));
            let mut entries = world.store.entries();
            entries.next();
            results.push(fork(|| in_child(&world, &mut entries, &named)));
        }
        stop.store(true, SeqCst);
        let held = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        let failed: Vec<_> = results.into_iter().filter_map(Result::err).collect();
        assert!(failed.is_empty(), "{failed:?}");
        held
    });
    let mut back = Box::new([0; PAGE_SIZE]);
    for (offset, seed) in held.iter().flatten() {
        world.store.load(at(*offset), &mut back).unwrap();
        assert!(back == page(*seed), "entry {offset}");
    }
    assert_eq!(world.store.len(), held.iter().map(BTreeMap::len).sum::<usize>());
    assert!(world.shrinker.report().steps > 0);
    let stats = world.store.stats();
    assert!(stats.device_cleaned_segments > 0 && stats.device_moved_pages > 0, "{stats:?}");
    if let Some(path) = path {
        assert!(FileSwapDevice::create(&path, 9).is_err(), "still locked");
        std::fs::remove_file(path).unwrap();
    }
}

#[test]
fn children_of_a_busy_store_refuse_and_leak() {
    children_of_a_busy_store("zsmalloc", "zstd", None);
    children_of_a_busy_store("zbud", "lz4", None);
}

#[test]
fn children_of_a_busy_store_leave_its_file_alone() {
    let path = std::env::temp_dir().join(format!("zswap-fork-{}", std::process::id()));
    children_of_a_busy_store("z3fold", "lz4", Some(path));
}

/// A thread may hold the sampler's lock, or train, while the child is forked.
#[test]
#[cfg(feature = "zstd")]
fn a_store_that_trains_dictionaries_is_forked() {
    use zswap_core::{DictionaryError, DictionaryPolicy, DictionaryReport};

    let device = Arc::new(MemorySwapDevice::new(ROOM));
    let builder = Zswap::builder().compressor("zstd").swap_device(device);
    let store = Arc::new(builder.build().unwrap());
    let policy = DictionaryPolicy::default().pauses(Duration::ZERO, Duration::from_millis(1));
    let mut dictionaries = Some(store.train_dictionaries_in_background(policy).unwrap());
    let stop = AtomicBool::new(false);
    let rounds = thread::scope(|scope| {
        for thread in 1..4 {
            let (store, stop) = (&store, &stop);
            scope.spawn(move || work(store, thread, stop));
        }
        let mut failed = Ok(());
        for round in 0..3000 {
            let report = dictionaries.as_ref().map(|dictionaries| dictionaries.report());
            if round >= 30 && report.is_some_and(|report| report.trained > 1) {
                break;
            }
            thread::sleep(Duration::from_millis(3));
            let (store, dictionaries) = (store.clone(), &mut dictionaries);
            failed = failed.and(fork(move || {
                let refused = store.store(at(1), &page(3)).is_err();
                let again = store.train_dictionaries_in_background(policy);
                let forked = matches!(again, Err(DictionaryError::Forked));
                let report = dictionaries.as_ref().map(|dictionaries| dictionaries.report());
                let empty = report == Some(DictionaryReport::default());
                let counted = store.memory_bytes() == 0;
                // Dropping them must do nothing, and end.
                drop(dictionaries.take());
                drop(store);
                [refused, forked, empty, counted]
                    .iter()
                    .position(|held| !held)
                    .map(|n| n as u32 + 1)
            }));
        }
        stop.store(true, SeqCst);
        failed
    });
    rounds.unwrap();
    assert!(dictionaries.unwrap().stop().trained > 1);
}

/// A device that forks in its first write. Both processes return from that write.
#[derive(Debug, Default)]
struct Forks(std::sync::Mutex<Option<i32>>);

impl SwapDevice for Forks {
    fn geometry(&self) -> Geometry {
        Geometry::of_pages(100)
    }
    fn write_segment(&self, _: u64, _: &[u8]) -> Result<(), DeviceError> {
        let mut child = self.0.lock().unwrap();
        if child.is_none() {
            // SAFETY: the child continues on the thread that called the device, in code that supports this.
            // That is what the test is about.
            let pid = unsafe { libc::fork() };
            if pid == 0 {
                // SAFETY: only sets a timer. The timer is a watchdog: its signal ends a child that hangs.
                unsafe { libc::alarm(10) };
            }
            *child = Some(pid);
        }
        Ok(())
    }
    fn read(&self, segment: u64, _: usize, _: &mut [u8]) -> Result<(), DeviceError> {
        Err(DeviceError::Missing { segment })
    }
}

#[test]
fn a_background_thread_that_is_forked_ends_in_the_child() {
    let device = Arc::new(Forks::default());
    let store = Zswap::builder().max_pool_bytes(20 * PAGE_SIZE).swap_device(device.clone());
    let store = Arc::new(store.build().unwrap());
    for n in 0..18 {
        store.store(at(n), &page(8 * n + 1)).unwrap();
    }
    let policy = ShrinkerPolicy::default().from_percent(10).pause(Duration::from_millis(1));
    let shrinker = store.shrink_in_background(policy).unwrap();
    let child = loop {
        thread::sleep(Duration::from_millis(5));
        if let Some(pid) = *device.0.lock().unwrap() {
            break pid;
        }
    };
    let mut status = 0;
    // SAFETY: `child` is a child of this process, and `status` is on this stack frame.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert!(libc::WIFEXITED(status), "ended by signal {}", libc::WTERMSIG(status));
    assert!(shrinker.stop().written > 0);
}
