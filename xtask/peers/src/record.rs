//! One object of a run's JSON: a contestant's figures, its pages and the machine.

use measure::{Figures, Turn};
use serde::{Deserialize, Serialize};

use crate::contestants::Entry;
use crate::machine::Machine;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    #[serde(flatten)]
    pub(crate) figures: Figures,
    pub(crate) origin: String,
    pub(crate) machine: Machine,
}

impl Record {
    pub(crate) fn new(
        entry: &Entry,
        threads: usize,
        turns: &[Turn],
        origin: &str,
        machine: &Machine,
    ) -> Self {
        let figures = Figures::over(entry.parts(), threads, turns);
        Record { figures, origin: origin.to_owned(), machine: machine.clone() }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use measure::{Freed, Memory, Summary};

    use super::*;

    pub(crate) fn figures(name: &str, threads: usize, ns: f64, bytes: usize) -> Figures {
        let times = |mean| {
            let (p50, p99, p999, per_second) = (mean, 2.0 * mean, 3.0 * mean, 1e9 / mean);
            Some(Summary { mean, p50, p99, p999, per_second })
        };
        let turn = |slow: f64| Turn {
            pages: 64,
            store: times(ns * slow),
            load: times(ns * slow / 4.0),
            compress: times(100.0 * slow),
            decompress: times(25.0 * slow),
            memory: Memory {
                compressed_bytes: Some(1000),
                resident_bytes: Some(bytes),
                ..Memory::default()
            },
            freed: Some(Freed { compressed_bytes: 250, resident_bytes: bytes, tidied_bytes: 300 }),
            ..Turn::default()
        };
        let name = Entry::find(name).unwrap().parts();
        Figures::over(name, threads, &[turn(1.0), turn(2.0), turn(1.5)])
    }

    pub(crate) fn record(figures: Figures) -> Record {
        Record { figures, origin: "some.pages".into(), machine: Machine::default() }
    }

    #[test]
    fn ratios_are_taken_within_a_round_and_times_are_medians() {
        let f = figures("zswap-core/zsmalloc/lz4", 1, 110.0, 1030);
        assert!((f.store_over_codec.unwrap() - 1.1).abs() < 1e-9);
        assert!((f.load_over_codec.unwrap() - 1.1).abs() < 1e-9);
        let store = f.store.unwrap();
        assert_eq!((store.mean, store.mean_least, store.mean_most), (165.0, 110.0, 220.0));
        assert_eq!(f.resident_per_compressed, Some(1.03));
        assert_eq!(f.freed_per_compressed(), Some((4.12, 1.2)));
        assert_eq!(f.name.to_string(), "zswap-core/zsmalloc/lz4");
    }

    #[test]
    fn the_json_has_the_names_that_were_promised_and_reads_back() {
        let record = record(figures("map-system/liblz4", 4, 120.0, 1100));
        let json = serde_json::to_value(&record).unwrap();
        let mut keys: Vec<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
        keys.sort_unstable();
        assert_eq!(
            keys,
            [
                "codec_compress_ns",
                "codec_decompress_ns",
                "compressed_bytes",
                "compressor",
                "contestant",
                "freed",
                "grow_ns",
                "load_ns",
                "machine",
                "metadata_bytes",
                "origin",
                "pages",
                "ratio_load_to_codec",
                "ratio_store_to_codec",
                "resident_bytes",
                "resident_per_compressed",
                "rounds",
                "store_ns",
                "threads",
                "zpool",
            ]
        );
        for (figure, part) in ["store_ns", "load_ns"].into_iter().flat_map(|f| {
            let parts = ["mean", "p50", "p99", "p999", "mean_least", "mean_most", "per_second"];
            parts.map(|part| (f, part))
        }) {
            assert!(json[figure][part].is_f64(), "{figure} {part}");
        }
        let back: Record = serde_json::from_value(json).unwrap();
        assert_eq!(back.figures, record.figures);
    }
}
