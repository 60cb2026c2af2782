//! What a cache does when the system has no memory, a codec panics, a backend fails, or the process forks.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    unsafe_code,
    reason = "fork; a failure in a test's helper is the test's own message"
)]

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use compressors::{Compressor, CompressorCtx, CompressorError, Null, Registry};
use zpool_api::{PageError, PageProvider, ZpoolError};
use zpool_base::sync::test_rng::Rng;
use zpool_pages::{FailingPages, HeapPages};
use zswap_cache::{BuildError, Cache, CacheBuilder, CacheError, LEAST_BYTES};

fn quiet() -> CacheBuilder {
    Cache::builder().background(false)
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    (0..len).map(|_| rng.next() as u8).collect()
}

/// Builds a cache on pages that fail on request.
fn on_failing_pages() -> (Cache, Arc<FailingPages>) {
    let made: Arc<Mutex<Option<Arc<FailingPages>>>> = Arc::default();
    let keep = made.clone();
    let builder = quiet().compressor("null").pages_of(move |bytes| {
        let inner: Arc<dyn PageProvider> = Arc::new(HeapPages::with_page_size(bytes)?);
        let pages = Arc::new(FailingPages::new(inner));
        *keep.lock().unwrap() = Some(pages.clone());
        Ok(pages)
    });
    let cache = builder.max_bytes(16 << 20).build().unwrap();
    let pages = made.lock().unwrap().take().unwrap();
    (cache, pages)
}

#[test]
fn an_insert_without_memory_says_so_and_drops_or_keeps_the_old_value() {
    let (cache, pages) = on_failing_pages();
    for key in 0..100_u64 {
        cache.insert(key, &noise(key, 500)).unwrap();
    }
    // No page at all from now on, although the budget has many.
    pages.limit_pages(pages.pages_out());
    let long = noise(7, 200_000);
    let is_injected = |error: CacheError| {
        let source = PageError::Injected { call: pages.calls() };
        assert_eq!(error, CacheError::Pool(ZpoolError::OutOfMemory { source }));
    };
    is_injected(cache.insert_or_keep(5, &long).unwrap_err());
    assert_eq!(cache.get(5).unwrap().unwrap(), noise(5, 500));
    is_injected(cache.replace_if(6, &long, |_| true).unwrap_err());
    assert_eq!(cache.get(6).unwrap().unwrap(), noise(6, 500));
    is_injected(cache.insert(5, &long).unwrap_err());
    assert_eq!(cache.get(5), Ok(None));
    // All others are there, and what was stored of the long values is freed.
    assert_eq!(cache.stats().entries, 99);
    pages.limit_pages(usize::MAX);
    cache.insert(5, &long).unwrap();
    assert_eq!(cache.get(5).unwrap().unwrap(), long);
    cache.clear().unwrap();
    assert_eq!((cache.stats().stored_bytes, cache.stats().value_bytes), (0, 0));
}

#[test]
fn every_page_request_may_fail_once() {
    let (cache, pages) = on_failing_pages();
    let mut failed = 0;
    for round in 0..200_u64 {
        pages.fail_call(1 + round % 3);
        let value = noise(round, if round % 3 == 0 { 300_000 } else { 30_000 });
        match cache.insert(round % 7, &value) {
            Ok(()) => assert!(cache.get(round % 7).unwrap() == Some(value)),
            Err(CacheError::Pool(_)) => {
                failed += 1;
                assert_eq!(cache.get(round % 7), Ok(None));
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert!(failed > 5, "{failed}");
    let held: usize = (0..7_u64).filter_map(|key| cache.get(key).unwrap()).map(|v| v.len()).sum();
    assert_eq!(cache.stats().value_bytes, held);
}

/// Copies. The call whose number is `at` panics or fails; contexts count, too.
#[derive(Debug)]
struct Fragile {
    calls: Arc<AtomicU64>,
    at: Arc<AtomicU64>,
}

impl Fragile {
    fn step(&self) -> Result<(), CompressorError> {
        let call = self.calls.fetch_add(1, SeqCst);
        if call == self.at.load(SeqCst) {
            if call % 2 == 0 {
                std::panic::resume_unwind(Box::new("on purpose"));
            }
            return Err(CompressorError::OutOfMemory { codec: "fragile", what: "a test" });
        }
        Ok(())
    }

    fn again(&self) -> Fragile {
        Fragile { calls: self.calls.clone(), at: self.at.clone() }
    }
}

impl Compressor for Fragile {
    fn name(&self) -> &str {
        "fragile"
    }
    fn spec(&self) -> String {
        "fragile".into()
    }
    fn max_compressed_len(&self, len: usize) -> usize {
        len + 1
    }
    fn new_ctx(&self) -> Result<Box<dyn CompressorCtx>, CompressorError> {
        self.step()?;
        Ok(Box::new(self.again()))
    }
}

impl CompressorCtx for Fragile {
    fn compress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, CompressorError> {
        self.step()?;
        // Without a zero at the end, if there is one: so the bytes are no plain copy.
        let len = src.len() - usize::from(src.ends_with(&[0]));
        dst[..len].copy_from_slice(&src[..len]);
        Ok(len)
    }
    fn decompress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<(), CompressorError> {
        self.step()?;
        dst[..src.len()].copy_from_slice(src);
        dst[src.len()..].fill(0);
        Ok(())
    }
    fn memory_bytes(&self) -> usize {
        64
    }
}

#[test]
fn a_codec_may_fail_or_panic_in_any_call() {
    let (calls, at) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(u64::MAX)));
    let fragile = Fragile { calls: calls.clone(), at: at.clone() };
    let mut registry = Registry::builtin();
    registry.register("fragile", move |_| Ok(Arc::new(fragile.again()))).unwrap();
    let cache = quiet().compressors(registry).compressor("fragile").build().unwrap();
    // The last byte of each value is 0, which the codec leaves out.
    let value = |n: u64| {
        let mut bytes = noise(n, if n % 5 == 0 { 400_000 } else { 2000 });
        bytes.push(0);
        bytes
    };
    let mut failed = [0, 0];
    for n in 0..400_u64 {
        at.store(calls.load(SeqCst) + n % 3, SeqCst);
        match cache.insert(n % 11, &value(n)) {
            Ok(()) => match cache.get(n % 11) {
                Ok(found) => assert!(found == Some(value(n))),
                Err(CacheError::Codec(_)) => failed[0] += 1,
                Err(other) => panic!("{other}"),
            },
            Err(CacheError::Codec(_)) => {
                failed[1] += 1;
                at.store(u64::MAX, SeqCst);
                assert_eq!(cache.get(n % 11), Ok(None));
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert!(failed.iter().all(|&count| count > 20), "{failed:?}");
    at.store(u64::MAX, SeqCst);
    let held: usize = (0..11_u64).filter_map(|key| cache.get(key).unwrap()).map(|v| v.len()).sum();
    assert_eq!(cache.stats().value_bytes, held);
}

#[test]
fn settings_are_checked() {
    for bytes in [0, LEAST_BYTES - 1] {
        let refused = quiet().max_bytes(bytes).build().unwrap_err();
        assert_eq!(refused, BuildError::BudgetTooSmall { bytes, least: LEAST_BYTES });
    }
    let refused = quiet().compressor("null").dictionaries(true).build().unwrap_err();
    assert!(matches!(refused, BuildError::NotZstd { .. }), "{refused}");
    for (refused, named) in [
        (quiet().zpool("zlab").build().unwrap_err(), "zlab"),
        (quiet().compressor("lz5").build().unwrap_err(), "lz5"),
    ] {
        assert!(matches!(&refused, BuildError::Recipe(_)), "{refused}");
        assert!(refused.to_string().contains(named), "{refused}");
    }
    assert_eq!(Null.name(), "null");
}

#[test]
fn a_smaller_budget_evicts() {
    let cache = quiet().compressor("null").max_bytes(32 << 20).build().unwrap();
    for key in 0..1500_u64 {
        cache.insert(key, &noise(key, 16_000)).unwrap();
    }
    let before = cache.len();
    cache.set_max_bytes(8 << 20).unwrap();
    let stats = cache.stats();
    let fits = stats.memory_bytes <= 8 << 20;
    assert!(fits && stats.entries > 300 && stats.entries < before / 2, "{before}: {stats:?}");
    cache.set_max_bytes(32 << 20).unwrap();
    for key in 0..1500_u64 {
        cache.insert(key, &noise(key, 16_000)).unwrap();
    }
    assert!(cache.len() > before - 50, "{} and {before}", cache.len());
}

/// Keys whose hashes cannot be known, since each cache hashes in its own way.
#[test]
fn similar_keys_do_not_slow_it_down() {
    let cache = quiet().max_bytes(64 << 20).build().unwrap();
    for n in 0..20_000_u64 {
        cache.insert(n << 44, b"shifted").unwrap();
        cache.insert(n, b"plain").unwrap();
        cache.insert(&[&[0; 200][..], &n.to_be_bytes()].concat(), b"bytes").unwrap();
    }
    assert_eq!(cache.len(), 60_000 - 1);
    assert_eq!(cache.get(3 << 44).unwrap().unwrap(), b"shifted");
}

#[cfg(all(target_os = "linux", not(miri)))]
#[test]
fn a_child_refuses_and_leaks() {
    let cache = Cache::builder().max_bytes(16 << 20).build().unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    for key in 0..1000_u64 {
        cache.insert(key, &noise(key, 300)).unwrap();
    }
    std::thread::scope(|scope| {
        let (cache, stop) = (&cache, &stop);
        for thread in 0..3_u64 {
            scope.spawn(move || {
                let mut value = Vec::new();
                for n in 0.. {
                    if stop.load(SeqCst) {
                        break;
                    }
                    cache.insert(n % 5000 * 3 + thread, &noise(n, 200)).unwrap();
                    cache.get_into(n * 7 % 5000, &mut value).unwrap();
                }
            });
        }
        let statuses: Vec<i32> = (0..50)
            .map(|_| {
                std::thread::sleep(std::time::Duration::from_millis(2));
                // SAFETY: the child uses only code that supports a fork, which is what this test is about, and ends
                // by `_exit`.
                let pid = unsafe { libc::fork() };
                if pid == 0 {
                    // SAFETY: only sets a timer. The timer is a watchdog: its signal ends the child.
                    unsafe { libc::alarm(20) };
                    let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                        let stats = cache.stats();
                        let refused = cache.insert(1, b"") == Err(CacheError::Forked)
                            && cache.insert_or_keep(1, b"") == Err(CacheError::Forked)
                            && cache.replace_if(1, b"", |_| true) == Err(CacheError::Forked)
                            && cache.get(1) == Err(CacheError::Forked)
                            && cache.contains(1) == Err(CacheError::Forked)
                            && cache.remove(1) == Err(CacheError::Forked)
                            && cache.for_each(|_, _| ()) == Err(CacheError::Forked)
                            && cache.clear() == Err(CacheError::Forked)
                            && cache.compact() == Err(CacheError::Forked)
                            && cache.set_max_bytes(64 << 20) == Err(BuildError::Forked);
                        let empty =
                            cache.is_empty() && stats.entries == 0 && stats.memory_bytes == 0;
                        assert!(format!("{cache:?}").contains("another process"));
                        // SAFETY: the child does not use or drop the cache again: it exits at once.
                        drop(unsafe { core::ptr::read(cache) });
                        let own = Cache::builder().background(false).build().unwrap();
                        own.insert(1, b"one").unwrap();
                        let works = own.get(1).unwrap().as_deref() == Some(&b"one"[..]);
                        refused && empty && works
                    }));
                    // SAFETY: ends the child without running any destructor or exit handler of the parent.
                    unsafe { libc::_exit(i32::from(!checked.unwrap_or(false))) };
                }
                let mut status = 0;
                // SAFETY: `pid` is a child of this process, and `status` is on this stack frame.
                assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
                status
            })
            .collect();
        stop.store(true, SeqCst);
        assert_eq!(statuses, [0; 50]);
    });
    assert!(!cache.is_empty());
}
