//! Dictionaries that a store trains from its own pages: they come into use while they pay, follow the data, and go;
//! every page stays readable throughout.

#![cfg(feature = "zstd")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure in a test's helper is the test's own message"
)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use common::{at, eventually};
use zpool_base::sync::test_rng::Rng;
use zswap_core::device::MemorySwapDevice;
use zswap_core::{
    AreaSettings, BackgroundDictionaries, DictionaryError, DictionaryPolicy, DictionaryReport,
    PAGE_SIZE, Page, SwapEntry, Zswap,
};

/// The number of entries that the tests use.
const ENTRIES: u64 = 3000;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// Records of texts that all pages of the kind share, but that rarely occur twice in one page.
    Records(u64),
    /// Bytes that do not compress.
    Noise,
}

/// Makes a page of a kind. The seed determines it.
fn page(kind: Kind, seed: u64) -> Box<Page> {
    let (mut rng, mut page) = (Rng::new(seed ^ 0x5eed), Box::new([0; PAGE_SIZE]));
    match kind {
        Kind::Noise => {
            page.chunks_exact_mut(8).for_each(|w| w.copy_from_slice(&rng.next().to_ne_bytes()))
        }
        Kind::Records(words) => {
            for record in page.chunks_mut(40) {
                // One of 250 texts of 32 bytes, then a number.
                let mut text = Rng::new(words * 1000 + rng.below(250) as u64);
                let (text_part, number) = record.split_at_mut(32.min(record.len()));
                text_part.iter_mut().for_each(|byte| *byte = b'a' + text.below(26) as u8);
                number.iter_mut().for_each(|byte| *byte = b'0' + rng.below(10) as u8);
            }
        }
    }
    page
}

/// A store, and what must be in it.
struct Filled {
    store: Arc<Zswap>,
    pages: Vec<Option<(Kind, u64)>>,
    turn: u64,
}

impl Filled {
    fn new(store: Zswap) -> Self {
        Filled { store: Arc::new(store), pages: vec![None; ENTRIES as usize], turn: 0 }
    }

    /// Stores some hundred pages of a kind over older ones, and checks some pages.
    fn churn(&mut self, kind: Kind) {
        for _ in 0..300 {
            let entry = self.turn % ENTRIES;
            self.store.store(at(entry), &page(kind, self.turn)).unwrap();
            self.pages[entry as usize] = Some((kind, self.turn));
            self.check(self.turn.wrapping_mul(7919) % ENTRIES);
            self.turn += 1;
        }
    }

    fn check(&self, entry: u64) {
        if let Some((kind, seed)) = self.pages[entry as usize] {
            let mut back = [0; PAGE_SIZE];
            self.store.load(at(entry), &mut back).unwrap();
            assert!(back == *page(kind, seed), "{entry} of {kind:?}");
        }
    }

    fn check_all(&self) {
        (0..ENTRIES).for_each(|entry| self.check(entry));
    }

    /// Stores pages of a kind until the report shows what is waited for.
    fn churn_until(
        &mut self,
        what: &str,
        kind: Kind,
        dictionaries: &BackgroundDictionaries,
        holds: impl Fn(&DictionaryReport) -> bool,
    ) -> DictionaryReport {
        let begun = Instant::now();
        loop {
            self.churn(kind);
            let report = dictionaries.report();
            assert_eq!((report.failed, &report.last_error), (0, &None));
            if holds(&report) {
                return report;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "never: {what}: {report:?}");
        }
    }
}

fn zstd() -> Zswap {
    Zswap::builder().compressor("zstd").build().unwrap()
}

fn quick() -> DictionaryPolicy {
    let pauses = (Duration::from_millis(2), Duration::from_millis(20));
    DictionaryPolicy::default().pauses(pauses.0, pauses.1)
}

/// Returns the compressed bytes of all pages of a kind in a store without dictionaries.
fn without(kind: Kind) -> usize {
    let store = zstd();
    (0..ENTRIES).for_each(|entry| store.store(at(entry), &page(kind, entry)).unwrap());
    store.stats().compressed_bytes
}

#[test]
fn a_dictionary_comes_follows_the_data_and_goes() {
    let (a, b) = (Kind::Records(1), Kind::Records(2));
    let mut filled = Filled::new(zstd());
    let before = filled.store.stats().context_bytes;
    let dictionaries = filled.store.train_dictionaries_in_background(quick()).unwrap();

    let report = filled.churn_until("a dictionary for A", a, &dictionaries, |r| r.adopted > 0);
    assert!(report.active && report.gain < 0.7 && report.dictionary_bytes > 16 << 10, "{report:?}");
    while filled.turn < 2 * ENTRIES {
        filled.churn(a);
    }
    let store = filled.store.clone();
    eventually("older pages migrate", || store.stats().pools.len() == 1);
    let stats = store.stats();
    let spec = &stats.pools[0].compressor;
    assert!(spec.starts_with("zstd:dict="), "{spec}");
    assert!(
        stats.compressed_bytes * 10 < without(a) * 7,
        "{} of {}",
        stats.compressed_bytes,
        without(a)
    );
    assert!(stats.context_bytes >= before + report.dictionary_bytes, "the dictionary counts");
    filled.check_all();

    // Other data: another dictionary, whose gain is as good.
    let adopted = dictionaries.report().adopted;
    let report =
        filled.churn_until("one for B", b, &dictionaries, |r| r.adopted > adopted && r.gain < 0.7);
    assert!(report.active);
    let turn = filled.turn;
    while filled.turn < turn + ENTRIES {
        filled.churn(b);
    }
    filled.check_all();
    eventually("B is packed", || {
        let stats = store.stats();
        stats.pools.len() == 1 && stats.compressed_bytes * 10 < without(b) * 7
    });

    // Noise: none. Once the older pages are gone, no dictionary's memory is left.
    let report = filled
        .churn_until("none for noise", Kind::Noise, &dictionaries, |r| r.dropped > 0 && !r.active);
    assert_eq!(report.gain, 1.0);
    let turn = filled.turn;
    while filled.turn < turn + ENTRIES {
        filled.churn(Kind::Noise);
    }
    eventually("no dictionary is left", || dictionaries.report().dictionary_bytes == 0);
    let stats = store.stats();
    assert_eq!(stats.pools[0].compressor, "zstd");
    assert!(!dictionaries.report().active);
    filled.check_all();
    drop(dictionaries);
    // What remains are contexts, and no samples.
    assert!(store.stats().context_bytes < 4 << 20);
}

#[test]
fn noise_gets_no_dictionary() {
    let mut filled = Filled::new(zstd());
    let dictionaries = filled.store.train_dictionaries_in_background(quick()).unwrap();
    let report = filled
        .churn_until("rejections", Kind::Noise, &dictionaries, |r| r.rejected + r.unchanged > 2);
    assert_eq!((report.adopted, report.dictionary_bytes, report.active), (0, 0, false));
    assert_eq!(filled.store.stats().pools.len(), 1);
}

#[test]
fn pages_on_a_device_keep_their_dictionaries_which_stay_few() {
    let device = Arc::new(MemorySwapDevice::new(1 << 14));
    let store = Zswap::builder().compressor("zstd").swap_device(device).build().unwrap();
    let mut filled = Filled::new(store);
    let policy = quick().most_dictionaries(2);
    let dictionaries = filled.store.train_dictionaries_in_background(policy).unwrap();
    let store = filled.store.clone();
    let stays = |words: u64, n: u64| at((words << 20) | n);
    for words in 1..=4 {
        let kind = Kind::Records(words);
        let (adopted, held_up) = (dictionaries.report().adopted, dictionaries.report().held_up);
        filled.churn_until("a verdict", kind, &dictionaries, |r| {
            if words > 2 { r.held_up > held_up } else { r.adopted > adopted }
        });
        // These pages stay on the device, and so do their dictionaries.
        (0..50).for_each(|n| store.store(stays(words, n), &page(kind, n)).unwrap());
        store.shrink(2 * ENTRIES as usize).unwrap();
    }
    assert_eq!(dictionaries.report().adopted, 2, "as many as are allowed");
    assert!(store.stats().device_pages >= 200 && store.stats().pools.len() <= 8);
    filled.check_all();
    for (words, n) in (1..=4).flat_map(|words| (0..50).map(move |n| (words, n))) {
        let mut back = [0; PAGE_SIZE];
        store.load(stays(words, n), &mut back).unwrap();
        assert!(back == *page(Kind::Records(words), n), "{n} of {words}");
    }
    // With the last page, the last dictionary goes.
    assert!(dictionaries.report().dictionary_bytes > 0);
    store.set_compressor("lz4").unwrap();
    store.invalidate_area(0);
    eventually("no dictionary is left", || dictionaries.report().dictionary_bytes == 0);
    assert_eq!(store.stats().pools.len(), 1);
}

#[test]
fn what_the_program_chooses_stays() {
    let mut filled = Filled::new(zstd());
    let dictionaries = filled.store.train_dictionaries_in_background(quick()).unwrap();
    let kind = Kind::Records(1);
    filled.churn_until("a dictionary", kind, &dictionaries, |r| r.adopted > 0);
    filled.store.set_compressor("lz4").unwrap();
    eventually("the thread steps back", || !dictionaries.report().active);
    for _ in 0..10 {
        filled.churn(kind);
    }
    assert_eq!(filled.store.stats().pools[0].compressor, "lz4");
    // An area of its own does not take the dictionary along.
    filled.store.set_compressor("zstd").unwrap();
    filled.churn_until("a dictionary", kind, &dictionaries, |r| r.active && r.adopted > 1);
    filled.store.add_area(9, AreaSettings::default()).unwrap();
    let own = filled.store.area(9).unwrap().stats();
    assert_eq!(own.pools[0].compressor, "zstd");
    // Another level is trained for.
    filled.store.set_compressor("zstd:level=1").unwrap();
    let adopted = dictionaries.report().adopted;
    filled.churn_until("another dictionary", kind, &dictionaries, |r| r.adopted > adopted);
    assert!(filled.store.stats().pools[0].compressor.starts_with("zstd:level=1,dict="));
    // A dictionary goes along with another backend, and is kept when the thread ends.
    filled.store.set_zpool("zbud").unwrap();
    drop(dictionaries);
    assert!(filled.store.stats().pools[0].compressor.starts_with("zstd:level=1,dict="));
    filled.churn(kind);
    filled.check_all();
    let again = filled.store.train_dictionaries_in_background(quick()).unwrap();
    filled.churn_until("the next thread knows it", kind, &again, |r| {
        r.unchanged + r.trained > 0 && r.active
    });
}

#[test]
fn settings_and_compressors_that_do_not_go_are_errors() {
    let lz4 = Arc::new(Zswap::builder().compressor("lz4").build().unwrap());
    let error = lz4.train_dictionaries_in_background(quick()).unwrap_err();
    assert_eq!(error, DictionaryError::NotZstd { compressor: "lz4".into() });
    let store = Arc::new(zstd());
    for bad in [
        quick().most_dictionaries(0),
        quick().most_dictionaries(7),
        quick().dictionary_bytes(255),
        quick().sample_bytes(100),
    ] {
        assert!(store.train_dictionaries_in_background(bad).is_err(), "{bad:?}");
    }
    let first = store.train_dictionaries_in_background(quick()).unwrap();
    let error = store.train_dictionaries_in_background(quick()).unwrap_err();
    assert_eq!(error, DictionaryError::Running);
    drop(first);
    assert!(store.train_dictionaries_in_background(quick()).is_ok());
}

#[test]
fn pages_of_batches_are_samples_and_those_of_other_areas_are_not() {
    let store = Arc::new(zstd());
    store.add_area(7, AreaSettings::default()).unwrap();
    let dictionaries = store.train_dictionaries_in_background(quick()).unwrap();
    let kind = Kind::Records(1);
    for n in 0..4 * ENTRIES {
        let entry = SwapEntry::new(7, n % ENTRIES).unwrap();
        store.store(entry, &page(kind, n)).unwrap();
    }
    thread::sleep(Duration::from_millis(100));
    assert_eq!(dictionaries.report(), DictionaryReport::default());
    let begun = Instant::now();
    let mut turn = 0;
    while dictionaries.report().adopted == 0 {
        let pages: Vec<_> = (turn..turn + 50).map(|n| page(kind, n)).collect();
        let batch: Vec<_> =
            (turn..).map(|n| at(n % ENTRIES)).zip(pages.iter().map(|p| &**p)).collect();
        store.store_batch(&batch).unwrap().into_iter().for_each(|stored| stored.unwrap());
        turn += 50;
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", dictionaries.report());
    }
}

#[test]
fn no_room_under_the_limit_holds_training_up() {
    // The trainer's tables and contexts alone take more.
    let store = Zswap::builder().compressor("zstd").max_bytes(4 << 20).build().unwrap();
    let mut filled = Filled::new(store);
    let dictionaries = filled.store.train_dictionaries_in_background(quick()).unwrap();
    let begun = Instant::now();
    let mut turn = 0;
    while dictionaries.report().held_up == 0 {
        for _ in 0..100 {
            let entry = turn % ENTRIES;
            // At its limit, a store without a device refuses pages.
            let stored = filled.store.store(at(entry), &page(Kind::Records(1), turn)).is_ok();
            filled.pages[entry as usize] = stored.then_some((Kind::Records(1), turn));
            turn += 1;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", dictionaries.report());
    }
    assert_eq!(dictionaries.report().trained, 0);
    filled.check_all();
}

#[test]
fn a_store_that_is_dropped_while_it_trains_ends_the_thread() {
    for pause in [0, 5, 20, 50] {
        let mut filled = Filled::new(zstd());
        let dictionaries = filled.store.train_dictionaries_in_background(quick()).unwrap();
        for _ in 0..4 {
            filled.churn(Kind::Records(1));
        }
        thread::sleep(Duration::from_millis(pause));
        let weak = Arc::downgrade(&filled.store);
        drop(filled);
        eventually("the store goes", || weak.strong_count() == 0);
        drop(dictionaries);
    }
}

#[test]
fn threads_store_and_read_through_all_changes() {
    let store = Arc::new(zstd());
    let dictionaries = store.train_dictionaries_in_background(quick()).unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for thread in 0..3_u64 {
            let (store, done) = (&store, &done);
            scope.spawn(move || {
                let (mut back, mut turn) = ([0; PAGE_SIZE], 0_u64);
                while !done.load(SeqCst) {
                    let entry = at((thread << 20) | (turn % 900));
                    let kind = match turn / 3000 % 3 {
                        2 => Kind::Noise,
                        n => Kind::Records(n),
                    };
                    let wanted = page(kind, turn);
                    store.store(entry, &wanted).unwrap();
                    store.load(entry, &mut back).unwrap();
                    assert!(back == *wanted);
                    turn += 1;
                }
            });
        }
        eventually("three changes", || {
            let report = dictionaries.report();
            report.adopted + report.dropped >= 3
        });
        done.store(true, SeqCst);
    });
    assert_eq!(dictionaries.report().failed, 0, "{:?}", dictionaries.report());
}
