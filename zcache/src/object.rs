//! The bytes of a stored value: a header, the key, and the value's compressed bytes.
//!
//! The header is two variable-length numbers, seven bits a byte, the lowest first: the length of the value before
//! compression, and one more than the length of the key in bytes, or 0 for a key that is a number and takes 8 bytes.
//! If there are as many bytes after the key as the value has, they are the value itself.

use crate::key::Key;

/// The longest head in bytes without the key's own bytes: two numbers of at most 5 bytes.
const MOST_NUMBERS: usize = 10;

/// The numbers of a header, encoded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    bytes: [u8; MOST_NUMBERS + 8],
    len: usize,
}

impl Head {
    /// Encodes the header of a value, and its key if that is a number.
    pub(crate) fn new(key: Key<'_>, value_len: usize) -> Self {
        let mut head = Head { bytes: [0; MOST_NUMBERS + 8], len: 0 };
        head.push_number(value_len);
        match key {
            Key::Number(number) => {
                head.push_number(0);
                number.to_le_bytes().into_iter().for_each(|byte| head.push(byte));
            }
            Key::Bytes(bytes) => head.push_number(bytes.len() + 1),
        }
        head
    }

    fn push(&mut self, byte: u8) {
        self.bytes[self.len] = byte;
        self.len += 1;
    }

    fn push_number(&mut self, mut number: usize) {
        while number >= 0x80 {
            self.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.push(number as u8);
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// A stored value, taken apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Object<'a> {
    pub(crate) key: Key<'a>,
    /// The length of the value before compression.
    pub(crate) value_len: usize,
    /// What the value was compressed to, or the value itself.
    pub(crate) payload: &'a [u8],
}

/// Takes a stored value apart. Returns `None` if the bytes are none.
pub(crate) fn parse(bytes: &[u8]) -> Option<Object<'_>> {
    let (value_len, rest) = number(bytes)?;
    let (key_len, rest) = number(rest)?;
    let (key, payload) = match key_len.checked_sub(1) {
        None => {
            let (number, payload) = rest.split_first_chunk()?;
            (Key::Number(u64::from_le_bytes(*number)), payload)
        }
        Some(len) => {
            let (key, payload) = rest.split_at_checked(len)?;
            (Key::Bytes(key), payload)
        }
    };
    Some(Object { key, value_len, payload })
}

/// Reads a number of at most 5 bytes.
fn number(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut number = 0_u64;
    for (at, &byte) in bytes.iter().enumerate().take(MOST_NUMBERS / 2) {
        number |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Some((usize::try_from(number).ok()?, &bytes[at + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{Head, Object, parse};
    use crate::key::{Key, MOST_KEY};

    #[test]
    fn what_is_written_is_read() {
        let long = vec![7; MOST_KEY];
        let keys = [Key::Number(0), Key::Number(u64::MAX), "".into(), "key".into(), (&long).into()];
        for key in keys {
            for value_len in [0, 1, 127, 128, 16_383, 16_384, 1 << 28] {
                let mut bytes = Head::new(key, value_len).bytes().to_vec();
                if let Key::Bytes(key) = key {
                    bytes.extend(key);
                }
                let head = bytes.len();
                bytes.extend(b"payload");
                let object = Object { key, value_len, payload: b"payload" };
                assert_eq!(parse(&bytes), Some(object));
                for short in 0..head {
                    assert_eq!(parse(&bytes[..short]), None, "{short} of {head} bytes");
                }
            }
        }
    }

    #[test]
    fn other_bytes_are_refused() {
        assert_eq!(parse(&[0x80; 20]), None, "a number without end");
        assert_eq!(parse(&[5, 200, 1, 1, 2, 3]), None, "a key longer than the object");
        assert_eq!(parse(&[5, 0, 1, 2, 3]), None, "a number of three bytes");
    }
}
