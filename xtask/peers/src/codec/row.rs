//! The figures of one codec.

use serde::Serialize;

/// The median of the rounds, and the quartiles.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) lower: f64,
    pub(super) upper: f64,
}

/// The figures of a codec for one file or for all files. In the figures for all files, each file
/// has the same weight.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    pub(super) file: String,
    pub(super) codec: String,
    pub(super) pages: usize,
    /// The mean compressed size of a page. A page that does not shrink counts with its full size.
    pub(super) bytes: f64,
    pub(super) bytes_over_liblz4: f64,
    pub(super) compress_ns: f64,
    /// The time of liblz4 divided by the codec's time.
    pub(super) compress_faster: Spread,
    pub(super) decompress_ns: f64,
    pub(super) decompress_faster: Spread,
}

/// Returns the median and the quartiles of the values; NaN if there are none.
pub(super) fn spread(mut values: Vec<f64>) -> Spread {
    values.sort_by(f64::total_cmp);
    let at = |quarter: usize| values.get(values.len() * quarter / 4).copied().unwrap_or(f64::NAN);
    Spread { median: at(2), lower: at(1), upper: at(3) }
}
