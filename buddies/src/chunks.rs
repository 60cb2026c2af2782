//! Chunks, the unit of room in a page.

/// The number of chunks in a page.
pub const CHUNKS: usize = 64;

/// The size of a chunk in bytes: a power of two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ChunkSize {
    shift: u32,
}

impl ChunkSize {
    /// Returns the size of a chunk if pages have `page_size` bytes. `page_size` must be a power of two and
    /// at least 64.
    pub(crate) fn of_page(page_size: usize) -> Self {
        debug_assert!(page_size.is_power_of_two() && page_size >= CHUNKS);
        ChunkSize { shift: page_size.trailing_zeros() - CHUNKS.trailing_zeros() }
    }

    /// Returns the number of bytes in `chunks` chunks.
    pub(crate) fn bytes(self, chunks: usize) -> usize {
        chunks << self.shift
    }

    /// Returns the number of chunks that `bytes` bytes occupy.
    pub(crate) fn chunks(self, bytes: usize) -> usize {
        (bytes + self.bytes(1) - 1) >> self.shift
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn an_object_takes_whole_chunks() {
        for page_size in [4096, 65536] {
            let size = ChunkSize::of_page(page_size);
            let chunk = page_size / CHUNKS;
            assert_eq!((size.bytes(1), size.bytes(CHUNKS)), (chunk, page_size));
            assert_eq!([1, chunk, chunk + 1, page_size].map(|len| size.chunks(len)), [1, 1, 2, 64]);
        }
    }
}
