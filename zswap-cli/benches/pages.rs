//! What each layer costs on real pages: guards, backends, codecs, and the whole store.
//!
//! Everything is timed in one process. That includes locking and unlocking an uncontended mutex, which
//! is the unit for costs below a microsecond. Objects and pages are visited in random order. `cargo
//! xtask bench` chooses the pages; without it, the built-in sample is used.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a bench: what it cannot set up it cannot measure, and criterion's macros are undocumented"
)]

use std::hint::black_box;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use measure::{Clock, Laps};
use zpool_api::{Handle, ObjRead, PageProvider, Zpool, ZpoolConfig};
use zswap_core::device::MemorySwapDevice;
use zswap_core::{PAGE_SIZE, Page, SwapEntry, Zswap};

/// The environment variable that names zstd-compressed files of pages. The paths are separated as in
/// PATH. `cargo xtask bench` sets it.
const PAGES: &str = "ZSWAP_BENCH_PAGES";
const SAMPLE: &[u8] = include_bytes!("../../measure/assets/sample.pages.zst");
/// The most pages: enough for a pool that is larger than a processor's private caches.
const MOST: usize = 8192;

/// Returns pages that are not same-filled, spread evenly over all files.
fn pages() -> Vec<Page> {
    let files: Vec<Vec<u8>> = match std::env::var_os(PAGES) {
        Some(paths) => std::env::split_paths(&paths)
            .map(|path| zstd::decode_all(std::fs::File::open(&path).unwrap()).unwrap())
            .collect(),
        None => vec![zstd::decode_all(SAMPLE).unwrap()],
    };
    let all: Vec<&[u8]> = files
        .iter()
        .flat_map(|file| file.chunks_exact(PAGE_SIZE))
        .filter(|page| page[8..] != page[..PAGE_SIZE - 8])
        .collect();
    let step = all.len().div_ceil(MOST).max(1);
    all.iter().step_by(step).map(|page| (*page).try_into().unwrap()).collect()
}

/// Returns a permutation of `0..n`, which is always the same.
fn shuffled(n: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for last in (1..n).rev() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        order.swap(last, (state % (last as u64 + 1)) as usize);
    }
    order
}

/// Times `iterations` operations, in rounds. `ready` sets up a round; `step` does its operations and
/// returns their number. Only the time of `step` counts.
fn in_rounds<T>(
    iterations: u64,
    mut ready: impl FnMut() -> T,
    mut step: impl FnMut(&mut T) -> u64,
) -> Duration {
    let mut spent = Duration::ZERO;
    let mut done = 0;
    while done < iterations {
        let mut state = ready();
        let begun = Instant::now();
        let steps = step(&mut state);
        spent += begun.elapsed();
        done += steps;
        drop(state);
    }
    // The last round is whole, so the time of its surplus operations is subtracted in proportion.
    spent.mul_f64(iterations as f64 / done as f64)
}

fn guards(c: &mut Criterion) {
    let mutex = Mutex::new(0u64);
    c.bench_function("mutex pair", |b| b.iter(|| *black_box(&mutex).lock().unwrap() += 1));
    let bytes: Arc<dyn AsRef<[u8]> + Send + Sync> = Arc::new(vec![7u8; 1300]);
    c.bench_function("guard/ObjRead over an owner", |b| {
        b.iter(|| ObjRead::from_owner(black_box(bytes.clone()), 1300).len());
    });
    c.bench_function("guard/tag check of a handle", |b| {
        let tag = zpool_api::PoolTag::next();
        let handle = Handle::from_u64(u64::from(tag.get()) << 52 | 77).unwrap();
        b.iter(|| black_box(handle).bits_of(black_box(tag)));
    });
}

/// Returns the pages compressed with lz4: the objects that a backend gets.
fn objects(pages: &[Page]) -> Vec<Vec<u8>> {
    let codec = compressors::build("lz4").unwrap();
    let mut ctx = codec.new_ctx().unwrap();
    let mut room = vec![0; codec.max_compressed_len(PAGE_SIZE)];
    pages
        .iter()
        .map(|page| match ctx.compress(page, &mut room) {
            Ok(len) if len < PAGE_SIZE => room[..len].to_vec(),
            _ => page.to_vec(),
        })
        .collect()
}

#[cfg(target_os = "linux")]
fn provider() -> Arc<dyn PageProvider> {
    Arc::new(zpool_pages::MmapPages::new())
}

#[cfg(not(target_os = "linux"))]
fn provider() -> Arc<dyn PageProvider> {
    Arc::new(zpool_pages::HeapPages::new())
}

fn filled(zpool: &str, objects: &[Vec<u8>]) -> (Arc<dyn Zpool>, Vec<Handle>) {
    let pool = zswap_core::builtin::zpools().build(zpool, &ZpoolConfig::new(provider())).unwrap();
    let handles = objects.iter().map(|object| pool.malloc_from(object).unwrap()).collect();
    (pool, handles)
}

/// The objects of a round. Dropping this frees them, after the time was taken.
struct Made<'p> {
    pool: &'p dyn Zpool,
    handles: Vec<Handle>,
}

impl Drop for Made<'_> {
    fn drop(&mut self) {
        for handle in self.handles.drain(..) {
            self.pool.free(handle).unwrap();
        }
    }
}

fn backends(c: &mut Criterion, pages: &[Page]) {
    let objects = objects(pages);
    let order = shuffled(objects.len());
    for zpool in zswap_core::builtin::zpools().names() {
        let (pool, handles) = filled(zpool, &objects);
        let mut at = 0;
        c.bench_function(&format!("zpool/{zpool}/read begin and end"), |b| {
            b.iter(|| {
                at = (at + 1) % order.len();
                pool.obj_read_begin(handles[order[at]]).unwrap().len()
            });
        });
        drop((pool, handles));
        // All rounds allocate in one pool, so that it reuses pages that were just freed.
        let (pool, _kept) = filled(zpool, &objects);
        c.bench_function(&format!("zpool/{zpool}/malloc_from"), |b| {
            b.iter_custom(|iterations| {
                in_rounds(
                    iterations,
                    || Made { pool: &*pool, handles: Vec::with_capacity(order.len()) },
                    |made| {
                        for &i in &order {
                            made.handles.push(pool.malloc_from(&objects[i]).unwrap());
                        }
                        order.len() as u64
                    },
                )
            });
        });
        c.bench_function(&format!("zpool/{zpool}/free"), |b| {
            b.iter_custom(|iterations| {
                in_rounds(
                    iterations,
                    || filled(zpool, &objects),
                    |(pool, handles)| {
                        for &i in &order {
                            pool.free(handles[i]).unwrap();
                        }
                        order.len() as u64
                    },
                )
            });
        });
    }
}

fn codecs(c: &mut Criterion, pages: &[Page]) {
    let order = shuffled(pages.len());
    for name in compressors::Registry::builtin().names() {
        let codec = compressors::build(name).unwrap();
        let mut ctx = codec.new_ctx().unwrap();
        let mut room = vec![0; codec.max_compressed_len(PAGE_SIZE)];
        let packed: Vec<Vec<u8>> = pages
            .iter()
            .map(|page| {
                let len = ctx.compress(page, &mut room).unwrap();
                room[..len].to_vec()
            })
            .collect();
        let mut at = 0;
        let mut next = || {
            at = (at + 1) % order.len();
            order[at]
        };
        c.bench_function(&format!("codec/{name}/compress"), |b| {
            b.iter(|| ctx.compress(&pages[next()], black_box(&mut room)).unwrap());
        });
        let mut page = [0; PAGE_SIZE];
        c.bench_function(&format!("codec/{name}/decompress"), |b| {
            b.iter(|| ctx.decompress(&packed[next()], black_box(&mut page)).unwrap());
        });
    }
}

fn stores(c: &mut Criterion, pages: &[Page]) {
    let order = shuffled(pages.len());
    let entry = |i: usize| SwapEntry::new(0, i as u64).unwrap();
    for zpool in zswap_core::builtin::zpools().names() {
        for codec in ["lz4", "zstd"] {
            let store = Zswap::builder().zpool(zpool).compressor(codec).build().unwrap();
            for (i, page) in pages.iter().enumerate() {
                store.store(entry(i), page).unwrap();
            }
            let mut at = 0;
            let mut next = || {
                at = (at + 1) % order.len();
                order[at]
            };
            c.bench_function(&format!("store/{zpool}/{codec}/store"), |b| {
                b.iter_batched(
                    &mut next,
                    |i| store.store(entry(i), &pages[i]).unwrap(),
                    BatchSize::SmallInput,
                );
            });
            let mut page = [0; PAGE_SIZE];
            c.bench_function(&format!("store/{zpool}/{codec}/load"), |b| {
                b.iter(|| store.load(entry(next()), black_box(&mut page)).unwrap());
            });
        }
    }
}

/// Pages in the pool of a store at its limit.
const POOLED: u64 = 10_000;
/// If there are other entries, one of every `SPACING` entries has its page in the pool.
const SPACING: u64 = 100;

/// Makes a store at its limit. Its compressor is `null`, and its device is in memory. `POOLED` pages
/// are in the pool. With `others`, there are also 990,000 entries between those in the pool: 125,000
/// on the device, and the rest same-filled.
fn at_the_limit(others: bool) -> Zswap {
    let store = Zswap::builder()
        .zpool("zbud")
        .compressor("null")
        .swap_device(Arc::new(MemorySwapDevice::new(1 << 20)))
        .max_pool_bytes(POOLED as usize * PAGE_SIZE)
        .build()
        .unwrap();
    for key in (0..POOLED * SPACING).filter(|key| others && key % SPACING != 0) {
        let page = if key % 8 == 3 { numbered(key) } else { [key as u8; PAGE_SIZE] };
        store.store(SwapEntry::new(0, key).unwrap(), &page).unwrap();
    }
    while store.shrink(usize::MAX).unwrap() > 0 {}
    for key in (0..POOLED * SPACING).step_by(SPACING as usize) {
        store.store(SwapEntry::new(0, key).unwrap(), &numbered(key)).unwrap();
    }
    store
}

/// Makes a page that is not same-filled.
fn numbered(key: u64) -> Page {
    let mut page = [0; PAGE_SIZE];
    page[..8].copy_from_slice(&(key + 1).to_le_bytes());
    page
}

/// Measures the p99.9 latency of storing a new page at the limit. Each such store makes `Zswap` write
/// another page back. Entries without pool memory must not change the latency. One iteration stands
/// for one such store.
fn limits(c: &mut Criterion) {
    let clock = Clock::measure();
    for (name, others) in [("10,000 pooled", false), ("10,000 pooled among 990,000 others", true)] {
        let store = at_the_limit(others);
        let mut round = 0;
        let key_of = |round: u64, n: u64| SwapEntry::new(1, round << 32 | (n * 1000)).unwrap();
        let mut slowest = || {
            let mut laps = Laps::with_capacity(POOLED as usize);
            laps.start();
            for n in 0..POOLED {
                let page = numbered(round << 32 | n);
                laps.skip();
                store.store(key_of(round, n), &page).unwrap();
                laps.lap();
            }
            // The pages of the previous round are on the device. Drop them to make room for the next ones.
            if let Some(before) = u64::checked_sub(round, 1) {
                (0..POOLED).for_each(|n| assert!(store.invalidate(key_of(before, n))));
            }
            round += 1;
            Duration::from_nanos(laps.summary(clock, Duration::from_secs(1)).unwrap().p999 as u64)
        };
        // Criterion expects the time of `iterations` stores: it gets that number times the mean p99.9.
        c.bench_function(&format!("limit/{name}/p99.9 of a store"), |b| {
            b.iter_custom(|iterations| {
                let rounds = iterations.clamp(1, 20) as u32;
                let sum: Duration = (0..rounds).map(|_| slowest()).sum();
                sum.mul_f64(iterations as f64 / f64::from(rounds))
            });
        });
    }
}

fn all(c: &mut Criterion) {
    let pages = pages();
    eprintln!("{} pages that are not same-filled", pages.len());
    guards(c);
    backends(c, &pages);
    codecs(c, &pages);
    stores(c, &pages);
    limits(c);
}

criterion_group!(benches, all);
criterion_main!(benches);
