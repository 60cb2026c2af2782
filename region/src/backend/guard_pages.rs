//! The backend `guard`: a file in memory, mapped twice. The program has one mapping, where guard pages raise SIGSEGV on
//! the thread that touches an evicted page; this crate reads and fills pages through the other one, the alias. After
//! `new` no descriptor is needed.
//!
//! A page in the limbo keeps its memory and its place in the file; only the guard is new. So the evictor compresses a
//! copy: the page may come back, and be written, at any moment.
//!
//! **No read fault in the alias.** While the system punches a hole, it drops guards, too, of pages that are mapped
//! anywhere again after it has unmapped them: a touch would then find zeros. A read fault maps neighbours of the page, if
//! they are in the file. So pages of the alias are mapped by `MADV_POPULATE_WRITE`, which maps no neighbours, by the thread
//! that owns them, before they are read or written. (Linux 6.18: `unmap_mapping_folio` drops markers;
//! `filemap_map_pages` maps around.)

use std::io;

use super::{Backend, InLimbo, none_of};
use crate::sys::{Advice, Memory, memory_file};
use crate::uffd::Refused;

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct GuardPages {
    memory: Memory,
    alias: Memory,
}

impl GuardPages {
    /// Maps a region of `pages` pages of `unit` bytes, all guarded.
    ///
    /// # Errors
    /// The call that the system refuses: `MADV_GUARD_INSTALL` on a file in memory needs Linux 6.15.
    pub(crate) fn new(pages: usize, unit: usize, dump: bool) -> Result<GuardPages, Refused> {
        let named = |call| move |error| Refused { call, error };
        let file = memory_file(pages * unit).map_err(named("memfd_create"))?;
        // Never in a core dump: writing one would map, and so allocate, the whole file.
        let alias = Memory::shared(pages, unit, &file, false).map_err(named("mmap"))?;
        let memory = Memory::shared(pages, unit, &file, dump).map_err(named("mmap"))?;
        // SAFETY: nobody uses the mapping yet.
        unsafe { memory.advise(0, pages, Advice::GuardInstall) }
            .map_err(named("madvise(MADV_GUARD_INSTALL) on a memfd"))?;
        Ok(GuardPages { memory, alias })
    }

    /// Lets the program touch pages again.
    fn open(&self, first: usize, pages: usize) -> io::Result<()> {
        // SAFETY: this thread owns the pages (`Backend`), and what they show is what the file has.
        unsafe { self.memory.advise(first, pages, Advice::GuardRemove) }
    }

    /// Lets the program touch all pages again, or none.
    fn open_or_none(&self, first: usize, pages: usize) -> io::Result<()> {
        self.open(first, pages).map_err(|error| none_of(self, first, pages, error))
    }

    /// Maps pages of the alias without their neighbours.
    fn map_alias(&self, first: usize, pages: usize) -> io::Result<()> {
        // SAFETY: this thread owns the pages (`Backend`), and mapping them changes no byte.
        unsafe { self.alias.advise(first, pages, Advice::PopulateWrite) }
    }

    /// Frees the memory of pages that are guarded.
    fn punch(&self, first: usize, pages: usize) -> io::Result<()> {
        // SAFETY: this thread owns the pages (`Backend`), and their content is in the store or given up.
        unsafe { self.alias.advise(first, pages, Advice::Remove) }
    }
}

impl Backend for GuardPages {
    fn take(&self, first: usize, _slot: usize, pages: usize) -> usize {
        // SAFETY: this thread owns the pages (`Backend`); the file keeps their content.
        match unsafe { self.memory.advise(first, pages, Advice::GuardInstall) } {
            Ok(()) => pages,
            // Some may be guarded; all are open again afterwards, so none was taken.
            Err(_) => match self.open(first, pages) {
                Ok(()) => 0,
                Err(error) => crate::abort::die(format_args!("a guard cannot be removed: {error}")),
            },
        }
    }

    unsafe fn limbo<'a>(&'a self, at: InLimbo, room: &'a mut [u8]) -> &'a [u8] {
        if let Err(error) = self.map_alias(at.page, 1) {
            crate::abort::die(format_args!("a page cannot be mapped to compress it: {error}"));
        }
        let (from, unit) = (self.alias.page(at.page), self.unit());
        assert_eq!(room.len(), unit, "the room of a page has another length than a page");
        // SAFETY: the page is MOVING on this thread (`copies`) and guarded, so nobody writes it; `room` is other memory of the
        // same length.
        unsafe { from.copy_to_nonoverlapping(room.as_mut_ptr(), unit) };
        room
    }

    fn copies(&self) -> bool {
        true
    }

    fn put_back(&self, at: InLimbo) -> io::Result<()> {
        self.open(at.page, 1)
    }

    fn copy_back(&self, at: InLimbo, _protect: bool) -> io::Result<bool> {
        self.open(at.page, 1).map(|()| false)
    }

    fn target(&self, page: usize) -> io::Result<Option<*mut u8>> {
        self.map_alias(page, 1)?;
        Ok(Some(self.alias.page(page)))
    }

    fn fill(&self, first: usize, _bytes: &[u8], pages: usize, _protect: bool) -> io::Result<()> {
        // Mapped twice, the pages would count twice in the resident set of the process.
        // SAFETY: this thread owns the pages (`Backend`); the file keeps what was written through the alias.
        unsafe { self.alias.advise(first, pages, Advice::DontNeed) }?;
        self.open_or_none(first, pages)
    }

    fn unfill(&self, first: usize, pages: usize) {
        // If it fails, there are pages of the file that nobody sees until the next fill.
        let _ = self.punch(first, pages);
    }

    fn zero(&self, first: usize, pages: usize) -> io::Result<()> {
        self.open_or_none(first, pages)
    }

    fn repair(&self, page: usize, _protect: bool) -> io::Result<bool> {
        self.open(page, 1).map(|()| false)
    }

    fn can_protect(&self) -> bool {
        false
    }

    fn unprotect(&self, _page: usize) -> io::Result<()> {
        Ok(())
    }

    fn release(&self, pages: &[InLimbo]) -> io::Result<()> {
        for run in pages.chunk_by(|a, b| b.page == a.page + 1) {
            self.punch(run[0].page, run.len())?;
        }
        Ok(())
    }

    fn releases_first(&self) -> bool {
        true
    }

    fn discard(&self, first: usize, pages: usize) -> io::Result<()> {
        // SAFETY: this thread owns the pages, and the program has given up their content (`Region::discard`).
        unsafe { self.memory.advise(first, pages, Advice::GuardInstall) }?;
        self.punch(first, pages)
    }

    fn base(&self) -> *mut u8 {
        self.memory.base()
    }

    fn unit(&self) -> usize {
        self.memory.unit()
    }
}
