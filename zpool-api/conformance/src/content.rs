//! The content of the suite's objects. The bytes of an object identify the object and its length.
//!
//! A [`Mark`] is one word that holds a number and a length. If there is room, the content of an object
//! begins with this word. The rest is noise. It is copied from a table, and the word determines where in
//! the table the copy begins. So the bytes alone show whether an object was shifted, cut, overwritten or
//! mistaken for another one.

use core::fmt;
use std::sync::OnceLock;

use zpool_base::sync::test_rng::Rng;

/// The number of bits that hold the length in a mark. All objects are smaller than 1 MiB.
const LEN_BITS: u32 = 20;
/// The number of positions in the noise at which the content of an object may start.
const STARTS: usize = 4096;
const NOISE: usize = STARTS + 4096;

/// Identifies an object: a number and the length of its content.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark(u64);

impl Mark {
    pub(super) fn new(number: u64, len: usize) -> Self {
        assert!(len < 1 << LEN_BITS, "the suite has no objects of {len} bytes");
        Mark((number << LEN_BITS) | len as u64)
    }

    pub(super) fn len(self) -> usize {
        (self.0 & ((1 << LEN_BITS) - 1)) as usize
    }

    /// Returns the mark at the beginning of an object's bytes. Returns `None` if there are less than 8
    /// bytes.
    pub(super) fn of(bytes: &[u8]) -> Option<Self> {
        bytes.first_chunk().map(|word| Mark(u64::from_le_bytes(*word)))
    }

    /// Returns a hash of the mark's bits.
    fn mixed(self) -> u64 {
        let mixed = (self.0 ^ (self.0 >> LEN_BITS)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        mixed ^ (mixed >> 29)
    }

    /// Returns the object's content. The noise is copied from a table, since copying is fast even under Miri.
    pub(super) fn content(self) -> Vec<u8> {
        let noise = noise();
        let mut content = Vec::with_capacity(self.len());
        let mut from = (self.mixed() % STARTS as u64) as usize;
        while content.len() < self.len() {
            let take = (self.len() - content.len()).min(NOISE - from);
            content.extend_from_slice(&noise[from..from + take]);
            from = 0;
        }
        match content.first_chunk_mut() {
            Some(word) => *word = self.0.to_le_bytes(),
            None => {
                let word = self.mixed().to_le_bytes();
                content.copy_from_slice(&word[..self.len()]);
            }
        }
        content
    }

    /// Asserts that `bytes` are this object's content.
    pub(super) fn check(self, bytes: &[u8]) {
        let content = self.content();
        assert_eq!(bytes.len(), content.len(), "the guard's length (left) of {self:?}");
        if bytes != &content[..] {
            let at = (0..content.len()).find(|i| bytes[*i] != content[*i]).unwrap_or(0);
            let seen = Mark::of(bytes).filter(|seen| seen.content() == bytes);
            let looks = seen.map_or(String::new(), |seen| format!("; these are {seen:?}'s bytes"));
            let (got, want) = (bytes[at], content[at]);
            panic!("byte {at} of {self:?} is {got:#04x}, but {want:#04x} was stored{looks}");
        }
    }
}

impl fmt::Debug for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "object {} of {} bytes", self.0 >> LEN_BITS, self.len())
    }
}

fn noise() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| {
        let mut rng = Rng::new(0x0B5E_55ED);
        let mut bytes = Vec::with_capacity(NOISE);
        while bytes.len() < NOISE {
            bytes.extend_from_slice(&rng.next().to_le_bytes());
        }
        bytes
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_tell_objects_and_lengths_apart() {
        for len in [1, 7, 8, 9, 4096, 70_000] {
            let mark = Mark::new(5, len);
            let content = mark.content();
            assert_eq!(content.len(), len);
            mark.check(&content);
            assert_eq!(Mark::of(&content), (len >= 8).then_some(mark));
            assert_ne!(Mark::new(6, len).content(), content);
            let wrong = |bytes: &[u8]| std::panic::catch_unwind(|| mark.check(bytes)).is_err();
            assert!(wrong(&content[1..]));
            if len > 8 {
                let mut turned = content.clone();
                turned.rotate_left(len / 2);
                assert!(wrong(&turned));
            }
            let mut flipped = content.clone();
            flipped[len - 1] ^= 1;
            assert!(wrong(&flipped));
        }
    }
}
