//! Makes the contents of pages, which drift in the course of a run.
//!
//! A page is a copy of a given page, its base. A run of 256-byte blocks in it may come from a
//! donor: noise, zeros, or another given page. A short description is enough to make the page
//! again. So any page can be compared in full without keeping a copy.
//!
//! During a *cycle* of operations, new pages come from the first fifth of the given pages, then
//! from the second, and so on. At the end they come from the first fifth again. If the given pages
//! are from different programs, the compressed sizes drift with them. A shorter wave changes the
//! blocks that overwrite parts of pages, from zeros to noise and back.

use std::f64::consts::TAU;

use measure::{Page, PageSet, SplitMix};

use crate::error::{Error, Result};

/// The number of parts that a cycle divides the given pages into.
const PARTS: usize = 5;
/// The size of a block in bytes.
const BLOCK: usize = 256;
/// The number of blocks in a page.
const BLOCKS: usize = size_of::<Page>() / BLOCK;
/// The number of pages of noise.
const NOISE: usize = 512;
/// The number of waves of overwriting in a cycle. It is not a whole number, so that the waves meet
/// other pages in each cycle.
const WAVES: f64 = 2.7;

/// The description of one page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Content {
    base: u32,
    donor: u32,
    /// The first block that comes from the donor, and the number of such blocks.
    first: u8,
    blocks: u8,
}

/// The pages from which all contents are made.
#[derive(Debug)]
pub(crate) struct Contents {
    /// The given pages, followed by a page of zeros and by the pages of noise.
    pages: Vec<Page>,
    given: usize,
}

impl Contents {
    pub(crate) fn new(set: &PageSet) -> Result<Self> {
        let mut pages: Vec<Page> = set.timed().iter().map(|&page| set.pages()[page]).collect();
        let given = pages.len();
        if given < PARTS {
            return Err(Error::FewPages { pages: given, least: PARTS });
        }
        pages.push([0; size_of::<Page>()]);
        let mut random = SplitMix(1);
        pages.resize_with(given + 1 + NOISE, || {
            let mut page = [0; size_of::<Page>()];
            page.chunks_exact_mut(8).for_each(|w| w.copy_from_slice(&random.next().to_ne_bytes()));
            page
        });
        Ok(Contents { pages, given })
    }

    /// Draws the content of a new page. `cycles` is how many cycles have passed.
    pub(crate) fn fresh(&self, cycles: f64, random: &mut SplitMix) -> Content {
        let at = cycles.fract() * PARTS as f64;
        let part = (at as usize + usize::from(fraction(random) < at.fract())) % PARTS;
        let (first, end) = (part * self.given / PARTS, (part + 1) * self.given / PARTS);
        let base = (first + random.below(end - first)) as u32;
        let whole = Content { base, donor: 0, first: 0, blocks: 0 };
        // Half of the pages are unmodified copies.
        if random.below(2) == 0 { whole } else { self.overwritten(whole, cycles, random) }
    }

    /// Chooses a donor and the run of blocks that comes from it, and returns the new description of
    /// the page. `cycles` is how many cycles have passed.
    pub(crate) fn overwritten(
        &self,
        content: Content,
        cycles: f64,
        random: &mut SplitMix,
    ) -> Content {
        let noisy = 0.5 - 0.5 * (TAU * WAVES * cycles).cos();
        let donor = if random.below(4) == 0 {
            random.below(self.given)
        } else if fraction(random) < noisy {
            self.given + 1 + random.below(NOISE)
        } else {
            self.given
        };
        let blocks = 1 + random.below(BLOCKS / 2);
        let first = random.below(BLOCKS - blocks + 1);
        Content { donor: donor as u32, first: first as u8, blocks: blocks as u8, ..content }
    }

    fn parts(&self, content: Content) -> (&Page, &Page, std::ops::Range<usize>) {
        let from = usize::from(content.first) * BLOCK;
        let to = from + usize::from(content.blocks) * BLOCK;
        (&self.pages[content.base as usize], &self.pages[content.donor as usize], from..to)
    }

    /// Writes the bytes that `content` describes to `page`.
    #[inline]
    pub(crate) fn make(&self, content: Content, page: &mut Page) {
        let (base, donor, range) = self.parts(content);
        page.copy_from_slice(base);
        page[range.clone()].copy_from_slice(&donor[range]);
    }

    /// Returns whether the page's bytes are exactly those that `content` describes.
    #[inline]
    pub(crate) fn is(&self, content: Content, page: &Page) -> bool {
        let (base, donor, range) = self.parts(content);
        page[..range.start] == base[..range.start]
            && page[range.clone()] == donor[range.clone()]
            && page[range.end..] == base[range.end..]
    }
}

/// Draws a number from 0 to 1.
fn fraction(random: &mut SplitMix) -> f64 {
    random.next() as f64 / u64::MAX as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents() -> Contents {
        let pages = (0..50u8).map(|n| core::array::from_fn(|i| n ^ (i % 7) as u8)).collect();
        Contents::new(&PageSet::new(pages, "here".into())).unwrap()
    }

    #[test]
    fn what_was_made_is_known_again_and_nothing_else_is() {
        let (contents, mut random) = (contents(), SplitMix(3));
        let (mut page, mut parted) = ([0; size_of::<Page>()], 0);
        for n in 0..500 {
            let content = contents.fresh(f64::from(n) / 100.0, &mut random);
            let content = match n % 2 {
                0 => content,
                _ => contents.overwritten(content, f64::from(n) / 100.0, &mut random),
            };
            contents.make(content, &mut page);
            assert!(contents.is(content, &page));
            parted += usize::from(content.blocks > 0);
            for at in [0, 1000, 2048, 3333, 4095] {
                page[at] ^= 1;
                assert!(!contents.is(content, &page), "{content:?} at {at}");
                page[at] ^= 1;
            }
        }
        assert!((250..450).contains(&parted), "{parted}");
    }

    #[test]
    fn a_cycle_goes_through_the_given_pages_and_comes_back() {
        let (contents, mut random) = (contents(), SplitMix(3));
        let mut mean = |cycles: f64| {
            let bases = (0..1000).map(|_| contents.fresh(cycles, &mut random).base);
            bases.map(f64::from).sum::<f64>() / 1000.0
        };
        let means: Vec<f64> = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0].map(&mut mean).to_vec();
        assert!(means[..5].windows(2).all(|pair| pair[1] - pair[0] > 8.0), "{means:?}");
        assert!((means[0] - means[5]).abs() < 1.0, "{means:?}");
    }
}
