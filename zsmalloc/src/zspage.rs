//! A zspage's descriptor. Its memory is never deallocated while the pool exists: a vacant
//! descriptor is reused.
//!
//! Any thread may refer to a descriptor at any time, so all fields that ever change are atomics.
//! Readers load `class` and `base` without a lock. The other atomics are plain numbers that a lock
//! guards: the class lock while the zspage is in a class. A descriptor keeps its lanes for life. So
//! a reader with an outdated slot word may count itself in one of them, even if the lane belongs to
//! another object now. It then takes itself off again.
//!
//! Invariants, kept under the class lock:
//! 1. `class` names the class whose lock guards the zspage, or is NONE while the descriptor is
//!    vacant. It is set to NONE under that lock, only when no lane is USED, and before the run is returned.
//! 2. While `class` is not NONE, `base` is the start of a run of the class's length from the pool's
//!    provider, which no other zspage uses. While `class` is NONE, `base` is null, or the start of a
//!    run that the descriptor keeps until the run is returned (`keep_run`).
//! 3. A page whose bit in `touched` is clear holds no byte of any object. `holes` is a subset of
//!    `touched`: the pages that no USED place overlaps.
//! 4. While `class` is not NONE, `used` is the number of USED lanes. It is not 0 while the zspage
//!    is on a list of its class.

use core::ptr::{NonNull, null_mut};

use zpool_api::PageRun;

use crate::class_table::SizeClass;
use crate::sync::atomic::{AtomicPtr, AtomicU16, AtomicU32, Ordering};

/// Set in a list's number if the list is of roomy zspages.
pub(crate) const ROOMY: u16 = 0x100;
/// The end of a list.
pub(crate) const NIL: u32 = u32::MAX;
const NO_CLASS: u16 = 0x7fff;
/// The zspage is off its lists, and its holder will put it back.
const ISOLATED: u16 = 0x8000;

/// A number that the class lock guards. While the descriptor is vacant, only its owner uses the
/// number.
#[derive(Debug)]
pub(crate) struct Guarded(AtomicU16);

impl Guarded {
    fn new(value: u16) -> Self {
        Guarded(AtomicU16::new(value))
    }

    pub(crate) fn get(&self) -> u16 {
        // Relaxed: read and written under the class lock.
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn set(&self, value: u16) {
        // Relaxed: as in `get`.
        self.0.store(value, Ordering::Relaxed);
    }
}

/// A link of a list. The list's lock guards it: the class lock, the lock of the vacant descriptors,
/// or the lock of the list in `left.rs`.
#[derive(Debug)]
pub(crate) struct Link(AtomicU32);

impl Link {
    pub(crate) fn get(&self) -> u32 {
        // Relaxed: read and written under the list's lock.
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn set(&self, zspage: u32) {
        // Relaxed: as in `get`.
        self.0.store(zspage, Ordering::Relaxed);
    }
}

#[derive(Debug)]
pub(crate) struct Zspage {
    base: AtomicPtr<u8>,
    /// Number of the first lane in the table of lanes; fixed for life.
    pub(crate) first_lane: u32,
    /// Number of lanes; fixed for life.
    lanes: u16,
    class: AtomicU16,
    pub(crate) touched: Guarded,
    pub(crate) holes: Guarded,
    pub(crate) used: Guarded,
    /// The number of the list that the zspage is on.
    pub(crate) list: Guarded,
    pub(crate) next: Link,
    pub(crate) prev: Link,
}

impl Zspage {
    /// Makes a vacant descriptor.
    pub(crate) fn new(first_lane: u32, lanes: u16) -> Self {
        Zspage {
            base: AtomicPtr::new(null_mut()),
            first_lane,
            lanes,
            class: AtomicU16::new(NO_CLASS),
            touched: Guarded::new(0),
            holes: Guarded::new(0),
            used: Guarded::new(0),
            list: Guarded::new(0),
            next: Link(AtomicU32::new(NIL)),
            prev: Link(AtomicU32::new(NIL)),
        }
    }

    /// Returns the number of the descriptor's lanes.
    #[inline]
    pub(crate) fn lanes(&self) -> usize {
        usize::from(self.lanes)
    }

    /// Returns the number of an object's lane in the table of lanes. For an index beyond the
    /// zspage's lanes, returns the number of the last lane.
    #[inline]
    pub(crate) fn lane_number(&self, index: usize) -> u32 {
        self.first_lane + index.min(self.lanes() - 1) as u32
    }

    /// Returns the class, or None if the descriptor is vacant. The answer is exact under that class's
    /// lock, and for a reader that is counted in a USED lane (`lane.rs`). For others it is a guess,
    /// which they must check again under the lock or once they are counted.
    #[inline]
    pub(crate) fn class(&self) -> Option<u16> {
        // Relaxed: for callers that need the exact class, the class lock or the lane orders this load.
        let class = self.class.load(Ordering::Relaxed) & !ISOLATED;
        (class != NO_CLASS).then_some(class)
    }

    /// Puts the zspage into a class, or takes it out of its class. Afterwards it is not isolated.
    ///
    /// # Safety
    /// Invariant 1: the caller holds the lock of the class that the zspage enters or leaves, and the
    /// zspage never goes from one class to another directly. No lane is USED, because a reader that
    /// finds its lane USED relies on the class's sizes. A zspage that enters a class has a run of the
    /// class's length and lanes for its objects.
    pub(crate) unsafe fn set_class(&self, class: Option<u16>) {
        // Relaxed: as in `class`.
        self.class.store(class.unwrap_or(NO_CLASS), Ordering::Relaxed);
    }

    pub(crate) fn is_isolated(&self) -> bool {
        // Relaxed: under the class lock.
        self.class.load(Ordering::Relaxed) & ISOLATED != 0
    }

    /// Sets whether the zspage is isolated. The caller holds the class lock.
    pub(crate) fn set_isolated(&self, isolated: bool) {
        // Relaxed: readers mask the bit out, and everyone else reads it under the class lock. Load
        // and store suffice: nobody else writes.
        let class = self.class.load(Ordering::Relaxed) & !ISOLATED;
        // Relaxed: as in `class`.
        self.class.store(class | if isolated { ISOLATED } else { 0 }, Ordering::Relaxed);
    }

    /// Returns whether the zspage is on a list of roomy zspages, which have a free place in touched
    /// pages. For an isolated zspage, the answer is about the list that it was last on. The caller
    /// holds the class lock.
    pub(crate) fn is_roomy(&self) -> bool {
        self.list.get() & ROOMY != 0
    }

    /// Returns the run's first byte, if there is a run. The answer is exact while an object of the
    /// zspage is pinned, and under the class lock. Otherwise it is a guess, since migration changes it.
    #[inline]
    pub(crate) fn run_base(&self) -> Option<NonNull<u8>> {
        // Relaxed: it was stored before the lane was claimed, or by a migration before it released
        // the lane, which the reader has locked since. The Release of `claim` and `write_unlock`
        // pairs with the Acquire of `read_lock`.
        NonNull::new(self.base.load(Ordering::Relaxed))
    }

    /// Returns the run's first byte. The caller must hold the lock of the zspage's class, or be
    /// counted in a USED lane of the zspage.
    #[inline]
    #[expect(clippy::expect_used, reason = "invariant 2 of this file")]
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.run_base().expect("a zspage in a class has a run")
    }

    /// Sets the address of the run.
    ///
    /// # Safety
    /// Invariant 2: the caller holds the lock of the zspage's class, or owns the descriptor alone.
    /// `base` begins a run of the class's length, which belongs to this zspage from now on. Readers
    /// will find their objects there: no lane is USED, or the caller holds the write lock of every
    /// USED lane and has copied the bytes.
    pub(crate) unsafe fn set_base(&self, base: Option<NonNull<u8>>) {
        // Relaxed: published by the lanes, and ordered by the class lock.
        self.base.store(base.map_or(null_mut(), NonNull::as_ptr), Ordering::Relaxed);
    }

    /// Keeps a run until it is returned to the provider. The caller owns the descriptor, which is
    /// vacant. Until `take_run`, `used` holds the run's length.
    pub(crate) fn keep_run(&self, run: PageRun) {
        assert!(self.class().is_none(), "a run is kept in a descriptor that is in a class");
        // SAFETY: invariant 2: the descriptor is vacant, so no lane is USED, and it keeps the run.
        unsafe { self.set_base(Some(run.base())) };
        self.touched.set(run.resident());
        // A run has at most 16 pages.
        self.used.set(run.pages() as u16);
    }

    /// Takes the run that `keep_run` kept. Returns None if the descriptor keeps no run.
    ///
    /// # Safety
    /// The descriptor is vacant, and the caller owns it alone.
    pub(crate) unsafe fn take_run(&self) -> Option<PageRun> {
        let (base, touched, pages) = (self.run_base()?, self.touched.get(), self.used.get());
        // SAFETY: invariant 2: the descriptor is vacant, so no lane is USED.
        unsafe { self.set_base(None) };
        self.touched.set(0);
        self.used.set(0);
        // SAFETY: the run that `keep_run` got, and the only value that represents it.
        Some(unsafe { PageRun::new(base, usize::from(pages), touched) })
    }
}

/// Returns the bits of the pages that contain bytes `from..to` of a zspage.
pub(crate) fn pages_of(page_size: usize, from: usize, to: usize) -> u16 {
    debug_assert!(from < to && to <= 16 * page_size);
    let shift = page_size.trailing_zeros();
    let (first, last) = (from >> shift, (to - 1) >> shift);
    // `last` is below 16.
    ((2u32 << last) - (1u32 << first)) as u16
}

/// Returns the pages that an object's place overlaps.
pub(crate) fn place_pages(size: &SizeClass, page_size: usize, index: usize) -> u16 {
    let start = size.start_of(index);
    pages_of(page_size, start, start + size.size as usize)
}

/// Returns the objects whose places overlap a page.
pub(crate) fn objects_of_page(
    size: &SizeClass,
    page_size: usize,
    page: usize,
) -> core::ops::Range<usize> {
    let first = page * page_size / size.size as usize;
    let end = ((page + 1) * page_size).div_ceil(size.size as usize);
    first..end.min(usize::from(size.objects))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::class_table::{large_classes, size_classes};

    #[test]
    fn a_descriptor_is_half_a_cache_line() {
        if cfg!(target_pointer_width = "64") {
            assert_eq!(size_of::<Zspage>(), 32);
        }
    }

    #[test]
    fn an_objects_lane_is_one_of_its_zspages() {
        let zspage = Zspage::new(100, 8);
        assert_eq!(zspage.lanes(), 8);
        assert_eq!([0, 1, 7].map(|index| zspage.lane_number(index)), [100, 101, 107]);
        // A stale slot can give such an index, if its zspage has fewer objects now.
        assert_eq!([8, 4000].map(|index| zspage.lane_number(index)), [107, 107]);
    }

    #[test]
    fn a_list_says_whether_it_is_of_the_roomy() {
        let zspage = Zspage::new(0, 1);
        assert!(!zspage.is_roomy());
        zspage.list.set(ROOMY | 3);
        assert!(zspage.is_roomy());
        zspage.list.set(3);
        assert!(!zspage.is_roomy());
    }

    #[test]
    fn pages_and_places_overlap_alike_seen_from_either() {
        for (page_size, chain) in [(4096, 16), (4096, 3), (16384, 4)] {
            let some = if cfg!(miri) { 40 } else { 1 };
            let small = size_classes(page_size, chain, 16).into_iter();
            for size in small.chain(large_classes(page_size, chain, 65536)).step_by(some) {
                for page in 0..usize::from(size.pages) {
                    let objects = objects_of_page(&size, page_size, page);
                    for index in 0..usize::from(size.objects) {
                        let overlaps = place_pages(&size, page_size, index) >> page & 1 == 1;
                        assert_eq!(overlaps, objects.contains(&index), "{size:?} {page} {index}");
                    }
                }
            }
        }
    }

    #[test]
    fn ranges_have_the_bits_of_their_pages() {
        assert_eq!(pages_of(4096, 0, 1), 1);
        assert_eq!(pages_of(4096, 4095, 4097), 0b11);
        assert_eq!(pages_of(4096, 4096, 8192), 0b10);
        assert_eq!(pages_of(4096, 0, 65536), 0xffff);
        assert_eq!(pages_of(4096, 61440, 65536), 0x8000);
        assert_eq!(pages_of(65536, 0, 65536), 1);
    }

    #[test]
    fn class_and_isolation_do_not_disturb_each_other() {
        let zspage = Zspage::new(0, 8);
        assert_eq!((zspage.class(), zspage.is_isolated()), (None, false));
        // SAFETY: a descriptor without readers and without objects.
        unsafe { zspage.set_class(Some(191)) };
        zspage.set_isolated(true);
        assert_eq!((zspage.class(), zspage.is_isolated()), (Some(191), true));
        zspage.set_isolated(false);
        assert_eq!((zspage.class(), zspage.is_isolated()), (Some(191), false));
    }
}
