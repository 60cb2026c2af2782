//! Remembers which compressors did not make a page smaller, so that recompression does not try them again.
//!
//! The bit `tried` in an entry's word says that at least one compressor did not make the page smaller. The
//! notes here say which compressors: for each entry's key, they have a bit for each of at most eight
//! compressors. The bit `tried` is cleared when the page is replaced or moved. The notes of a key count only
//! while `tried` is set, so stale notes do no harm. If there is no memory for a note, the compressor is tried
//! on the page again.
//!
//! Lock: a mutex, which is held for a look-up or a change. No other lock is taken under it. The map grows only
//! while the thread holds no entry lock.

use std::collections::HashMap;

use zpool_base::lockdep::{self, Rank};

use crate::sync::Mutex;

/// The most compressors that have a bit. When another compressor comes, all notes are dropped.
const CODECS: usize = 8;
/// The most pages with notes. When another page is to be noted, all notes are dropped.
const PAGES: usize = 1 << 20;

#[derive(Debug, Default)]
struct Notes {
    codecs: Vec<String>,
    /// For each entry's key, the bits of the codecs that did not make its page smaller.
    of: HashMap<u64, u8>,
}

/// The bit of a compressor; 0 if there was no memory for the compressor's name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Codec(u8);

#[derive(Debug, Default)]
pub(crate) struct Tried(Mutex<Notes>);

impl Tried {
    fn with<T>(&self, change: impl FnOnce(&mut Notes) -> T) -> T {
        let _held = lockdep::acquire(Rank::Leaf);
        change(&mut self.0.lock())
    }

    /// Returns the bit of a compressor, given the compressor's name. Gives it a bit if it has none. If all
    /// bits are taken, drops all notes first.
    pub(crate) fn codec(&self, text: &str) -> Codec {
        self.with(|notes| {
            if let Some(at) = notes.codecs.iter().position(|codec| codec == text) {
                return Codec(1 << at);
            }
            if notes.codecs.len() == CODECS {
                *notes = Notes::default();
            }
            let mut name = String::new();
            if name.try_reserve_exact(text.len()).is_err() || notes.codecs.try_reserve(1).is_err() {
                // Without a bit, nothing is noted for this compressor.
                return Codec(0);
            }
            name.push_str(text);
            notes.codecs.push(name);
            Codec(1 << (notes.codecs.len() - 1))
        })
    }

    /// Makes room for another note. Drops the notes of all pages if there are too many. The caller holds no
    /// entry lock.
    pub(crate) fn reserve(&self) {
        self.with(|notes| {
            if notes.of.len() >= PAGES {
                notes.of = HashMap::new();
            }
            // If there is no memory, nothing is noted, and the compressor is tried on the page again.
            let _ = notes.of.try_reserve(1);
        });
    }

    /// Notes that a codec did not make a key's page smaller. `first` says that this is the first codec noted
    /// for the page, so older notes of the key are stale. The caller holds the entry's lock, and sets the bit
    /// `tried` of the entry's word before it unlocks.
    pub(crate) fn note(&self, key: u64, codec: Codec, first: bool) {
        self.with(|notes| {
            if let Some(of) = notes.of.get_mut(&key) {
                *of = if first { codec.0 } else { *of | codec.0 };
            } else if notes.of.len() < notes.of.capacity() {
                notes.of.insert(key, codec.0);
            }
        });
    }

    /// Returns whether a codec was noted for a key's page. The caller holds the entry's lock and has found
    /// the bit `tried` of the entry's word set.
    pub(crate) fn was(&self, key: u64, codec: Codec) -> bool {
        self.with(|notes| notes.of.get(&key).is_some_and(|of| of & codec.0 != 0))
    }

    /// Returns the heap bytes of the notes' table.
    pub(crate) fn memory_bytes(&self) -> usize {
        // The table's number of places is a power of two. At most 7 of 8 places are used, and each has a control
        // byte.
        let bytes = |capacity: usize| {
            (capacity * 8).div_ceil(7).next_power_of_two() * (size_of::<(u64, u8)>() + 1)
        };
        self.with(|notes| if notes.of.capacity() == 0 { 0 } else { bytes(notes.of.capacity()) })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn each_codec_is_remembered_until_the_page_is_another() {
        let tried = Tried::default();
        let (one, two) = (tried.codec("zstd:level=3"), tried.codec("lz4hc"));
        assert_eq!(tried.codec("zstd:level=3"), one);
        for key in [7, 8] {
            tried.reserve();
            tried.note(key, one, true);
        }
        assert!(tried.was(7, one) && !tried.was(7, two) && !tried.was(9, one));
        tried.note(7, two, false);
        assert!(tried.was(7, one) && tried.was(7, two));
        tried.note(7, two, true);
        assert!(!tried.was(7, one) && tried.was(7, two) && tried.was(8, one));
        assert!(tried.memory_bytes() >= 2 * 9);
    }

    #[test]
    fn more_codecs_than_are_told_apart_drop_all_notes() {
        let tried = Tried::default();
        let first = tried.codec("0");
        tried.reserve();
        tried.note(1, first, true);
        for n in 1..CODECS {
            tried.codec(&n.to_string());
        }
        assert!(tried.was(1, first));
        let ninth = tried.codec("8");
        assert!(!tried.was(1, ninth));
    }
}
