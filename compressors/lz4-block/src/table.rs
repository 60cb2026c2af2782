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

    /// A table in memory that the caller has for other uses, too; `None` if it is not aligned to 64 bytes or
    /// shorter than a table. What it holds does not matter, and is lost.
    #[must_use]
    pub fn in_memory(memory: &mut [u8]) -> Option<&mut Self> {
        // SAFETY: a table is an array of integers without padding: any bytes are one.
        match unsafe { memory.align_to_mut() } {
            ([], [table, ..], _) => Some(table),
            _ => None,
        }
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

#[cfg(test)]
mod tests {
    use super::Table;

    #[repr(align(64))]
    struct Memory([u8; size_of::<Table>() + 64]);

    #[test]
    fn a_table_wants_aligned_memory_of_its_size() {
        let mut memory = Memory([0xA5; size_of::<Table>() + 64]);
        assert!(Table::in_memory(&mut memory.0).is_some());
        assert!(Table::in_memory(&mut memory.0[1..]).is_none());
        assert!(Table::in_memory(&mut memory.0[..size_of::<Table>() - 1]).is_none());
        assert!(Table::in_memory(&mut memory.0[64..]).is_some());
        assert!(Table::in_memory(&mut []).is_none());
    }

    #[test]
    fn five_bytes_count_and_no_more() {
        let mut table = Table::new();
        assert_eq!(table.swap(0x11_2233_4455, 7), 0);
        assert_eq!(table.swap(0x9988_7711_2233_4455, 8), 7);
        table.clear();
        assert_eq!(table.swap(0x11_2233_4455, 9), 0);
    }

    #[test]
    fn words_of_pages_spread_over_the_slots() {
        // Pointers into one region, 16 bytes apart, as many as a quarter of the slots.
        let mut table = Table::new();
        let clashes = (1..1024u16)
            .filter(|&n| table.swap(0x7f12_3456_0000 + 16 * u64::from(n), n) != 0)
            .count();
        assert!(clashes < 256, "{clashes}");
    }
}
