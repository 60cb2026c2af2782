//! Safe wrapper around the dictionary trainer of the C library zstd.
//!
//! One call trains one candidate: a segment length. The library's own search over segment lengths cannot be
//! interrupted; the caller makes one call for each length and can stop between them. The call goes through the
//! library's search nevertheless, with one length to try: unlike the function that trains without a search, it
//! checks each of its allocations.

use zstd_safe::zstd_sys as sys;

use crate::libzstd::{Failure, check};

/// The length of the strings whose frequencies the trainer counts, in bytes.
const STRING: u32 = 8;

/// The share of the samples that the trainer counts in. It compresses the others to check its result.
const COUNTED: f64 = 0.9;

/// The shortest dictionary that the trainer makes, in bytes.
pub(crate) const MIN_DICTIONARY: usize = 256;

/// Trains a dictionary in `dictionary` from samples and returns its length. `flat` is the samples one after
/// another, of the lengths `lengths`. `segment` is the length of the pieces that the dictionary is assembled from,
/// at least 8. The entropy tables are made for `level`. The trainer's tables take `10 << table_bits` bytes.
///
/// # Panics
/// Panics if the lengths do not add up to the length of `flat`.
pub(crate) fn train(
    dictionary: &mut [u8],
    flat: &[u8],
    lengths: &[usize],
    segment: u32,
    table_bits: u32,
    level: i32,
) -> Result<usize, Failure> {
    let total = lengths.iter().try_fold(0_usize, |sum, &len| sum.checked_add(len));
    assert_eq!(
        total,
        Some(flat.len()),
        "the samples' lengths add up to the length of their buffer"
    );
    let count = u32::try_from(lengths.len()).unwrap_or(u32::MAX);
    let mut parameters = sys::ZDICT_fastCover_params_t {
        k: segment,
        d: STRING,
        f: table_bits,
        steps: 1,
        nbThreads: 1,
        splitPoint: COUNTED,
        accel: 1,
        shrinkDict: 0,
        shrinkDictMaxRegression: 0,
        zParams: sys::ZDICT_params_t { compressionLevel: level, notificationLevel: 0, dictID: 0 },
    };
    // Calls on several threads share one variable of the library, its log level. Each sets it to 0, which it is anyway.
    // SAFETY: the first `count` lengths add up to at most the length of `flat`, as checked above. The call writes
    // at most `dictionary.len()` bytes to `dictionary`, and only reads the others.
    check(unsafe {
        sys::ZDICT_optimizeTrainFromBuffer_fastCover(
            dictionary.as_mut_ptr().cast(),
            dictionary.len(),
            flat.as_ptr().cast(),
            lengths.as_ptr(),
            count,
            &mut parameters,
        )
    })
}
