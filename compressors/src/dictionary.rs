//! A dictionary's bytes, and its fingerprint.
//!
//! A page that was compressed with one dictionary cannot be read with another. So
//! a compressor's spec contains the fingerprint, which distinguishes dictionaries.

use std::fmt;
use std::sync::Arc;

use crate::error::CompressorError;
use crate::spec::DICT_KEY;

/// The length of the shortest dictionary, in bytes. The libraries ignore shorter ones.
const MIN_LEN: usize = 8;

/// The bytes of a dictionary. Only those from `start` on are in use.
#[derive(Clone)]
pub(crate) struct Dictionary {
    bytes: Arc<[u8]>,
    start: usize,
}

impl Dictionary {
    /// Makes a dictionary that uses the last `reach` bytes of `bytes`, or all if there are fewer. Fails if `bytes`
    /// has fewer than 8 bytes.
    pub(crate) fn new(
        codec: &'static str,
        bytes: Arc<[u8]>,
        reach: usize,
    ) -> Result<Self, CompressorError> {
        if bytes.len() < MIN_LEN {
            return Err(refused(codec, bytes.len(), "at least 8 bytes"));
        }
        let start = bytes.len().saturating_sub(reach);
        Ok(Dictionary { bytes, start })
    }

    /// Returns the bytes in use. They do not move while this value or a clone
    /// of it lives.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// Returns the 64-bit FNV-1a hash of the bytes in use, in hexadecimal.
    pub(crate) fn fingerprint(&self) -> String {
        let hash = self.bytes().iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        format!("{hash:016x}")
    }
}

impl fmt::Debug for Dictionary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Dictionary({} bytes, {})", self.bytes().len(), self.fingerprint())
    }
}

/// Returns the error for dictionary bytes that a codec cannot use.
pub(crate) fn refused(codec: &'static str, len: usize, allowed: &str) -> CompressorError {
    CompressorError::BadParameter {
        codec: codec.to_owned(),
        key: DICT_KEY.to_owned(),
        value: format!("<{len} bytes>"),
        allowed: allowed.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::Dictionary;

    #[test]
    fn only_the_end_within_reach_counts() {
        let long = Dictionary::new("test", b"0123456789abcdef".as_slice().into(), 10).unwrap();
        let short = Dictionary::new("test", b"6789abcdef".as_slice().into(), 10).unwrap();
        assert_eq!(long.bytes(), b"6789abcdef");
        assert_eq!(long.fingerprint(), short.fingerprint());
        let other = Dictionary::new("test", b"6789abcdeF".as_slice().into(), 10).unwrap();
        assert_ne!(long.fingerprint(), other.fingerprint());
        // The published test vector of the 64-bit FNV-1a hash.
        let foobar = Dictionary::new("test", b"__foobar".as_slice().into(), 6).unwrap();
        assert_eq!(foobar.fingerprint(), "85944171f73967e8");
    }

    #[test]
    fn dictionaries_too_short_to_use_are_refused() {
        let error = Dictionary::new("test", b"1234567".as_slice().into(), 10).unwrap_err();
        assert!(error.to_string().contains("dict=<7 bytes> is not allowed: at least 8"), "{error}");
    }
}
