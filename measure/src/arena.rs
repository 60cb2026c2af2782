//! An arena of compressed pages, from which the bare codec reads. It holds them back to back, as densely as any
//! store could. Its memory comes in chunks of 64 MiB, and no compressed page straddles two chunks.
//!
//! On Linux it asks the system to use no huge pages, because a store's pool has none by default: otherwise the
//! codec would have fewer TLB misses than the store.
//!
//! The only `unsafe` code here is this request.

use crate::error::{Error, Result};

/// Bytes in a chunk; only the part that is written becomes resident.
const CHUNK: usize = 64 << 20;

/// Where a page lies in an arena.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    chunk: u32,
    start: u32,
    len: u32,
}

/// Byte strings back to back, in the order in which they were pushed.
///
/// ```
/// use measure::arena::Arena;
///
/// let mut arena = Arena::default();
/// let (first, second) = (arena.push(b"one")?, arena.push(b"two")?);
/// assert_eq!((arena.get(first), arena.get(second)), (&b"one"[..], &b"two"[..]));
/// # Ok::<(), measure::Error>(())
/// ```
#[derive(Debug, Default)]
pub struct Arena {
    chunks: Vec<Vec<u8>>,
}

impl Arena {
    /// Appends `bytes` and returns their place.
    ///
    /// # Errors
    ///
    /// [`Error::NoMemory`] if the system has no memory for another chunk, or if `bytes` are longer
    /// than a chunk, 64 MiB.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Place> {
        let no_memory = Error::NoMemory { bytes: CHUNK.max(bytes.len()), what: "compressed pages" };
        if bytes.len() > CHUNK {
            return Err(no_memory);
        }
        let room = self.chunks.last().is_some_and(|c| c.capacity() - c.len() >= bytes.len());
        if !room {
            let mut chunk: Vec<u8> = Vec::new();
            chunk.try_reserve_exact(CHUNK).map_err(|_| no_memory)?;
            decline_huge_pages(&mut chunk);
            self.chunks.push(chunk);
        }
        let index = self.chunks.len() - 1;
        let chunk = &mut self.chunks[index];
        let start = chunk.len();
        chunk.extend_from_slice(bytes);
        // All three fit: a chunk is 64 MiB, and 2^32 chunks exceed any address space.
        Ok(Place { chunk: index as u32, start: start as u32, len: bytes.len() as u32 })
    }

    /// Returns the bytes that were pushed to `place` of this arena.
    ///
    /// # Panics
    ///
    /// If `place` is from another arena and lies beyond the bytes of this one.
    #[inline]
    pub fn get(&self, place: Place) -> &[u8] {
        let start = place.start as usize;
        &self.chunks[place.chunk as usize][start..start + place.len as usize]
    }
}

/// Asks the system to use no huge pages for the memory of `chunk`. If the system refuses, the arena still works.
#[cfg(target_os = "linux")]
fn decline_huge_pages(chunk: &mut Vec<u8>) {
    // ALIGN is a multiple of every page size. The parts that it cuts off at both ends are too small for a huge
    // page.
    const ALIGN: usize = 64 << 10;
    let spare = chunk.spare_capacity_mut();
    let skip = spare.as_ptr().addr().next_multiple_of(ALIGN) - spare.as_ptr().addr();
    let len = spare.len().saturating_sub(skip) / ALIGN * ALIGN;
    let Some(inside) = spare.get_mut(skip..skip + len) else { return };
    // SAFETY: the range is memory of `chunk`, borrowed for the call, and this advice changes
    // neither its contents nor its access rights.
    let _ = unsafe {
        rustix::mm::madvise(
            inside.as_mut_ptr().cast(),
            inside.len(),
            rustix::mm::Advice::LinuxNoHugepage,
        )
    };
}

#[cfg(not(target_os = "linux"))]
fn decline_huge_pages(_chunk: &mut Vec<u8>) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_pushed_is_there_and_dense() {
        let mut arena = Arena::default();
        let strings: Vec<Vec<u8>> = (0..2000usize).map(|i| vec![i as u8; i * 7 % 4113]).collect();
        let places: Vec<Place> = strings.iter().map(|s| arena.push(s).unwrap()).collect();
        for (string, &place) in strings.iter().zip(&places) {
            assert_eq!(arena.get(place), string);
        }
        for pair in places.windows(2) {
            assert_eq!(pair[0].start + pair[0].len, pair[1].start);
        }
    }

    #[test]
    fn a_full_chunk_is_followed_by_another() {
        let mut arena = Arena::default();
        let half = vec![1u8; CHUNK / 2 + 1];
        let first = arena.push(&half).unwrap();
        let second = arena.push(&[2; 9]).unwrap();
        let third = arena.push(&half).unwrap();
        assert_eq!((first.chunk, second.chunk, third.chunk), (0, 0, 1));
        assert_eq!(arena.get(second), [2; 9]);
        assert_eq!(arena.get(third), half);
        assert!(arena.push(&vec![0; CHUNK + 1]).is_err());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_system_was_told_to_keep_huge_pages_away() {
        if !std::path::Path::new("/sys/kernel/mm/transparent_hugepage").exists() {
            return; // The kernel was built without huge pages.
        }
        let mut arena = Arena::default();
        let place = arena.push(&[5; 100]).unwrap();
        let inside = arena.get(place).as_ptr().addr() + (1 << 20);
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut holds = false;
        let flags = maps.lines().find(|line| {
            if let Some((start, end)) = line.split(' ').next().and_then(|r| r.split_once('-')) {
                if let (Ok(start), Ok(end)) =
                    (usize::from_str_radix(start, 16), usize::from_str_radix(end, 16))
                {
                    holds = (start..end).contains(&inside);
                }
            }
            holds && line.starts_with("VmFlags:")
        });
        assert!(flags.unwrap().split(' ').any(|flag| flag == "nh"), "{flags:?}");
    }
}
