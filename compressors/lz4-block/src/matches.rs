//! How far two places of the input agree.

use crate::mem::load64;

/// Bytes that [`differing`] compares.
const STEP: usize = 16;

/// The first position from `at` on at which the input differs from itself `distance` bytes before, or
/// `limit` if that comes first.
///
/// # Safety
/// M1: `1 <= distance <= at`. M2: `at <= limit <= src.len()`.
#[inline(always)]
pub(crate) unsafe fn end_of_match(src: &[u8], at: usize, distance: usize, limit: usize) -> usize {
    debug_assert!(1 <= distance && distance <= at && at <= limit && limit <= src.len());
    // Most matches end here.
    if at + STEP <= src.len() {
        // SAFETY: the condition, and M1.
        if let Some(equal) = unsafe { differing(src, at, distance) } {
            return (at + equal).min(limit);
        }
    }
    // SAFETY: M1, M2.
    unsafe { end_of_long_match(src, at, distance, limit) }
}

/// [`end_of_match`] in a loop.
///
/// # Safety
/// As there.
#[inline(never)]
unsafe fn end_of_long_match(src: &[u8], mut at: usize, distance: usize, limit: usize) -> usize {
    while at + STEP <= src.len() {
        // SAFETY: the condition, and M1.
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

/// How many of the [`STEP`] bytes from `at` on agree with those `distance` bytes before; none if all do.
///
/// # Safety
/// M1: `distance <= at`. M3: `at + STEP <= src.len()`.
#[inline(always)]
unsafe fn differing(src: &[u8], at: usize, distance: usize) -> Option<usize> {
    let from = at - distance;
    // SAFETY: M3, and `from <= at`, here and below.
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
    // 64 zero bits if the lower half agrees. No branch asks in which half the difference is.
    let more = if low == 0 { high.trailing_zeros() } else { 0 };
    Some((low.trailing_zeros() + more) as usize / 8)
}

/// How many bytes before `at`, eight and `most` at most, agree with those `distance` bytes before them.
///
/// # Safety
/// M1: `1 <= distance <= at`. M2: `at <= src.len()`.
#[inline(always)]
pub(crate) unsafe fn bytes_before(src: &[u8], at: usize, distance: usize, most: usize) -> usize {
    let from = at - distance;
    if from < 8 {
        return 0;
    }
    // SAFETY: `8 <= from <= at` and M2.
    let last = unsafe { load64(src, at - 8) };
    // SAFETY: as above.
    let differing = last ^ unsafe { load64(src, from - 8) };
    (differing.leading_zeros() as usize / 8).min(most)
}
