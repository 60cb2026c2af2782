//! Tests what a store reports to a recorder of the `metrics` crate.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure in a test's helper is the test's own message"
)]

mod common;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use common::at;
use common::rig::{marked, rig_with};
use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder,
    SharedString, Unit,
};
use zswap_core::PAGE_SIZE;
use zswap_core::device::MemorySwapDevice;

/// The value of each metric, by name and labels. For a histogram, this is the number of values that were
/// recorded.
type Recorded = Arc<Mutex<BTreeMap<String, f64>>>;

#[derive(Default)]
struct Notes(Recorded);

/// A metric that notes its value in the map, under this name.
struct Note(Recorded, String);

impl Notes {
    fn note(&self, key: &Key) -> Arc<Note> {
        let labels = key.labels().map(|label| format!(" {}={}", label.key(), label.value()));
        let name = format!("{}{}", key.name(), labels.collect::<String>());
        Arc::new(Note(self.0.clone(), name))
    }
}

impl Note {
    fn change(&self, change: impl Fn(f64) -> f64) {
        let mut recorded = self.0.lock().unwrap();
        let value = recorded.entry(self.1.clone()).or_insert(0.0);
        *value = change(*value);
    }
}

impl CounterFn for Note {
    fn increment(&self, n: u64) {
        self.change(|value| value + n as f64);
    }
    fn absolute(&self, n: u64) {
        self.change(|_| n as f64);
    }
}

impl GaugeFn for Note {
    fn increment(&self, n: f64) {
        self.change(|value| value + n);
    }
    fn decrement(&self, n: f64) {
        self.change(|value| value - n);
    }
    fn set(&self, n: f64) {
        self.change(|_| n);
    }
}

impl HistogramFn for Note {
    fn record(&self, seconds: f64) {
        assert!(seconds > 0.0 && seconds < 60.0, "{seconds}");
        self.change(|times| times + 1.0);
    }
}

impl Recorder for Notes {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.note(key))
    }
    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.note(key))
    }
    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.note(key))
    }
}

#[test]
fn counters_figures_and_latencies_are_told_under_the_stores_name() {
    let recorder = Notes::default();
    metrics::with_local_recorder(&recorder, || {
        let device = Arc::new(MemorySwapDevice::new(9));
        let rig = rig_with(|builder| builder.metrics("pages").swap_device(device));
        let store = &rig.store;
        (0..5).for_each(|n| store.store(at(n), &marked(n, 0)).unwrap());
        store.store(at(5), &[1; PAGE_SIZE]).unwrap();
        let mut back = [0; PAGE_SIZE];
        store.load(at(3), &mut back).unwrap();
        assert!(store.load(at(99), &mut back).is_err());
        store.set_compressor("trim1").unwrap();
        store.store(at(6), &marked(6, 0)).unwrap();
        assert_eq!(store.shrink(2), Ok(2));
        store.publish_metrics();
        let recorded = recorder.0.lock().unwrap().clone();
        let expected = [
            ("zswap_stored_pages store=pages", 7.0),
            ("zswap_same_filled_pages store=pages", 1.0),
            ("zswap_device_pages store=pages", 2.0),
            ("zswap_written_back_pages store=pages", 2.0),
            // Two objects of 1024 bytes with their checksums, and 13 bytes for each in the directory.
            ("zswap_device_segments store=pages", 1.0),
            ("zswap_device_live_bytes store=pages", 2.0 * 1040.0),
            ("zswap_device_new_bytes store=pages", 2.0 * 1024.0),
            ("zswap_device_bytes_written store=pages", 2.0 * (1040.0 + 13.0) + 4.0),
            ("zswap_device_bytes_read store=pages", 0.0),
            ("zswap_device_cleaned_segments store=pages", 0.0),
            ("zswap_device_moved_pages store=pages", 0.0),
            ("zswap_promoted_pages store=pages", 0.0),
            ("zswap_dropped_clean_pages store=pages", 0.0),
            ("zswap_listener_panics store=pages", 0.0),
            ("zswap_corrupt_pages store=pages", 0.0),
            ("zswap_pool_objects store=pages zpool=zbud compressor=trim0", 3.0),
            ("zswap_pool_objects store=pages zpool=zbud compressor=trim1", 1.0),
            ("zswap_pool_compressed_bytes store=pages zpool=zbud compressor=trim1", 1024.0),
            ("zswap_store_seconds store=pages", 7.0),
            ("zswap_load_seconds store=pages", 2.0),
        ];
        for (name, value) in expected {
            assert_eq!(recorded.get(name), Some(&value), "{name} of {recorded:#?}");
        }
        let stats = store.stats();
        assert_eq!(recorded["zswap_pool_total_size store=pages"], stats.pool_total_size as f64);
        // There are 10 sizes, 24 counts of events, 3 figures for each of 2 pools, and 2 histograms.
        assert_eq!(recorded.len(), 10 + 24 + 2 * 3 + 2, "{recorded:#?}");
        // When the first pool is gone, its gauges are set to 0.
        assert_eq!(store.migrate_pools(9).unwrap().left, 0);
        store.publish_metrics();
        let recorded = recorder.0.lock().unwrap().clone();
        for figure in ["objects", "bytes", "compressed_bytes"] {
            let of =
                |codec| format!("zswap_pool_{figure} store=pages zpool=zbud compressor={codec}");
            assert_eq!(recorded[&of("trim0")], 0.0, "{figure}");
            assert!(recorded[&of("trim1")] > 0.0, "{figure}");
        }
        // The pages on the device are loaded twice, and come back.
        for n in [0, 1, 2, 4] {
            store.load(at(n), &mut back).unwrap();
            store.load(at(n), &mut back).unwrap();
        }
        store.publish_metrics();
        let recorded = recorder.0.lock().unwrap().clone();
        for (name, value) in [
            ("zswap_device_loads store=pages", 4.0),
            ("zswap_device_bytes_read store=pages", 4.0 * 1028.0),
            ("zswap_promoted_pages store=pages", 2.0),
            ("zswap_device_segments store=pages", 0.0),
            ("zswap_device_live_bytes store=pages", 0.0),
        ] {
            assert_eq!(recorded.get(name), Some(&value), "{name} of {recorded:#?}");
        }
        // The pools of an area have a label more.
        store.add_area(3, zswap_core::AreaSettings::default()).unwrap();
        store.store(zswap_core::SwapEntry::new(3, 0).unwrap(), &marked(0, 0)).unwrap();
        store.publish_metrics();
        let recorded = recorder.0.lock().unwrap().clone();
        let of_area = "zswap_pool_objects store=pages zpool=zbud compressor=trim1 area=3";
        assert_eq!(recorded.get(of_area), Some(&1.0), "{recorded:#?}");
    });
}

#[test]
fn a_store_without_a_name_tells_nothing() {
    let recorder = Notes::default();
    metrics::with_local_recorder(&recorder, || {
        let rig = rig_with(|builder| builder);
        rig.store.store(at(0), &marked(0, 0)).unwrap();
        rig.store.publish_metrics();
    });
    assert!(recorder.0.lock().unwrap().is_empty());
}
