//! Runs of pages: a large block takes the beginning of a free run, and free runs that touch become one.
//!
//! Free runs are in lists by their lengths, 16 lists between two powers of two, as in TLSF. A search takes the first run of
//! the first list whose runs are all long enough. It goes through shorter lists only if there is none.

use super::records::{FREE, NIL, Records};

/// Lists between two powers of two.
const PARTS: u32 = 16;
/// Powers of two, beginning with that of [`PARTS`]; the first row has the lengths below.
const POWERS: usize = 28;

/// The lists of free runs.
pub(super) struct Runs {
    heads: [[u32; PARTS as usize]; POWERS],
    /// A bit for each list that is not empty.
    filled: [u16; POWERS],
    /// The number of the region's first page, counted from address 0.
    origin: usize,
}

/// A number of pages at multiples of a number of pages.
#[derive(Clone, Copy)]
pub(super) struct Wanted {
    pub(super) pages: u32,
    /// A power of two.
    pub(super) align: u32,
}

/// Returns the list of runs of this length.
fn list_of(pages: u32) -> (usize, usize) {
    if pages < PARTS {
        return (0, pages as usize);
    }
    let power = pages.ilog2() - PARTS.ilog2();
    (power as usize + 1, (pages >> power & (PARTS - 1)) as usize)
}

impl Runs {
    pub(super) fn new(origin: usize) -> Runs {
        Runs { heads: [[NIL; PARTS as usize]; POWERS], filled: [0; POWERS], origin }
    }

    fn insert(&mut self, records: &mut Records, first: u32, pages: u32, dirty: bool) {
        records.set_free(first, pages, dirty);
        let (power, part) = list_of(pages);
        records.link(first, NIL, self.heads[power][part]);
        self.heads[power][part] = first;
        self.filled[power] |= 1 << part;
    }

    fn remove(&mut self, records: &mut Records, first: u32) {
        let (power, part) = list_of(records.get(first).count);
        records.unlink(&mut self.heads[power][part], first);
        if self.heads[power][part] == NIL {
            self.filled[power] &= !(1 << part);
        }
    }

    /// Makes a run free, which is not in a list. `dirty` says whether its bytes may not be zero.
    pub(super) fn free(
        &mut self,
        records: &mut Records,
        mut first: u32,
        mut pages: u32,
        mut dirty: bool,
    ) {
        if first > 0 && records.get(first - 1).kind == FREE {
            let before = first - records.get(first - 1).count;
            self.remove(records, before);
            dirty |= records.get(before).dirty;
            (first, pages) = (before, pages + first - before);
        }
        let end = first + pages;
        if (end as usize) < records.len && records.get(end).kind == FREE {
            self.remove(records, end);
            dirty |= records.get(end).dirty;
            pages += records.get(end).count;
        }
        self.insert(records, first, pages, dirty);
    }

    /// Takes pages from a free run, as a large block. Returns the first one, and whether its bytes may not be zero.
    pub(super) fn take(&mut self, records: &mut Records, wanted: Wanted) -> Option<(u32, bool)> {
        let run = self
            .any_in_longer_lists(wanted)
            .or_else(|| self.fit_in_shorter_lists(records, wanted))?;
        let (pages, dirty) = (records.get(run).count, records.get(run).dirty);
        let first = run + self.gap(run, wanted.align)?;
        self.remove(records, run);
        let (end, run_end) = (first + wanted.pages, run + pages);
        if run < first {
            self.insert(records, run, first - run, dirty);
        }
        if end < run_end {
            self.insert(records, end, run_end - end, dirty);
        }
        records.set_large(first, wanted.pages);
        Some((first, dirty))
    }

    /// Returns the pages from page `run` to the next multiple of `align`.
    fn gap(&self, run: u32, align: u32) -> Option<u32> {
        let page = self.origin.checked_add(run as usize)?;
        u32::try_from(page.checked_next_multiple_of(align as usize)? - page).ok()
    }

    /// Returns a run that is long enough wherever it begins.
    fn any_in_longer_lists(&self, wanted: Wanted) -> Option<u32> {
        let enough = wanted.pages.checked_add(wanted.align - 1)?;
        // The shortest run of a list decides, so the next list is the first one, except for a list's shortest length.
        let step = 1 << (enough.ilog2().saturating_sub(PARTS.ilog2()));
        let (power, part) = list_of(enough.checked_add(step - 1)?);
        let rest = self.filled.get(power)? >> part << part;
        if rest != 0 {
            return Some(self.heads[power][rest.trailing_zeros() as usize]);
        }
        let (power, parts) =
            self.filled.iter().enumerate().skip(power + 1).find(|(_, parts)| **parts != 0)?;
        Some(self.heads[power][parts.trailing_zeros() as usize])
    }

    /// Returns a run that is long enough where it is. Visits all that may be.
    fn fit_in_shorter_lists(&self, records: &Records, wanted: Wanted) -> Option<u32> {
        let (from, part) = list_of(wanted.pages);
        let lists = self
            .heads
            .iter()
            .enumerate()
            .skip(from)
            .flat_map(|(power, heads)| heads.iter().skip(if power == from { part } else { 0 }));
        for head in lists {
            let mut run = *head;
            while run != NIL {
                let gap = self.gap(run, wanted.align);
                let needed = gap.and_then(|gap| gap.checked_add(wanted.pages));
                if needed.is_some_and(|needed| needed <= records.get(run).count) {
                    return Some(run);
                }
                run = records.get(run).next;
            }
        }
        None
    }

    /// Makes the large block at `first` as long as `pages`, if the pages behind it are free. Returns whether the bytes that
    /// came may not be zero.
    pub(super) fn extend(&mut self, records: &mut Records, first: u32, pages: u32) -> Option<bool> {
        let had = records.get(first).count;
        let (end, more) = (first + had, pages - had);
        if end as usize >= records.len
            || records.get(end).kind != FREE
            || records.get(end).count < more
        {
            return None;
        }
        let (free, dirty) = (records.get(end).count, records.get(end).dirty);
        self.remove(records, end);
        if free > more {
            self.insert(records, end + more, free - more, dirty);
        }
        records.set_large(first, pages);
        Some(dirty)
    }

    /// Frees all but the first `pages` pages of the large block at `first`.
    pub(super) fn truncate(&mut self, records: &mut Records, first: u32, pages: u32, dirty: bool) {
        let had = records.get(first).count;
        if pages < had {
            records.set_large(first, pages);
            self.free(records, first + pages, had - pages, dirty);
        }
    }

    /// Checks that the lists have exactly the free runs, which a walk over the records has found.
    #[cfg(all(test, not(loom)))]
    pub(super) fn check(&self, records: &Records, mut free: std::collections::BTreeMap<u32, u32>) {
        for (power, heads) in self.heads.iter().enumerate() {
            for (part, head) in heads.iter().enumerate() {
                assert_eq!(*head != NIL, self.filled[power] >> part & 1 == 1);
                let (mut run, mut prev) = (*head, NIL);
                while run != NIL {
                    let record = records.get(run);
                    assert_eq!(free.remove(&run), Some(record.count), "a run in a list is free");
                    assert_eq!((list_of(record.count), record.prev), ((power, part), prev));
                    (prev, run) = (run, record.next);
                }
            }
        }
        assert!(free.is_empty(), "not in a list: {free:?}");
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn lists_are_ordered_by_length() {
        let mut last = (0, 0);
        for pages in (1..5000).chain((1 << 30) - 50..(1 << 30) + 50) {
            let list = list_of(pages);
            assert!(list >= last);
            last = list;
        }
        assert_eq!(
            (list_of(15), list_of(16), list_of(31), list_of(32)),
            ((0, 15), (1, 0), (1, 15), (2, 0))
        );
        assert!(list_of((1 << 31) - 1).0 < POWERS);
    }

    fn runs(pages: u32, origin: usize) -> (Records, Runs) {
        let mut records = Records::new(pages as usize).unwrap();
        let mut runs = Runs::new(origin);
        runs.free(&mut records, 0, pages, false);
        (records, runs)
    }

    #[test]
    fn a_run_that_just_fits_is_found() {
        for pages in [1, 15, 16, 17, 100, 1023, 1024, 1025, 5000] {
            let (mut records, mut runs) = runs(pages, 3);
            let wanted = Wanted { pages, align: 1 };
            assert_eq!(runs.take(&mut records, wanted), Some((0, false)));
            assert_eq!(runs.take(&mut records, Wanted { pages: 1, align: 1 }), None);
            runs.free(&mut records, 0, pages, true);
            assert_eq!(runs.take(&mut records, wanted), Some((0, true)));
        }
    }

    #[test]
    fn alignment_counts_from_address_0() {
        let (mut records, mut runs) = runs(64, 5);
        let wanted = Wanted { pages: 32, align: 32 };
        // Pages 0 to 63 are at 5 to 68: the only place is 32 to 63.
        assert_eq!(runs.take(&mut records, wanted), Some((27, false)));
        assert_eq!(runs.take(&mut records, Wanted { pages: 28, align: 1 }), None);
        assert_eq!(runs.take(&mut records, Wanted { pages: 27, align: 1 }), Some((0, false)));
        assert_eq!(runs.take(&mut records, Wanted { pages: 5, align: 1 }), Some((59, false)));
    }

    #[test]
    fn what_is_too_much_is_refused() {
        let (mut records, mut runs) = runs(64, 0);
        for wanted in [(65, 1), (u32::MAX, 1), (1, 1 << 31), (u32::MAX, 1 << 31)] {
            let wanted = Wanted { pages: wanted.0, align: wanted.1 };
            // Page 0 of this region is at a multiple of everything.
            assert_eq!(runs.take(&mut records, wanted).is_some(), wanted.pages == 1);
        }
    }

    #[test]
    fn a_block_grows_into_the_free_run_behind_it() {
        let (mut records, mut runs) = runs(64, 0);
        let wanted = Wanted { pages: 8, align: 1 };
        let (first, _) = runs.take(&mut records, wanted).unwrap();
        assert_eq!(runs.extend(&mut records, first, 20), Some(false));
        let (second, _) = runs.take(&mut records, wanted).unwrap();
        assert_eq!(runs.extend(&mut records, first, 21), None);
        runs.truncate(&mut records, first, 1, true);
        assert_eq!(runs.extend(&mut records, first, 20), Some(true));
        runs.free(&mut records, second, 8, false);
        assert_eq!(runs.extend(&mut records, first, 65), None);
        assert_eq!(runs.extend(&mut records, first, 64), Some(false));
    }
}
