//! The errors of this crate.

use core::fmt;

/// An error of compressing or decompressing a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The compressed unit does not fit the output buffer.
    OutputTooSmall {
        /// The length of the unit, in bytes.
        src_len: usize,
        /// The length of the output buffer, in bytes.
        capacity: usize,
    },
    /// The stream is malformed, or its LZ4 block decompresses to more bytes than the buffer has.
    Corrupt,
    /// The stream is a unit of another length than the buffer.
    WrongLength {
        /// The length of the buffer, in bytes.
        expected: usize,
        /// The length of the unit in the stream, in bytes.
        got: usize,
    },
    /// A buffer is longer than the codec can handle.
    TooLong {
        /// The length of the buffer, in bytes.
        len: usize,
        /// The longest buffer that the codec can handle, in bytes.
        max: usize,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Error::OutputTooSmall { src_len, capacity } => write!(
                f,
                "a unit of {src_len} bytes does not fit a buffer of {capacity}: give one of \
                 max_compressed_len({src_len}) bytes"
            ),
            Error::Corrupt => f.write_str("the stream is corrupt"),
            Error::WrongLength { expected, got } => {
                write!(f, "the stream holds a unit of {got} bytes, but the buffer has {expected}")
            }
            Error::TooLong { len, max } => {
                write!(f, "a buffer of {len} bytes is too long: {max} is the most")
            }
        }
    }
}

impl core::error::Error for Error {}
