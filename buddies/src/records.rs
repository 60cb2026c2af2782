//! The records of pages, by page number. They are in a vector of chunks, so that adding a record moves no
//! other.

use core::ops::{Index, IndexMut};

const CHUNK: usize = 64;

/// Records, numbered from 0.
#[derive(Debug)]
pub(crate) struct Records<R> {
    chunks: Vec<Vec<R>>,
}

impl<R> Records<R> {
    pub(crate) fn new() -> Self {
        Records { chunks: Vec::new() }
    }

    /// Returns the number of records.
    pub(crate) fn len(&self) -> usize {
        match self.chunks.split_last() {
            Some((last, full)) => full.len() * CHUNK + last.len(),
            None => 0,
        }
    }

    /// Returns the bytes of all chunks and of the vector that holds them.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.chunks.len() * CHUNK * size_of::<R>() + self.chunks.capacity() * size_of::<Vec<R>>()
    }

    /// Makes room for one more record. If there is no memory, the error is the number of bytes that were
    /// refused.
    pub(crate) fn reserve(&mut self) -> Result<(), usize> {
        if self.chunks.last().is_some_and(|last| last.len() < CHUNK) {
            return Ok(());
        }
        let bytes = CHUNK * size_of::<R>();
        let mut chunk = Vec::new();
        chunk.try_reserve_exact(CHUNK).map_err(|_| bytes)?;
        self.chunks.try_reserve(1).map_err(|_| bytes)?;
        self.chunks.push(chunk);
        Ok(())
    }

    /// Adds a record and returns true. If `reserve` did not make room for it, drops the record and returns
    /// false.
    pub(crate) fn push(&mut self, record: R) -> bool {
        match self.chunks.last_mut() {
            Some(last) if last.len() < CHUNK => {
                last.push(record);
                true
            }
            _ => false,
        }
    }
}

impl<R> Index<u32> for Records<R> {
    type Output = R;
    fn index(&self, number: u32) -> &R {
        &self.chunks[number as usize / CHUNK][number as usize % CHUNK]
    }
}

impl<R> IndexMut<u32> for Records<R> {
    fn index_mut(&mut self, number: u32) -> &mut R {
        &mut self.chunks[number as usize / CHUNK][number as usize % CHUNK]
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_dense_over_chunk_ends() {
        let mut records = Records::new();
        assert!(!records.push(0), "without reserve");
        for i in 0..200u32 {
            records.reserve().unwrap();
            records.reserve().unwrap();
            assert!(records.push(i));
            assert_eq!(records.len(), i as usize + 1);
        }
        for i in 0..200u32 {
            records[i] += 1;
            assert_eq!(records[i], i + 1);
        }
    }

    #[test]
    fn a_chunk_is_reserved_before_it_is_filled() {
        let mut records = Records::new();
        records.reserve().unwrap();
        for i in 0..CHUNK {
            assert!(records.push(i), "{i}");
        }
        assert!(!records.push(CHUNK), "the chunk is full");
        assert_eq!(records.len(), CHUNK);
    }

    #[test]
    fn memory_is_that_of_whole_chunks_and_of_the_vector_of_them() {
        let mut records = Records::new();
        assert_eq!(records.memory_bytes(), 0);
        for i in 0..3 * CHUNK as u64 {
            records.reserve().unwrap();
            assert!(records.push(i));
        }
        let chunks = 3 * CHUNK * size_of::<u64>();
        let vector = records.memory_bytes() - chunks;
        assert_eq!(vector, records.chunks.capacity() * size_of::<Vec<u64>>());
        assert!(records.chunks.capacity() >= 3);
    }

    #[test]
    fn a_refused_chunk_says_its_bytes() {
        // This is larger than any allocation can be, so the allocator is never called.
        const HUGE: usize = isize::MAX as usize / CHUNK + 1;
        let mut records = Records::<[u8; HUGE]>::new();
        assert_eq!(records.reserve(), Err(CHUNK * HUGE));
        assert_eq!((records.len(), records.memory_bytes()), (0, 0));
    }
}
