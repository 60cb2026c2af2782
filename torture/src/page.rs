//! Self-describing pages: key, version, writer, and a checksum over the whole page.
//!
//! A page of bytes starts with a header of four words. A same-filled page has room for only one word,
//! which encodes key and version. There are three forms of this word, and the store packs each of them
//! differently.

use zpool_base::sync::test_rng::Rng;

/// Bits in a key.
pub const KEY_BITS: u32 = 12;
const KEY_MASK: u64 = (1 << KEY_BITS) - 1;
const WORD: usize = size_of::<u64>();
const MAGIC: u64 = 0x7a70_6167_6531_0000;
/// The top byte of a repeated word that does not fit in an entry.
const LARGE: u64 = 0xA5;
/// Repeated words of at most this many bits are kept in the entry itself.
const SMALL_BITS: u32 = 50;
const HALF_VERSION_BITS: u32 = 32 - KEY_BITS;

/// A kind of page contents.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// Repeats a short text: compresses very well.
    Text,
    /// A few words among zeros.
    Sparse,
    /// Words with some random bits: compresses somewhat.
    Mixed,
    /// Random bytes: incompressible.
    Noise,
    /// One word repeated, which fits in an entry.
    SmallWord,
    /// One word repeated. Its upper half equals its lower half.
    TwiceWord,
    /// One word repeated, which does not fit in an entry.
    LargeWord,
}

impl Form {
    /// Every form.
    pub const ALL: [Form; 7] = [
        Form::Text,
        Form::Sparse,
        Form::Mixed,
        Form::Noise,
        Form::SmallWord,
        Form::TwiceWord,
        Form::LargeWord,
    ];

    /// Returns whether the page is one word repeated, which takes no room in a pool.
    pub fn is_same_filled(self) -> bool {
        matches!(self, Form::SmallWord | Form::TwiceWord | Form::LargeWord)
    }
}

/// What a page says about itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp {
    /// The key that the page was stored under.
    pub key: u32,
    /// The page's version, which no other page of the run has.
    pub version: u64,
    /// The thread that wrote the page; unknown for a same-filled page.
    pub writer: Option<u32>,
}

/// Fills a page. `base` is below every version of the round. [`Form::TwiceWord`] has few bits, so it
/// holds the distance of the version from `base`. If it cannot hold that, [`Form::SmallWord`] is used
/// instead.
pub fn fill(page: &mut [u8], stamp: Stamp, form: Form, base: u64, rng: &mut Rng) {
    let key = u64::from(stamp.key);
    let form = if form == Form::TwiceWord && twice(key, stamp.version, base).is_none() {
        Form::SmallWord
    } else {
        form
    };
    match form {
        Form::SmallWord => repeat(page, stamp.version << KEY_BITS | key),
        Form::LargeWord => repeat(page, LARGE << 56 | stamp.version << KEY_BITS | key),
        Form::TwiceWord => {
            let half = twice(key, stamp.version, base).unwrap_or_default();
            repeat(page, half << 32 | half);
        }
        Form::Text => {
            let text = [stamp.version, key, 0x2065_6369_7274_6c61, stamp.version ^ key];
            let period = 1 + rng.below(text.len());
            words_of(page, |at| text[at % period]);
        }
        Form::Sparse => {
            let every = 16 + rng.below(200);
            words_of(page, |at| if at % every == 0 { rng.next() } else { 0 });
        }
        Form::Mixed => {
            let (random, mask) = (rng.below(300), u64::MAX >> rng.below(40));
            words_of(page, |at| if at < random { rng.next() & mask } else { stamp.version });
        }
        Form::Noise => words_of(page, |_| rng.next()),
    }
    if !form.is_same_filled() {
        let writer = u64::from(stamp.writer.unwrap_or_default());
        set(page, 0, MAGIC | key);
        set(page, 1, stamp.version);
        set(page, 2, writer);
        set(page, 3, sum(page));
    }
}

/// Reads what a page says about itself.
///
/// # Errors
/// Returns, in words, what is wrong with the page.
pub fn read(page: &[u8], base: u64) -> Result<Stamp, String> {
    let first = word(page, 0);
    if is_repeated(page) {
        let low = first & u64::from(u32::MAX);
        let (key, version) = if first >> 56 == LARGE {
            (first & KEY_MASK, (first & !(LARGE << 56)) >> KEY_BITS)
        } else if first >> SMALL_BITS == 0 {
            (first & KEY_MASK, first >> KEY_BITS)
        } else if first >> 32 == low {
            (low & KEY_MASK, base + (low >> KEY_BITS))
        } else {
            return Err(format!("it repeats {first:#018x}, which no store has written"));
        };
        return Ok(Stamp { key: key as u32, version, writer: None });
    }
    if first & !KEY_MASK != MAGIC {
        return Err(format!("it begins with {first:#018x}, which is no header"));
    }
    let (noted, found) = (word(page, 3), sum(page));
    let stamp = Stamp {
        key: (first & KEY_MASK) as u32,
        version: word(page, 1),
        writer: u32::try_from(word(page, 2)).ok(),
    };
    if noted == found {
        Ok(stamp)
    } else {
        Err(format!("its checksum is {found:016x} and its header says {noted:016x}, of {stamp:?}"))
    }
}

/// Returns the key in a page's header, whatever else the page contains. None if it has no header.
pub fn key_of(page: &[u8]) -> Option<u32> {
    let bytes = page.first_chunk::<WORD>()?;
    let first = u64::from_le_bytes(*bytes);
    (first & !KEY_MASK == MAGIC).then_some((first & KEY_MASK) as u32)
}

/// Returns one half of a word that consists of two equal halves; `None` if the version does not fit, or
/// if the word would look like another form.
fn twice(key: u64, version: u64, base: u64) -> Option<u64> {
    let distance = version.checked_sub(base)?;
    let half = distance << KEY_BITS | key;
    let fits = distance >> HALF_VERSION_BITS == 0;
    let alone = half >> 24 != LARGE && half >> (SMALL_BITS - 32) != 0;
    (fits && alone).then_some(half)
}

fn repeat(page: &mut [u8], word: u64) {
    words_of(page, |_| word);
}

fn is_repeated(page: &[u8]) -> bool {
    page[WORD..] == page[..page.len() - WORD]
}

fn words_of(page: &mut [u8], mut word: impl FnMut(usize) -> u64) {
    for (at, bytes) in page.chunks_exact_mut(WORD).enumerate() {
        bytes.copy_from_slice(&word(at).to_le_bytes());
    }
}

fn word(page: &[u8], at: usize) -> u64 {
    let mut bytes = [0; WORD];
    bytes.copy_from_slice(&page[at * WORD..][..WORD]);
    u64::from_le_bytes(bytes)
}

fn set(page: &mut [u8], at: usize, word: u64) {
    page[at * WORD..][..WORD].copy_from_slice(&word.to_le_bytes());
}

/// Returns a checksum over every word except its own. It depends on the order of the words.
fn sum(page: &[u8]) -> u64 {
    let words = page.chunks_exact(WORD).enumerate().filter(|(at, _)| *at != 3);
    words.fold(0x9E37_79B9_7F4A_7C15, |sum: u64, (_, bytes)| {
        let word = bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
        (sum.rotate_left(5) ^ word).wrapping_mul(0x2545_F491_4F6C_DD1D)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use zswap_core::PAGE_SIZE;

    #[test]
    fn every_form_says_what_it_is() {
        let (mut rng, mut page) = (Rng::new(1), [0; PAGE_SIZE]);
        for form in Form::ALL {
            for version in [5001, 5063, 5064, 600_000, (1 << 20) + 4999, 1 << 37] {
                for key in [0, 1, 77, 4095] {
                    let stamp = Stamp { key, version, writer: Some(3) };
                    fill(&mut page, stamp, form, 5000, &mut rng);
                    let read = read(&page, 5000).unwrap();
                    assert_eq!((read.key, read.version), (key, version), "{form:?}");
                    assert_eq!(key_of(&page), (!form.is_same_filled()).then_some(key));
                }
            }
        }
    }

    #[test]
    fn all_three_ways_to_keep_a_repeated_word_are_used() {
        let (mut rng, mut page) = (Rng::new(1), [0; PAGE_SIZE]);
        let stamp = Stamp { key: 9, version: 5100, writer: None };
        let mut first = |form| {
            fill(&mut page, stamp, form, 5000, &mut rng);
            word(&page, 0)
        };
        assert!(first(Form::SmallWord) >> SMALL_BITS == 0);
        let twice = first(Form::TwiceWord);
        assert!(twice >> SMALL_BITS != 0 && twice >> 32 == twice & u64::from(u32::MAX));
        let large = first(Form::LargeWord);
        assert!(large >> SMALL_BITS != 0 && large >> 32 != large & u64::from(u32::MAX));
    }

    #[test]
    fn a_changed_byte_is_seen_wherever_it_is() {
        let (mut rng, mut page) = (Rng::new(2), [0; PAGE_SIZE]);
        let stamp = Stamp { key: 9, version: 42, writer: Some(1) };
        for form in [Form::Text, Form::Sparse, Form::Mixed, Form::Noise, Form::LargeWord] {
            for at in (2..PAGE_SIZE).step_by(61).chain([PAGE_SIZE - 1]) {
                fill(&mut page, stamp, form, 0, &mut rng);
                page[at] ^= 0x10;
                assert!(read(&page, 0).is_err(), "{form:?}, byte {at}");
            }
        }
        let mut other = [0; PAGE_SIZE];
        repeat(&mut other, 0x1234_5678_9ABC_DEF0);
        assert!(read(&other, 0).is_err());
    }
}
