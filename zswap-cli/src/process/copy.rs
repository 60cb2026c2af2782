//! The memory for the copies. It is allocated before the target is stopped, and filled while the target
//! is stopped.

use measure::Pages;
use zswap_core::PAGE_SIZE;

use super::SampleError;
use super::choose::{Extent, RUN};
use super::pagemap::Pagemap;
use super::{ptrace, status};

pub(crate) struct Copies {
    pages: Pages,
    filled: usize,
}

impl Copies {
    /// Allocates room for this many pages and writes to it, so that no page fault prolongs the time
    /// that the target is stopped.
    pub(crate) fn with_room_for(pages: u64) -> Result<Self, SampleError> {
        let no_memory = || SampleError::NoMemory { pages };
        let count = usize::try_from(pages).map_err(|_| no_memory())?;
        let mut room = Pages::default();
        room.try_reserve(count).map_err(|_| no_memory())?;
        // The value is not 0: the system might allocate pages of zeros only when they are written to.
        room.resize(count, 0x5a);
        Ok(Copies { pages: room, filled: 0 })
    }

    /// Copies the pages of `extent` that are still resident and private to the target.
    pub(crate) fn copy(
        &mut self,
        pid: i32,
        extent: Extent,
        pagemap: &Pagemap,
    ) -> Result<(), SampleError> {
        let mut at = extent.first;
        let end = extent.first + extent.pages;
        while at < end {
            // Copies in steps, so that little time passes between reading the page map and copying.
            let step = (end - at).min(RUN * 16);
            for part in pagemap.still(at, step)? {
                self.copy_part(pid, part)?;
            }
            at += step;
        }
        Ok(())
    }

    fn copy_part(&mut self, pid: i32, part: Extent) -> Result<(), SampleError> {
        let room = &mut self.pages[self.filled..];
        let count = room.len().min(part.pages as usize);
        let bytes = room[..count].as_flattened_mut();
        let address = part.first * PAGE_SIZE as u64;
        let got = ptrace::read_memory(pid, address, bytes)
            .map_err(|source| status::refused(pid, "cannot read the memory", source))?;
        // A partial page does not count; the next one overwrites it.
        self.filled += got / PAGE_SIZE;
        Ok(())
    }

    /// Returns the pages that were copied.
    pub(crate) fn into_pages(mut self) -> Pages {
        self.pages.resize(self.filled, 0);
        self.pages
    }
}
