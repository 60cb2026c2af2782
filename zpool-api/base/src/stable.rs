//! A table that only grows. Its elements never move, so that descriptors always stay valid.
//!
//! Any index may be looked up at any time, without a lock. An index at which nothing was pushed gives
//! `None`. So a pool can accept any u64 as a handle. A reader may keep a reference to a descriptor while
//! another thread reuses the descriptor, because its memory always holds a valid `T`.
//!
//! Elements live in buckets of 32, 64, 128, ... elements. So the leading bits of an index give its bucket,
//! and no element is ever copied. A bucket is allocated as a whole, but its elements are touched one by
//! one. So the system backs only the part in use.
//!
//! Locks: `push` takes the table's own mutex, a leaf. Invariant: elements `0..len` are initialised. `push`
//! writes the element and the pointer of its bucket before it stores `len` (Release). So a look-up that
//! loads `len` (Acquire) sees both.

use core::alloc::Layout;
use core::fmt;
use core::marker::PhantomData;
use core::ptr::{NonNull, null_mut};
use std::alloc::{alloc, dealloc};

use crate::lockdep;
use crate::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use crate::sync::{MODEL, Mutex};

const FIRST_BUCKET_BITS: u32 = 5;
/// The number of buckets. They have 2^5, 2^6, ... elements, and together room for more than the 2^32 - 32
/// elements of the largest table. Loom tracks each pointer, so there are fewer under it.
const BUCKETS: usize = if MODEL { 2 } else { 28 };

/// The reason why a table could not add an element or make room for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TableError {
    /// The table has as many elements as its limit allows.
    #[error("the table holds its limit of {limit} elements")]
    Full {
        /// The limit of the table. For a [`ZeroedTable`](crate::zeroed::ZeroedTable), the refused index.
        limit: usize,
    },
    /// The memory for another bucket was refused.
    #[error("no memory for {bytes} more bytes of table; free memory and retry")]
    NoMemory {
        /// Bytes that were refused.
        bytes: usize,
    },
}

/// A table of `T` that only grows and is indexed by `u32`. `Send` and `Sync` if `T` is both.
///
/// ```
/// use zpool_base::stable::StableTable;
///
/// let table: StableTable<String> = StableTable::new();
/// let index = table.push("descriptor".to_owned())?;
/// assert_eq!(table.get(index).map(String::as_str), Some("descriptor"));
/// assert!(table.get(index + 1).is_none());
/// # Ok::<(), zpool_base::stable::TableError>(())
/// ```
pub struct StableTable<T> {
    buckets: [AtomicPtr<T>; BUCKETS],
    /// The number of initialised elements, for look-ups.
    len: AtomicUsize,
    /// The same number, for `push`. The mutex is a leaf lock.
    grow: Mutex<usize>,
    limit: usize,
    owns: PhantomData<T>,
}

// SAFETY: the table owns its elements. They can be reached only as `&T`, and dropping the table drops them.
unsafe impl<T: Send> Send for StableTable<T> {}
// SAFETY: `&StableTable<T>` only gives out `&T`, and takes `T` by value in `push`.
unsafe impl<T: Send + Sync> Sync for StableTable<T> {}

/// Returns the number of the bucket that holds the element at `index`, and the element's offset in that
/// bucket.
fn place(index: usize) -> (usize, usize) {
    let shifted = index + (1 << FIRST_BUCKET_BITS);
    let top = usize::BITS - 1 - shifted.leading_zeros();
    ((top - FIRST_BUCKET_BITS) as usize, shifted - (1 << top))
}

fn bucket_layout<T>(bucket: usize) -> Result<Layout, TableError> {
    let count = 1usize.checked_shl(FIRST_BUCKET_BITS + bucket as u32).unwrap_or(usize::MAX);
    Layout::array::<T>(count)
        .map_err(|_| TableError::NoMemory { bytes: count.saturating_mul(size_of::<T>()) })
}

impl<T> StableTable<T> {
    /// Makes an empty table for up to 2^32 - 32 elements. Allocates nothing yet.
    pub fn new() -> Self {
        Self::with_limit(usize::MAX)
    }

    /// Makes an empty table for up to `limit` elements. Allocates nothing yet.
    ///
    /// # Panics
    /// Fails to compile if `T` is zero-sized.
    pub fn with_limit(limit: usize) -> Self {
        const { assert!(size_of::<T>() > 0) };
        let most = (0..BUCKETS as u32)
            .fold(0usize, |sum, b| sum.saturating_add(1usize << (FIRST_BUCKET_BITS + b).min(31)));
        StableTable {
            buckets: core::array::from_fn(|_| AtomicPtr::new(null_mut())),
            len: AtomicUsize::new(0),
            grow: Mutex::new(0),
            limit: limit.min(most).min(u32::MAX as usize - 31),
            owns: PhantomData,
        }
    }

    /// Returns the number of elements. It never decreases.
    #[inline]
    pub fn len(&self) -> usize {
        // Acquire pairs with the Release in `push`: all elements below the number read are complete.
        self.len.load(Ordering::Acquire)
    }

    /// Whether the table has no elements yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the bytes of all elements pushed so far.
    pub fn memory_bytes(&self) -> usize {
        self.len() * size_of::<T>()
    }

    /// Returns the element at `index`, or `None` if nothing was pushed there yet. Wait-free.
    #[inline]
    pub fn get(&self, index: u32) -> Option<&T> {
        let index = index as usize;
        if index >= self.len() {
            return None;
        }
        let (bucket, offset) = place(index);
        // Relaxed: the pointer was stored before the `len` that `len()` acquired, and it never changes.
        let base = NonNull::new(self.buckets.get(bucket)?.load(Ordering::Relaxed))?;
        // SAFETY: `place` returns an offset that is inside the bucket.
        let element = unsafe { base.add(offset) };
        // SAFETY: elements below `len` are initialised and never move. They are shared only as `&T` until
        // the table is dropped (module invariant).
        Some(unsafe { element.as_ref() })
    }

    /// Adds an element and returns its index. May call the allocator, under the table's own mutex.
    ///
    /// # Errors
    /// [`TableError::Full`] if the table has as many elements as its limit allows, [`TableError::NoMemory`]
    /// if the allocator refuses a bucket.
    pub fn push(&self, value: T) -> Result<u32, TableError> {
        let _held = lockdep::acquire(lockdep::Rank::Leaf);
        self.push_locked(&mut self.grow.lock(), value)
    }

    /// Adds `count` elements with consecutive indices and returns the first index. May call the allocator
    /// once per bucket, under the table's own mutex.
    ///
    /// # Errors
    /// Those of [`push`](Self::push). Elements that were added before the error stay in the table, but the
    /// caller does not learn their indices. So add only a few at a time.
    ///
    /// ```
    /// use zpool_base::stable::StableTable;
    ///
    /// let table = StableTable::new();
    /// let first = table.extend(3, || 0u64)?;
    /// assert!(table.get(first + 2).is_some());
    /// # Ok::<(), zpool_base::stable::TableError>(())
    /// ```
    pub fn extend(&self, count: usize, mut value: impl FnMut() -> T) -> Result<u32, TableError> {
        let _held = lockdep::acquire(lockdep::Rank::Leaf);
        let mut grow = self.grow.lock();
        let first = *grow;
        for _ in 0..count {
            self.push_locked(&mut grow, value())?;
        }
        Ok(first as u32)
    }

    fn push_locked(&self, grow: &mut usize, value: T) -> Result<u32, TableError> {
        let len = *grow;
        if len >= self.limit {
            return Err(TableError::Full { limit: self.limit });
        }
        let (bucket, offset) = place(len);
        // Relaxed: the pointer is written only under `grow`, and this thread holds that lock.
        let mut base = self.buckets[bucket].load(Ordering::Relaxed);
        if base.is_null() {
            let layout = bucket_layout::<T>(bucket)?;
            // SAFETY: the layout's size is not 0: `T` has a size and the bucket has elements.
            base = unsafe { alloc(layout) }.cast::<T>();
            if base.is_null() {
                return Err(TableError::NoMemory { bytes: layout.size() });
            }
            // Relaxed: the Release store of `len` below publishes the pointer.
            self.buckets[bucket].store(base, Ordering::Relaxed);
        }
        // SAFETY: `place` returns an offset that is inside the bucket.
        let slot = unsafe { base.add(offset) };
        // SAFETY: the slot is the first one past `len`. It is uninitialised, and nobody else accesses it
        // while `grow` is held.
        unsafe { slot.write(value) };
        // Release pairs with the Acquire in `len()`.
        self.len.store(len + 1, Ordering::Release);
        *grow = len + 1;
        Ok(len as u32)
    }

    /// Returns all elements, in the order of their indices.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        (0..self.len() as u32).filter_map(|i| self.get(i))
    }
}

impl<T> Default for StableTable<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Drop for StableTable<T> {
    fn drop(&mut self) {
        // Relaxed, here and below: `&mut self` excludes every other access.
        let mut left = self.len.load(Ordering::Relaxed);
        for (bucket, base) in self.buckets.iter().enumerate() {
            let base = base.load(Ordering::Relaxed);
            let Ok(layout) = bucket_layout::<T>(bucket) else { continue };
            if base.is_null() {
                continue;
            }
            let count = left.min(1 << (FIRST_BUCKET_BITS + bucket as u32));
            left -= count;
            let elements = core::ptr::slice_from_raw_parts_mut(base, count);
            // SAFETY: the first `count` elements are initialised (module invariant), and they are dropped
            // only here.
            unsafe { core::ptr::drop_in_place(elements) };
            // SAFETY: `push_locked` allocated the memory with the same layout.
            unsafe { dealloc(base.cast(), layout) };
        }
    }
}

impl<T> fmt::Debug for StableTable<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StableTable").field("len", &self.len()).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::Arc;

    const _: fn() = || {
        fn both<T: Send + Sync>() {}
        both::<StableTable<u64>>();
        both::<TableError>();
    };

    #[test]
    fn places_are_dense_and_in_order() {
        let mut expect = (0, 0);
        for index in 0..5000 {
            assert_eq!(place(index), expect, "index {index}");
            expect.1 += 1;
            if expect.1 == 32 << expect.0 {
                expect = (expect.0 + 1, 0);
            }
        }
        let (bucket, offset) = place(u32::MAX as usize - 32);
        assert!(bucket < BUCKETS && offset < 1 << (FIRST_BUCKET_BITS + bucket as u32));
    }

    #[test]
    fn elements_stay_where_they_are_and_are_dropped_once() {
        let token = Arc::new(());
        let table = StableTable::new();
        assert!(table.get(0).is_none());
        let first: *const Arc<()> = {
            table.push(token.clone()).unwrap();
            table.get(0).unwrap()
        };
        for i in 1..1000 {
            assert_eq!(table.push(token.clone()), Ok(i));
        }
        assert!(std::ptr::eq(first, table.get(0).unwrap()));
        assert!(table.get(1000).is_none() && table.get(u32::MAX).is_none());
        assert_eq!(table.iter().count(), 1000);
        assert_eq!(Arc::strong_count(&token), 1001);
        drop(table);
        assert_eq!(Arc::strong_count(&token), 1);
    }

    #[test]
    fn an_extension_is_in_one_piece() {
        let table = StableTable::with_limit(100);
        table.push(7).unwrap();
        let mut next = 100;
        let mut count = || {
            next += 1;
            next
        };
        // The extension crosses from one bucket into the next.
        assert_eq!(table.extend(40, &mut count), Ok(1));
        assert_eq!(table.extend(3, &mut count), Ok(41));
        let seen: Vec<i32> = table.iter().copied().collect();
        assert_eq!(seen, [7].into_iter().chain(101..144).collect::<Vec<_>>());
        assert_eq!(table.extend(57, &mut count), Err(TableError::Full { limit: 100 }));
    }

    #[test]
    fn the_limit_holds() {
        let table = StableTable::with_limit(3);
        for i in 0..3 {
            assert_eq!(table.push(i), Ok(i));
        }
        assert_eq!(table.push(3), Err(TableError::Full { limit: 3 }));
        assert_eq!(table.len(), 3);
    }

    #[test]
    fn what_it_holds_is_counted() {
        let table = StableTable::new();
        assert!(table.is_empty() && table.memory_bytes() == 0);
        for i in 0..40u64 {
            table.push(i).unwrap();
        }
        assert!(!table.is_empty());
        assert_eq!((table.len(), table.memory_bytes()), (40, 320));
        assert_eq!(format!("{table:?}"), "StableTable { len: 40, .. }");
    }

    #[test]
    fn without_a_limit_there_are_as_many_as_buckets_hold() {
        assert_eq!(StableTable::<u8>::new().limit as u64, (1 << 32) - 32);
        assert_eq!(StableTable::<u8>::with_limit(33).limit, 33);
    }

    #[test]
    fn a_bucket_too_large_for_an_allocation_is_refused() {
        const ELEMENT: usize = isize::MAX as usize / 64 + 1;
        let layout = bucket_layout::<[u8; ELEMENT]>(0).unwrap();
        assert_eq!(layout.size(), 32 * ELEMENT);
        let refused = TableError::NoMemory { bytes: 64 * ELEMENT };
        assert_eq!(bucket_layout::<[u8; ELEMENT]>(1), Err(refused));
    }

    #[test]
    fn readers_see_whole_elements_while_it_grows() {
        let table = Arc::new(StableTable::new());
        let n = if cfg!(miri) { 200 } else { 20_000 };
        let writer = {
            let table = table.clone();
            std::thread::spawn(move || {
                for i in 0..n {
                    table.push([i, !i]).unwrap();
                }
            })
        };
        while table.len() < n as usize {
            if let Some(last) = table.len().checked_sub(1) {
                let [a, b] = *table.get(last as u32).unwrap();
                assert_eq!((a, b), (last as u64, !(last as u64)));
            }
        }
        writer.join().unwrap();
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use crate::sync::Watched;
    use loom::sync::Arc;

    /// If the store of `len` in `push` or the load in `len()` were Relaxed, this model would fail: the
    /// reader's access would not be ordered after the write of the element.
    #[test]
    fn loom_get_sees_what_push_published() {
        loom::model(|| {
            let table = Arc::new(StableTable::new());
            let pusher = {
                let table = table.clone();
                loom::thread::spawn(move || {
                    let element = Watched::new();
                    element.write();
                    table.push(element).unwrap();
                })
            };
            if let Some(element) = table.get(0) {
                element.read();
            }
            pusher.join().unwrap();
        });
    }
}
