//! Eight threads store, overwrite, free and read each other's objects, keep guards, compact and
//! migrate, and check every byte they see. Each test runs for a few seconds, or for
//! `ZSMALLOC_CHURN_SECONDS` if it is set (`cargo xtask churn`).
#![allow(clippy::unwrap_used, reason = "a failure in a test's helper is the test's own message")]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use zpool_api::{Handle, ObjRead, PageProvider, Zpool, ZpoolError};
use zpool_base::sync::test_rng::Rng;
use zpool_pages::HeapPages;
use zsmalloc::{Config, Zsmalloc};

const THREADS: usize = 8;

/// The contents of an object: `len` bytes that are derived from its number.
#[derive(Clone, Copy)]
struct Content {
    number: u64,
    len: usize,
}

impl Content {
    fn bytes(self) -> Vec<u8> {
        let words = (self.number..).map(|n| n.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes());
        words.flatten().take(self.len).collect()
    }

    fn check(self, bytes: &[u8]) {
        assert!(
            *bytes == *self.bytes(),
            "object {} of {} bytes differs from what was stored",
            self.number,
            self.len
        );
    }
}

type Cell = Mutex<Option<(Handle, Content)>>;

struct Churn {
    pool: Zsmalloc,
    cells: Vec<Cell>,
    numbers: AtomicU64,
    stop: AtomicBool,
}

impl Churn {
    fn store(&self, rng: &mut Rng) -> (Handle, Content) {
        // Sizes drift, so that classes grow and become empty.
        let number = self.numbers.fetch_add(1, Relaxed);
        let drift = (number / 4096 * 37 % 3900) as usize;
        let len = match rng.below(4) {
            0 => 1 + rng.below(4096),
            _ => 1 + (drift + rng.below(200)) % 4096,
        };
        let content = Content { number, len };
        (self.pool.malloc_from(&content.bytes()).unwrap(), content)
    }

    fn step<'p>(&'p self, rng: &mut Rng, kept: &mut Vec<(ObjRead<'p>, Content)>) {
        let cell = &self.cells[rng.below(self.cells.len())];
        match rng.below(20) {
            0..=5 => {
                let new = self.store(rng);
                let old = cell.lock().unwrap().replace(new);
                if let Some((handle, _)) = old {
                    self.pool.free(handle).unwrap();
                }
            }
            6 | 7 => {
                if let Some((handle, _)) = cell.lock().unwrap().take() {
                    self.pool.free(handle).unwrap();
                }
            }
            // The cell is locked only while its handle is copied. So the object may be freed at any
            // time.
            8..=17 => {
                let Some((handle, content)) = *cell.lock().unwrap() else { return };
                match self.pool.obj_read_begin(handle) {
                    Ok(object) => {
                        content.check(&object);
                        if rng.below(8) == 0 {
                            kept.push((object, content));
                        }
                    }
                    Err(error) => assert!(matches!(error, ZpoolError::InvalidHandle { .. })),
                }
                if kept.len() > 20 {
                    let (object, content) = kept.swap_remove(rng.below(kept.len()));
                    content.check(&object);
                }
            }
            _ if rng.below(400) == 0 => match rng.below(3) {
                0 => drop(self.pool.compact().unwrap()),
                1 => drop(self.pool.migrate().unwrap()),
                _ => drop(self.pool.migrate_within(0..usize::MAX).unwrap()),
            },
            _ => kept.truncate(kept.len() / 2),
        }
    }

    fn run(&self, seed: u64) -> u64 {
        let (mut rng, mut kept, mut steps) = (Rng::new(seed), Vec::new(), 0);
        while !self.stop.load(Relaxed) {
            self.step(&mut rng, &mut kept);
            steps += 1;
        }
        for (object, content) in kept {
            content.check(&object);
        }
        steps
    }
}

fn churn(pages: Arc<dyn PageProvider>, config: Config, cells: usize, time: Duration) {
    let churn = &Churn {
        pool: Zsmalloc::with_config(pages.clone(), config).unwrap(),
        cells: (0..cells).map(|_| Cell::default()).collect(),
        numbers: AtomicU64::new(1),
        stop: AtomicBool::new(false),
    };
    let steps: u64 = thread::scope(|scope| {
        let threads: Vec<_> =
            (0..THREADS).map(|seed| scope.spawn(move || churn.run(seed as u64 + 1))).collect();
        let end = Instant::now() + time;
        while Instant::now() < end && !threads.iter().any(|thread| thread.is_finished()) {
            thread::sleep(Duration::from_millis(10));
        }
        churn.stop.store(true, Relaxed);
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert!(steps > THREADS as u64);
    let live = churn.cells.iter().filter(|cell| cell.lock().unwrap().is_some()).count();
    let stats = churn.pool.stats();
    assert_eq!((stats.objects, stats.parked_objects), (live, 0));
    for cell in &churn.cells {
        if let Some((handle, content)) = cell.lock().unwrap().take() {
            content.check(&churn.pool.obj_read_begin(handle).unwrap());
            churn.pool.free(handle).unwrap();
        }
    }
    churn.pool.trim();
    let stats = churn.pool.stats();
    assert_eq!((stats.objects, stats.object_bytes, stats.total_pages), (0, 0, 0));
    assert_eq!(pages.cached_pages(), 0);
}

/// Returns the duration of each test.
fn time() -> Duration {
    let seconds = std::env::var("ZSMALLOC_CHURN_SECONDS").ok();
    match seconds.and_then(|seconds| seconds.parse().ok()) {
        Some(seconds) => Duration::from_secs(seconds),
        None if cfg!(miri) => Duration::from_millis(200),
        None => Duration::from_millis(1500),
    }
}

#[cfg(all(target_os = "linux", not(miri)))]
#[test]
fn eight_threads_over_mapped_pages() {
    churn(Arc::new(zpool_pages::MmapPages::new()), Config::new(), 20_000, time());
}

#[test]
fn eight_threads_in_few_cells() {
    // Almost every read races with a free, and slots are soon used up.
    let config = Config::new().chain(4).generations_left(100);
    churn(Arc::new(HeapPages::new()), config, if cfg!(miri) { 8 } else { 64 }, time());
}
