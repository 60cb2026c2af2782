//! Runs operations on a page store and compares it with a map from entries to pages.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arbitrary::Arbitrary;
use zpool_pages::{FailingPages, HeapPages};
use zswap_core::device::{FaultySwapDevice, Geometry, MemorySwapDevice};
use zswap_core::{
    CleanerPolicy, LimitReason, LoadError, MigrateError, PAGE_SIZE, Page, Promotion, Recompress,
    StoreError, SwapEntry, WritebackError, Zswap,
};

/// The sizes of the devices: segments, their bytes, and those of a block. All are so small that they must be cleaned.
const DEVICES: [(u64, usize, usize); 4] =
    [(2, 8 << 10, 512), (8, 8 << 10, 1), (8, 16 << 10, 4096), (16, 8 << 10, 512)];
const PROMOTIONS: [Promotion; 3] = [Promotion::SecondLoad, Promotion::Always, Promotion::Never];

/// The content of a page.
#[derive(Arbitrary, Debug, Clone, Copy)]
pub enum Content {
    SmallWord(u32),
    TwiceWord(u32),
    AnyWord(u64),
    Sparse { at: u16, byte: u8 },
    Text(u8),
    Noise(u64),
}

/// A swap entry: close to others, in one of the areas, or anywhere.
#[derive(Arbitrary, Debug, Clone, Copy)]
pub enum Place {
    Near(u8),
    Area { area: u8, offset: u8 },
    Far(u64),
}

#[derive(Arbitrary, Debug)]
pub enum Op {
    Store(Place, Content),
    Load(Place),
    Take(Place),
    Invalidate(Place),
    InvalidateArea(u8),
    List,
    FailCall(u8),
    Trim,
    Move(Mover),
    FailWrites(u8),
    FailReads(u8),
    Writeback(bool),
    Flush,
    FailFlushes(u8),
    /// Writes pages back, and then loads pages near each other, as many as this.
    LoadFromDevice(u8),
}

/// Operations that may move pages, but change no page's content.
#[derive(Arbitrary, Debug)]
pub enum Mover {
    SetZpool(u8),
    SetCompressor(u8),
    MigratePools(u8),
    Recompress { codec: u8, budget: u8, cold_only: bool },
    Shrink(u8),
}

/// The input: a store's settings, and the operations on it.
#[derive(Arbitrary, Debug)]
pub struct Input {
    codec: u8,
    keep_incompressible: bool,
    limit_pages: Option<u8>,
    checksums: bool,
    device: u8,
    promotion: u8,
    /// Whether a thread cleans the device all the time.
    cleaner: bool,
    /// A second thread repeats the first 20 of these until `ops` are done.
    beside: Vec<Mover>,
    ops: Vec<Op>,
}

const CODECS: [&str; 5] = ["lz4", "zstd:level=1", "deflate:level=1", "null", "lz9"];
const ZPOOLS: [&str; 4] = ["zsmalloc", "z3fold", "zbud", "zlab"];

fn entry(place: Place) -> SwapEntry {
    let (area, offset) = match place {
        Place::Near(offset) => (0, u64::from(offset)),
        Place::Area { area, offset } => (area, u64::from(offset) << 3),
        Place::Far(offset) => ((offset >> 56) as u8, offset & ((1 << 56) - 1)),
    };
    SwapEntry::new(area, offset).expect("in range")
}

fn page(content: Content) -> Box<Page> {
    let mut page = Box::new([0; PAGE_SIZE]);
    let mut fill = |word: u64| {
        page.chunks_exact_mut(8).for_each(|w| w.copy_from_slice(&word.to_ne_bytes()));
    };
    match content {
        Content::SmallWord(word) => fill(u64::from(word)),
        Content::TwiceWord(word) => fill(u64::from(word) * 0x1_0000_0001),
        Content::AnyWord(word) => fill(word),
        Content::Sparse { at, byte } => page[usize::from(at) % PAGE_SIZE] = byte,
        Content::Text(seed) => {
            for (i, byte) in page.iter_mut().enumerate() {
                *byte = b"compressed memory for userspace "[(i + i / 97 * usize::from(seed)) % 32];
            }
        }
        Content::Noise(seed) => {
            let mut word = seed | 1;
            for chunk in page.chunks_exact_mut(8) {
                word ^= word << 13;
                word ^= word >> 7;
                word ^= word << 17;
                chunk.copy_from_slice(&word.to_ne_bytes());
            }
        }
    }
    page
}

fn is_one_word(page: &Page) -> bool {
    page[8..] == page[..PAGE_SIZE - 8]
}

fn run_mover(store: &Zswap, mover: &Mover) {
    match *mover {
        Mover::SetZpool(n) => {
            let name = ZPOOLS[usize::from(n) % ZPOOLS.len()];
            assert_eq!(store.set_zpool(name).is_ok(), name != "zlab");
        }
        Mover::SetCompressor(n) => {
            let name = CODECS[usize::from(n) % CODECS.len()];
            assert_eq!(store.set_compressor(name).is_ok(), name != "lz9");
        }
        Mover::MigratePools(budget) => match store.migrate_pools(usize::from(budget)) {
            Ok(done) => assert!(done.moved <= usize::from(budget)),
            Err(MigrateError::Store(StoreError::Pool { .. } | StoreError::PoolLimit { .. })) => {}
            Err(other) => panic!("{other}"),
        },
        Mover::Recompress { codec, budget, cold_only } => {
            let name = CODECS[usize::from(codec) % CODECS.len()];
            let what = Recompress::new(name).max_pages(usize::from(budget));
            let what = if cold_only { what.idle() } else { what };
            match store.recompress(&what) {
                Ok(done) => assert!(done.moved + done.not_smaller <= usize::from(budget)),
                Err(MigrateError::Store(
                    StoreError::Pool { .. } | StoreError::PoolLimit { .. },
                )) => {}
                Err(MigrateError::Build(_)) => assert_eq!(name, "lz9"),
                Err(other) => panic!("{other}"),
            }
        }
        Mover::Shrink(n) => match store.shrink(usize::from(n)) {
            Ok(written) => assert!(written <= usize::from(n)),
            Err(
                WritebackError::NoDevice
                | WritebackError::DeviceFull { .. }
                | WritebackError::Device { .. },
            ) => {}
            Err(other) => panic!("{other}"),
        },
    }
}

/// Runs the first 200 operations and checks the store after each. Then reads and removes all pages.
pub fn run(input: &Input) {
    let pages = Arc::new(FailingPages::new(Arc::new(HeapPages::new())));
    let theirs = pages.clone();
    let (segments, segment_bytes, block_bytes) = DEVICES[usize::from(input.device) % DEVICES.len()];
    let geometry = Geometry { segments, segment_bytes, block_bytes };
    let memory = Arc::new(MemorySwapDevice::with_geometry(geometry));
    let device = Arc::new(FaultySwapDevice::new(memory.clone()));
    let mut builder = Zswap::builder()
        .compressor(CODECS[usize::from(input.codec) % 4])
        .store_incompressible(input.keep_incompressible)
        .checksums(input.checksums)
        .pages(move || Ok(theirs.clone()))
        .promotion(PROMOTIONS[usize::from(input.promotion) % PROMOTIONS.len()])
        .swap_device(device.clone());
    if let Some(limit) = input.limit_pages {
        builder = builder.max_pool_bytes(usize::from(limit.max(1)) * PAGE_SIZE);
    }
    let store = Arc::new(builder.build().expect("built-in names"));
    let cleaner = input.cleaner.then(|| {
        let policy = CleanerPolicy::default().free_percent(50).pause(Duration::from_micros(100));
        store.clean_in_background(policy).expect("a device and a thread")
    });
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let beside = (!input.beside.is_empty()).then(|| {
            scope.spawn(|| {
                while !stop.load(Ordering::SeqCst) {
                    input.beside.iter().take(20).for_each(|mover| run_mover(&store, mover));
                }
            })
        });
        // Stops the other thread even if this one panics.
        let stopped = Stop(&stop);
        run_ops(input, &store, &pages, &device, &memory);
        drop(stopped);
        // The scope waits only until the closure has returned. Joining also waits until the
        // thread-locals are freed. Otherwise they might count as a leak.
        if let Some(Err(panic)) = beside.map(|thread| thread.join()) {
            std::panic::resume_unwind(panic);
        }
    });
    drop(cleaner);
    drop(store);
    assert_eq!(pages.pages_out(), 0, "pages left out");
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Reasons for which the store may refuse a page, a load or a flush. `page_requests` and `no_writeback` change with
/// the operations; the others stay set.
#[derive(Default)]
struct Faults {
    page_requests: bool,
    writes: bool,
    reads: bool,
    flushes: bool,
    no_writeback: bool,
}

/// Returns whether the pages on the device may fill its segments so far that cleaning frees none.
fn may_be_full(input: &Input, store: &Zswap) -> bool {
    let (segments, segment_bytes, _) = DEVICES[usize::from(input.device) % DEVICES.len()];
    let stats = store.stats();
    // An object is as long as a page with a checksum and its place in the segment's list, or shorter. A segment has
    // a place for each 128 bytes.
    let most = PAGE_SIZE + 16 + 12;
    // The call may have dropped the older page since. So may a page of another thread's call have been.
    let alone = is_alone(input);
    let dropped = if alone { 1 } else { 4 };
    let weight = stats.device_live_bytes as usize + stats.device_pages * 128 + dropped * most;
    // One segment is left for cleaning, which takes it; each thread has one in hand, and one may be freed by less.
    let in_hand = if alone { 4 } else { 7 };
    // Below this, all segments but one can take the objects of all. See `fullness.rs` of the torture test.
    let full = (segment_bytes - most - segment_bytes / 64) / 16 * 15;
    segments < 4 || weight > (segments as usize).saturating_sub(in_hand) * full
}

/// Returns whether one thread does everything.
fn is_alone(input: &Input) -> bool {
    input.beside.is_empty() && !input.cleaner
}

impl Faults {
    /// Returns whether a fault, a limit or a setting explains why the store refused a page.
    fn explain(&self, error: &StoreError, input: &Input, store: &Zswap) -> bool {
        let limited = input.limit_pages.is_some();
        match error {
            StoreError::Incompressible { .. } => !input.keep_incompressible,
            StoreError::Pool { .. } => self.page_requests,
            StoreError::PoolLimit { reason, .. } => {
                limited
                    && match reason {
                        LimitReason::NoDevice => self.no_writeback,
                        LimitReason::DeviceFull => self.reads || may_be_full(input, store),
                        // Cleaning reads, too.
                        LimitReason::DeviceFailed => self.writes || self.reads,
                        _ => false,
                    }
            }
            _ => false,
        }
    }
}

fn run_ops(
    input: &Input,
    store: &Zswap,
    pages: &FailingPages,
    device: &FaultySwapDevice,
    memory: &MemorySwapDevice,
) {
    let alone = is_alone(input);
    let mut faults = Faults::default();
    let mut model: BTreeMap<SwapEntry, Content> = BTreeMap::new();
    let mut back = Box::new([0; PAGE_SIZE]);
    for op in input.ops.iter().take(200) {
        match *op {
            Op::Store(place, content) => match store.store(entry(place), &page(content)) {
                Ok(()) => drop(model.insert(entry(place), content)),
                Err(error) => {
                    assert!(faults.explain(&error, input, store), "refused for no reason: {error}");
                    model.remove(&entry(place));
                }
            },
            Op::Load(place) | Op::Take(place) => {
                let taking = matches!(op, Op::Take(_));
                let done = if taking {
                    store.take(entry(place), &mut back)
                } else {
                    store.load(entry(place), &mut back)
                };
                match (model.get(&entry(place)), done) {
                    (Some(content), Ok(())) => {
                        assert!(back == page(*content), "another page came back");
                        if taking {
                            model.remove(&entry(place));
                        }
                    }
                    // The entry and its page stay.
                    (Some(_), Err(LoadError::Device { .. })) if faults.reads => {}
                    (None, Err(LoadError::NotFound { .. })) => {}
                    (_, other) => panic!("{other:?}"),
                }
            }
            Op::Invalidate(place) => {
                assert_eq!(store.invalidate(entry(place)), model.remove(&entry(place)).is_some());
            }
            Op::InvalidateArea(area) => {
                let before = model.len();
                model.retain(|entry, _| entry.swap_type() != area);
                assert_eq!(store.invalidate_area(area), before - model.len());
            }
            Op::List => assert!(store.entries().eq(model.keys().copied())),
            Op::FailCall(n) => {
                faults.page_requests = n > 0;
                pages.fail_call(u64::from(n));
            }
            Op::Trim => drop(store.trim()),
            Op::Move(ref mover) => run_mover(store, mover),
            Op::FailWrites(n) => {
                faults.writes = true;
                device.fail_writes(u64::from(n), 2);
            }
            Op::FailReads(n) => {
                faults.reads = true;
                device.fail_reads(u64::from(n), 2);
            }
            Op::Writeback(on) => {
                faults.no_writeback = !on;
                store.set_writeback_enabled(on);
            }
            Op::Flush => match store.flush_device() {
                Err(WritebackError::Flush { .. }) => {
                    assert!(faults.flushes, "no flush was to fail")
                }
                flushed => flushed.expect("there is a device"),
            },
            Op::FailFlushes(n) => {
                faults.flushes = true;
                device.fail_flushes(u64::from(n), 2);
            }
            Op::LoadFromDevice(count) => {
                run_mover(store, &Mover::Shrink(u8::MAX));
                for (entry, content) in model.iter().take(usize::from(count)) {
                    match store.load(*entry, &mut back) {
                        Err(LoadError::Device { .. }) => {
                            assert!(faults.reads, "no read was to fail")
                        }
                        loaded => {
                            loaded.expect("it is there");
                            assert!(back == page(*content), "another page came back");
                        }
                    }
                }
            }
        }
        let stats = store.stats();
        let filled = model.values().filter(|content| is_one_word(&page(**content))).count();
        assert_eq!((stats.stored_pages, stats.same_filled_pages), (model.len(), filled));
        if !alone {
            continue;
        }
        let objects: usize = stats.pools.iter().map(|pool| pool.objects).sum();
        assert_eq!(objects + stats.device_pages, model.len() - filled);
        assert_eq!(stats.device_segments, memory.segments());
        assert!(stats.pools[1..].iter().all(|pool| pool.objects > 0), "an empty pool stayed");
    }
    device.fail_reads(0, 0);
    for (entry, content) in &model {
        store.load(*entry, &mut back).expect("it is there");
        assert!(back == page(*content), "another page came back");
        assert!(store.invalidate(*entry));
    }
    let stats = store.stats();
    assert_eq!((stats.stored_pages, stats.same_filled_pages), (0, 0));
    if alone {
        assert_eq!((stats.compressed_bytes, stats.stored_incompressible_pages), (0, 0));
        assert_eq!((stats.pools.len(), stats.device_pages, memory.segments()), (1, 0, 0));
        assert_eq!(stats.device_live_bytes, 0);
    }
}
