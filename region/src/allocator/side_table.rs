//! A table of records outside of the region that starts as zeros and takes no memory before it is written.

use core::ops::{Index, IndexMut};
use std::io;

use zswap_core::PAGE_SIZE;

/// Values that are valid if all their bytes are zero.
///
/// # Safety
/// A value of zero bytes is valid, and dropping one does nothing.
pub(super) unsafe trait Zeroable: Copy + 'static {}

// SAFETY: integers.
unsafe impl<const N: usize> Zeroable for [u64; N] {}

/// A fixed number of records. Writing one counts the pages of the table that it lies in.
pub(super) struct SideTable<T> {
    memory: imp::Memory<T>,
    /// One bit for each page of the table that was written.
    written: Vec<u64>,
    pages: usize,
}

impl<T: Zeroable> SideTable<T> {
    /// # Errors
    /// The system's error if it has no address space.
    pub(super) fn new(len: usize) -> io::Result<Self> {
        let pages = (len * size_of::<T>()).div_ceil(PAGE_SIZE);
        let memory = imp::Memory::new(len)?;
        let mut written = Vec::new();
        written.try_reserve_exact(pages.div_ceil(64)).map_err(|_| io::ErrorKind::OutOfMemory)?;
        written.resize(pages.div_ceil(64), 0);
        Ok(SideTable { memory, written, pages: 0 })
    }

    /// Returns the bytes of memory that the table takes.
    pub(super) fn bytes(&self) -> usize {
        self.pages * PAGE_SIZE + self.written.len() * size_of::<u64>()
    }

    fn note(&mut self, page: usize) {
        let (word, bit) = (&mut self.written[page / 64], 1 << (page % 64));
        self.pages += usize::from(*word & bit == 0);
        *word |= bit;
    }
}

impl<T: Zeroable> Index<usize> for SideTable<T> {
    type Output = T;
    fn index(&self, index: usize) -> &T {
        &self.memory.get()[index]
    }
}

impl<T: Zeroable> IndexMut<usize> for SideTable<T> {
    fn index_mut(&mut self, index: usize) -> &mut T {
        // A record may lie in two pages.
        self.note(index * size_of::<T>() / PAGE_SIZE);
        self.note(((index + 1) * size_of::<T>() - 1) / PAGE_SIZE);
        &mut self.memory.get_mut()[index]
    }
}

#[cfg(not(miri))]
mod imp {
    use core::marker::PhantomData;
    use core::slice;
    use std::io;

    use super::Zeroable;
    use zpool_base::mapping::Mapping;

    /// A mapping of the table's own. A child after `fork` does not have it.
    pub(super) struct Memory<T> {
        mapping: Mapping,
        len: usize,
        of: PhantomData<T>,
    }

    impl<T: Zeroable> Memory<T> {
        pub(super) fn new(len: usize) -> io::Result<Self> {
            let mapping = Mapping::closed((len * size_of::<T>()).next_multiple_of(4096).max(4096))?
                .opened()?;
            // Otherwise the first write would take 2 MiB.
            mapping.allow_huge_pages(false)?;
            mapping.keep_from_children()?;
            Ok(Memory { mapping, len, of: PhantomData })
        }

        pub(super) fn get(&self) -> &[T] {
            // SAFETY: the mapping has at least `len` records, is aligned to a page, begins as zeros, which are valid
            // records, and lives as long as `self`. This borrow and the one of `get_mut` are the only ways to it.
            unsafe { slice::from_raw_parts(self.mapping.base().as_ptr().cast(), self.len) }
        }

        pub(super) fn get_mut(&mut self) -> &mut [T] {
            // SAFETY: as in `get`, and `self` is borrowed alone.
            unsafe { slice::from_raw_parts_mut(self.mapping.base().as_ptr().cast(), self.len) }
        }
    }
}

/// Miri has no `madvise`: plain memory there.
#[cfg(miri)]
mod imp {
    use std::io;

    use super::Zeroable;

    pub(super) struct Memory<T>(Vec<T>);

    impl<T: Zeroable> Memory<T> {
        pub(super) fn new(len: usize) -> io::Result<Self> {
            // SAFETY: the trait promises that zeros are a value.
            Ok(Memory(vec![unsafe { core::mem::zeroed() }; len]))
        }

        pub(super) fn get(&self) -> &[T] {
            &self.0
        }

        pub(super) fn get_mut(&mut self) -> &mut [T] {
            &mut self.0
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_written_counts() {
        let mut table = SideTable::<[u64; 3]>::new(2000).unwrap();
        let bitmap = table.bytes();
        assert_eq!((table[0], table[1999]), ([0; 3], [0; 3]));
        assert_eq!(table.bytes(), bitmap);
        table[5] = [1, 2, 3];
        table[0][0] = 7;
        assert_eq!(table.bytes(), bitmap + 4096);
        // Bytes 4080 to 4104.
        table[170] = [4; 3];
        assert_eq!(table.bytes(), bitmap + 2 * 4096);
        assert_eq!((table[5], table[0], table[170]), ([1, 2, 3], [7, 0, 0], [4; 3]));
    }
}
