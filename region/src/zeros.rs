//! A fixed number of atomics that are zero at first and take no memory before they are written.

use core::ops::Deref;
use core::slice;
use std::io;
use zpool_base::mapping::Mapping;

use crate::sync::MODEL;
use crate::sync::atomic::AtomicU32;

/// A slice of atomics in a mapping of its own. Under the model checker they are on the heap.
#[derive(Debug)]
pub(crate) struct Zeros {
    mapping: Option<Mapping>,
    heap: Box<[AtomicU32]>,
    len: usize,
}

impl Zeros {
    /// # Errors
    /// The system's error if it has no address space.
    pub(crate) fn new(len: usize) -> io::Result<Zeros> {
        if MODEL {
            let heap = (0..len).map(|_| AtomicU32::new(0)).collect();
            return Ok(Zeros { mapping: None, heap, len });
        }
        let bytes = (len * size_of::<AtomicU32>()).next_multiple_of(4096).max(4096);
        let mapping = Mapping::closed(bytes)?.opened()?;
        // Otherwise the first write would take 2 MiB.
        mapping.allow_huge_pages(false)?;
        mapping.keep_from_children()?;
        Ok(Zeros { mapping: Some(mapping), heap: Box::default(), len })
    }
}

// SAFETY: the mapping's bytes are atomics, and only `Deref` gives them out.
unsafe impl Sync for Zeros {}

impl Deref for Zeros {
    type Target = [AtomicU32];
    fn deref(&self) -> &[AtomicU32] {
        let Some(mapping) = &self.mapping else { return &self.heap };
        // SAFETY: the mapping has at least `len` atomics, is aligned to a page, begins as zeros, which are valid
        // atomics, lives as long as `self`, and is accessed only through this slice.
        unsafe { slice::from_raw_parts(mapping.base().as_ptr().cast(), self.len) }
    }
}
