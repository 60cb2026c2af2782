//! Counts the equal bytes at two places of the input.

use crate::mem::load64;

/// The number of bytes that [`differing`] compares.
const STEP: usize = 16;

/// Returns the first position from `at` on whose byte differs from the byte `distance` bytes before it. Returns
/// `limit` if there is no such position before `limit`.
///
/// # Safety
/// M1: `1 <= distance <= at`. M2: `at <= limit <= src.len()`.
#[inline(always)]
pub(crate) unsafe fn end_of_match(src: &[u8], at: usize, distance: usize, limit: usize) -> usize {
    debug_assert!(1 <= distance && distance <= at && at <= limit && limit <= src.len());
    // Most matches end within these bytes.
    if at + STEP <= src.len() {
        // SAFETY: M1, and the condition above is M3.
        if let Some(equal) = unsafe { differing(src, at, distance) } {
            return (at + equal).min(limit);
        }
    }
    // SAFETY: M1 and M2 as the caller promises.
    unsafe { end_of_long_match(src, at, distance, limit) }
}

/// Does what [`end_of_match`] does, in a loop.
///
/// # Safety
/// M1 and M2 of [`end_of_match`].
#[inline(never)]
unsafe fn end_of_long_match(src: &[u8], mut at: usize, distance: usize, limit: usize) -> usize {
    while at + STEP <= src.len() {
        // SAFETY: M1, and the condition above is M3.
        if let Some(equal) = unsafe { differing(src, at, distance) } {
            return (at + equal).min(limit);
        }
        at += STEP;
    }
    while at < limit && src[at] == src[at - distance] {
        at += 1;
    }
    at.min(limit)
}

/// Counts how many of the [`STEP`] bytes from `at` on equal the bytes `distance` before them, up to the first that
/// differs. Returns `None` if all are equal.
///
/// # Safety
/// M1: `distance <= at`. M3: `at + STEP <= src.len()`.
#[inline(always)]
unsafe fn differing(src: &[u8], at: usize, distance: usize) -> Option<usize> {
    let from = at - distance;
    // SAFETY: M3, so the bytes lie inside the slice. Those at `from` do, too, since `from <= at`.
    let low = unsafe { load64(src, at) };
    // SAFETY: as above.
    let low = low ^ unsafe { load64(src, from) };
    // SAFETY: as above.
    let high = unsafe { load64(src, at + 8) };
    // SAFETY: as above.
    let high = high ^ unsafe { load64(src, from + 8) };
    if low | high == 0 {
        return None;
    }
    // If the lower halves are equal, `low` has 64 trailing zeros. So the sum needs no branch on which half differs.
    let more = if low == 0 { high.trailing_zeros() } else { 0 };
    Some((low.trailing_zeros() + more) as usize / 8)
}

/// Counts how many bytes just before `at` equal the bytes `distance` before them, up to the first that differs.
/// Returns at most `most`, and at most eight. Returns 0 if fewer than eight bytes lie before `at - distance`.
///
/// # Safety
/// M1: `1 <= distance <= at`. M2: `at <= src.len()`.
#[inline(always)]
pub(crate) unsafe fn bytes_before(src: &[u8], at: usize, distance: usize, most: usize) -> usize {
    let from = at - distance;
    if from < 8 {
        return 0;
    }
    // SAFETY: M2 and `8 <= from <= at`.
    let last = unsafe { load64(src, at - 8) };
    // SAFETY: as above.
    let differing = last ^ unsafe { load64(src, from - 8) };
    (differing.leading_zeros() as usize / 8).min(most)
}
