//! The backend `move`: anonymous memory under a userfaultfd. `UFFDIO_MOVE` takes pages to a limbo of their own addresses,
//! `UFFDIO_COPY` fills them again. A missing page, and a write to a protected one, raise SIGBUS on the thread that touches
//! it.
//!
//! A page moves out rather than being compressed in place: nobody can write it afterwards. It comes back by a copy, since
//! moving flushes the translations of all processors.

use core::slice;
use std::io;

use super::{Backend, InLimbo, none_of};
use crate::sys::{Advice, Memory};
use crate::uffd::{Refused, Uffd};
use zswap_core::PAGE_SIZE;

/// The zeros that are mapped in one call: the largest page.
static ZEROS: [u8; 16 * PAGE_SIZE] = [0; 16 * PAGE_SIZE];

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Userfault {
    uffd: Uffd,
    memory: Memory,
    limbo: Memory,
}

impl Userfault {
    /// Maps a region of `pages` pages of `unit` bytes, with a limbo of at most `slots` such pages.
    ///
    /// # Errors
    /// The call that the system refuses.
    pub(crate) fn new(
        pages: usize,
        slots: usize,
        unit: usize,
        dump: bool,
    ) -> Result<Userfault, Refused> {
        let named = |error| Refused { call: "mmap", error };
        let uffd = Uffd::open()?;
        let memory = Memory::private(pages, unit, dump).map_err(named)?;
        let limbo = Memory::private(slots, unit, dump).map_err(named)?;
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
        unsafe { self.uffd.copy(self.memory.page(page), from, pages * self.unit(), protect) }
    }

    /// Maps zeros at a page of the system, of a page that this thread owns. Returns false if something is there.
    fn add_zeros(&self, at: *mut u8, protect: bool) -> io::Result<bool> {
        // SAFETY: all callers own the page, and the zeros are as long as any page.
        match unsafe { self.uffd.copy(at, ZEROS.as_ptr(), PAGE_SIZE, protect) } {
            Ok(()) => Ok(true),
            Err((error, _)) if error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
            Err((error, _)) => Err(error),
        }
    }

    /// Moves the first `len` bytes of a page that this thread owns from its slot back to the page, where they are
    /// missing.
    fn move_back(&self, at: InLimbo, len: usize) {
        let (to, from) = (self.memory.page(at.page), self.limbo.page(at.slot));
        // SAFETY: this thread owns the page and the slot (`Backend`).
        if let Err((_, done)) = unsafe { self.uffd.move_pages(to, from, len) } {
            self.copy_rest(at, done, len);
        }
    }

    /// Copies the bytes `from..end` of a page that this thread owns from its slot to the page, where they are missing,
    /// and frees them in the slot.
    fn copy_rest(&self, at: InLimbo, from: usize, end: usize) {
        let (to, rest) = (self.memory.page(at.page), self.limbo.page(at.slot).wrapping_add(from));
        // SAFETY: this thread owns the page and the slot (`Backend`), and the slot has these bytes.
        let copied = unsafe { self.uffd.copy(to.wrapping_add(from), rest, end - from, false) };
        if let Err((error, _)) = copied {
            // A part of the page is here and a part there: no state says that.
            crate::abort::die(format_args!("a part of page {} cannot be moved: {error}", at.page));
        }
        // SAFETY: the page has these bytes now, and this thread owns the slot.
        if let Err(error) = unsafe { self.limbo.advise(at.slot, 1, Advice::DontNeed) } {
            crate::abort::die(format_args!("the rest of a moved page cannot be freed: {error}"));
        }
    }
}

impl Backend for Userfault {
    fn take(&self, first: usize, slot: usize, pages: usize) -> usize {
        let (to, from) = (self.limbo.page(slot), self.memory.page(first));
        let (unit, len, mut done) = (self.unit(), pages * self.unit(), 0);
        // A page of the system may be missing twice if the program drops it again meanwhile.
        for _ in 0..=2 * len / PAGE_SIZE {
            let (to, from) = (to.wrapping_add(done), from.wrapping_add(done));
            // SAFETY: this thread owns the pages and the slots (`Backend`), so nobody depends on what is mapped there;
            // the program's touches wait for this thread.
            let moved = unsafe { self.uffd.move_pages(to, from, len - done) };
            let Err((error, bytes)) = moved else { return pages };
            done += bytes;
            // The program has dropped it: its content is zeros now. Left alone, it would count for ever.
            let missing = error.raw_os_error() == Some(libc::ENOENT);
            if !missing || !self.add_zeros(from.wrapping_add(bytes), false).unwrap_or(false) {
                break;
            }
        }
        let (whole, rest) = (done / unit, done % unit);
        if rest > 0 {
            // A part of a page cannot leave without the others.
            self.move_back(InLimbo { page: first + whole, slot: slot + whole }, rest);
        }
        whole
    }

    unsafe fn limbo<'a>(&'a self, at: InLimbo, _room: &'a mut [u8]) -> &'a [u8] {
        // SAFETY: the slot has a page while the page is in the limbo, and nobody writes it: it has no other address.
        unsafe { slice::from_raw_parts(self.limbo.page(at.slot), self.unit()) }
    }

    fn copies(&self) -> bool {
        false
    }

    fn put_back(&self, at: InLimbo) -> io::Result<()> {
        let (to, from) = (self.memory.page(at.page), self.limbo.page(at.slot));
        // SAFETY: this thread owns the page, and thereby its slot (`Backend`).
        match unsafe { self.uffd.move_pages(to, from, self.unit()) } {
            Ok(()) => Ok(()),
            Err((error, 0)) => Err(error),
            Err((_, done)) => {
                self.copy_rest(at, done, self.unit());
                Ok(())
            }
        }
    }

    fn copy_back(&self, at: InLimbo, protect: bool) -> io::Result<bool> {
        let copied = self.copy(at.page, self.limbo.page(at.slot), 1, protect);
        // What was copied goes again; the limbo still has it.
        copied.map(|()| true).map_err(|(error, _)| none_of(self, at.page, 1, error))
    }

    fn target(&self, _page: usize) -> io::Result<Option<*mut u8>> {
        Ok(None)
    }

    fn fill(&self, first: usize, bytes: &[u8], pages: usize, protect: bool) -> io::Result<()> {
        let bytes = &bytes[..pages * self.unit()];
        let copied = self.copy(first, bytes.as_ptr(), pages, protect);
        copied.map_err(|(error, _)| none_of(self, first, pages, error))
    }

    fn zero(&self, first: usize, pages: usize) -> io::Result<()> {
        let most = ZEROS.len() / self.unit();
        for done in (0..pages).step_by(most) {
            let now = most.min(pages - done);
            let copied = self.copy(first + done, ZEROS.as_ptr(), now, false);
            copied.map_err(|(error, _)| none_of(self, first, pages, error))?;
        }
        Ok(())
    }

    fn repair(&self, page: usize, protect: bool) -> io::Result<bool> {
        let mut was_dropped = false;
        for offset in (0..self.unit()).step_by(PAGE_SIZE) {
            was_dropped |= self.add_zeros(self.memory.page(page).wrapping_add(offset), protect)?;
        }
        // What is there may be protected although it should not be; without this, it would fault for ever.
        if !was_dropped && !protect {
            self.unprotect(page)?;
        }
        Ok(was_dropped)
    }

    fn unfill(&self, _first: usize, _pages: usize) {}

    fn can_protect(&self) -> bool {
        true
    }

    fn unprotect(&self, page: usize) -> io::Result<()> {
        self.uffd.unprotect(self.memory.page(page), self.unit())
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

    fn unit(&self) -> usize {
        self.memory.unit()
    }
}
