//! Content of the suite's objects: every object tells who it is and how long it must be.
//!
//! A [`Mark`] is a number and a length in one word. The content that belongs to it begins with
//! that word, if there is room, and goes on with noise that the word seeds. So an object that is
//! shifted, cut, overwritten or taken for another is told by its bytes alone.

use core::fmt;

use crate::sync::test_rng::Rng;

/// Room for the length in a mark: objects below 1 MiB.
const LEN_BITS: u32 = 20;

/// Who an object is: a number, and the length of its content.
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

    /// The mark that an object of at least 8 bytes begins with.
    pub(super) fn of(bytes: &[u8]) -> Option<Self> {
        bytes.first_chunk().map(|word| Mark(u64::from_le_bytes(*word)))
    }

    /// The content of the object.
    pub(super) fn content(self) -> Vec<u8> {
        let len = self.len();
        let mut rng = Rng::new(self.0);
        let mut content = Vec::with_capacity(len.next_multiple_of(8));
        while content.len() < len.min(64) {
            content.extend_from_slice(&rng.next().to_le_bytes());
        }
        content.truncate(len);
        // Twice as much each time, the copy with a start of its own: quick under Miri too, and
        // equal to itself at no distance.
        while content.len() < len {
            let start = content.len();
            content.extend_from_within(..start.min(len - start));
            content[start] = !content[start];
        }
        if let Some(word) = content.first_chunk_mut() {
            *word = self.0.to_le_bytes();
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
