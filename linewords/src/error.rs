//! What can go wrong.

use core::fmt;

/// An error of a compression or a decompression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The output does not fit the buffer.
    OutputTooSmall {
        /// Bytes to compress.
        src_len: usize,
        /// Bytes of room.
        capacity: usize,
    },
    /// The stream is not one that an encoder makes.
    Corrupt,
    /// The stream is of a unit of another length.
    WrongLength {
        /// Bytes of the buffer.
        expected: usize,
        /// Bytes of the unit.
        got: usize,
    },
    /// A buffer is longer than the codec takes.
    TooLong {
        /// Bytes of the buffer.
        len: usize,
        /// Bytes of the longest.
        max: usize,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Error::OutputTooSmall { src_len, capacity } => write!(
                f,
                "{src_len} bytes do not compress into {capacity}: give a buffer of \
                 max_compressed_len({src_len}) bytes"
            ),
            Error::Corrupt => f.write_str("the stream is corrupt"),
            Error::WrongLength { expected, got } => {
                write!(f, "the stream is of {got} bytes, not of the {expected} asked for")
            }
            Error::TooLong { len, max } => {
                write!(f, "a buffer of {len} bytes is too long: {max} is the most")
            }
        }
    }
}

impl core::error::Error for Error {}
