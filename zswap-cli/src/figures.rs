//! What was found out about one pair of zpool and compressor.

use zswap_core::PAGE_SIZE;

use measure::{Summary, Timing, median};

/// Pages and bytes of a store right after its first filling.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Memory {
    /// All pages that were offered.
    pub(crate) pages: usize,
    /// Pages kept as one word.
    pub(crate) same_filled: usize,
    /// Pages that hold pool memory.
    pub(crate) stored: usize,
    /// Pages that the store refused.
    pub(crate) rejected: usize,
    /// Those of `stored` that are kept as they are, since they do not shrink.
    pub(crate) incompressible: usize,
    /// Bytes of the objects in the pool.
    pub(crate) compressed_bytes: usize,
    /// Resident bytes of the pool, cached pages included.
    pub(crate) pool_bytes: usize,
    /// What else the store keeps for these pages.
    pub(crate) metadata_bytes: usize,
    /// Compression contexts and their buffers: once for each processor, however many pages.
    pub(crate) context_bytes: usize,
}

impl Memory {
    pub(crate) fn original_bytes(&self) -> usize {
        self.pages * PAGE_SIZE
    }

    /// Bytes without the store over bytes with it: pool, metadata, contexts, and the refused pages,
    /// which stay with the caller as they are.
    pub(crate) fn ratio(&self) -> Option<f64> {
        let refused = self.rejected * PAGE_SIZE;
        let with = self.pool_bytes + self.metadata_bytes + self.context_bytes + refused;
        quotient(self.original_bytes(), with)
    }

    pub(crate) fn pool_per_compressed_byte(&self) -> Option<f64> {
        quotient(self.pool_bytes, self.compressed_bytes)
    }

    /// Metadata bytes for each page that the store holds, same-filled ones too.
    pub(crate) fn metadata_per_page(&self) -> Option<f64> {
        quotient(self.metadata_bytes, self.stored + self.same_filled)
    }
}

fn quotient(over: usize, under: usize) -> Option<f64> {
    (under > 0).then(|| over as f64 / under as f64)
}

/// The times of one round; `None` where no page was timed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Round {
    pub(crate) grow: Option<Summary>,
    pub(crate) store: Option<Summary>,
    pub(crate) load: Option<Summary>,
    pub(crate) compress: Option<Summary>,
    pub(crate) decompress: Option<Summary>,
}

/// All that a report says about one pair.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Figures {
    pub(crate) zpool: String,
    pub(crate) compressor: String,
    pub(crate) memory: Memory,
    pub(crate) grow: Option<Timing>,
    pub(crate) store: Option<Timing>,
    pub(crate) load: Option<Timing>,
    pub(crate) compress: Option<Timing>,
    pub(crate) decompress: Option<Timing>,
    /// Mean store over mean compression, round by round, their median.
    pub(crate) store_over_codec: Option<f64>,
    /// Mean load over mean decompression, round by round, their median.
    pub(crate) load_over_codec: Option<f64>,
    /// Why the first refused page was refused.
    pub(crate) refusal: Option<String>,
    /// What went wrong first; `None` if every page came back equal, each time.
    pub(crate) fault: Option<String>,
}

impl Figures {
    pub(crate) fn new(
        (zpool, compressor): (String, String),
        memory: Memory,
        rounds: &[Round],
        refusal: Option<String>,
        fault: Option<String>,
    ) -> Self {
        let over = |part: fn(&Round) -> Option<Summary>| {
            Timing::over(&rounds.iter().filter_map(part).collect::<Vec<_>>())
        };
        let times = |part: fn(&Round) -> Option<(Summary, Summary)>| {
            let both = rounds.iter().filter_map(part).filter(|(_, codec)| codec.mean > 0.0);
            median(both.map(|(store, codec)| store.mean / codec.mean).collect())
        };
        Figures {
            zpool,
            compressor,
            memory,
            grow: over(|r| r.grow),
            store: over(|r| r.store),
            load: over(|r| r.load),
            compress: over(|r| r.compress),
            decompress: over(|r| r.decompress),
            store_over_codec: times(|r| r.store.zip(r.compress)),
            load_over_codec: times(|r| r.load.zip(r.decompress)),
            refusal,
            fault,
        }
    }

    /// Whether every page came back equal.
    pub(crate) fn verified(&self) -> bool {
        self.fault.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> Memory {
        Memory {
            pages: 10,
            same_filled: 2,
            stored: 7,
            rejected: 1,
            incompressible: 1,
            compressed_bytes: 8000,
            pool_bytes: 12_288,
            metadata_bytes: 270,
            context_bytes: 4096,
        }
    }

    #[test]
    fn the_ratio_counts_everything() {
        let with = 12_288.0 + 270.0 + 4096.0 + 4096.0;
        assert_eq!(memory().ratio(), Some(40_960.0 / with));
        assert_eq!(memory().pool_per_compressed_byte(), Some(12_288.0 / 8000.0));
        assert_eq!(memory().metadata_per_page(), Some(30.0));
    }

    #[test]
    fn nothing_held_has_no_quotient() {
        let none = Memory::default();
        assert_eq!(
            (none.ratio(), none.pool_per_compressed_byte(), none.metadata_per_page()),
            (None, None, None)
        );
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        let s =
            |mean| Some(Summary { mean, p50: mean, p99: mean, p999: mean, per_second: 1e9 / mean });
        let round =
            |store, compress| Round { store: s(store), compress: s(compress), ..Round::default() };
        // Twice as slow a machine in the second round: the ratio does not see it.
        let rounds = [round(110.0, 100.0), round(220.0, 200.0), round(130.0, 100.0)];
        let names = || ("zbud".to_owned(), "lz4".to_owned());
        let figures = Figures::new(names(), memory(), &rounds, None, None);
        assert_eq!(figures.store_over_codec, Some(1.1));
        assert_eq!(figures.store.unwrap().mean, 130.0);
        assert_eq!((figures.load, figures.load_over_codec), (None, None));
        assert!(figures.verified());
        assert!(!Figures::new(names(), memory(), &rounds, None, Some("page 3".into())).verified());
    }
}
