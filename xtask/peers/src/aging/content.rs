//! The contents of pages, and how they drift.
//!
//! A page is a copy of a given one, in which a run of 256-byte blocks may come from elsewhere: noise,
//! zeros, or another given page. Eight bytes describe it, so that any page can be regenerated and compared
//! whole without keeping a copy.
//!
//! Over a *cycle* of operations new pages come from one fifth of the given pages after the other, and
//! at the end from the first fifth again. If the files are of different programs, sizes drift with them.
//! A shorter wave changes the blocks that overwrite parts of pages: from zeros to noise and back.

use std::f64::consts::TAU;

use measure::{Page, PageSet, SplitMix};

use crate::error::{Error, Result};

/// Parts of the given pages that a cycle goes through.
const PARTS: usize = 5;
/// Bytes of a block.
const BLOCK: usize = 256;
/// Blocks of a page.
const BLOCKS: usize = size_of::<Page>() / BLOCK;
/// Pages of noise.
const NOISE: usize = 512;
/// Waves of overwriting in a cycle: not a whole number, so that each cycle meets other pages.
const WAVES: f64 = 2.7;

/// The description of one page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Content {
    base: u32,
    donor: u32,
    /// The first of the blocks that come from the donor, and their number.
    first: u8,
    blocks: u8,
}

/// The sources of all pages.
#[derive(Debug)]
pub(crate) struct Contents {
    /// First the given pages, then a page of zeros, then pages of noise.
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

    /// Draws a new page, after this many cycles.
    pub(crate) fn fresh(&self, cycles: f64, random: &mut SplitMix) -> Content {
        let at = cycles.fract() * PARTS as f64;
        let part = (at as usize + usize::from(fraction(random) < at.fract())) % PARTS;
        let (first, end) = (part * self.given / PARTS, (part + 1) * self.given / PARTS);
        let base = (first + random.below(end - first)) as u32;
        let whole = Content { base, donor: 0, first: 0, blocks: 0 };
        // Half of the pages are unmodified copies.
        if random.below(2) == 0 { whole } else { self.overwritten(whole, cycles, random) }
    }

    /// Overwrites a part of a page, after this many cycles. Returns the new description.
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

    /// Whether the page's bytes are exactly those that `content` describes.
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
