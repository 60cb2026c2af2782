//! The sizes of small blocks, and the slabs that hold them.
//!
//! Between two powers of two there are four sizes, so that a block is at most a quarter longer than what was asked for. A
//! slab is a run of pages that its blocks fill without a rest, or with a rest of at most 3 percent.

use zswap_core::PAGE_SIZE;

/// The sizes in bytes. Multiples of a page are missing: runs of pages serve them as well.
const SIZES: [u16; 36] = [
    8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 640,
    768, 896, 1024, 1280, 1536, 1792, 2048, 2560, 3072, 3584, 5120, 6144, 7168, 10240, 14336,
];

/// How many sizes there are.
pub(super) const CLASSES: usize = SIZES.len();

/// The most blocks in a slab.
pub(super) const MOST_SLOTS: usize = PAGE_SIZE / SIZES[0] as usize;

/// The index of a size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Class(pub(super) u8);

impl Class {
    /// Returns the class for blocks of `size` bytes at multiples of `align`, or `None` if whole pages are as good.
    pub(super) fn of(size: usize, align: usize) -> Option<Class> {
        let fits = SIZES.partition_point(|of_class| usize::from(*of_class) < size);
        let aligned = |of_class: &u16| usize::from(*of_class) % align == 0;
        let class = fits + SIZES.get(fits..)?.iter().position(aligned)?;
        let is_shorter = usize::from(SIZES[class]) < size.div_ceil(PAGE_SIZE) * PAGE_SIZE;
        is_shorter.then_some(Class(class as u8))
    }

    /// Returns all classes.
    pub(super) fn all() -> impl Iterator<Item = Class> {
        (0..CLASSES as u8).map(Class)
    }

    /// Returns the bytes of a block.
    pub(super) fn size(self) -> usize {
        usize::from(SIZES[usize::from(self.0)])
    }

    /// Returns the pages of a slab: 1, 3, 5 or 7.
    pub(super) fn pages(self) -> usize {
        // The odd factor of the size: as many pages have no rest.
        if self.size() < 320 { 1 } else { self.size() >> self.size().trailing_zeros() }
    }

    /// Returns the blocks of a slab: at least two, and at most 64 if it has several pages.
    pub(super) fn slots(self) -> usize {
        self.pages() * PAGE_SIZE / self.size()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Miri is slow.
    const STEP: usize = if cfg!(miri) { 113 } else { 1 };

    #[test]
    fn a_block_is_long_enough_and_not_much_longer() {
        for size in (1usize..40_000).step_by(STEP) {
            for align in [1, 2, 4, 8] {
                let whole = size.div_ceil(PAGE_SIZE) * PAGE_SIZE;
                let got = Class::of(size, align).map_or(whole, Class::size);
                assert!(got >= size && got % align == 0, "{got} for {size}");
                assert!(got <= size + 7 || got * 4 <= size * 5 + 32, "{got} for {size}");
                assert!(got <= whole);
            }
        }
    }

    #[test]
    fn blocks_lie_at_multiples_of_large_powers_of_two() {
        for power in 0..=12 {
            let align = 1 << power;
            for size in (1usize..6000).step_by(STEP) {
                let Some(class) = Class::of(size, align) else { continue };
                assert!(class.size() % align == 0 && class.size() >= size);
            }
        }
        assert_eq!(Class::of(1, PAGE_SIZE), None);
        assert_eq!(Class::of(100, 64).map(Class::size), Some(128));
    }

    #[test]
    fn slabs_are_full() {
        for class in Class::all() {
            let bytes = class.pages() * PAGE_SIZE;
            let rest = bytes - class.slots() * class.size();
            assert!(rest * 100 <= bytes * 3, "{class:?}: {rest}");
            assert!(class.slots() >= 2 && class.slots() <= MOST_SLOTS);
            assert!(class.pages() == 1 || (class.slots() <= 64 && rest == 0));
        }
    }
}
