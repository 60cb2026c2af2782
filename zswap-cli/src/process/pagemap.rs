//! Which pages of the target are resident and private: `/proc/PID/pagemap`.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use super::SampleError;
use super::choose::Extent;
use super::status;

/// The page is in memory.
const PRESENT: u64 = 1 << 63;
/// The page belongs to a file or is shared memory.
const FILE_OR_SHARED: u64 = 1 << 61;
/// A guard page that the program installed inside a mapping (reported since Linux 6.15).
const GUARD: u64 = 1 << 58;

/// The most entries of the page map that are read at a time.
const STEP: usize = 4096;

pub(crate) struct Pagemap {
    pid: i32,
    file: File,
}

impl Pagemap {
    pub(crate) fn open(pid: i32) -> Result<Self, SampleError> {
        let file = File::open(format!("/proc/{pid}/pagemap"))
            .map_err(|source| status::refused(pid, "cannot open the page map", source))?;
        Ok(Pagemap { pid, file })
    }

    /// Appends the resident anonymous pages of `area` to `extents`. Appends nothing if the area has
    /// a guard page, since the area may be a stack.
    pub(crate) fn resident(
        &self,
        area: Range<u64>,
        extents: &mut Vec<Extent>,
    ) -> Result<(), SampleError> {
        let page = zswap_core::PAGE_SIZE as u64;
        let before = extents.len();
        let (mut at, end) = (area.start / page, area.end / page);
        while at < end {
            let step = (end - at).min(STEP as u64);
            let entries = self.entries(at, step as usize)?;
            if entries.iter().any(|entry| entry & GUARD != 0) {
                extents.truncate(before);
                return Ok(());
            }
            collect(&entries, at, before, extents);
            at += step;
        }
        Ok(())
    }

    /// Returns which of the `pages` pages from number `first` on are resident and anonymous now.
    pub(crate) fn still(&self, first: u64, pages: u64) -> Result<Vec<Extent>, SampleError> {
        let mut extents = Vec::new();
        collect(&self.entries(first, pages as usize)?, first, 0, &mut extents);
        Ok(extents)
    }

    fn entries(&self, first: u64, pages: usize) -> Result<Vec<u64>, SampleError> {
        let mut bytes = vec![0; pages * 8];
        let mut got = 0;
        while got < bytes.len() {
            match self.file.read_at(&mut bytes[got..], first * 8 + got as u64) {
                // The page map ends here. The rest of the entries stay 0: not resident.
                Ok(0) => break,
                Ok(read) => got += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    let what = "cannot read the page map";
                    return Err(SampleError::Failed { pid: self.pid, what, reason: source });
                }
            }
        }
        Ok(bytes.chunks_exact(8).map(word).collect())
    }
}

fn word(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(bytes);
    u64::from_ne_bytes(word)
}

/// Appends the resident anonymous pages among `entries` to `extents`. The first entry belongs to page
/// `first`. Contiguous pages become one extent, but the first `keep` extents do not change.
fn collect(entries: &[u64], first: u64, keep: usize, extents: &mut Vec<Extent>) {
    for (page, entry) in (first..).zip(entries) {
        if entry & PRESENT == 0 || entry & FILE_OR_SHARED != 0 {
            continue;
        }
        match extents.get_mut(keep..).and_then(<[Extent]>::last_mut) {
            Some(last) if last.first + last.pages == page => last.pages += 1,
            _ => extents.push(Extent { first: page, pages: 1 }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_join_and_others_are_left_out() {
        let entries = [PRESENT, PRESENT | 5, 0, PRESENT | FILE_OR_SHARED, PRESENT, 1 << 62];
        let mut extents = vec![Extent { first: 8, pages: 2 }];
        collect(&entries, 10, 1, &mut extents);
        let expect = [(8, 2), (10, 2), (14, 1)].map(|(first, pages)| Extent { first, pages });
        assert_eq!(extents, expect);
        collect(&[PRESENT], 15, 1, &mut extents);
        assert_eq!(extents[2], Extent { first: 14, pages: 2 });
    }

    #[test]
    fn what_this_process_touched_is_resident() {
        let page = zswap_core::PAGE_SIZE;
        let memory = vec![7u8; 40 * page];
        let start = memory.as_ptr().addr().next_multiple_of(page) as u64;
        let pagemap = Pagemap::open(std::process::id() as i32).unwrap();
        let mut extents = Vec::new();
        pagemap.resident(start..start + 39 * page as u64, &mut extents).unwrap();
        let all = Extent { first: start / page as u64, pages: 39 };
        assert_eq!(extents, [all]);
        assert_eq!(pagemap.still(all.first, 16).unwrap(), [Extent { pages: 16, ..all }]);
        assert!(memory.iter().all(|b| *b == 7));
    }
}
