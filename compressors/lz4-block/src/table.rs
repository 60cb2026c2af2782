//! The table of the search: for every hash of five bytes, the position at which such bytes were seen last.
//!
//! Empty slots say position 0. That needs no test of its own: a position that a slot names is compared
//! with the input before anything else is done with it, and position 0 is as good a candidate as any.
//!
//! Invariant T1: after [`Table::clear`], every slot names 0 or a position that was entered since then.

/// Slots, as a power of two: 8 KiB of them.
const BITS: u32 = 12;

/// 2^40 divided by the golden ratio, made odd: multiples of it spread evenly over five bytes.
const SPREAD: u64 = 0x9E_3779_B97F;

/// The working memory of [`compress`](crate::compress), 8 KiB: one for each thread, lent to every call.
///
/// It holds nothing from call to call; a new one is no different from a used one.
#[derive(Clone)]
#[repr(C, align(64))]
pub struct Table {
    slots: [u16; 1 << BITS],
}

impl Table {
    /// A table.
    #[must_use]
    pub const fn new() -> Self {
        Table { slots: [0; 1 << BITS] }
    }

    /// Forgets all positions.
    pub(crate) fn clear(&mut self) {
        self.slots.fill(0);
    }

    /// Enters `position` for the five lowest bytes of `word` and returns what was there before.
    #[inline(always)]
    pub(crate) fn swap(&mut self, word: u64, position: u16) -> u16 {
        // The three bytes that do not count are shifted out; the product's upper bits depend on all others.
        let hash = (word << 24).wrapping_mul(SPREAD) >> (64 - BITS);
        let slot = &mut self.slots[hash as usize & ((1 << BITS) - 1)];
        core::mem::replace(slot, position)
    }
}

impl Default for Table {
    fn default() -> Self {
        Table::new()
    }
}

impl core::fmt::Debug for Table {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Table").finish_non_exhaustive()
    }
}
