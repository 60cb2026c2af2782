//! The figures of one codec.

use serde::Serialize;

/// A median of the rounds, with the quartiles.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) lower: f64,
    pub(super) upper: f64,
}

/// One codec on one file, or on all of them, each with the same weight.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    pub(super) file: String,
    pub(super) codec: String,
    pub(super) pages: usize,
    /// Bytes a page; a page that does not become smaller counts as it is.
    pub(super) bytes: f64,
    pub(super) bytes_over_liblz4: f64,
    pub(super) compress_ns: f64,
    /// liblz4's time over its own.
    pub(super) compress_faster: Spread,
    pub(super) decompress_ns: f64,
    pub(super) decompress_faster: Spread,
}

/// The median and the quartiles of some values.
pub(super) fn spread(mut values: Vec<f64>) -> Spread {
    values.sort_by(f64::total_cmp);
    let at = |quarter: usize| values.get(values.len() * quarter / 4).copied().unwrap_or(f64::NAN);
    Spread { median: at(2), lower: at(1), upper: at(3) }
}
