//! The size classes: which sizes exist, and how many objects fit in how many pages. The table
//! depends only on page size, longest chain, step and the largest object.
//!
//! # Up to a page
//! The sizes are one step apart, from 32 bytes up to a page. For each size the table picks a
//! *chain*: of all lengths up to the longest chain, the number of pages in which objects of this
//! size waste the fewest bytes. If several lengths waste equally little, it picks the shortest.
//! Neighbouring sizes with the same numbers of pages and objects become one class, which has the
//! larger size. The class in which one object fills one page is *huge*: it is the last of these classes,
//! its size is a page, and its objects have no header.
//!
//! # Above a page
//! If a pool admits objects larger than a page, more classes follow. Their chains waste nothing: for
//! every number of pages p up to the longest chain and every number of objects k below p, there is a
//! class of which k objects fill p pages, except for a few bytes. Fractions p/k that are equal make one
//! class, of the shortest chain. Where p/k is a whole number, one object fills its p pages. Such a
//! class is huge, too: the object has no header, so an object of exactly p pages needs no further page.
//! There is a huge class for every number of pages up to that of the largest object, even if the longest
//! chain is shorter. So an object that is larger than a page wastes less than a page.
//!
//! # Zspages
//! A zspage is a series of such chains, as many as fit in the longest chain. If it has more than one
//! chain, it has at most 64 objects. Pages cost memory only once they are touched, so a long zspage
//! wastes no more than a short one, and a pool with long zspages needs fewer descriptors.

/// Bytes of the header before each object that is not huge. The header holds the number of the
/// object's slot, which compaction needs.
pub(crate) const HEADER: usize = 4;
/// The smallest class in bytes.
const SMALLEST: usize = 32;
/// The largest zspage in bytes: a slot has 16 bits for an offset in a zspage.
const MOST_BYTES: usize = 1 << 16;
/// The most objects in a zspage of several chains. Longer zspages would save little.
const MANY: usize = 64;

/// One size class.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SizeClass {
    /// Bytes of an object's place, header included.
    pub(crate) size: u32,
    /// Pages of the chain that wastes the least.
    pub(crate) chain_pages: u8,
    /// Pages of a zspage: a multiple of `chain_pages`.
    pub(crate) pages: u8,
    /// The number of objects that fit in a zspage.
    pub(crate) objects: u16,
    /// 2^32 / size, rounded up, for division by multiplication.
    reciprocal: u64,
    /// Whether an object has pages of its own, and no header.
    pub(crate) huge: bool,
}

impl SizeClass {
    /// Returns the index of the place that contains the byte at `offset` of a zspage.
    ///
    /// The result is exact. The reciprocal exceeds 2^32 / size by less than 1, and `offset` is below
    /// 2^16. So the product exceeds offset x 2^32 / size by less than 2^16. The next multiple of
    /// 2^32 is at least 2^32 / size away, which is 2^16 or more.
    #[inline]
    pub(crate) fn index_of(&self, offset: u16) -> usize {
        ((u64::from(offset) * self.reciprocal) >> 32) as usize
    }

    /// Returns the offset of an object's place in its zspage.
    #[inline]
    pub(crate) fn start_of(&self, index: usize) -> usize {
        index * self.size as usize
    }

    /// Returns the length of the header: the bytes before the object within its place.
    #[inline]
    pub(crate) fn header(&self) -> usize {
        if self.huge { 0 } else { HEADER }
    }
}

/// Returns the classes up to a page in ascending order of size; the last one is huge.
///
/// `chain` is the longest chain, 1 to 16 pages. The function lowers it so that a zspage has at most
/// 64 KiB. `step` is the distance between sizes for pages of 4096 bytes: 8 or 16 bytes. For larger
/// pages the function multiplies it by `page_size / 4096`.
pub(crate) fn size_classes(page_size: usize, chain: usize, step: usize) -> Vec<SizeClass> {
    let chain = chain.clamp(1, 16).min(MOST_BYTES / page_size).max(1);
    let step = step.max(1) * (page_size / 4096).max(1);
    let mut classes: Vec<SizeClass> = Vec::new();
    let mut size = page_size;
    // The sizes go from the largest down, so the larger of two equivalent neighbours is kept.
    loop {
        let (pages, objects) = best_chain(page_size, chain, size);
        let alike = classes.last().is_some_and(|last| {
            let times = usize::from(last.pages) / usize::from(last.chain_pages);
            usize::from(last.chain_pages) == pages && usize::from(last.objects) == objects * times
        });
        if !alike {
            classes.push(size_class(chain, size, pages, objects));
        }
        match size.checked_sub(step) {
            Some(smaller) if smaller >= SMALLEST => size = smaller,
            _ => break,
        }
    }
    classes.reverse();
    classes
}

/// Returns the length of the chain that wastes the fewest bytes, and how many objects fit in it.
fn best_chain(page_size: usize, chain: usize, size: usize) -> (usize, usize) {
    let waste = |pages: usize| pages * page_size % size;
    // Of lengths that waste equally few bytes, the shortest is kept.
    let pages =
        (2..=chain).fold(1, |best, pages| if waste(pages) < waste(best) { pages } else { best });
    (pages, pages * page_size / size)
}

/// Returns the classes above a page, in ascending order of size. The last one is huge and holds an object
/// of `max` bytes, at most 64 KiB. Returns none if `max` is at most a page.
///
/// `chain` is the longest chain of the classes that are not huge, 1 to 16 pages.
pub(crate) fn large_classes(page_size: usize, chain: usize, max: usize) -> Vec<SizeClass> {
    let whole = max.min(MOST_BYTES).div_ceil(page_size);
    let chain = chain.clamp(1, 16).min(MOST_BYTES / page_size).max(1);
    let mut classes: Vec<SizeClass> = Vec::new();
    for pages in 2..=chain.max(whole) {
        for objects in 1..pages {
            let huge = objects == 1;
            let within =
                if huge { pages <= whole } else { pages <= chain && pages < whole * objects };
            if !within || !coprime(pages, objects) {
                continue;
            }
            // The start of every place, and so of every header, is a multiple of 8.
            let size = pages * page_size / objects / 8 * 8;
            let class = size_class(chain.max(pages), size, pages, objects);
            classes.push(SizeClass { huge, ..class });
        }
    }
    classes.sort_unstable_by_key(|class| class.size);
    classes
}

/// Returns whether no number from 2 up divides both.
fn coprime(a: usize, b: usize) -> bool {
    !(2..=b).any(|divisor| a % divisor == 0 && b % divisor == 0)
}

fn size_class(chain: usize, size: usize, pages: usize, objects: usize) -> SizeClass {
    let times = (chain / pages).min(MANY / objects.min(MANY)).max(1);
    SizeClass {
        size: size as u32,
        chain_pages: pages as u8,
        pages: (pages * times) as u8,
        objects: (objects * times) as u16,
        reciprocal: (1u64 << 32).div_ceil(size as u64),
        huge: (pages, objects) == (1, 1),
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_own_tables_come_out() {
        for (chain, count, largest) in [(4, 69, 3264), (8, 119, 3632), (16, 192, 3840)] {
            let classes = size_classes(4096, chain, 16);
            assert_eq!(classes.len(), count, "chain {chain}");
            assert_eq!(classes[count - 2].size, largest, "chain {chain}");
            let last = classes[count - 1];
            assert_eq!((last.size, last.chain_pages, last.huge), (4096, 1, true));
            assert_eq!(classes.iter().filter(|class| class.huge).count(), 1);
        }
    }

    #[test]
    fn every_size_has_a_class_that_wastes_little() {
        for (page_size, chain, step) in
            [(4096, 16, 16), (4096, 1, 16), (4096, 16, 8), (16384, 16, 16), (65536, 16, 16)]
        {
            let classes = size_classes(page_size, chain, step);
            assert!(classes.windows(2).all(|w| w[0].size < w[1].size));
            for class in &classes {
                let bytes = usize::from(class.pages) * page_size;
                let used = usize::from(class.objects) * class.size as usize;
                assert!(bytes <= MOST_BYTES && used <= bytes, "{class:?}");
                assert!(bytes - used < usize::from(class.pages) * class.size as usize, "{class:?}");
                assert_eq!(class.pages % class.chain_pages, 0);
                assert!(usize::from(class.pages) <= chain);
            }
        }
    }

    #[test]
    fn a_zspage_is_as_many_chains_as_fit_with_few_objects() {
        for chain in [1, 4, 16] {
            for class in size_classes(4096, chain, 16) {
                let times = usize::from(class.pages / class.chain_pages);
                let one = usize::from(class.objects) / times;
                assert!(times == 1 || times * one <= MANY, "{class:?}");
                let longer = (times + 1) * usize::from(class.chain_pages);
                assert!(longer > chain || (times + 1) * one > MANY, "{class:?}");
            }
        }
    }

    /// Whatever the largest object is, and however short chains are.
    const LARGE: [(usize, usize, usize); 8] = [
        (4096, 16, 65536),
        (4096, 16, 8192),
        (4096, 16, 8193),
        (4096, 3, 65536),
        (4096, 1, 32768),
        (8192, 16, 65536),
        (16384, 4, 40000),
        (32768, 16, 65536),
    ];

    #[test]
    fn places_above_a_page_leave_no_page_unused() {
        for (page_size, chain, max) in LARGE {
            let classes = large_classes(page_size, chain, max);
            assert!(classes.windows(2).all(|w| w[0].size < w[1].size), "{page_size} {chain} {max}");
            for class in &classes {
                let bytes = usize::from(class.pages) * page_size;
                let used = usize::from(class.objects) * class.size as usize;
                assert!(bytes <= MOST_BYTES && used <= bytes, "{class:?}");
                assert!(bytes - used < 8 * usize::from(class.objects), "{class:?}");
                assert!(class.size as usize > page_size && class.size % 8 == 0, "{class:?}");
                assert_eq!(class.huge, class.size as usize % page_size == 0, "{class:?}");
                assert!(class.huge || usize::from(class.pages) <= chain, "{class:?}");
                assert_eq!(class.pages % class.chain_pages, 0);
            }
        }
    }

    #[test]
    fn every_number_of_whole_pages_has_a_huge_class() {
        for (page_size, chain, max) in LARGE {
            let huge: Vec<usize> = large_classes(page_size, chain, max)
                .iter()
                .filter(|class| class.huge)
                .map(|class| class.size as usize)
                .collect();
            let whole = (2..=max.div_ceil(page_size)).map(|pages| pages * page_size);
            assert_eq!(huge, whole.collect::<Vec<_>>(), "{page_size} {chain} {max}");
            assert_eq!(large_classes(page_size, chain, max).last().map(|c| c.huge), Some(true));
        }
        // A pool whose objects fit in a page has the table of the kernel.
        assert_eq!(
            (large_classes(4096, 16, 4096), large_classes(65536, 16, 65536)),
            (vec![], vec![])
        );
    }

    /// Returns the mean share of an object's footprint that is not the object, for lengths in a range.
    fn waste(lens: core::ops::Range<usize>) -> f64 {
        let mut classes = size_classes(4096, 16, 16);
        classes.extend(large_classes(4096, 16, 65536));
        let (mut all, mut used) = (0.0, 0.0);
        for len in lens.step_by(7) {
            let holds = |class: &&SizeClass| class.size as usize - class.header() >= len;
            let class = classes.iter().find(holds).unwrap();
            all += 4096.0 * f64::from(class.pages) / f64::from(class.objects);
            used += len as f64;
        }
        all / used - 1.0
    }

    #[test]
    fn rounding_to_a_class_wastes_little_in_the_mean() {
        let [small, middle, large] =
            [3 << 10..16 << 10, 8 << 10..32 << 10, 8 << 10..64 << 10].map(waste);
        assert!(small < 0.025 && middle < 0.035 && large < 0.04, "{small} {middle} {large}");
        assert_eq!([8192, 16384, 32768, 65536].map(|unit| waste(unit..unit + 1)), [0.0; 4]);
    }

    #[test]
    fn dividing_by_multiplying_is_exact() {
        let all = [(4096, 16, 8), (4096, 4, 16), (16384, 16, 16), (65536, 16, 16)];
        let some = if cfg!(miri) { 40 } else { 1 };
        let small = all.into_iter().flat_map(|(p, c, s)| size_classes(p, c, s));
        let large = LARGE.into_iter().flat_map(|(p, c, max)| large_classes(p, c, max));
        for class in small.chain(large).step_by(some) {
            for index in 0..usize::from(class.objects) {
                let start = class.start_of(index);
                for offset in [start, start + class.size as usize - 1] {
                    assert_eq!(class.index_of(offset as u16), index, "{class:?} at {offset}");
                }
            }
        }
    }
}
