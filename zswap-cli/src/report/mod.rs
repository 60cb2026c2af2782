//! The two forms of a report: a table to read and JSON to work with.

pub(crate) mod json;
pub(crate) mod table;

use crate::process::Facts;

/// What holds for all pairs of a report.
#[derive(Clone, Debug)]
pub(crate) struct Heading {
    pub(crate) pages: usize,
    pub(crate) same_filled: usize,
    /// Where the pages come from, in words.
    pub(crate) origin: String,
    /// How the pages were sampled, if they are a process's.
    pub(crate) sampled: Option<Facts>,
    pub(crate) threads: usize,
    pub(crate) rounds: u32,
    /// What was subtracted from each operation, nanoseconds.
    pub(crate) clock_ns: f64,
}

#[cfg(test)]
pub(crate) mod examples {
    //! A heading and two pairs that the tests of both forms show.

    use std::time::Duration;

    use super::Heading;
    use crate::figures::{Figures, Memory, Round};
    use crate::process::Facts;
    use measure::Summary;

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

    /// One pair that is well, and one without a time that failed.
    pub(crate) fn figures() -> [Figures; 2] {
        let s = |mean: f64| {
            let (p50, p99, p999, per_second) = (mean - 10.0, mean * 3.0, mean * 4.0, 1e9 / mean);
            Some(Summary { mean, p50, p99, p999, per_second })
        };
        let round = Round {
            grow: s(7000.0),
            store: s(6600.0),
            load: s(2310.0),
            compress: s(6000.0),
            decompress: s(2100.0),
        };
        let memory = Memory {
            pages: 10,
            same_filled: 2,
            stored: 7,
            rejected: 1,
            incompressible: 1,
            compressed_bytes: 8000,
            pool_bytes: 12_288,
            metadata_bytes: 270,
            context_bytes: 4096,
        };
        let good = Figures::new(
            ("zbud".into(), "lz4".into()),
            memory,
            &[round],
            Some("page too large".into()),
            None,
        );
        let bad = Figures::new(
            ("zbud".into(), "own:k=v".into()),
            Memory { pages: 10, rejected: 10, ..Memory::default() },
            &[],
            None,
            Some("page 3 came back changed".into()),
        );
        [good, bad]
    }
}
