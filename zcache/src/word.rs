//! The word of an entry: where its value is, and what it was compressed with.
//!
//! | bits | |
//! |---|---|
//! | 0 to 51 | the handle of an object without its tag, or the place of a long value in its shard's table |
//! | 52 to 55 | the number of the dictionary that the value was compressed with; 0: none |
//! | 56 | set for a long value |

use zpool_api::{BackendBits, Handle, PoolTag};

const LONG: u64 = 1 << 56;
const CODEC_SHIFT: u32 = 52;

/// The number of a dictionary: 1 to 15, or 0 for none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct CodecNumber(u8);

impl CodecNumber {
    /// No dictionary.
    pub(crate) const PLAIN: Self = CodecNumber(0);

    /// How many numbers there are, with that of no dictionary.
    pub(crate) const COUNT: usize = 16;

    /// Returns the number of the place `index` in a table of [`CodecNumber::COUNT`] places.
    pub(crate) fn at(index: usize) -> Self {
        assert!(index < Self::COUNT, "a table of dictionaries has {} places", Self::COUNT);
        CodecNumber(index as u8)
    }

    pub(crate) fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// What an entry holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Word {
    /// An object of the pool.
    Object { handle: Handle, codec: CodecNumber },
    /// A long value: a place in its shard's table.
    Long(u32),
}

impl Word {
    pub(crate) fn to_bits(self) -> u64 {
        match self {
            Word::Object { handle, codec } => {
                handle.backend_bits().get() | u64::from(codec.0) << CODEC_SHIFT
            }
            Word::Long(place) => u64::from(place) | LONG,
        }
    }

    /// Reads a word that [`Word::to_bits`] made of an object in the pool with the tag `tag`, or of a long value.
    pub(crate) fn from_bits(bits: u64, tag: PoolTag) -> Self {
        if bits & LONG != 0 {
            return Word::Long(bits as u32);
        }
        let handle = Handle::new(tag, BackendBits::truncate(bits));
        Word::Object { handle, codec: CodecNumber((bits >> CODEC_SHIFT) as u8 & 0xf) }
    }
}

#[cfg(test)]
mod tests {
    use super::{CodecNumber, Word};
    use zpool_api::{BackendBits, Handle, PoolTag};

    #[test]
    fn words_come_back() {
        let tag = PoolTag::next();
        for bits in [1, 0x5555, BackendBits::truncate(u64::MAX).get()] {
            let handle = Handle::new(tag, BackendBits::truncate(bits));
            for codec in (0..CodecNumber::COUNT).map(CodecNumber::at) {
                let word = Word::Object { handle, codec };
                assert_eq!(Word::from_bits(word.to_bits(), tag), word);
            }
        }
        for place in [0, u32::MAX] {
            assert_eq!(Word::from_bits(Word::Long(place).to_bits(), tag), Word::Long(place));
        }
    }
}
