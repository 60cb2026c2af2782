//! Memory for segments: those that are being filled, and the one that is being cleaned.

use core::fmt;

use super::address::Address;
use super::format::most_objects;

/// The most segments whose objects go into one.
pub(super) const MOST_VICTIMS: usize = 64;

/// An object of a draft.
#[derive(Clone, Copy, Debug)]
pub(super) struct Item {
    pub(super) key: u64,
    pub(super) offset: u32,
    pub(super) len: u32,
    pub(super) codec: u8,
}

/// The memory of a draft: the bytes of a segment, and the list of its objects.
#[derive(Default)]
pub(super) struct Buffer {
    pub(super) bytes: Vec<u8>,
    pub(super) items: Vec<Item>,
}

impl Buffer {
    /// Allocates a buffer for segments of `segment_bytes`. Returns `None` if there is no memory.
    pub(super) fn new(segment_bytes: usize) -> Option<Self> {
        let (mut bytes, mut items) = (Vec::new(), Vec::new());
        bytes.try_reserve_exact(segment_bytes).ok()?;
        items.try_reserve_exact(most_objects(segment_bytes)).ok()?;
        bytes.resize(segment_bytes, 0);
        Some(Buffer { bytes, items })
    }

    /// Returns the bytes of a buffer.
    pub(super) fn bytes_for(segment_bytes: usize) -> usize {
        segment_bytes + most_objects(segment_bytes) * size_of::<Item>()
    }
}

/// Does not show the bytes, which are what pages hold.
impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer").field("items", &self.items.len()).finish_non_exhaustive()
    }
}

/// The memory of cleaning, allocated when the device is attached.
pub(super) struct CleaningMemory {
    /// The bytes of the segment that is being read.
    pub(super) bytes: Vec<u8>,
    /// The key and the old address of each object in the draft.
    pub(super) moved: Vec<(u64, Address)>,
    /// The segments that are being cleaned. Each is pinned and on no list.
    pub(super) victims: Vec<u32>,
}

impl CleaningMemory {
    pub(super) fn new(segment_bytes: usize, objects: usize) -> Option<Self> {
        let mut memory =
            CleaningMemory { bytes: Vec::new(), moved: Vec::new(), victims: Vec::new() };
        memory.bytes.try_reserve_exact(segment_bytes).ok()?;
        memory.moved.try_reserve_exact(objects).ok()?;
        memory.victims.try_reserve_exact(MOST_VICTIMS).ok()?;
        memory.bytes.resize(segment_bytes, 0);
        Some(memory)
    }

    /// Returns the bytes of the memory for cleaning.
    pub(super) fn bytes_for(segment_bytes: usize, objects: usize) -> usize {
        segment_bytes + objects * size_of::<(u64, Address)>() + MOST_VICTIMS * size_of::<u32>()
    }
}

/// Does not show the bytes, which are what pages hold.
impl fmt::Debug for CleaningMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CleaningMemory").field("victims", &self.victims).finish_non_exhaustive()
    }
}
