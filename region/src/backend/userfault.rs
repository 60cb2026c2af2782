//! The backend `move`: anonymous memory under a userfaultfd. `UFFDIO_MOVE` takes pages to a limbo of their own addresses,
//! `UFFDIO_COPY` fills them again. A missing page, and a write to a protected one, raise SIGBUS on the thread that touches
//! it.
//!
//! A page moves out rather than being compressed in place: nobody can write it afterwards. It comes back by a copy, since
//! moving flushes the translations of all processors.

use std::io;

use super::{Backend, InLimbo, none_of};
use crate::sys::{Advice, Memory};
use crate::uffd::{Refused, Uffd};
use zswap_core::{PAGE_SIZE, Page};

/// The pages of zeros that are mapped in one call.
const MOST_ZEROS: usize = 16;
static ZEROS: [Page; MOST_ZEROS] = [[0; PAGE_SIZE]; MOST_ZEROS];

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Userfault {
    uffd: Uffd,
    memory: Memory,
    limbo: Memory,
}

impl Userfault {
    /// Maps a region of `pages` pages with a limbo of at most `slots` pages.
    ///
    /// # Errors
    /// The call that the system refuses.
    pub(crate) fn new(pages: usize, slots: usize, dump: bool) -> Result<Userfault, Refused> {
        let named = |error| Refused { call: "mmap", error };
        let uffd = Uffd::open()?;
        let memory = Memory::private(pages * PAGE_SIZE, dump).map_err(named)?;
        let limbo = Memory::private(slots * PAGE_SIZE, dump).map_err(named)?;
        for of in [&memory, &limbo] {
            uffd.register(of.base(), of.len())?;
        }
        Ok(Userfault { uffd, memory, limbo })
    }

    fn copy(
        &self,
        page: usize,
        from: *const u8,
        pages: usize,
        protect: bool,
    ) -> Result<(), (io::Error, usize)> {
        // SAFETY: all callers own the pages, and pass pages that are readable for this length.
        unsafe { self.uffd.copy(self.memory.page(page), from, pages * PAGE_SIZE, protect) }
    }
}

impl Backend for Userfault {
    fn take(&self, first: usize, slot: usize, pages: usize) -> usize {
        let mut done = 0;
        // A page may be missing twice if the program drops it again meanwhile.
        for _ in 0..=2 * pages {
            let (to, from) = (self.limbo.page(slot + done), self.memory.page(first + done));
            // SAFETY: this thread owns the pages and the slots (`Backend`), so nobody depends on what is mapped there;
            // the program's touches wait for this thread.
            let moved = unsafe { self.uffd.move_pages(to, from, (pages - done) * PAGE_SIZE) };
            let Err((error, bytes)) = moved else { return pages };
            done += bytes / PAGE_SIZE;
            // The program has dropped the page: its content is zeros now. Left alone, it would count for ever.
            let missing = error.raw_os_error() == Some(libc::ENOENT);
            if !missing || !self.repair(first + done, false).unwrap_or(false) {
                break;
            }
        }
        done
    }

    unsafe fn limbo<'a>(&'a self, at: InLimbo, _room: &'a mut Page) -> &'a Page {
        // SAFETY: the slot has a page while the page is in the limbo, and nobody writes it: it has no other address.
        unsafe { &*self.limbo.page(at.slot).cast::<Page>() }
    }

    fn copies(&self) -> bool {
        false
    }

    fn put_back(&self, at: InLimbo) -> io::Result<()> {
        let (to, from) = (self.memory.page(at.page), self.limbo.page(at.slot));
        // SAFETY: this thread owns the page, and thereby its slot (`Backend`).
        match unsafe { self.uffd.move_pages(to, from, PAGE_SIZE) } {
            Ok(()) => Ok(()),
            Err((error, _)) => Err(error),
        }
    }

    fn copy_back(&self, at: InLimbo, protect: bool) -> io::Result<bool> {
        let copied = self.copy(at.page, self.limbo.page(at.slot), 1, protect);
        copied.map(|()| true).map_err(|(error, _)| error)
    }

    fn target(&self, _page: usize) -> io::Result<Option<*mut Page>> {
        Ok(None)
    }

    fn fill(&self, first: usize, bytes: &[Page], pages: usize, protect: bool) -> io::Result<()> {
        let bytes = &bytes[..pages];
        let copied = self.copy(first, bytes.as_ptr().cast(), pages, protect);
        copied.map_err(|(error, _)| none_of(self, first, pages, error))
    }

    fn zero(&self, first: usize, pages: usize) -> io::Result<()> {
        for done in (0..pages).step_by(MOST_ZEROS) {
            let now = MOST_ZEROS.min(pages - done);
            let copied = self.copy(first + done, ZEROS.as_ptr().cast(), now, false);
            copied.map_err(|(error, _)| none_of(self, first, pages, error))?;
        }
        Ok(())
    }

    fn repair(&self, page: usize, protect: bool) -> io::Result<bool> {
        match self.copy(page, ZEROS.as_ptr().cast(), 1, protect) {
            Ok(()) => Ok(true),
            // It is there. It may be protected although it should not be; without this, it would fault for ever.
            Err((error, _)) if error.raw_os_error() == Some(libc::EEXIST) => {
                if !protect {
                    self.unprotect(page)?;
                }
                Ok(false)
            }
            Err((error, _)) => Err(error),
        }
    }

    fn unfill(&self, _first: usize, _pages: usize) {}

    fn can_protect(&self) -> bool {
        true
    }

    fn unprotect(&self, page: usize) -> io::Result<()> {
        self.uffd.unprotect(self.memory.page(page), PAGE_SIZE)
    }

    fn release(&self, pages: &[InLimbo]) -> io::Result<()> {
        for run in pages.chunk_by(|a, b| b.slot == a.slot + 1) {
            // SAFETY: the evictor has compressed these pages or found that they have left, and owns their slots.
            unsafe { self.limbo.advise(run[0].slot, run.len(), Advice::DontNeed) }?;
        }
        Ok(())
    }

    fn releases_first(&self) -> bool {
        false
    }

    fn discard(&self, first: usize, pages: usize) -> io::Result<()> {
        // SAFETY: this thread owns the pages, and the program has given up their content (`Region::discard`).
        unsafe { self.memory.advise(first, pages, Advice::DontNeed) }
    }

    fn base(&self) -> *mut u8 {
        self.memory.base()
    }
}
