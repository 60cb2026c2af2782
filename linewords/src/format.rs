//! The format, as constants and small types. `docs/linewords.md` explains it.

/// Words in a line.
pub(crate) const LINE_WORDS: usize = 16;
/// Bytes in a line.
pub(crate) const LINE: usize = 4 * LINE_WORDS;
/// Lines in a block. One `u64` holds the kinds of a block's lines.
pub(crate) const BLOCK_LINES: usize = 32;
/// Bytes in a block: the smallest unit. All units with lines of words are multiples of it.
pub(crate) const BLOCK: usize = BLOCK_LINES * LINE;
/// Bytes in the largest unit whose indices have ten bits.
pub(crate) const NARROW_MAX: usize = 4096;
/// Bytes in the largest unit with lines of words.
pub(crate) const WIDE_MAX: usize = 65536;

/// Bytes before the payload: the first byte and the length of the stream.
pub(crate) const HEAD: usize = 3;

/// The least distance. With it or a greater one, a line does not refer to itself.
pub(crate) const MIN_DISTANCE: usize = LINE_WORDS;

/// Bits in a word's code.
pub(crate) const CODE_BITS: u32 = 3;
/// Bytes that the codes of a line take.
pub(crate) const CODES: usize = LINE_WORDS * CODE_BITS as usize / 8;
/// Bytes that a distance takes.
pub(crate) const DISTANCE: usize = 2;

/// A mask of all bits in the codes of a line.
pub(crate) const ALL_CODES: u64 = (1 << (8 * CODES)) - 1;
/// A mask of the lowest bit of each code.
pub(crate) const CODE_LOW: u64 = 0x2492_4924_9249;
/// A mask of the two upper bits of each code. They give the length of the payload.
#[cfg(any(test, target_arch = "x86_64"))]
pub(crate) const CODE_CLASS: u64 = ALL_CODES & !CODE_LOW;

/// The codes: how a word is made from its payload and from earlier words. The numbers are the format's.
/// The encoder takes the greatest code that fits.
pub(crate) mod code {
    /// Four bytes of payload: the word.
    pub(crate) const LITERAL: u32 = 0;
    /// Two bytes of payload: the lower half. The upper half is that of the word at the distance.
    pub(crate) const HALF: u32 = 2;
    /// Two bytes of payload: the index of a word, and the flips, which change that word's middle bits.
    pub(crate) const INDEX: u32 = 3;
    /// One byte of payload: the lowest byte. The others are those of the word at the distance.
    pub(crate) const BYTE: u32 = 4;
    /// One byte of payload: how far before the line an equal word lies.
    pub(crate) const NEAR: u32 = 5;
    /// No payload: the word at the distance.
    pub(crate) const SAME: u32 = 6;
    /// No payload: zero.
    pub(crate) const ZERO: u32 = 7;
}

/// For each code, the bytes of payload that a word has. No word has code 1.
pub(crate) const LENGTH: [u8; 8] = [4, 4, 2, 2, 1, 1, 0, 0];
/// For each code, a mask of the payload among four bytes that begin with it.
pub(crate) const FROM_PAYLOAD: [u32; 8] = [!0, 0, 0xFFFF, 0xFFFF, 0xFF, 0xFF, 0, 0];
/// For each code, a mask of the bits that a word takes from the word at the distance.
pub(crate) const FROM_DISTANCE: [u32; 8] = [0, 0, !0xFFFF, 0, !0xFF, 0, !0, 0];

/// The kinds of lines.
pub(crate) mod kind {
    /// The line is zeros, and has no control.
    pub(crate) const ZERO: u64 = 0;
    /// The line equals the line at the distance, and has no control.
    pub(crate) const SAME: u64 = 1;
    /// The line has codes.
    pub(crate) const CODED: u64 = 2;
    /// The line has codes and a new distance. The distance holds from this line on.
    pub(crate) const CODED_AT: u64 = 3;
}

/// The codes of a line of kind `ZERO` or `SAME`. The kind implies them, so they are not in the control.
#[cfg(any(test, target_arch = "x86_64"))]
pub(crate) const CODES_OF_KIND: [u64; 2] = [ALL_CODES, CODE_CLASS];

const KINDS_LOW: u64 = 0x5555_5555_5555_5555;

/// Returns the bytes of control that lines of these 32 kinds have.
pub(crate) fn control_len(kinds: u64) -> usize {
    let coded = kinds >> 1 & KINDS_LOW;
    let at = coded & kinds;
    CODES * coded.count_ones() as usize + DISTANCE * at.count_ones() as usize
}

/// The first byte of a stream: the form in which the unit is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Header {
    /// As an LZ4 block. The unit may have any length.
    Lz4,
    /// Unchanged. The unit may have any length.
    Stored,
    /// As lines of words.
    Words(Unit),
    /// As deltas of bytes.
    Deltas(Unit),
}

impl Header {
    const LZ4: u8 = 0;
    const STORED: u8 = 1;
    const WORDS: u8 = 0x40;
    const DELTAS: u8 = 0x80;

    pub(crate) fn byte(self) -> u8 {
        match self {
            Header::Lz4 => Self::LZ4,
            Header::Stored => Self::STORED,
            Header::Words(Unit(blocks)) => Self::WORDS + (blocks - 1),
            Header::Deltas(Unit(blocks)) => Self::DELTAS + (blocks - 1),
        }
    }

    pub(crate) fn parse(byte: u8) -> Option<Self> {
        match byte {
            Self::LZ4 => Some(Header::Lz4),
            Self::STORED => Some(Header::Stored),
            _ => {
                let unit = |first: u8| {
                    let blocks = byte.checked_sub(first)?.checked_add(1)?;
                    (usize::from(blocks) <= WIDE_MAX / BLOCK).then_some(Unit(blocks))
                };
                unit(Self::WORDS).map(Header::Words).or(unit(Self::DELTAS).map(Header::Deltas))
            }
        }
    }
}

/// The length of a unit with lines of words, in blocks: 1 to 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unit(u8);

impl Unit {
    /// Returns the unit of `len` bytes; `None` if `len` is 0, above 65536 or no multiple of 2048.
    pub(crate) fn of(len: usize) -> Option<Self> {
        if len == 0 || len % BLOCK != 0 || len > WIDE_MAX {
            return None;
        }
        Some(Unit((len / BLOCK) as u8))
    }

    pub(crate) fn blocks(self) -> usize {
        usize::from(self.0)
    }

    /// Returns the length in bytes.
    pub(crate) fn len(self) -> usize {
        self.blocks() * BLOCK
    }

    /// Returns whether the unit's indices have fourteen bits, not ten.
    pub(crate) fn is_wide(self) -> bool {
        self.len() > NARROW_MAX
    }
}

/// The constants that depend on the number of bits in an index.
pub(crate) trait Width {
    /// Bits in an index. The other bits of its two bytes of payload are flips.
    const INDEX_BITS: u32;
    /// The position of the lowest middle bit of a word. Flips change only middle bits: the `16 - INDEX_BITS`
    /// bits from this position up.
    const MIDDLE: u32;
    /// Bits in the number of a slot of the encoder's table.
    const SLOT_BITS: u32;
    /// Whether the uppermost bit of an entry is also the lowest bit of its slot's number.
    const OVERLAP: bool;

    const INDEX_MASK: u32 = (1 << Self::INDEX_BITS) - 1;
    /// A mask of the flips in the two bytes of payload.
    const FLIPS: u32 = 0xFFFF & !Self::INDEX_MASK;
    /// A mask of the middle bits in a word that was rotated right by `MIDDLE`.
    const MIDDLE_MASK: u32 = Self::FLIPS >> Self::INDEX_BITS;
    const SLOTS: usize = 1 << Self::SLOT_BITS;
}

/// The constants for units up to 4096 bytes.
#[derive(Debug)]
pub(crate) struct Narrow;

impl Width for Narrow {
    const INDEX_BITS: u32 = 10;
    const MIDDLE: u32 = 5;
    const SLOT_BITS: u32 = 11;
    const OVERLAP: bool = true;
}

/// The constants for longer units, up to 65536 bytes.
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
        assert_eq!(known, 2 + 32 + 32);
        for len in (0..=WIDE_MAX + BLOCK).step_by(if cfg!(miri) { 256 } else { 1 }) {
            match Unit::of(len) {
                Some(unit) => {
                    assert_eq!(unit.len(), len);
                    assert_eq!(
                        Header::parse(Header::Words(unit).byte()),
                        Some(Header::Words(unit))
                    );
                    let deltas = Header::Deltas(unit);
                    assert_eq!(Header::parse(deltas.byte()), Some(deltas));
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
