//! Remembers which compressors did not make a page smaller, so that recompression does not try them again.
//!
//! An entry's word has a bit for "some compressor was tried in vain since the page was stored"; the notes
//! here say by key which ones, of at most eight. The bit goes with the word when the page is replaced or
//! moved, and the notes of a key count only while the bit is set, so they are never stale. A page that
//! could not be noted, for lack of memory, is tried again.
//!
//! Lock: a mutex, a leaf, held for a look-up. Its memory grows with no entry lock held.

use std::collections::HashMap;

use zpool_base::lockdep::{self, Rank};

use crate::sync::Mutex;

/// Compressors that have a bit; one more drops all notes.
const CODECS: usize = 8;
/// The most pages noted; one more drops all notes.
const PAGES: usize = 1 << 20;

#[derive(Debug, Default)]
struct Notes {
    codecs: Vec<String>,
    /// A bit for each codec, by the entry's key.
    of: HashMap<u64, u8>,
}

/// The bit of a compressor; 0 if there was no memory to note it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Codec(u8);

#[derive(Debug, Default)]
pub(crate) struct Tried(Mutex<Notes>);

impl Tried {
    fn with<T>(&self, change: impl FnOnce(&mut Notes) -> T) -> T {
        let _held = lockdep::acquire(Rank::Leaf);
        change(&mut self.0.lock())
    }

    /// The bit of a compressor, by the text that it was built from.
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
                // Nothing will be noted for it.
                return Codec(0);
            }
            name.push_str(text);
            notes.codecs.push(name);
            Codec(1 << (notes.codecs.len() - 1))
        })
    }

    /// Makes room for another note. Called with no entry lock held.
    pub(crate) fn reserve(&self) {
        self.with(|notes| {
            if notes.of.len() >= PAGES {
                notes.of = HashMap::new();
            }
            // If that fails the page is tried again.
            let _ = notes.of.try_reserve(1);
        });
    }

    /// Notes that a codec did not make the page of a key smaller; `first` if no codec was noted for it
    /// before. Called under the entry's lock, where the word gets its bit.
    pub(crate) fn note(&self, key: u64, codec: Codec, first: bool) {
        self.with(|notes| {
            if let Some(of) = notes.of.get_mut(&key) {
                *of = if first { codec.0 } else { *of | codec.0 };
            } else if notes.of.len() < notes.of.capacity() {
                notes.of.insert(key, codec.0);
            }
        });
    }

    /// Whether a codec was noted for the page of a key whose word has the bit. Called under the entry's
    /// lock.
    pub(crate) fn was(&self, key: u64, codec: Codec) -> bool {
        self.with(|notes| notes.of.get(&key).is_some_and(|of| of & codec.0 != 0))
    }

    /// Bytes of the notes.
    pub(crate) fn memory_bytes(&self) -> usize {
        // The table has a power of two of places, at most 7 of 8 in use, and a control byte for each.
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
