//! Same-filled pages: pages that repeat one 8-byte pattern, kept without pool memory.
//!
//! An entry has 52 bits for the pattern. The top two say how the pattern is packed into the other 50:
//!
//! | form | low 50 bits |
//! |---|---|
//! | 0 | the pattern, if it is below 2^50 |
//! | 1 | 4 bytes, if the pattern repeats them |
//! | 2 | a place in the side table, for all other patterns |
//!
//! The side table has a leaf lock, which guards the set of free places. A place in use belongs to one entry, with a
//! word that contains the place's number. The place is read under that entry's lock. The thread that takes the
//! word out of the entry frees the place.

use zpool_base::lockdep::{self, Rank};
use zpool_base::zeroed::ZeroedTable;

use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, Ordering};
use zpool_base::numbers::{Numbers, group};

const FORM_SHIFT: u32 = 50;
const LOW_MASK: u64 = (1 << FORM_SHIFT) - 1;
const TWICE: u64 = 1;
const TABLE: u64 = 2;
const WORD: usize = size_of::<u64>();
/// The side table's memory is released in groups of this many patterns, or of more if the system's pages are larger
/// than 4096 bytes.
const GROUP: usize = group(512);

/// Returns the 8-byte word that the page repeats, or `None` if it is not same-filled. A page here is any slice whose
/// length is a multiple of 8 bytes and not 0; for other slices the result is `None`.
///
/// ```
/// use zpage::{PAGE_SIZE, same_filled};
///
/// let mut page = [0xab; PAGE_SIZE];
/// assert_eq!(same_filled::pattern(&page), Some(0xabab_abab_abab_abab));
/// page[100] = 0;
/// assert_eq!(same_filled::pattern(&page), None);
/// ```
#[inline]
pub fn pattern(page: &[u8]) -> Option<u64> {
    // Most pages fail the first comparison, or the second after a few words. A page of equal words equals
    // itself shifted by one word, which `memcmp` checks fastest.
    let (first, last) = (page.first_chunk::<WORD>()?, page.last_chunk::<WORD>()?);
    if first != last || page[WORD..] != page[..page.len() - WORD] || page.len() % WORD != 0 {
        return None;
    }
    Some(u64::from_ne_bytes(*first))
}

/// Fills the page with the pattern. A rest of less than 8 bytes gets the first bytes of the pattern.
///
/// ```
/// use zpage::{PAGE_SIZE, same_filled};
///
/// let mut page = [0; PAGE_SIZE];
/// same_filled::fill(&mut page, 0x0123_4567_89ab_cdef);
/// assert_eq!(same_filled::pattern(&page), Some(0x0123_4567_89ab_cdef));
/// ```
#[inline]
pub fn fill(page: &mut [u8], pattern: u64) {
    let bytes = pattern.to_ne_bytes();
    if bytes.iter().all(|b| *b == bytes[0]) {
        page.fill(bytes[0]);
    } else {
        let mut words = page.chunks_exact_mut(WORD);
        for word in &mut words {
            word.copy_from_slice(&bytes);
        }
        let rest = words.into_remainder();
        rest.copy_from_slice(&bytes[..rest.len()]);
    }
}

/// Packs patterns into the 52 bits of an entry, with a side table for those that do not fit. `Send` and
/// `Sync`.
///
/// ```
/// use zpage::same_filled::Patterns;
///
/// let patterns = Patterns::new();
/// let packed = patterns.pack(0x0123_4567_89ab_cdef).expect("there is memory");
/// assert!(packed < 1 << 52);
/// assert_eq!(patterns.unpack(packed), 0x0123_4567_89ab_cdef);
/// patterns.release(packed);
/// ```
#[derive(Debug)]
pub struct Patterns {
    table: ZeroedTable<AtomicU64, GROUP>,
    /// The set of free places of `table`. Its mutex is a leaf lock.
    places: Mutex<Numbers>,
}

impl Default for Patterns {
    fn default() -> Self {
        Self::new()
    }
}

impl Patterns {
    /// Makes an empty side table.
    pub fn new() -> Self {
        let table = ZeroedTable::new();
        let places = Numbers::new(table.group(), size_of::<u64>(), u32::MAX as usize);
        Patterns { table, places: Mutex::new(places) }
    }

    /// Packs a pattern into 52 bits. Returns `None` if the pattern needs a place in the side table, but no
    /// place is free or there is no memory for one.
    pub fn pack(&self, pattern: u64) -> Option<u64> {
        if pattern <= LOW_MASK {
            return Some(pattern);
        }
        if pattern >> 32 == pattern & 0xffff_ffff {
            return Some(TWICE << FORM_SHIFT | pattern >> 32);
        }
        let place = self.take_place()?;
        // Relaxed: the place is read only under the lock of the entry that will name it.
        self.table.get(place)?.store(pattern, Ordering::Relaxed);
        Some(TABLE << FORM_SHIFT | u64::from(place))
    }

    /// Returns the pattern that [`pack`](Self::pack) packed. Call it under the lock of the entry that holds
    /// `packed`.
    pub fn unpack(&self, packed: u64) -> u64 {
        Self::whole(packed).unwrap_or_else(|| {
            let place = self.table.get((packed & LOW_MASK) as u32);
            // Relaxed: the pattern was stored before the entry was published under its lock.
            place.map_or(0, |place| place.load(Ordering::Relaxed))
        })
    }

    /// Returns the pattern if `packed` contains it, and `None` if it is in the side table. Needs no lock.
    pub fn whole(packed: u64) -> Option<u64> {
        let low = packed & LOW_MASK;
        match packed >> FORM_SHIFT {
            TWICE => Some(low << 32 | low),
            TABLE => None,
            _ => Some(low),
        }
    }

    fn with<T>(&self, change: impl FnOnce(&mut Numbers) -> T) -> T {
        let _held = lockdep::acquire(Rank::Leaf);
        change(&mut self.places.lock())
    }

    /// Frees the place in the side table that `packed` names, if it names one. Call this once, when no entry
    /// holds `packed` any more. May block, because unneeded memory of the side table is returned to the system.
    pub fn release(&self, packed: u64) {
        if packed >> FORM_SHIFT != TABLE {
            return;
        }
        let leaving = self.with(|places| {
            places.free((packed & LOW_MASK) as u32);
            places.next_leaving()
        });
        if let Some(group) = leaving {
            let gone = self.table.give_back(group);
            self.with(|places| places.has_left(group, gone));
        }
    }

    fn take_place(&self) -> Option<u32> {
        let place = self.with(|places| {
            let place = places.lowest().ok()?;
            places.take(place);
            Some(place)
        })?;
        if self.table.make(place).is_err() {
            self.with(|places| places.free(place));
            return None;
        }
        Some(place)
    }

    /// Returns the bytes of memory that the side table uses.
    pub fn memory_bytes(&self) -> usize {
        self.with(|places| places.memory_bytes())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::PAGE_SIZE;
    use zpool_base::sync::test_rng::Rng;

    #[test]
    fn only_a_page_of_one_word_is_same_filled() {
        for value in [0u64, 0x2020_2020_2020_2020, 0x1234_5678_9abc_def0, u64::MAX] {
            let mut page = [0xEE; PAGE_SIZE];
            fill(&mut page, value);
            assert!(page.chunks_exact(8).all(|w| w == value.to_ne_bytes()));
            assert_eq!(pattern(&page), Some(value));
            for at in [0, 7, 8, 2048, 4087, 4095] {
                page[at] ^= 1;
                assert_eq!(pattern(&page), None, "byte {at} differs");
                page[at] ^= 1;
            }
        }
        let mut odd = [0; PAGE_SIZE];
        for (i, byte) in odd.iter_mut().enumerate() {
            *byte = (i % 16) as u8;
        }
        assert_eq!(pattern(&odd), None, "sixteen bytes repeated are not one word");
        for len in [0, 4, 12, 20] {
            assert_eq!(pattern(&odd[..len]), None, "{len} bytes are no page");
        }
        fill(&mut odd[..20], 0x0706_0504_0302_0100_u64.to_le());
        assert_eq!(odd[14..22], [6, 7, 0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn patterns_round_trip_and_places_are_reused() {
        let patterns = Patterns::new();
        let mut rng = Rng::new(4);
        for round in 0..if cfg!(miri) { 50 } else { 500 } {
            let value = match round % 5 {
                0 => rng.next(),
                1 => u64::from(rng.next() as u32) * 0x1_0000_0001,
                2 => (1 << FORM_SHIFT) - 1,
                3 => 1 << FORM_SHIFT,
                _ => rng.next() >> 20,
            };
            let packed = patterns.pack(value).unwrap();
            assert!(packed < 1 << 52);
            assert_eq!(patterns.unpack(packed), value);
            patterns.release(packed);
        }
        assert_eq!(patterns.with(|places| (places.used(), places.touched())), (0, 1));
        let a = patterns.pack(u64::MAX - 1).unwrap();
        let b = patterns.pack(u64::MAX - 2).unwrap();
        assert_eq!((patterns.unpack(a), patterns.unpack(b)), (u64::MAX - 1, u64::MAX - 2));
        assert!(patterns.memory_bytes() >= 16);
    }

    #[test]
    fn memory_of_patterns_that_went_goes_back() {
        let patterns = Patterns::new();
        let count = if cfg!(miri) { 100 } else { 20_000u64 };
        let packed: Vec<u64> = (0..count).map(|n| patterns.pack(u64::MAX - n).unwrap()).collect();
        let most = patterns.memory_bytes();
        assert!(cfg!(miri) || most as u64 <= count * 9, "{most} bytes for {count}");
        (0..count).for_each(|n| assert_eq!(patterns.unpack(packed[n as usize]), u64::MAX - n));
        packed.iter().rev().for_each(|packed| patterns.release(*packed));
        assert!(patterns.with(|places| places.touched()) <= patterns.table.group());
        let again = patterns.pack(u64::MAX - 7).unwrap();
        assert_eq!(patterns.unpack(again), u64::MAX - 7);
    }
}
