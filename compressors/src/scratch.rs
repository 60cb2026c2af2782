//! Working memory for codecs that take it from the caller. It is zeroed and aligned
//! to cache lines. A lack of memory is an error, not an abort.

use crate::error::CompressorError;

/// The size of a cache line in bytes. The memory's length and alignment are multiples of it.
const LINE: usize = 64;

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; LINE]);

/// A piece of heap memory of fixed size. It is aligned to 64 bytes and never moves.
pub(crate) struct Scratch {
    lines: Vec<Line>,
}

impl Scratch {
    /// Allocates at least `bytes` bytes and zeroes them.
    pub(crate) fn new(codec: &'static str, bytes: usize) -> Result<Self, CompressorError> {
        let count = bytes.div_ceil(LINE);
        let mut lines = Vec::new();
        lines
            .try_reserve_exact(count)
            .map_err(|_| CompressorError::OutOfMemory { codec, what: "working memory" })?;
        lines.resize(count, Line([0; LINE]));
        Ok(Scratch { lines })
    }

    /// Returns the start of the memory, for reading and writing [`len`](Self::len) bytes.
    pub(crate) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.lines.as_mut_ptr().cast()
    }

    /// Returns the memory as a slice.
    #[cfg(feature = "lz4")]
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        let len = self.len();
        // SAFETY: the lines are `len` initialised bytes, borrowed with `self`.
        unsafe { std::slice::from_raw_parts_mut(self.as_mut_ptr(), len) }
    }

    /// Returns the start of the memory, for reading only.
    #[cfg(feature = "lz4")]
    pub(crate) fn as_ptr(&self) -> *const u8 {
        self.lines.as_ptr().cast()
    }

    /// Returns the length of the memory in bytes.
    pub(crate) fn len(&self) -> usize {
        self.lines.len() * LINE
    }
}

#[cfg(test)]
mod tests {
    use super::Scratch;
    use crate::error::CompressorError;

    #[test]
    fn is_aligned_zeroed_and_long_enough() {
        for bytes in [1, 63, 64, 65, 16416] {
            let mut scratch = Scratch::new("test", bytes).unwrap();
            assert!(scratch.len() >= bytes && scratch.len() < bytes + 64);
            assert_eq!(scratch.as_mut_ptr() as usize % 64, 0);
            assert!(scratch.lines.iter().all(|line| line.0 == [0; 64]));
        }
    }

    #[test]
    fn too_much_is_an_error() {
        assert_eq!(
            Scratch::new("test", usize::MAX).err(),
            Some(CompressorError::OutOfMemory { codec: "test", what: "working memory" })
        );
    }
}
