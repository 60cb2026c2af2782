//! The ghosts: what is remembered of keys that were evicted before they were used again.
//!
//! A ghost is 16 bits of a hash, in a bucket that other bits choose. A bucket of eight ghosts is a queue of its own: a
//! new ghost pushes the oldest one out. Two keys may have the same ghost. Then a new key counts as one that was
//! evicted a while ago, and stays a while longer than others.

use super::entries::Kept;

/// The ghosts of a bucket, the oldest first. 0 is none.
type Bucket = [u16; 8];

/// The bits of a kept hash below those that are the ghost.
const SHIFT: u32 = 12;

#[derive(Default)]
pub(super) struct Ghosts {
    /// None, or a power of two.
    buckets: Vec<Bucket>,
}

impl Ghosts {
    pub(super) fn memory_bytes(&self) -> usize {
        self.buckets.capacity() * size_of::<Bucket>()
    }

    fn place(&mut self, kept: Kept) -> Option<(&mut Bucket, u16)> {
        let mask = self.buckets.len().checked_sub(1)?;
        // The product spreads the lowest bits, which the ghost does not have, over all buckets.
        let at = (kept.spread() >> 20) as usize & mask;
        // A ghost is never 0.
        Some((&mut self.buckets[at], ((kept.bits() >> SHIFT) as u16).max(1)))
    }

    /// Remembers a key. Without memory it is not remembered.
    pub(super) fn add(&mut self, kept: Kept) {
        if let Some((bucket, ghost)) = self.place(kept) {
            bucket.rotate_left(1);
            bucket[7] = ghost;
        }
    }

    /// Returns whether a key is remembered, and forgets it.
    pub(super) fn take(&mut self, kept: Kept) -> bool {
        let Some((bucket, ghost)) = self.place(kept) else { return false };
        let Some(at) = bucket.iter().rposition(|&other| other == ghost) else { return false };
        // The older ones move up, so that the gap is the oldest.
        bucket[..=at].rotate_right(1);
        bucket[0] = 0;
        true
    }

    /// Returns the number of buckets for as many ghosts as `entries`.
    fn wanted(entries: usize) -> usize {
        if entries < 64 { 0 } else { (entries / 8).next_power_of_two() }
    }

    /// Returns the bytes that [`Ghosts::grow`] would allocate.
    pub(super) fn bytes_to_grow(&self, entries: usize) -> usize {
        let wanted = Self::wanted(entries);
        if wanted > self.buckets.len() { wanted * size_of::<Bucket>() } else { 0 }
    }

    /// Grows to as many ghosts as `entries`, if there is memory. Each bucket is copied to all that its keys may be in
    /// now; what does not belong there is pushed out in time.
    pub(super) fn grow(&mut self, entries: usize) {
        let wanted = Self::wanted(entries);
        let present = self.buckets.len();
        if wanted <= present {
            return;
        }
        let mut buckets = Vec::new();
        if buckets.try_reserve_exact(wanted).is_err() {
            return;
        }
        buckets.extend((0..wanted).map(|at| match present {
            0 => [0; 8],
            present => self.buckets[at & (present - 1)],
        }));
        self.buckets = buckets;
    }

    /// Shrinks if there are at least four times as many ghosts as `entries`. Those of the first buckets are left.
    pub(super) fn shrink(&mut self, entries: usize) {
        let wanted = Self::wanted(entries);
        if self.buckets.len() >= (wanted * 4).max(1) {
            // `shrink_to_fit` would end the process if there is no memory for the smaller block.
            let mut smaller = Vec::new();
            if smaller.try_reserve_exact(wanted).is_ok() {
                smaller.extend_from_slice(&self.buckets[..wanted]);
                self.buckets = smaller;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Ghosts, Kept};

    fn kept(n: u64) -> Kept {
        Kept::of(n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20)
    }

    #[test]
    fn a_key_is_remembered_once() {
        let mut ghosts = Ghosts::default();
        ghosts.add(kept(1));
        assert!(!ghosts.take(kept(1)), "there is no bucket");
        ghosts.grow(64);
        ghosts.add(kept(1));
        assert!(ghosts.take(kept(1)) && !ghosts.take(kept(1)));
    }

    #[test]
    fn the_oldest_ghost_of_a_bucket_goes() {
        let mut ghosts = Ghosts::default();
        ghosts.grow(64);
        let count = if cfg!(miri) { 200 } else { 10_000 };
        for n in 0..count {
            ghosts.add(kept(n));
        }
        let found = (0..count).filter(|&n| ghosts.take(kept(n))).collect::<Vec<_>>();
        assert!((48..=72).contains(&found.len()), "{} of 64", found.len());
        assert!(found.iter().all(|&n| n > count - 150), "{found:?}");
    }

    #[test]
    fn growing_keeps_what_is_remembered() {
        let mut ghosts = Ghosts::default();
        ghosts.grow(256);
        let few: Vec<_> = (0..40).map(kept).collect();
        few.iter().for_each(|&kept| ghosts.add(kept));
        let bytes = ghosts.memory_bytes();
        assert_eq!(ghosts.bytes_to_grow(1024), 4 * bytes);
        ghosts.grow(1024);
        assert!(few.iter().all(|&kept| ghosts.take(kept)));
        ghosts.shrink(0);
        assert_eq!(ghosts.memory_bytes(), 0);
    }
}
