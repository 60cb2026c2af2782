//! What all rounds found out about one contestant with so many threads.

use measure::{Summary, Timing, median};
use serde::{Deserialize, Serialize};

use crate::contestants::{self, Entry};
use crate::machine::Machine;
use crate::turn::{Freed, Times, Told};

/// Medians over the rounds, nanoseconds a page.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Nanos {
    pub(crate) mean: f64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    /// The means of the quickest and of the slowest round.
    pub(crate) mean_least: f64,
    pub(crate) mean_most: f64,
    /// Pages in a second, of all threads together.
    pub(crate) per_second: f64,
}

impl Nanos {
    fn over(rounds: &[Told], part: fn(&Told) -> Option<Times>) -> Option<Self> {
        let all: Vec<Summary> = rounds.iter().filter_map(part).map(Times::summary).collect();
        let t = Timing::over(&all)?;
        Some(Nanos {
            mean: t.mean,
            p50: t.p50,
            p99: t.p99,
            p999: t.p999,
            mean_least: t.mean_range.0,
            mean_most: t.mean_range.1,
            per_second: t.per_second,
        })
    }
}

/// One object of the JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Figures {
    pub(crate) contestant: String,
    pub(crate) zpool: Option<String>,
    pub(crate) compressor: String,
    pub(crate) threads: usize,
    pub(crate) rounds: usize,
    pub(crate) pages: usize,
    pub(crate) store_ns: Option<Nanos>,
    pub(crate) load_ns: Option<Nanos>,
    /// The first filling, in the order of the pages.
    pub(crate) grow_ns: Option<Nanos>,
    pub(crate) codec_compress_ns: Option<Nanos>,
    pub(crate) codec_decompress_ns: Option<Nanos>,
    pub(crate) compressed_bytes: Option<usize>,
    pub(crate) resident_bytes: Option<usize>,
    pub(crate) metadata_bytes: Option<usize>,
    pub(crate) resident_per_compressed: Option<f64>,
    pub(crate) freed: Option<Freed>,
    pub(crate) ratio_store_to_codec: Option<f64>,
    pub(crate) ratio_load_to_codec: Option<f64>,
    pub(crate) origin: String,
    pub(crate) machine: Machine,
}

impl Figures {
    pub(crate) fn new(
        entry: &Entry,
        threads: usize,
        rounds: &[Told],
        origin: &str,
        machine: &Machine,
    ) -> Self {
        // Memory of the first round: its contestant went before the codec, into a fresh heap.
        let first = rounds.first().copied().unwrap_or_default();
        let ratio = |part: fn(&Told) -> Option<(Times, Times)>| {
            let both = rounds.iter().filter_map(part).filter(|(_, codec)| codec.mean > 0.0);
            median(both.map(|(own, codec)| own.mean / codec.mean).collect())
        };
        Figures {
            contestant: entry.contestant(),
            zpool: entry.zpool.map(str::to_owned),
            compressor: entry.compressor.clone(),
            threads,
            rounds: rounds.len(),
            pages: first.pages,
            store_ns: Nanos::over(rounds, |t| t.store),
            load_ns: Nanos::over(rounds, |t| t.load),
            grow_ns: Nanos::over(rounds, |t| t.grow),
            codec_compress_ns: Nanos::over(rounds, |t| t.compress),
            codec_decompress_ns: Nanos::over(rounds, |t| t.decompress),
            compressed_bytes: first.compressed_bytes,
            resident_bytes: first.resident_bytes,
            metadata_bytes: first.metadata_bytes,
            resident_per_compressed: quotient(first.resident_bytes, first.compressed_bytes),
            freed: first.freed,
            ratio_store_to_codec: ratio(|t| t.store.zip(t.compress)),
            ratio_load_to_codec: ratio(|t| t.load.zip(t.decompress)),
            origin: origin.to_owned(),
            machine: machine.clone(),
        }
    }

    pub(crate) fn name(&self) -> String {
        contestants::name(&self.contestant, self.zpool.as_deref(), &self.compressor)
    }

    /// Resident bytes for each compressed one that is left after three of four pages were freed, as
    /// they are and tidied up; none where it does not say how many are left.
    pub(crate) fn freed_per_compressed(&self) -> Option<(f64, f64)> {
        let freed = self.freed?;
        let left = Some(freed.compressed_bytes).filter(|&bytes| bytes > 0);
        Some((
            quotient(Some(freed.resident_bytes), left)?,
            quotient(Some(freed.tidied_bytes), left)?,
        ))
    }
}

fn quotient(over: Option<usize>, under: Option<usize>) -> Option<f64> {
    let (over, under) = over.zip(under)?;
    (under > 0).then(|| over as f64 / under as f64)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn figures(name: &str, threads: usize, ns: f64, bytes: usize) -> Figures {
        let entry = Entry::find(name).unwrap();
        let times = |mean| {
            let (p50, p99, p999, per_second) = (mean, 2.0 * mean, 3.0 * mean, 1e9 / mean);
            Some(Times { mean, p50, p99, p999, per_second })
        };
        let told = |slow: f64| Told {
            pages: 64,
            store: times(ns * slow),
            load: times(ns * slow / 4.0),
            compress: times(100.0 * slow),
            decompress: times(25.0 * slow),
            compressed_bytes: Some(1000),
            resident_bytes: Some(bytes),
            freed: Some(Freed { compressed_bytes: 250, resident_bytes: bytes, tidied_bytes: 300 }),
            ..Told::default()
        };
        let rounds = [told(1.0), told(2.0), told(1.5)];
        Figures::new(&entry, threads, &rounds, "some.pages", &Machine::default())
    }

    #[test]
    fn ratios_are_taken_within_a_round_and_times_are_medians() {
        let f = figures("zswap-core/zsmalloc/lz4", 1, 110.0, 1030);
        assert!((f.ratio_store_to_codec.unwrap() - 1.1).abs() < 1e-9);
        assert!((f.ratio_load_to_codec.unwrap() - 1.1).abs() < 1e-9);
        let store = f.store_ns.unwrap();
        assert_eq!((store.mean, store.mean_least, store.mean_most), (165.0, 110.0, 220.0));
        assert_eq!(f.resident_per_compressed, Some(1.03));
        assert_eq!(f.freed_per_compressed(), Some((4.12, 1.2)));
        assert_eq!(f.name(), "zswap-core/zsmalloc/lz4");
    }

    #[test]
    fn the_json_has_the_names_that_were_promised() {
        let json = serde_json::to_value(figures("map-system/lz4", 4, 120.0, 1100)).unwrap();
        for key in [
            "contestant",
            "zpool",
            "compressor",
            "threads",
            "compressed_bytes",
            "resident_bytes",
            "metadata_bytes",
            "ratio_store_to_codec",
            "ratio_load_to_codec",
        ] {
            assert!(json.get(key).is_some(), "{key}");
        }
        for (figure, part) in ["store_ns", "load_ns"]
            .into_iter()
            .flat_map(|f| ["mean", "p50", "p99", "p999"].map(|part| (f, part)))
        {
            assert!(json[figure][part].is_f64(), "{figure} {part}");
        }
    }
}
