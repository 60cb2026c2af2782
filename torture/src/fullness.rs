//! When the device may be full.
//!
//! A call that writes pages back is refused only if two things hold at some moment of it: no segment is free but
//! the one that is left for cleaning, and cleaning frees none.
//!
//! The device knows which segments are written. A segment that is taken and is not written is in the hand of a
//! thread: it is a draft, or it was just discarded. See `in_hand`. So the first condition implies that all segments
//! but those are written.
//!
//! Of those segments, the threads may read some that hold no object any more; each thread reads one, or has one in
//! hand. Cleaning fails only if the others are so full that moving their objects together frees no segment. A segment
//! that cleaning fills has less room left than a page takes, and so it holds more than a segment that is only just
//! worth cleaning: see `full_weight`. If all segments but one could take the weight of all pages, then a segment can
//! be freed. While threads run, the pages are at most those of all keys, of the largest size; at rest, the store says
//! what is on the device.

use zswap_core::PAGE_SIZE;
use zswap_core::device::Geometry;

use crate::background::MOST_BACKGROUND;

/// What the largest object takes in a segment: a page with a checksum in units of 16 bytes, and its place in the
/// list of the segment's objects.
pub const MOST_WEIGHT: usize = PAGE_SIZE + 16 + LISTED;
/// A segment lists one object for this many of its bytes, so this is what a small object takes.
pub const LEAST_WEIGHT: usize = 128;
/// The bytes of an object in the list of its segment's objects.
pub const LISTED: usize = 13;

/// Segments that are not free and not written: a draft, or a segment that was just discarded, for each thread and
/// each background thread; a second one for the thread that cleans; and the one that is left for cleaning. A thread
/// that stops a background thread calls nothing else meanwhile, so that the two count as one.
pub const fn in_hand(threads: usize) -> usize {
    threads + MOST_BACKGROUND + 2
}

/// The segments in hand while only one thread calls the store.
pub const IN_HAND_AT_REST: usize = 3;
/// What [`in_hand`] returns for as many threads as a run usually has.
pub const IN_HAND_OF_MANY: usize = in_hand(4);

/// Returns a weight of objects. If the segments hold less on average, then cleaning frees one.
pub fn full_weight(geometry: &Geometry) -> usize {
    let segment = geometry.segment_bytes;
    // Cleaning a segment must gain this much. Segments are compared in steps of a 64th.
    let least = (segment / 8).max(MOST_WEIGHT) + segment / 64;
    // Cleaning ends after a number of segments; it must have freed one by then.
    segment.saturating_sub(least) / 16 * 15
}

/// Returns how many segments the pages of `keys` keys can fill, so that cleaning frees none.
pub fn most_full(geometry: &Geometry, keys: usize) -> usize {
    // A thread may have an object that is under no entry any more.
    (keys + IN_HAND_OF_MANY) * MOST_WEIGHT / full_weight(geometry) + 2
}
