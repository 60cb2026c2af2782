//! The table of the search. For each hash of five bytes, it has the position where such bytes were last seen.
//!
//! An empty slot holds position 0. It needs no special treatment: 0 is a valid candidate, and the search
//! compares each candidate with the input before it uses it.
//!
//! Invariant T1: after [`Table::clear`], every slot holds 0 or a position that was entered since then.

/// The table has 2^BITS slots, which take 8 KiB.
const BITS: u32 = 12;

/// 2^40 divided by the golden ratio, made odd. Its multiples spread evenly over the numbers of five bytes.
const SPREAD: u64 = 0x9E_3779_B97F;

/// The working memory of [`compress`](crate::compress), 8 KiB. Keep one for each thread and pass it to every call.
///
/// It keeps nothing from one call to the next, so a used table is as good as a new one.
#[derive(Clone)]
#[repr(C, align(64))]
pub struct Table {
    slots: [u16; 1 << BITS],
}

impl Table {
    /// Makes a table.
    #[must_use]
    pub const fn new() -> Self {
        Table { slots: [0; 1 << BITS] }
    }

    /// Returns a table that lies in `memory`, which the caller may also use for other purposes. The table
    /// overwrites what the memory held. Returns `None` if the memory is shorter than a table or not aligned to 64
    /// bytes.
    #[must_use]
    pub fn in_memory(memory: &mut [u8]) -> Option<&mut Self> {
        // SAFETY: a table is an array of integers without padding, so any bytes are a valid table.
        match unsafe { memory.align_to_mut() } {
            ([], [table, ..], _) => Some(table),
            _ => None,
        }
    }

    /// Forgets all positions.
    pub(crate) fn clear(&mut self) {
        self.slots.fill(0);
    }

    /// Enters `position` for the five lowest bytes of `word`. Returns the position that was in the slot before.
    #[inline(always)]
    pub(crate) fn swap(&mut self, word: u64, position: u16) -> u16 {
        // Shifts out the three upper bytes. The upper bits of the product depend on all bits of the other five.
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
        // Pointers into one region, 16 bytes apart. There are four times as many slots as pointers.
        let mut table = Table::new();
        let clashes = (1..1024u16)
            .filter(|&n| table.swap(0x7f12_3456_0000 + 16 * u64::from(n), n) != 0)
            .count();
        assert!(clashes < 256, "{clashes}");
    }
}
