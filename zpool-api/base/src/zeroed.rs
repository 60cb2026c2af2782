//! A table of atomics that start as zeros and can become zeros again, so that their memory can return to
//! the system.
//!
//! Elements never move, and any index may be looked up at any time without a lock, as in [`stable`]. But a
//! [`stable`] table keeps the memory of its elements for ever. Here the elements form *groups*, and the
//! owner can give back the memory of a group that it does not need. It may do so even while other threads
//! still access the elements:
//! * A late read finds zeros.
//! * A late write brings back a page of zeros, in which only the written bytes differ.
//!
//! So an element may consist only of atomics. Zeros must mean "nothing" to the owner's code. And a late
//! access may write only by compare-exchange: it fails if it finds zeros where it expects another value.
//!
//! Elements live in buckets of 1, 2, 4, ... groups. Each bucket is one mapping, which the system backs page
//! by page when the pages are first touched. Under Miri, under the model checker and on systems other than
//! Linux, buckets are on the heap. There, giving a group back only clears it; its memory stays.
//!
//! Locks: `make` and `give_back` take the table's own mutex, a leaf. Invariant: a bucket's pointer is
//! stored (Release) after the bucket's memory holds valid elements. From then on, the memory holds valid
//! elements until the table is dropped.
//!
//! [`stable`]: crate::stable

use core::fmt;
use core::ptr::null_mut;

use crate::lockdep::{self, Rank};
#[cfg(target_os = "linux")]
use crate::mapping::{self, Mapping};
use crate::stable::TableError;
use crate::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};
use crate::sync::{MODEL, Mutex};

/// Whether elements are on the heap.
const HEAP: bool = MODEL || cfg!(miri) || !cfg!(target_os = "linux");
/// The number of buckets. It is enough for 2^32 - 16 elements in groups of 16, the smallest, and for every
/// u32 index in larger groups. Loom tracks each pointer, so there are fewer under it.
const BUCKETS: usize = if MODEL { 3 } else { 28 };
/// A group's size in bytes must be a multiple of this number, the size of the smallest page of any system.
const SMALL_PAGE: usize = 4096;

/// A type that may live in memory that can become zeros at any moment.
///
/// # Safety
/// A value of zero bytes must be valid, and [`zeroed`](Self::zeroed) must return such a value. Every byte
/// that is not padding must belong to an atomic. Except under the model checker, the type must not need
/// drop.
pub unsafe trait Zeroed: Send + Sync {
    /// Returns a value whose bytes are all zero.
    fn zeroed() -> Self;

    /// Sets the value to zeros, one atomic after another.
    fn zero(&self);
}

// SAFETY: the type is an atomic number, for which all byte patterns are valid.
unsafe impl Zeroed for AtomicU32 {
    fn zeroed() -> Self {
        AtomicU32::new(0)
    }

    fn zero(&self) {
        // Release pairs with the Acquire of a reader that finds this zero: the reader sees everything that
        // was written before it. Where memory is really given back, there is no such store; the system's
        // change of the page tables gives the same order.
        self.store(0, Ordering::Release);
    }
}

// SAFETY: the type is an atomic number, for which all byte patterns are valid.
unsafe impl Zeroed for AtomicU64 {
    fn zeroed() -> Self {
        AtomicU64::new(0)
    }

    fn zero(&self) {
        // Release: pairs as in `AtomicU32::zero`.
        self.store(0, Ordering::Release);
    }
}

// SAFETY: its elements are `Zeroed`, and an array has no other bytes.
unsafe impl<T: Zeroed, const N: usize> Zeroed for [T; N] {
    fn zeroed() -> Self {
        core::array::from_fn(|_| T::zeroed())
    }

    fn zero(&self) {
        self.iter().for_each(T::zero);
    }
}

// SAFETY: its fields are `Zeroed`, and all other bytes are padding.
unsafe impl<A: Zeroed, B: Zeroed> Zeroed for (A, B) {
    fn zeroed() -> Self {
        (A::zeroed(), B::zeroed())
    }

    fn zero(&self) {
        self.0.zero();
        self.1.zero();
    }
}

// SAFETY: its fields are `Zeroed`, and all other bytes are padding.
unsafe impl<A: Zeroed, B: Zeroed, C: Zeroed> Zeroed for (A, B, C) {
    fn zeroed() -> Self {
        (A::zeroed(), B::zeroed(), C::zeroed())
    }

    fn zero(&self) {
        self.0.zero();
        self.1.zero();
        self.2.zero();
    }
}

/// Owns the memory of a bucket.
enum Bucket<T> {
    #[cfg(target_os = "linux")]
    Mapped(Mapping),
    /// Elements on the heap. Until the vector is dropped, they are accessed only through the bucket's
    /// pointer.
    Heap(#[expect(dead_code, reason = "it owns what the pointer leads to")] Vec<T>),
}

impl<T: Zeroed> Bucket<T> {
    fn on_the_heap(count: usize) -> Option<(Self, *mut T)> {
        let mut elements = Vec::new();
        elements.try_reserve_exact(count).ok()?;
        elements.extend((0..count).map(|_| T::zeroed()));
        let base = elements.as_mut_ptr();
        Some((Bucket::Heap(elements), base))
    }

    #[cfg(target_os = "linux")]
    fn new(count: usize, bytes: usize) -> Option<(Self, *mut T)> {
        if HEAP {
            return Self::on_the_heap(count);
        }
        let mapping = Mapping::closed(bytes).and_then(Mapping::opened).ok()?;
        // The table counts and releases memory in small pages. With huge pages, more memory would become
        // resident.
        let _ = mapping.allow_huge_pages(false);
        let base = mapping.base().cast().as_ptr();
        Some((Bucket::Mapped(mapping), base))
    }

    #[cfg(not(target_os = "linux"))]
    fn new(count: usize, _bytes: usize) -> Option<(Self, *mut T)> {
        Self::on_the_heap(count)
    }
}

/// A table of up to 2^32 - 16 elements, in groups of `GROUP` elements. `GROUP` must be a power of two and
/// at least 16. If the system's pages are larger than 4096 bytes, groups are larger by the same factor.
/// `Send` and `Sync`.
///
/// # Panics
/// Fails to compile if the size of a group is not a multiple of 4096 bytes, or if elements need drop. Under
/// Miri, under the model checker and on systems other than Linux, these two are not checked.
///
/// ```
/// use core::sync::atomic::{AtomicU64, Ordering::SeqCst};
/// use zpool_base::zeroed::ZeroedTable;
///
/// let table: ZeroedTable<AtomicU64, 512> = ZeroedTable::new();
/// assert!(table.get(7).is_none());
/// table.make(7)?;
/// let element = table.get(7).unwrap();
/// element.store(5, SeqCst);
/// assert!(table.give_back(0));
/// assert_eq!(element.load(SeqCst), 0);
/// # Ok::<(), zpool_base::stable::TableError>(())
/// ```
pub struct ZeroedTable<T, const GROUP: usize> {
    buckets: [AtomicPtr<T>; BUCKETS],
    /// Base-2 logarithm of the number of elements per group.
    group_bits: u32,
    /// The memory of all buckets, in order. The mutex is a leaf lock.
    grow: Mutex<Vec<Bucket<T>>>,
}

// SAFETY: the table owns its elements. They can be reached only as `&T`, and `Zeroed` requires `Send` and
// `Sync`.
unsafe impl<T: Zeroed, const GROUP: usize> Send for ZeroedTable<T, GROUP> {}
// SAFETY: as for `Send`.
unsafe impl<T: Zeroed, const GROUP: usize> Sync for ZeroedTable<T, GROUP> {}

impl<T: Zeroed, const GROUP: usize> ZeroedTable<T, GROUP> {
    /// Makes an empty table, without memory for elements yet.
    pub fn new() -> Self {
        const {
            assert!(size_of::<T>() > 0 && GROUP.is_power_of_two());
            assert!(HEAP || GROUP >= 16 && GROUP * size_of::<T>() % SMALL_PAGE == 0);
            assert!(HEAP || !core::mem::needs_drop::<T>());
        }
        ZeroedTable {
            buckets: core::array::from_fn(|_| AtomicPtr::new(null_mut())),
            group_bits: (GROUP * Self::larger_pages()).ilog2(),
            grow: Mutex::new(Vec::new()),
        }
    }

    /// Returns the system's page size in units of 4096 bytes. Returns 1 if elements are on the heap.
    #[cfg(target_os = "linux")]
    fn larger_pages() -> usize {
        if HEAP || cfg!(target_arch = "x86_64") {
            1
        } else {
            mapping::system_page_size() / SMALL_PAGE
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn larger_pages() -> usize {
        1
    }

    /// Returns the number of elements per group.
    #[inline]
    pub fn group(&self) -> usize {
        1 << self.group_bits()
    }

    /// Returns the base-2 logarithm of [`group`](Self::group). On x86-64, which has only one page size, it
    /// is known at compile time. That makes look-ups short.
    #[inline]
    fn group_bits(&self) -> u32 {
        if cfg!(target_arch = "x86_64") { const { GROUP.ilog2() } } else { self.group_bits }
    }

    /// Returns the number of the bucket that holds the element at `index`, and the element's offset in that
    /// bucket.
    #[inline]
    fn place(&self, index: u32) -> (usize, usize) {
        let shifted = index as usize + self.group();
        let top = shifted.ilog2();
        ((top - self.group_bits()) as usize, shifted - (1 << top))
    }

    /// Returns the element at `index`, or `None` if its bucket does not exist yet. Wait-free.
    #[inline]
    pub fn get(&self, index: u32) -> Option<&T> {
        let (bucket, offset) = self.place(index);
        // Acquire pairs with the Release of `make`, so the bucket's elements are initialised.
        let base = self.buckets.get(bucket)?.load(Ordering::Acquire);
        if base.is_null() {
            return None;
        }
        // SAFETY: `place` returns an offset that is inside the bucket.
        let element = unsafe { base.add(offset) };
        // SAFETY: a bucket that has a pointer holds valid elements until the table is dropped (module
        // invariant). The elements are atomics and shared only as `&T`. Zeros, which `give_back` leaves,
        // are a valid value (`Zeroed`).
        Some(unsafe { &*element })
    }

    /// Makes the bucket for the element at `index`, unless the bucket exists. The system backs the element
    /// with memory when it is first touched. Buckets are made in order. So call this for the lowest index
    /// that has no element yet, as [`get`](Self::get) shows. May map address space, under the table's own
    /// mutex.
    ///
    /// # Errors
    /// [`TableError::NoMemory`] if the system refuses memory for the bucket. [`TableError::Full`] if a
    /// table cannot have a bucket for `index`, or if a bucket before it does not exist yet.
    pub fn make(&self, index: u32) -> Result<(), TableError> {
        let (bucket, _) = self.place(index);
        let full = TableError::Full { limit: index as usize };
        let pointer = self.buckets.get(bucket).ok_or(full)?;
        // Relaxed: the load only tests whether the bucket exists.
        if !pointer.load(Ordering::Relaxed).is_null() {
            return Ok(());
        }
        let _held = lockdep::acquire(Rank::Leaf);
        let mut grow = self.grow.lock();
        if bucket < grow.len() {
            return Ok(());
        }
        if bucket > grow.len() {
            return Err(full);
        }
        let count = self.group().checked_shl(bucket as u32).unwrap_or(usize::MAX);
        let bytes = count.saturating_mul(size_of::<T>());
        let refused = TableError::NoMemory { bytes };
        grow.try_reserve(1).map_err(|_| refused)?;
        let (memory, base) = Bucket::new(count, bytes).ok_or(refused)?;
        grow.push(memory);
        // Release pairs with the Acquire of `get`.
        pointer.store(base, Ordering::Release);
        Ok(())
    }

    /// Sets every element of a group to zeros, returns the group's memory to the system, and returns true.
    /// Group `g` begins with element `g * self.group()`. Returns false if the group's bucket does not exist
    /// yet. Also returns false if the system refuses, as Linux before 5.18 does for locked pages. Then each
    /// element is zero or unchanged. Blocks in the system, so do not call it under a lock.
    pub fn give_back(&self, group: usize) -> bool {
        let first = group.checked_mul(self.group()).and_then(|first| u32::try_from(first).ok());
        let Some(first) = first.filter(|first| self.get(*first).is_some()) else { return false };
        if HEAP {
            let elements = (0..self.group() as u32).filter_map(|n| self.get(first + n));
            elements.for_each(T::zero);
            return true;
        }
        self.drop_pages(first)
    }

    #[cfg(target_os = "linux")]
    fn drop_pages(&self, first: u32) -> bool {
        let (bucket, offset) = self.place(first);
        let (base, locked) = {
            let _held = lockdep::acquire(Rank::Leaf);
            match self.grow.lock().get(bucket) {
                Some(Bucket::Mapped(mapping)) => (mapping.base(), mapping.is_locked()),
                _ => return false,
            }
        };
        // SAFETY: `place` returns an offset that is inside the bucket.
        let at = unsafe { base.add(offset * size_of::<T>()) };
        // SAFETY: the bytes are whole system pages of a live bucket. Each byte is padding or belongs to an
        // atomic that may become zero at any moment (`Zeroed`).
        unsafe { mapping::give_back(at, self.group() * size_of::<T>(), locked) }.is_ok()
    }

    #[cfg(not(target_os = "linux"))]
    fn drop_pages(&self, _first: u32) -> bool {
        false
    }
}

impl<T: Zeroed, const GROUP: usize> Default for ZeroedTable<T, GROUP> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T, const GROUP: usize> fmt::Debug for ZeroedTable<T, GROUP> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ZeroedTable").field("group_bits", &self.group_bits).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::Ordering::SeqCst;

    const _: fn() = || {
        fn both<T: Send + Sync>() {}
        both::<ZeroedTable<AtomicU64, 512>>();
    };

    type Node = (AtomicU64, [AtomicU32; 3], [AtomicU64; 2]);
    /// A node has 40 bytes, so a group of 512 nodes has five pages of 4096 bytes.
    type Table = ZeroedTable<Node, 512>;

    fn fill(node: &Node, with: u64) {
        node.0.store(with, SeqCst);
        node.1.iter().for_each(|word| word.store(with as u32, SeqCst));
        node.2.iter().for_each(|word| word.store(with, SeqCst));
    }

    fn holds(node: &Node, what: u64) -> bool {
        node.0.load(SeqCst) == what
            && node.1.iter().all(|word| word.load(SeqCst) == what as u32)
            && node.2.iter().all(|word| word.load(SeqCst) == what)
    }

    #[test]
    fn places_are_dense_and_in_order() {
        let table = Table::new();
        let group = table.group();
        let mut expect = (0, 0);
        for index in 0..20 * group as u32 {
            assert_eq!(table.place(index), expect, "index {index}");
            expect.1 += 1;
            if expect.1 == group << expect.0 {
                expect = (expect.0 + 1, 0);
            }
        }
        let (bucket, offset) = table.place(u32::MAX);
        assert!(bucket < BUCKETS && offset < group << bucket);
    }

    #[test]
    fn elements_begin_as_zeros_and_stay_where_they_are() {
        let table = Table::new();
        let count = 4 * table.group() as u32;
        assert!(table.get(0).is_none() && table.get(u32::MAX).is_none());
        table.make(0).unwrap();
        let first: *const Node = table.get(0).unwrap();
        for index in 0..count {
            table.make(index).unwrap();
            let node = table.get(index).unwrap();
            assert!(holds(node, 0), "{index}");
            fill(node, u64::from(index) + 1);
        }
        assert!(core::ptr::eq(first, table.get(0).unwrap()));
        assert!((0..count).all(|index| holds(table.get(index).unwrap(), u64::from(index) + 1)));
    }

    #[test]
    fn a_group_given_back_is_zeros_and_no_other() {
        let table = Table::new();
        let group = table.group() as u32;
        for index in 0..4 * group {
            table.make(index).unwrap();
            fill(table.get(index).unwrap(), 7);
        }
        assert!(table.give_back(2) && !table.give_back(1 << 20));
        for index in 0..4 * group {
            let expect = if (2 * group..3 * group).contains(&index) { 0 } else { 7 };
            assert!(holds(table.get(index).unwrap(), expect), "{index}");
        }
        // The group is usable again.
        fill(table.get(2 * group).unwrap(), 9);
        assert!(holds(table.get(2 * group).unwrap(), 9));
    }

    #[test]
    fn a_table_grows_bucket_by_bucket() {
        let table = Table::new();
        let far = 8 * table.group() as u32;
        assert_eq!(table.make(far), Err(TableError::Full { limit: far as usize }));
        assert!(table.get(far).is_none() && !table.give_back(0));
        table.make(0).unwrap();
        assert!(!table.give_back(1 << 40) && !table.give_back(1 << 63));
        assert!(table.get(table.group() as u32).is_none());
        assert!(format!("{table:?}").contains("group_bits"));
    }

    #[test]
    fn readers_of_what_is_given_back_see_the_old_or_zero() {
        let table = Arc::new(Table::new());
        table.make(0).unwrap();
        let rounds = if cfg!(miri) { 2 } else { 300 };
        let last = table.group() as u32 - 1;
        let reader = {
            let table = table.clone();
            std::thread::spawn(move || {
                let node = table.get(last).unwrap();
                loop {
                    match node.0.load(SeqCst) {
                        0 => std::thread::yield_now(),
                        u64::MAX => return,
                        value => assert!(value <= rounds, "{value}"),
                    }
                }
            })
        };
        for round in 1..=rounds {
            table.get(last).unwrap().0.store(round, SeqCst);
            assert!(table.give_back(0));
            assert_eq!(table.get(last).unwrap().0.load(SeqCst), 0);
        }
        table.get(last).unwrap().0.store(u64::MAX, SeqCst);
        reader.join().unwrap();
    }

    /// Returns the number of resident pages of a table's first group.
    #[cfg(all(target_os = "linux", not(miri)))]
    fn resident(table: &Table) -> usize {
        use std::os::unix::fs::FileExt;
        let start = core::ptr::from_ref(table.get(0).unwrap()).addr();
        let pages = table.group() * size_of::<Node>() / mapping::system_page_size();
        let file = std::fs::File::open("/proc/self/pagemap").unwrap();
        let first = start / mapping::system_page_size();
        let present = |page: &usize| {
            let mut entry = [0; 8];
            file.read_exact_at(&mut entry, (first + page) as u64 * 8).unwrap();
            u64::from_le_bytes(entry) >> 63 == 1
        };
        (0..pages).filter(present).count()
    }

    #[test]
    #[cfg(all(target_os = "linux", not(miri)))]
    fn memory_is_backed_by_touch_and_goes_back() {
        let table = Table::new();
        table.make(0).unwrap();
        assert_eq!(resident(&table), 0);
        fill(table.get(0).unwrap(), 1);
        assert_eq!(resident(&table), 1);
        for index in 0..table.group() as u32 {
            fill(table.get(index).unwrap(), 1);
        }
        assert_eq!(
            resident(&table),
            table.group() * size_of::<Node>() / mapping::system_page_size()
        );
        assert!(table.give_back(0));
        assert_eq!(resident(&table), 0);
        // A read does not make the page resident: the system maps its shared page of zeros instead.
        assert!(holds(table.get(5).unwrap(), 0));
    }
}
