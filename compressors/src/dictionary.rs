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

/// Where the bytes of a dictionary are.
#[derive(Clone)]
pub(crate) enum Content {
    Shared(Arc<[u8]>),
    /// Bytes that were made with fallible allocations: to move them into an `Arc<[u8]>` would take another one,
    /// which aborts if it fails.
    #[cfg(feature = "zstd")]
    Made(Arc<Vec<u8>>),
}

impl Content {
    fn as_slice(&self) -> &[u8] {
        match self {
            Content::Shared(bytes) => bytes,
            #[cfg(feature = "zstd")]
            Content::Made(bytes) => bytes,
        }
    }
}

/// The bytes of a dictionary. Only those from `start` on are in use.
#[derive(Clone)]
pub(crate) struct Dictionary {
    bytes: Content,
    start: usize,
}

impl Dictionary {
    /// Makes a dictionary that uses the last `reach` bytes of `bytes`, or all if there are fewer. Fails if `bytes`
    /// has fewer than 8 bytes.
    pub(crate) fn new(
        codec: &'static str,
        bytes: Content,
        reach: usize,
    ) -> Result<Self, CompressorError> {
        let len = bytes.as_slice().len();
        if len < MIN_LEN {
            return Err(refused(codec, len, "at least 8 bytes"));
        }
        let start = len.saturating_sub(reach);
        Ok(Dictionary { bytes, start })
    }

    /// Returns the bytes in use. They do not move while this value or a clone
    /// of it lives.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes.as_slice()[self.start..]
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
    use super::{Content, Dictionary};
    use crate::error::CompressorError;

    fn dictionary(bytes: &[u8], reach: usize) -> Result<Dictionary, CompressorError> {
        Dictionary::new("test", Content::Shared(bytes.into()), reach)
    }

    #[test]
    fn only_the_end_within_reach_counts() {
        let long = dictionary(b"0123456789abcdef", 10).unwrap();
        let short = dictionary(b"6789abcdef", 10).unwrap();
        assert_eq!(long.bytes(), b"6789abcdef");
        assert_eq!(long.fingerprint(), short.fingerprint());
        let other = dictionary(b"6789abcdeF", 10).unwrap();
        assert_ne!(long.fingerprint(), other.fingerprint());
        // The published test vector of the 64-bit FNV-1a hash.
        let foobar = dictionary(b"__foobar", 6).unwrap();
        assert_eq!(foobar.fingerprint(), "85944171f73967e8");
    }

    #[test]
    fn dictionaries_too_short_to_use_are_refused() {
        let error = dictionary(b"1234567", 10).unwrap_err();
        assert!(error.to_string().contains("dict=<7 bytes> is not allowed: at least 8"), "{error}");
    }
}
