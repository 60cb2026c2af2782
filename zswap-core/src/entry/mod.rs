//! The name under which a page is kept.

pub(crate) mod index;
pub(crate) mod lock;
pub(crate) mod word;

use core::fmt;

/// The number of bits of a swap entry's offset.
pub(crate) const OFFSET_BITS: u32 = 56;

/// The name of a page: an area (`swap_type`, 0 to 255) and an offset in that area, counted in pages and below
/// 2^56.
///
/// As in the kernel, the caller chooses both. The store takes the least memory if the offsets in use are
/// close together. `Copy`, and ordered by area and then by offset.
///
/// ```
/// use zswap_core::SwapEntry;
/// let entry = SwapEntry::new(0, 42)?;
/// assert_eq!((entry.swap_type(), entry.offset()), (0, 42));
/// assert!(SwapEntry::new(0, 1 << 56).is_err());
/// # Ok::<(), zswap_core::EntryError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SwapEntry(u64);

/// The offset does not fit in a swap entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("offset {offset} is out of range: swap entries have offsets below 2^56")]
pub struct EntryError {
    /// The rejected offset, in pages.
    pub offset: u64,
}

impl SwapEntry {
    /// Makes the entry for offset `offset` in area `swap_type`.
    ///
    /// # Errors
    /// [`EntryError`] if `offset` is 2^56 or more.
    pub const fn new(swap_type: u8, offset: u64) -> Result<Self, EntryError> {
        if offset >> OFFSET_BITS != 0 {
            return Err(EntryError { offset });
        }
        Ok(SwapEntry((swap_type as u64) << OFFSET_BITS | offset))
    }

    /// Returns the area.
    pub const fn swap_type(self) -> u8 {
        (self.0 >> OFFSET_BITS) as u8
    }

    /// Returns the offset in pages.
    pub const fn offset(self) -> u64 {
        self.0 & ((1 << OFFSET_BITS) - 1)
    }

    /// Returns the index's key for this entry: the area in the upper 8 bits, and the offset.
    pub(crate) const fn key(self) -> u64 {
        self.0
    }

    pub(crate) const fn from_key(key: u64) -> Self {
        SwapEntry(key)
    }
}

impl fmt::Debug for SwapEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SwapEntry({}, {})", self.swap_type(), self.offset())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn area_and_offset_round_trip_and_order() {
        let mut last = None;
        for swap_type in [0u8, 1, 17, 255] {
            for offset in [0, 1, 31, 32, (1 << 40) + 3, (1 << OFFSET_BITS) - 1] {
                let entry = SwapEntry::new(swap_type, offset).unwrap();
                assert_eq!((entry.swap_type(), entry.offset()), (swap_type, offset));
                assert_eq!(SwapEntry::from_key(entry.key()), entry);
                assert!(last < Some(entry));
                last = Some(entry);
            }
        }
        assert_eq!(SwapEntry::new(3, 1 << 56), Err(EntryError { offset: 1 << 56 }));
        assert!(SwapEntry::new(3, u64::MAX).is_err());
        assert_eq!(format!("{:?}", SwapEntry::new(3, 7).unwrap()), "SwapEntry(3, 7)");
    }
}
