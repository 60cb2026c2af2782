//! The format, as constants and small types. docs/linewords.md explains them.

/// Words of a line.
pub(crate) const LINE_WORDS: usize = 16;
/// Bytes of a line.
pub(crate) const LINE: usize = 4 * LINE_WORDS;
/// Lines of the smallest unit: what one `u64` of kinds describes.
pub(crate) const BLOCK_LINES: usize = 32;
/// Bytes of the smallest unit; all units are multiples of it.
pub(crate) const BLOCK: usize = BLOCK_LINES * LINE;
/// Bytes of the largest unit with ten bits of index.
pub(crate) const NARROW_MAX: usize = 4096;
/// Bytes of the largest unit.
pub(crate) const WIDE_MAX: usize = 65536;

/// Bytes before the payload: the header and the length of the stream.
pub(crate) const HEAD: usize = 3;

/// The least distance: a line refers to nothing within itself.
pub(crate) const MIN_DISTANCE: usize = LINE_WORDS;

/// Bits of a word's code.
pub(crate) const CODE_BITS: u32 = 3;
/// Bytes of the codes of a line.
pub(crate) const CODES: usize = LINE_WORDS * CODE_BITS as usize / 8;
/// Bytes of a distance.
pub(crate) const DISTANCE: usize = 2;

/// The bits that hold the codes of a line.
pub(crate) const ALL_CODES: u64 = (1 << (8 * CODES)) - 1;
/// The lowest bit of each code.
pub(crate) const CODE_LOW: u64 = 0x2492_4924_9249;
/// The two upper bits of each code, which say how long the payload is.
pub(crate) const CODE_CLASS: u64 = ALL_CODES & !CODE_LOW;

/// What a word is. The numbers are the format's, and their order is the encoder's
/// preference: the greatest that fits is taken.
pub(crate) mod code {
    /// Four bytes: the word.
    pub(crate) const LITERAL: u32 = 0;
    /// Two bytes, the lower half; the upper half is that of the word at the distance.
    pub(crate) const HALF: u32 = 2;
    /// Two bytes: the index of a word, and what to flip in its middle bits.
    pub(crate) const INDEX: u32 = 3;
    /// One byte, the lowest; the others are those of the word at the distance.
    pub(crate) const BYTE: u32 = 4;
    /// One byte: how far before the line an equal word lies.
    pub(crate) const NEAR: u32 = 5;
    /// The word at the distance.
    pub(crate) const SAME: u32 = 6;
    /// Zero.
    pub(crate) const ZERO: u32 = 7;
}

/// Payload bytes of a word, by its code. No word has code 1.
pub(crate) const LENGTH: [u8; 8] = [4, 4, 2, 2, 1, 1, 0, 0];
/// What of four bytes of payload is the word's, by its code.
pub(crate) const FROM_PAYLOAD: [u32; 8] = [!0, 0, 0xFFFF, 0xFFFF, 0xFF, 0xFF, 0, 0];
/// What of the word at the distance makes part of the word, by its code.
pub(crate) const FROM_DISTANCE: [u32; 8] = [0, 0, !0xFFFF, 0, !0xFF, 0, !0, 0];

/// What a line is.
pub(crate) mod kind {
    /// Zeros; no control.
    pub(crate) const ZERO: u64 = 0;
    /// The line at the distance; no control.
    pub(crate) const SAME: u64 = 1;
    /// Codes.
    pub(crate) const CODED: u64 = 2;
    /// A distance, which holds from this line on, and codes.
    pub(crate) const CODED_AT: u64 = 3;
}

/// The codes of a line, by its kind, where the control has none.
pub(crate) const CODES_OF_KIND: [u64; 2] = [ALL_CODES, CODE_CLASS];

const KINDS_LOW: u64 = 0x5555_5555_5555_5555;

/// Bytes of control that 32 kinds ask for.
pub(crate) fn control_len(kinds: u64) -> usize {
    let coded = kinds >> 1 & KINDS_LOW;
    let at = coded & kinds;
    CODES * coded.count_ones() as usize + DISTANCE * at.count_ones() as usize
}

/// The first byte of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Header {
    /// An LZ4 block, of a unit of any length.
    Lz4,
    /// The unit itself.
    Stored,
    /// Lines of words.
    Words(Unit),
}

impl Header {
    const LZ4: u8 = 0;
    const STORED: u8 = 1;
    const WORDS: u8 = 0x40;

    pub(crate) fn byte(self) -> u8 {
        match self {
            Header::Lz4 => Self::LZ4,
            Header::Stored => Self::STORED,
            Header::Words(Unit(blocks)) => Self::WORDS + (blocks - 1),
        }
    }

    pub(crate) fn parse(byte: u8) -> Option<Self> {
        match byte {
            Self::LZ4 => Some(Header::Lz4),
            Self::STORED => Some(Header::Stored),
            _ => {
                let blocks = byte.checked_sub(Self::WORDS)?.checked_add(1)?;
                (usize::from(blocks) <= WIDE_MAX / BLOCK).then_some(Header::Words(Unit(blocks)))
            }
        }
    }
}

/// The length of a unit that has lines of words, in blocks: 1 to 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unit(u8);

impl Unit {
    /// Nothing for a length that is no multiple of 2048, zero, or more than 65536.
    pub(crate) fn of(len: usize) -> Option<Self> {
        if len == 0 || len % BLOCK != 0 || len > WIDE_MAX {
            return None;
        }
        Some(Unit((len / BLOCK) as u8))
    }

    pub(crate) fn blocks(self) -> usize {
        usize::from(self.0)
    }

    /// Bytes.
    pub(crate) fn len(self) -> usize {
        self.blocks() * BLOCK
    }

    /// Whether an index has fourteen bits.
    pub(crate) fn is_wide(self) -> bool {
        self.len() > NARROW_MAX
    }
}

/// What depends on how wide an index is.
pub(crate) trait Width {
    /// Bits of an index. The other bits of its two bytes are flips.
    const INDEX_BITS: u32;
    /// The lowest of the middle bits of a word, those that flips flip.
    const MIDDLE: u32;
    /// Bits of the number of a slot in the encoder's table.
    const SLOT_BITS: u32;
    /// Whether a slot's entry and number have a bit in common.
    const OVERLAP: bool;

    const INDEX_MASK: u32 = (1 << Self::INDEX_BITS) - 1;
    /// The flips among the two bytes.
    const FLIPS: u32 = 0xFFFF & !Self::INDEX_MASK;
    /// A rotated word's middle bits.
    const MIDDLE_MASK: u32 = Self::FLIPS >> Self::INDEX_BITS;
    const SLOTS: usize = 1 << Self::SLOT_BITS;
}

/// Units up to 4096 bytes.
#[derive(Debug)]
pub(crate) struct Narrow;

impl Width for Narrow {
    const INDEX_BITS: u32 = 10;
    const MIDDLE: u32 = 5;
    const SLOT_BITS: u32 = 11;
    const OVERLAP: bool = true;
}

/// Units up to 65536 bytes.
#[derive(Debug)]
pub(crate) struct Wide;

impl Width for Wide {
    const INDEX_BITS: u32 = 14;
    const MIDDLE: u32 = 8;
    const SLOT_BITS: u32 = 14;
    const OVERLAP: bool = false;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_header_is_one_byte() {
        let mut known = 0;
        for byte in 0..=u8::MAX {
            if let Some(header) = Header::parse(byte) {
                assert_eq!(header.byte(), byte);
                known += 1;
            }
        }
        assert_eq!(known, 2 + 32);
        for len in (0..=WIDE_MAX + BLOCK).step_by(if cfg!(miri) { 256 } else { 1 }) {
            match Unit::of(len) {
                Some(unit) => {
                    assert_eq!(unit.len(), len);
                    assert_eq!(
                        Header::parse(Header::Words(unit).byte()),
                        Some(Header::Words(unit))
                    );
                    assert_eq!(unit.is_wide(), len > 4096);
                }
                None => assert!(len == 0 || len % 2048 != 0 || len > 65536),
            }
        }
    }

    #[test]
    fn each_kind_has_its_control() {
        assert_eq!(control_len(0), 0);
        assert_eq!(control_len(KINDS_LOW), 0);
        assert_eq!(control_len(KINDS_LOW << 1), 32 * 6);
        assert_eq!(control_len(u64::MAX), 32 * 8);
        assert_eq!(control_len(kind::CODED | kind::CODED_AT << 2 | kind::SAME << 62), 14);
    }

    #[test]
    fn codes_are_three_bits() {
        for word in 0..LINE_WORDS as u32 {
            let at = |codes: u64| (codes >> (CODE_BITS * word) & 7) as u32;
            assert_eq!(at(CODES_OF_KIND[kind::ZERO as usize]), code::ZERO);
            assert_eq!(at(CODES_OF_KIND[kind::SAME as usize]), code::SAME);
            assert_eq!(at(CODE_LOW), 1);
        }
    }
}
