//! Where blocks lie: small ones in slabs, larger ones in runs of pages of their own.
//!
//! This is bookkeeping only. It never touches the memory that it places blocks in, and all it knows is outside of it: so
//! neither a free nor a search brings an evicted page back.
//!
//! # Giving pages up
//! Pages without blocks go through the caller's hands: a [`Vacated`] names them, and nobody else gets them until
//! [`Placement::finish`] has it. In between the caller makes them zero, with no lock held. So the pages of free runs are
//! zero; if some are not, because they were pinned, the run is marked as dirty.

use core::ops::Range;
use std::io;

use super::classes::Class;
use super::records::{LARGE, Records, SLAB};
use super::runs::{Runs, Wanted};
use super::slabs::{Left, Slabs};
use zswap_core::PAGE_SIZE;

/// All blocks of a region.
pub(super) struct Placement {
    records: Records,
    runs: Runs,
    slabs: Slabs,
    /// Bytes of all blocks.
    live: usize,
    /// How many [`Vacated`] are in the hands of callers.
    in_hand: usize,
}

/// A block, in bytes from the start of the region.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Block {
    pub(super) start: usize,
    pub(super) len: usize,
    /// Bytes from here to the block's end are zero.
    pub(super) zero_from: usize,
}

/// Pages in which no block lies, to make them zero. Give it back to [`Placement::finish`].
#[must_use = "the pages are lost until it is finished"]
#[derive(Debug)]
pub(super) struct Vacated {
    /// The pages' bytes.
    pub(super) bytes: Range<usize>,
    of: Of,
}

#[derive(Debug)]
enum Of {
    /// A large block or a whole slab.
    Run,
    /// These slots of a slab.
    Slots { slab: u32, held: u64 },
}

impl Placement {
    /// Makes the tables for `pages` pages, all zero, of which the first one is page `origin`, counted from address 0.
    ///
    /// # Errors
    /// The system's error if it has no address space.
    pub(super) fn new(pages: u32, origin: usize) -> io::Result<Placement> {
        let mut records = Records::new(pages as usize)?;
        let mut runs = Runs::new(origin);
        runs.free(&mut records, 0, pages, false);
        Ok(Placement { records, runs, slabs: Slabs::new(), live: 0, in_hand: 0 })
    }

    /// Returns the bytes of memory that the tables take.
    pub(super) fn table_bytes(&self) -> usize {
        self.records.bytes() + size_of::<Self>()
    }

    /// Returns the bytes of all blocks.
    pub(super) fn live(&self) -> usize {
        self.live
    }

    /// Returns whether pages are on their way to become free.
    pub(super) fn is_giving_up(&self) -> bool {
        self.in_hand > 0
    }

    /// Places a block of at least `size` bytes at a multiple of `align`; neither is 0.
    pub(super) fn take(&mut self, size: usize, align: usize) -> Option<Block> {
        let small = Class::of(size, align).and_then(|class| self.take_small(class));
        let block = small.or_else(|| self.take_large(size, align))?;
        self.live += block.len;
        Some(block)
    }

    fn take_small(&mut self, class: Class) -> Option<Block> {
        let (slab, slot) = self.slabs.take(&mut self.records, class).or_else(|| {
            let wanted = Wanted { pages: class.pages() as u32, align: 1 };
            let (first, _) = self.runs.take(&mut self.records, wanted)?;
            self.slabs.add(&mut self.records, first, class);
            self.slabs.take(&mut self.records, class)
        })?;
        let (start, len) = (slab as usize * PAGE_SIZE + slot * class.size(), class.size());
        Some(Block { start, len, zero_from: len })
    }

    fn take_large(&mut self, size: usize, align: usize) -> Option<Block> {
        let pages = u32::try_from(size.div_ceil(PAGE_SIZE)).ok()?;
        let align = u32::try_from((align / PAGE_SIZE).max(1)).ok()?;
        let (first, dirty) = self.runs.take(&mut self.records, Wanted { pages, align })?;
        let len = pages as usize * PAGE_SIZE;
        Some(Block {
            start: first as usize * PAGE_SIZE,
            len,
            zero_from: if dirty { len } else { 0 },
        })
    }

    /// Returns the class of the block at `start`, or `None` if it has pages of its own; and its length.
    pub(super) fn look_up(&self, start: usize) -> (Option<Class>, usize) {
        let record = self.records.get((start / PAGE_SIZE) as u32);
        if record.kind == SLAB {
            let class = Class(record.class);
            return (Some(class), class.size());
        }
        assert!(
            record.kind == LARGE && start % PAGE_SIZE == 0,
            "no block begins at byte {start} of the region"
        );
        (None, record.count as usize * PAGE_SIZE)
    }

    /// Frees the block at `start`. Nobody uses its bytes any more.
    pub(super) fn free(&mut self, start: usize) -> Option<Vacated> {
        let (class, len) = self.look_up(start);
        self.live -= len;
        let Some(class) = class else { return Some(self.hand_out(start..start + len, Of::Run)) };
        let page = (start / PAGE_SIZE) as u32;
        let slab = page - u32::from(self.records.get(page).before);
        let at = start - slab as usize * PAGE_SIZE;
        assert!(at % class.size() == 0, "no block begins at byte {start} of the region");
        let left = self.slabs.free(&mut self.records, slab, at / class.size());
        self.left(slab, left)
    }

    fn hand_out(&mut self, bytes: Range<usize>, of: Of) -> Vacated {
        self.in_hand += 1;
        Vacated { bytes, of }
    }

    fn left(&mut self, slab: u32, left: Left) -> Option<Vacated> {
        let bytes =
            |pages: Range<u32>| pages.start as usize * PAGE_SIZE..pages.end as usize * PAGE_SIZE;
        match left {
            Left::Pages => None,
            Left::Some(pages, held) => Some(self.hand_out(bytes(pages), Of::Slots { slab, held })),
            Left::Nothing => {
                let pages = Class(self.records.get(slab).class).pages() as u32;
                Some(self.hand_out(bytes(slab..slab + pages), Of::Run))
            }
        }
    }

    /// Makes pages free that were given up; `dirty` says whether some are not zero. If that leaves more pages without a
    /// block, they come back.
    pub(super) fn finish(&mut self, vacated: Vacated, dirty: bool) -> Option<Vacated> {
        self.in_hand -= 1;
        match vacated.of {
            Of::Run => {
                let Range { start, end } = vacated.bytes;
                let (first, pages) =
                    ((start / PAGE_SIZE) as u32, ((end - start) / PAGE_SIZE) as u32);
                self.runs.free(&mut self.records, first, pages, dirty);
                None
            }
            Of::Slots { slab, held } => {
                let left = self.slabs.vacate(&mut self.records, slab, held);
                self.left(slab, left)
            }
        }
    }

    /// Returns a slab that has no block and waits for the next one.
    pub(super) fn idle(&mut self) -> Option<Vacated> {
        let slab = self.slabs.idle(&mut self.records)?;
        self.left(slab, Left::Nothing)
    }

    /// Makes a block at least `size` bytes long, where it is.
    pub(super) fn grow(&mut self, start: usize, size: usize) -> Option<Block> {
        let (class, had) = self.look_up(start);
        if size <= had {
            return Some(Block { start, len: had, zero_from: had });
        }
        if class.is_some() {
            return None;
        }
        let pages = u32::try_from(size.div_ceil(PAGE_SIZE)).ok()?;
        let dirty = self.runs.extend(&mut self.records, (start / PAGE_SIZE) as u32, pages)?;
        let len = pages as usize * PAGE_SIZE;
        self.live += len - had;
        Some(Block { start, len, zero_from: if dirty { len } else { had } })
    }

    /// Makes a large block shorter, where it is. Its other pages are zero, or `dirty`. Returns its length.
    pub(super) fn truncate(&mut self, start: usize, size: usize, dirty: bool) -> usize {
        let (_, had) = self.look_up(start);
        let len = size.next_multiple_of(PAGE_SIZE).min(had);
        self.runs.truncate(
            &mut self.records,
            (start / PAGE_SIZE) as u32,
            (len / PAGE_SIZE) as u32,
            dirty,
        );
        self.live -= had - len;
        len
    }

    /// Walks over all runs, and checks what each part has recorded.
    #[cfg(all(test, not(loom)))]
    fn check(&mut self) {
        use super::records::FREE;
        let (mut page, mut was_free, mut free) = (0, false, std::collections::BTreeMap::new());
        while (page as usize) < self.records.len {
            let record = *self.records.get(page);
            let pages = match record.kind {
                SLAB => {
                    let class = Class(record.class);
                    for before in 0..class.pages() as u32 {
                        let of = self.records.get(page + before);
                        assert_eq!(
                            (of.kind, of.class, u32::from(of.before)),
                            (SLAB, class.0, before)
                        );
                    }
                    self.slabs.check(&mut self.records, page);
                    class.pages() as u32
                }
                kind => {
                    let last = self.records.get(page + record.count - 1);
                    if kind == FREE {
                        assert_eq!((last.kind, last.count), (FREE, record.count), "run at {page}");
                        assert!(!was_free, "run at {page}");
                    } else {
                        assert!(kind == LARGE && (last.kind != FREE), "run at {page}");
                    }
                    record.count
                }
            };
            was_free = record.kind == FREE;
            if was_free {
                free.insert(page, pages);
            }
            page += pages;
        }
        assert_eq!(page as usize, self.records.len);
        self.runs.check(&self.records, free);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use zpool_base::sync::test_rng::Rng;

    /// A placement over memory of which each byte is written down: whose it is, and which is not zero.
    struct Shadow {
        placement: Placement,
        /// The length and the alignment of each block, by its start.
        blocks: BTreeMap<usize, (usize, usize)>,
        in_hand: Vec<Vacated>,
        /// Which pages were written since they were zero.
        written: Vec<bool>,
        origin: usize,
        rng: Rng,
    }

    const PAGES: u32 = if cfg!(miri) { 100 } else { 700 };

    impl Shadow {
        fn new(seed: u64) -> Shadow {
            let origin = 1000 + seed as usize;
            Shadow {
                placement: Placement::new(PAGES, origin).unwrap(),
                blocks: BTreeMap::new(),
                in_hand: Vec::new(),
                written: vec![false; PAGES as usize],
                origin,
                rng: Rng::new(seed),
            }
        }

        fn no_block_in(&self, bytes: Range<usize>) {
            if let Some((start, (len, _))) = self.blocks.range(..bytes.end).next_back() {
                assert!(start + len <= bytes.start, "{bytes:?} and the block of {len} at {start}");
            }
        }

        fn write(&mut self, bytes: Range<usize>) {
            self.written[bytes.start / PAGE_SIZE..bytes.end.div_ceil(PAGE_SIZE)].fill(true);
        }

        /// Checks a block that was placed, and uses it.
        fn placed(&mut self, block: Block, size: usize, align: usize) {
            let bytes = block.start..block.start + block.len;
            assert!(block.len >= size && bytes.end <= self.written.len() * PAGE_SIZE);
            assert_eq!((self.origin * PAGE_SIZE + block.start) % align, 0, "{block:?}");
            self.no_block_in(bytes.clone());
            for vacated in &self.in_hand {
                let other = &vacated.bytes;
                assert!(
                    other.end <= bytes.start || bytes.end <= other.start,
                    "{block:?} and {vacated:?}"
                );
            }
            if block.zero_from < block.len {
                let zero = (block.start + block.zero_from) / PAGE_SIZE..bytes.end / PAGE_SIZE;
                assert!(self.written[zero].iter().all(|written| !written), "{block:?}");
            }
            self.write(bytes);
            self.blocks.insert(block.start, (block.len, align));
        }

        fn any(&mut self) -> Option<(usize, usize, usize)> {
            let nth = self.rng.below(self.blocks.len().max(1));
            self.blocks.iter().nth(nth).map(|(start, (len, align))| (*start, *len, *align))
        }

        fn size(&mut self) -> usize {
            match self.rng.below(8) {
                0..4 => 1 + self.rng.below(200),
                4..6 => 1 + self.rng.below(5000),
                6 => 1 + self.rng.below(40_000),
                _ => 1 + self.rng.below(PAGES as usize * PAGE_SIZE / 8),
            }
        }

        /// Makes pages zero, most of the time, and gives them back.
        fn finish_one(&mut self) {
            if self.in_hand.is_empty() {
                return;
            }
            let at = self.rng.below(self.in_hand.len());
            let vacated = self.in_hand.swap_remove(at);
            let dirty = self.rng.below(10) == 0;
            if !dirty {
                let pages = vacated.bytes.start / PAGE_SIZE..vacated.bytes.end / PAGE_SIZE;
                self.written[pages].fill(false);
            }
            let more = self.placement.finish(vacated, dirty);
            self.hold(more);
        }

        fn hold(&mut self, vacated: Option<Vacated>) {
            let Some(vacated) = vacated else { return };
            self.no_block_in(vacated.bytes.clone());
            assert!(!vacated.bytes.is_empty());
            assert_eq!((vacated.bytes.start % PAGE_SIZE, vacated.bytes.end % PAGE_SIZE), (0, 0));
            self.in_hand.push(vacated);
        }

        fn free(&mut self, start: usize) {
            self.blocks.remove(&start).unwrap();
            let vacated = self.placement.free(start);
            self.hold(vacated);
        }

        fn step(&mut self) {
            match self.rng.below(10) {
                0..4 => {
                    let (size, align) = (self.size(), 1 << self.rng.below(15));
                    if let Some(block) = self.placement.take(size, align) {
                        self.placed(block, size, align);
                    }
                }
                4..6 => {
                    if let Some((start, ..)) = self.any() {
                        self.free(start);
                    }
                }
                6 => {
                    let Some((start, len, align)) = self.any() else { return };
                    let size = len + 1 + self.rng.below(20_000);
                    if let Some(block) = self.placement.grow(start, size) {
                        assert_eq!(block.start, start);
                        assert!(block.zero_from >= len);
                        self.blocks.remove(&start);
                        let tail = Block {
                            start: start + len,
                            len: block.len - len,
                            zero_from: block.zero_from - len,
                        };
                        self.placed(tail, 1, 1);
                        self.blocks.remove(&tail.start);
                        assert!(block.len >= size);
                        self.blocks.insert(start, (block.len, align));
                    }
                }
                7 => {
                    let Some((start, len, align)) = self.any() else { return };
                    if self.placement.look_up(start).0.is_none() {
                        let size = 1 + self.rng.below(len);
                        let tail = (start + size.next_multiple_of(PAGE_SIZE)) / PAGE_SIZE
                            ..(start + len) / PAGE_SIZE;
                        self.written[tail].fill(false);
                        let len = self.placement.truncate(start, size, false);
                        assert!(len >= size);
                        self.blocks.insert(start, (len, align));
                    }
                }
                _ => self.finish_one(),
            }
        }

        fn end(mut self) {
            while let Some((start, ..)) = self.any() {
                self.free(start);
            }
            loop {
                while !self.in_hand.is_empty() {
                    self.finish_one();
                }
                let Some(idle) = self.placement.idle() else { break };
                self.hold(Some(idle));
            }
            self.placement.check();
            assert_eq!((self.placement.live(), self.placement.is_giving_up()), (0, false));
            let all = PAGES as usize * PAGE_SIZE;
            let block = self.placement.take(all, 1).unwrap();
            self.placed(block, all, 1);
        }
    }

    #[test]
    fn blocks_never_overlap_and_nothing_is_lost() {
        for seed in 0..if cfg!(miri) { 2 } else { 20 } {
            let mut shadow = Shadow::new(seed);
            for step in 0..if cfg!(miri) { 300 } else { 5000 } {
                shadow.step();
                if step % 64 == 0 {
                    shadow.placement.check();
                    let live: usize = shadow.blocks.values().map(|(len, _)| len).sum();
                    assert_eq!(shadow.placement.live(), live);
                }
            }
            shadow.end();
        }
    }

    #[test]
    fn small_blocks_take_single_pages_if_there_is_no_longer_run() {
        let mut placement = Placement::new(4, 0).unwrap();
        // Slabs for these need five pages.
        for page in 0..4 {
            let block = placement.take(640, 8).unwrap();
            assert_eq!((block.start, block.len), (page * PAGE_SIZE, PAGE_SIZE));
        }
        assert_eq!(placement.take(640, 8), None);
    }

    #[test]
    #[cfg_attr(miri, ignore = "too many blocks")]
    fn tables_take_memory_for_pages_in_use_only() {
        let mut placement = Placement::new(1 << 20, 0).unwrap();
        let empty = placement.table_bytes();
        // Bits of 64 bytes a page, and records of 24.
        for _ in 0..1000 * 256 {
            placement.take(16, 1).unwrap();
        }
        let per_page = (placement.table_bytes() - empty) / 1000;
        assert!((80..110).contains(&per_page), "{per_page}");
        placement.take((1 << 32) - (1000 << 12), 1).unwrap();
        assert!(placement.table_bytes() - empty < 110 * 1000);
    }

    #[test]
    #[should_panic(expected = "no block begins at byte 8192 of the region")]
    fn an_address_inside_a_block_is_not_freed() {
        let mut placement = Placement::new(16, 0).unwrap();
        placement.take(3 * PAGE_SIZE, 1).unwrap();
        placement.take(16, 1).unwrap();
        let _ = placement.free(2 * PAGE_SIZE);
    }
}
