//! How pages get out of the program's reach and back: the trait of the two backends.
//!
//! A page leaves in two steps. [`Backend::take`] makes it inaccessible, with its content in the limbo, where the evictor
//! reads it. Later [`Backend::release`] frees the content's memory. In between, a touch gets the page back without
//! decompression.
//!
//! A page of the region is a unit of its store: one page of the system, or up to sixteen.

pub(crate) mod guard_pages;
pub(crate) mod userfault;

use std::io;

/// How a region gets its pages out of the program's reach.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BackendKind {
    /// Anonymous memory under a userfaultfd. Linux 6.8; containers often forbid it. The faster one.
    Move,
    /// A file in memory with guard pages. Linux 6.15. Needs nothing that a container forbids, and no descriptor after it
    /// was built.
    Guard,
}

/// Takes back what was mapped of some pages before an error, and returns the error.
fn none_of(backend: &impl Backend, first: usize, pages: usize, error: io::Error) -> io::Error {
    match backend.discard(first, pages) {
        Ok(()) => error,
        Err(worse) => {
            crate::abort::die(format_args!("pages cannot be unmapped after {error}: {worse}"))
        }
    }
}

/// A page in the limbo.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct InLimbo {
    pub(crate) page: usize,
    pub(crate) slot: usize,
}

/// Memory whose pages can be taken from the program and given back. All calls are about pages that the calling thread
/// owns (FILLING, MOVING) or, for `limbo` alone, compresses.
///
/// Errors are the system's, and final: the backend has repeated what can be repeated.
pub(crate) trait Backend: Send + Sync {
    /// Takes `pages` pages from page `first` on, into the slots from `slot` on. Returns how many it took: the next one
    /// cannot be taken now, since the kernel or another process uses it.
    fn take(&self, first: usize, slot: usize, pages: usize) -> usize;

    /// Returns the content of a page in the limbo. `room` is where a backend puts it that lets the program write the page
    /// while it is compressed; such a backend is called while the page is MOVING.
    ///
    /// # Safety
    /// The page is in this slot, and stays there as long as the reference lives.
    unsafe fn limbo<'a>(&'a self, at: InLimbo, room: &'a mut [u8]) -> &'a [u8];

    /// Whether `limbo` copies the page, so that the page must not come back during the call.
    fn copies(&self) -> bool;

    /// Maps a page from the limbo again. Its slot has no memory afterwards.
    fn put_back(&self, at: InLimbo) -> io::Result<()>;

    /// Maps a copy of a page in the limbo, write-protected if asked and possible. Returns whether the slot keeps its
    /// memory, so that there are two pages now.
    fn copy_back(&self, at: InLimbo, protect: bool) -> io::Result<bool>;

    /// Returns where to write the content of the next page to be filled, before `fill`; `None` if it may be anywhere.
    fn target(&self, page: usize) -> io::Result<Option<*mut u8>>;

    /// Maps `pages` pages from page `first` on, where nothing is mapped; after an error, none of them is. Their
    /// content is that of `bytes`, or has been written where [`Backend::target`] said.
    fn fill(&self, first: usize, bytes: &[u8], pages: usize, protect: bool) -> io::Result<()>;

    /// Frees what [`Backend::target`] took for pages that are not filled after all.
    fn unfill(&self, first: usize, pages: usize);

    /// Maps `pages` pages of zeros.
    fn zero(&self, first: usize, pages: usize) -> io::Result<()>;

    /// Makes a mapped page accessible whose touch has raised a signal nevertheless: maps zeros if the program dropped
    /// the page. Returns whether it had.
    fn repair(&self, page: usize, protect: bool) -> io::Result<bool>;

    /// Whether pages can be write-protected.
    fn can_protect(&self) -> bool;

    /// Lets the program write a page.
    fn unprotect(&self, page: usize) -> io::Result<()>;

    /// Frees the memory of pages in the limbo, in ascending order of slots.
    fn release(&self, pages: &[InLimbo]) -> io::Result<()>;

    /// Whether the memory of a page in the limbo belongs to the page, so that it must be released before the page is
    /// cold.
    fn releases_first(&self) -> bool;

    /// Drops the content of mapped pages: afterwards a touch raises a signal.
    fn discard(&self, first: usize, pages: usize) -> io::Result<()>;

    fn base(&self) -> *mut u8;

    /// Returns the bytes of a page.
    fn unit(&self) -> usize;
}
