//! The two forms of a report: a table for readers and JSON for programs.

pub(crate) mod json;
pub(crate) mod table;

use crate::process::Facts;

/// What is common to all pairs of a report.
#[derive(Clone, Debug)]
pub(crate) struct Heading {
    pub(crate) pages: usize,
    pub(crate) same_filled: usize,
    /// Where the pages come from, in words.
    pub(crate) origin: String,
    /// How the pages were sampled, if they come from a process.
    pub(crate) sampled: Option<Facts>,
    pub(crate) threads: usize,
    pub(crate) rounds: u32,
    /// Nanoseconds that were subtracted from each operation for reading the clock.
    pub(crate) clock_ns: f64,
}

#[cfg(test)]
pub(crate) mod examples {
    //! A heading and two pairs for the tests of both forms.

    use std::time::Duration;

    use super::Heading;
    use crate::process::Facts;
    use measure::{Figures, Memory, Name, PoolUse, Summary, Turn};

    pub(crate) fn heading() -> Heading {
        Heading {
            pages: 10,
            same_filled: 2,
            origin: "some.pages".into(),
            sampled: None,
            threads: 1,
            rounds: 1,
            clock_ns: 20.0,
        }
    }

    pub(crate) fn facts() -> Facts {
        Facts {
            pid: 77,
            comm: "a \nname".into(),
            eligible_pages: 1234,
            threads: 3,
            stopped: Duration::from_micros(1500),
        }
    }

    /// One good pair, and one that failed and has no times.
    pub(crate) fn figures() -> [Figures; 2] {
        let s = |mean: f64| {
            let (p50, p99, p999, per_second) = (mean - 10.0, mean * 3.0, mean * 4.0, 1e9 / mean);
            Some(Summary { mean, p50, p99, p999, per_second })
        };
        let pool = PoolUse {
            pages: 9,
            same_filled: 2,
            incompressible: 1,
            pool_bytes: 12_288,
            context_bytes: 4096,
        };
        let memory = Memory {
            compressed_bytes: Some(8000),
            resident_bytes: None,
            metadata_bytes: Some(270),
            pool: Some(pool),
        };
        let good = Turn {
            pages: 10,
            refused: vec![9],
            grow: s(7000.0),
            store: s(6600.0),
            load: s(2310.0),
            compress: s(6000.0),
            decompress: s(2100.0),
            memory,
            refusal: Some("page too large".into()),
            ..Turn::default()
        };
        let bad = Turn {
            pages: 10,
            refused: (0..10).collect(),
            fault: Some("page 3 came back changed".into()),
            ..Turn::default()
        };
        [("lz4", good), ("own:k=v", bad)].map(|(compressor, turn)| {
            let (zpool, compressor) = (Some("zbud".to_owned()), compressor.to_owned());
            let name = Name { contestant: "zswap-core".to_owned(), zpool, compressor };
            Figures::over(name, 1, &[turn])
        })
    }
}
