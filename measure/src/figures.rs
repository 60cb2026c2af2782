//! The results of one contestant over all rounds, for one number of threads.

use std::fmt;

use zpool_api::PAGE_SIZE;

use crate::contestant::{Memory, PoolUse};
use crate::timing::{Summary, Timing, median};
use crate::turn::{Freed, Turn};

/// A contestant's name, in parts. Displayed as `zswap-core/zsmalloc/lz4`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Name {
    /// What stores the pages.
    pub contestant: String,
    /// The backend, if it is one of this project's.
    pub zpool: Option<String>,
    /// The codec and its parameters.
    pub compressor: String,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Name { contestant, zpool, compressor } = self;
        match zpool {
            Some(zpool) => write!(f, "{contestant}/{zpool}/{compressor}"),
            None => write!(f, "{contestant}/{compressor}"),
        }
    }
}

/// Everything that a report says about one contestant. Times are per page, in nanoseconds, as
/// medians over the rounds; `None` where nothing was timed.
///
/// With the feature `serde` this becomes one object. Refusals, faults and [`Memory::pool`] are left out.
#[derive(Clone, PartialEq, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Figures {
    /// The contestant's name.
    #[cfg_attr(feature = "serde", serde(flatten))]
    pub name: Name,
    /// The number of measuring threads.
    pub threads: usize,
    /// The number of turns.
    pub rounds: usize,
    /// Pages offered to the contestant.
    pub pages: usize,
    /// Pages that the contestant refused.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub refused: usize,
    /// Times of stores that replace older pages.
    #[cfg_attr(feature = "serde", serde(rename = "store_ns"))]
    pub store: Option<Timing>,
    /// Times of loads.
    #[cfg_attr(feature = "serde", serde(rename = "load_ns"))]
    pub load: Option<Timing>,
    /// Times of the stores of the first filling, in the order of the pages.
    #[cfg_attr(feature = "serde", serde(rename = "grow_ns"))]
    pub grow: Option<Timing>,
    /// Times of the bare codec's compressions.
    #[cfg_attr(feature = "serde", serde(rename = "codec_compress_ns"))]
    pub compress: Option<Timing>,
    /// Times of the bare codec's decompressions.
    #[cfg_attr(feature = "serde", serde(rename = "codec_decompress_ns"))]
    pub decompress: Option<Timing>,
    /// The memory that the contestant held after the first filling of the first round. At that time the heap
    /// was fresh and the codec had not run.
    #[cfg_attr(feature = "serde", serde(flatten))]
    pub memory: Memory,
    /// Resident bytes per compressed byte.
    pub resident_per_compressed: Option<f64>,
    /// Memory after most pages were freed in the first round.
    pub freed: Option<Freed>,
    /// The median, over all rounds, of this quotient: the mean store time of a round divided by the mean
    /// compression time of the same round.
    #[cfg_attr(feature = "serde", serde(rename = "ratio_store_to_codec"))]
    pub store_over_codec: Option<f64>,
    /// The median, over all rounds, of this quotient: the mean load time of a round divided by the mean
    /// decompression time of the same round.
    #[cfg_attr(feature = "serde", serde(rename = "ratio_load_to_codec"))]
    pub load_over_codec: Option<f64>,
    /// Why the first refused page was refused.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub refusal: Option<String>,
    /// The first thing that went wrong; `None` if every page came back equal every time.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub fault: Option<String>,
}

impl Figures {
    /// Combines the turns of one contestant.
    ///
    /// ```
    /// use measure::{Figures, Name, Turn};
    ///
    /// let name = Name { contestant: "map".into(), zpool: None, compressor: "lz4".into() };
    /// let figures = Figures::over(name, 1, &[Turn { pages: 520, ..Turn::default() }]);
    /// assert_eq!((figures.name.to_string().as_str(), figures.rounds), ("map/lz4", 1));
    /// assert!(figures.verified() && figures.store.is_none());
    /// ```
    pub fn over(name: Name, threads: usize, turns: &[Turn]) -> Self {
        let times = |part: fn(&Turn) -> Option<Summary>| {
            Timing::over(&turns.iter().filter_map(part).collect::<Vec<_>>())
        };
        let ratio = |part: fn(&Turn) -> Option<(Summary, Summary)>| {
            let both = turns.iter().filter_map(part).filter(|(_, codec)| codec.mean > 0.0);
            median(both.map(|(own, codec)| own.mean / codec.mean).collect())
        };
        let first = turns.first();
        let memory = first.map(|turn| turn.memory).unwrap_or_default();
        let said = |part: fn(&Turn) -> &Option<String>| turns.iter().find_map(|t| part(t).clone());
        Figures {
            name,
            threads,
            rounds: turns.len(),
            pages: first.map_or(0, |turn| turn.pages),
            refused: first.map_or(0, |turn| turn.refused.len()),
            store: times(|t| t.store),
            load: times(|t| t.load),
            grow: times(|t| t.grow),
            compress: times(|t| t.compress),
            decompress: times(|t| t.decompress),
            memory,
            resident_per_compressed: quotient(memory.resident_bytes, memory.compressed_bytes),
            freed: first.and_then(|turn| turn.freed),
            store_over_codec: ratio(|t| t.store.zip(t.compress)),
            load_over_codec: ratio(|t| t.load.zip(t.decompress)),
            refusal: said(|t| &t.refusal),
            fault: said(|t| &t.fault),
        }
    }

    /// Returns whether every page came back equal every time.
    pub fn verified(&self) -> bool {
        self.fault.is_none()
    }

    /// Returns the store's statistics, or zeros for a contestant without any.
    pub fn pool(&self) -> PoolUse {
        self.memory.pool.unwrap_or_default()
    }

    /// Returns the uncompressed size in bytes of all pages offered.
    pub fn original_bytes(&self) -> usize {
        self.pages * PAGE_SIZE
    }

    /// Returns the compression ratio: the uncompressed size of all pages, divided by the bytes that they take with
    /// the store. These are the bytes of the pool, the metadata and the contexts, as the store reports them, and
    /// the bytes of the refused pages, which the caller keeps uncompressed. Returns `None` if the divisor is 0.
    pub fn ratio(&self) -> Option<f64> {
        let pool = self.pool();
        let metadata = self.memory.metadata_bytes.unwrap_or(0);
        let refused = self.refused * PAGE_SIZE;
        let with = pool.pool_bytes + metadata + pool.context_bytes + refused;
        quotient(Some(self.original_bytes()), Some(with))
    }

    /// Returns the pool bytes per compressed byte. Returns `None` if either figure is not reported, or if there
    /// are no compressed bytes.
    pub fn pool_per_compressed(&self) -> Option<f64> {
        quotient(self.memory.pool.map(|pool| pool.pool_bytes), self.memory.compressed_bytes)
    }

    /// Returns the metadata bytes per page that the store holds. Same-filled pages count, too. Returns `None` if
    /// either figure is not reported, or if the store holds no page.
    pub fn metadata_per_page(&self) -> Option<f64> {
        quotient(self.memory.metadata_bytes, self.memory.pool.map(|pool| pool.pages))
    }

    /// Returns the resident bytes per remaining compressed byte after three quarters of the pages were freed. The
    /// first value is from before the contestant returned memory to the system. The second value is from
    /// afterwards. Returns `None` if no page was freed, or if the contestant does not report resident or
    /// compressed bytes.
    pub fn freed_per_compressed(&self) -> Option<(f64, f64)> {
        let freed = self.freed?;
        let left = Some(freed.compressed_bytes);
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
mod tests {
    use super::*;

    fn turn() -> Turn {
        let pool = PoolUse {
            pages: 9,
            same_filled: 2,
            incompressible: 1,
            pool_bytes: 12_288,
            context_bytes: 4096,
        };
        let memory = Memory {
            compressed_bytes: Some(8000),
            resident_bytes: Some(9000),
            metadata_bytes: Some(270),
            pool: Some(pool),
        };
        Turn { pages: 10, refused: vec![4], memory, ..Turn::default() }
    }

    fn figures(turns: &[Turn]) -> Figures {
        let name = Name { zpool: Some("zbud".into()), ..Name::default() };
        Figures::over(name, 1, turns)
    }

    #[test]
    fn the_ratio_counts_everything() {
        let with = 12_288.0 + 270.0 + 4096.0 + 4096.0;
        let f = figures(&[turn()]);
        assert_eq!(f.ratio(), Some(40_960.0 / with));
        assert_eq!(f.pool_per_compressed(), Some(12_288.0 / 8000.0));
        assert_eq!(f.metadata_per_page(), Some(30.0));
        assert_eq!(f.resident_per_compressed, Some(9000.0 / 8000.0));
    }

    #[test]
    fn nothing_held_has_no_quotient() {
        let none = figures(&[]);
        assert_eq!(
            (none.ratio(), none.pool_per_compressed(), none.metadata_per_page()),
            (None, None, None)
        );
        let freed = Freed { compressed_bytes: 0, resident_bytes: 5, tidied_bytes: 5 };
        let kernel = figures(&[Turn { freed: Some(freed), ..Turn::default() }]);
        assert_eq!((kernel.freed_per_compressed(), kernel.resident_per_compressed), (None, None));
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        let s =
            |mean| Some(Summary { mean, p50: mean, p99: mean, p999: mean, per_second: 1e9 / mean });
        let round = |store, compress| Turn { store: s(store), compress: s(compress), ..turn() };
        // The machine is half as fast in the second round, which does not change the ratio.
        let rounds = [round(110.0, 100.0), round(220.0, 200.0), round(130.0, 100.0)];
        let f = figures(&rounds);
        assert_eq!(f.store_over_codec, Some(1.1));
        assert_eq!(f.store.unwrap().mean, 130.0);
        assert_eq!((f.load, f.load_over_codec), (None, None));
        assert!(f.verified());
        let [first, second, mut third] = rounds;
        third.fault = Some("page 3".into());
        assert!(!figures(&[first, second, third]).verified());
    }

    #[test]
    fn a_name_is_told_by_its_parts() {
        let mut name = Name { contestant: "map".into(), zpool: None, compressor: "lz4".into() };
        assert_eq!(name.to_string(), "map/lz4");
        name.zpool = Some("zbud".into());
        assert_eq!(name.to_string(), "map/zbud/lz4");
    }
}
