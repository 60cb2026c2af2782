//! The keys of a cache: a number, or bytes.

use core::fmt;

/// The longest key in bytes.
pub const MOST_KEY: usize = 4096;

/// A key: a number, or up to [`MOST_KEY`] bytes. The number 5 and the bytes `05 00 00 00 00 00 00 00` are different
/// keys; a string is the same key as its bytes.
///
/// ```
/// use zswap_cache::Key;
///
/// assert_eq!(Key::from("a"), Key::from(b"a"));
/// assert_ne!(Key::from(5), Key::from(&5_u64.to_le_bytes()));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum Key<'a> {
    /// A number.
    Number(u64),
    /// Bytes, perhaps none.
    Bytes(&'a [u8]),
}

impl fmt::Debug for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Number(number) => write!(f, "{number}"),
            Key::Bytes(bytes) => write!(f, "\"{}\"", bytes.escape_ascii()),
        }
    }
}

impl From<u64> for Key<'_> {
    fn from(number: u64) -> Self {
        Key::Number(number)
    }
}

impl<'a> From<&'a [u8]> for Key<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Key::Bytes(bytes)
    }
}

impl<'a, const N: usize> From<&'a [u8; N]> for Key<'a> {
    fn from(bytes: &'a [u8; N]) -> Self {
        Key::Bytes(bytes)
    }
}

impl<'a> From<&'a Vec<u8>> for Key<'a> {
    fn from(bytes: &'a Vec<u8>) -> Self {
        Key::Bytes(bytes)
    }
}

impl<'a> From<&'a str> for Key<'a> {
    fn from(text: &'a str) -> Self {
        Key::Bytes(text.as_bytes())
    }
}

impl<'a> From<&'a String> for Key<'a> {
    fn from(text: &'a String) -> Self {
        Key::Bytes(text.as_bytes())
    }
}
