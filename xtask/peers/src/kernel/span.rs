//! Anonymous memory that is swapped out one page at a time, and comes back when it is accessed.
//!
//! Each page has its own lock, so that no thread reads a page while another writes it. The memory
//! is not pinned (`mlock`): the kernel may swap a page out at any time. That only costs time.

use std::ffi::c_void;
use std::io;
use std::ptr::{NonNull, null_mut};
use std::sync::{Mutex, MutexGuard, PoisonError};

use measure::Page;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

use crate::source::PAGE;

/// The state of a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Holds nothing.
    Free,
    /// Holds a page that was last seen in memory.
    In,
    /// Holds a page that has been swapped out.
    Out,
}

/// One page of a span. Only the thread that holds the slot's lock reads or writes the page.
#[derive(Debug)]
struct Slot {
    at: NonNull<Page>,
    state: State,
}

// SAFETY: a slot owns its page, as a `Box<Page>` does. The span keeps the page mapped until all
// slots are dropped.
unsafe impl Send for Slot {}

#[derive(Debug)]
pub(super) struct Span {
    slots: Box<[Mutex<Slot>]>,
    // Declared last, so that the memory is unmapped after all slots are dropped.
    map: Map,
}

/// A private anonymous mapping that the kernel never turns into huge pages.
#[derive(Debug)]
struct Map {
    start: NonNull<Page>,
    len: usize,
}

// SAFETY: a shared reference allows only `advise` and `resident`, which the kernel accepts from any
// thread. `advise` gives only advice that does not change the pages' contents.
unsafe impl Sync for Map {}

impl Map {
    fn new(pages: usize) -> io::Result<Self> {
        let (len, rights) = (pages * PAGE, ProtFlags::READ | ProtFlags::WRITE);
        // SAFETY: the kernel chooses the address, so nothing that is mapped already is replaced.
        let start = unsafe { mmap_anonymous(null_mut(), len, rights, MapFlags::PRIVATE) }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        let map = Map { start, len };
        map.advise(Advice::LinuxNoHugepage)?;
        Ok(map)
    }

    /// Gives the kernel advice that does not change the pages' contents.
    fn advise(&self, advice: Advice) -> io::Result<()> {
        debug_assert!(advice != Advice::LinuxDontNeed && advice != Advice::LinuxFree);
        // SAFETY: the range is this mapping, and its bytes do not change.
        unsafe { madvise(self.start.as_ptr().cast(), self.len, advice) }?;
        Ok(())
    }

    /// Returns the number of pages in memory. Pages in the swap cache count as in memory.
    fn resident(&self) -> io::Result<usize> {
        let mut pages = vec![0u8; self.len / PAGE];
        let start = self.start.as_ptr().cast::<c_void>();
        // SAFETY: the range is this mapping, and `pages` has a byte for each of its pages.
        if unsafe { libc::mincore(start, self.len, pages.as_mut_ptr()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(pages.iter().filter(|&&page| page & 1 != 0).count())
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: `new` mapped this memory. The slots point into it, and the span drops them before
        // the map.
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
        super::tell_left("memory", unmapped);
    }
}

impl Slot {
    fn advise(&mut self, advice: Advice) -> io::Result<()> {
        // SAFETY: the slot owns this page, so even advice that drops its bytes is allowed.
        unsafe { madvise(self.at.as_ptr().cast(), PAGE, advice) }?;
        Ok(())
    }

    fn give_up(&mut self) -> io::Result<()> {
        self.state = State::Free;
        self.advise(Advice::LinuxDontNeed)
    }
}

impl Span {
    /// Makes a span of `pages` pages. All are free, and none is in memory.
    pub(super) fn new(pages: usize) -> io::Result<Self> {
        let map = Map::new(pages)?;
        let slot = |n| {
            // SAFETY: `n` is below the number of pages of the mapping.
            let at = unsafe { map.start.add(n) };
            Mutex::new(Slot { at, state: State::Free })
        };
        Ok(Span { slots: (0..pages).map(slot).collect(), map })
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    fn slot(&self, page: usize) -> io::Result<MutexGuard<'_, Slot>> {
        let slot = self.slots.get(page).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(slot.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Brings every page into memory, so that the next writes do not fault.
    pub(super) fn populate(&self) -> io::Result<()> {
        self.map.advise(Advice::LinuxPopulateWrite)
    }

    /// Stores `from` as page `page`, and asks the kernel to swap it out.
    pub(super) fn put(&self, page: usize, from: &Page) -> io::Result<()> {
        let mut slot = self.slot(page)?;
        if slot.state == State::Out {
            // The old page is dropped first. Otherwise it would be swapped in only to be
            // overwritten.
            slot.give_up()?;
        }
        // SAFETY: the slot owns its page, which the span keeps mapped. So the two do not overlap.
        unsafe { slot.at.as_ptr().copy_from_nonoverlapping(from, 1) };
        slot.state = State::Out;
        slot.advise(Advice::LinuxPageOut)
    }

    /// Swaps page `page` in and copies it to `to`. Returns false if the page is free.
    pub(super) fn get(&self, page: usize, to: &mut Page) -> io::Result<bool> {
        let mut slot = self.slot(page)?;
        if slot.state == State::Free {
            return Ok(false);
        }
        // SAFETY: the slot owns its page, which the span keeps mapped. So the two do not overlap.
        unsafe { slot.at.as_ptr().copy_to_nonoverlapping(to, 1) };
        slot.state = State::In;
        Ok(true)
    }

    /// Frees page `page`, both in memory and in swap.
    pub(super) fn free(&self, page: usize) -> io::Result<()> {
        self.slot(page)?.give_up()
    }

    /// Asks the kernel to swap out every page. Returns how many stayed in memory.
    pub(super) fn send_out(&self) -> io::Result<usize> {
        self.map.advise(Advice::LinuxPageOut)?;
        let resident = self.map.resident()?;
        if resident == 0 {
            for page in 0..self.slots.len() {
                let mut slot = self.slot(page)?;
                if slot.state == State::In {
                    slot.state = State::Out;
                }
            }
        }
        Ok(resident)
    }

    /// Returns the number of pages that are not free, whether in memory or in swap.
    pub(super) fn kept(&self) -> io::Result<usize> {
        let mut kept = 0;
        for page in 0..self.slots.len() {
            kept += usize::from(self.slot(page)?.state != State::Free);
        }
        Ok(kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::shared;

    #[test]
    fn pages_are_kept_with_or_without_swap() {
        let pages = shared::pages(8, 5);
        let span = Span::new(8).unwrap();
        let mut page = [0xa5; PAGE];
        assert!(!span.get(3, &mut page).unwrap());
        for (n, from) in pages.iter().enumerate().chain(pages.iter().rev().enumerate()) {
            span.put(n, from).unwrap();
            assert!(span.get(n, &mut page).unwrap());
            assert_eq!(page, *from);
        }
        assert_eq!(span.kept().unwrap(), 8);
        span.free(7).unwrap();
        assert!(!span.get(7, &mut page).unwrap());
        assert_eq!(span.kept().unwrap(), 7);
        assert!(span.put(8, &page).is_err());
    }
}
