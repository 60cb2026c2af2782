//! The errors of backends and page providers. Each message names the offending value and a remedy.

use core::fmt::{self, Write as _};

use crate::handle::Handle;

/// Errors of a [`crate::Zpool`] and of the [`crate::Registry`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ZpoolError {
    /// The handle names no live object of this pool. The object was freed, or the handle was never returned
    /// by this pool.
    #[error(
        "handle {handle:#018x} names no live object of this pool; it was freed or never given out"
    )]
    InvalidHandle {
        /// The handle that was passed.
        handle: u64,
    },
    /// The object would have 0 bytes, but objects have at least one.
    #[error("an object of 0 bytes cannot be allocated; keep empty values outside the pool")]
    EmptyObject,
    /// The object is larger than [`crate::ZpoolCaps::max_object_size`].
    #[error("an object of {size} bytes exceeds the {max} bytes that {backend} can hold")]
    ObjectTooLarge {
        /// Bytes requested.
        size: usize,
        /// Size of this pool's largest object, in bytes.
        max: usize,
        /// The backend's name.
        backend: &'static str,
    },
    /// The page provider or the budget refused a page, or the heap refused the buffer of
    /// [`crate::ObjWrite::buffered`]. Nothing was allocated. Free objects, or retry later.
    #[error(transparent)]
    OutOfMemory {
        /// The error of the provider or the budget, or a [`PageError::Refused`] for the buffer.
        #[from]
        source: PageError,
    },
    /// There is no memory for the pool's own descriptors.
    #[error(
        "no memory for the descriptors of {backend} ({bytes} bytes requested); free memory and retry"
    )]
    OutOfMetadata {
        /// The backend's name.
        backend: &'static str,
        /// Bytes that the system allocator refused.
        bytes: usize,
    },
    /// All of the pool's handles are used up. docs/handles.md lists the limits.
    #[error("{backend} holds its limit of {limit} objects; use a second pool")]
    TooManyObjects {
        /// The backend's name.
        backend: &'static str,
        /// Number of handle slots that a pool can have.
        limit: u64,
    },
    /// The object has as many readers as its counter can hold. Drop guards and retry.
    #[error("object {handle:#018x} has {limit} readers, the limit; drop some guards and retry")]
    TooManyReaders {
        /// The handle that was passed.
        handle: u64,
        /// The greatest number of guards that one object can have.
        limit: u64,
    },
    /// [`crate::ObjWrite::commit`] was called before every byte was written. The space was freed.
    #[error(
        "only {written} of the object's {size} bytes were written before commit; its space was freed"
    )]
    NotFullyWritten {
        /// Bytes that were written.
        written: usize,
        /// Bytes that were allocated.
        size: usize,
    },
    /// The bytes do not fit in the rest of the object. None of them was written.
    #[error("{len} bytes do not fit in the {room} bytes left in the object")]
    WriteBeyondEnd {
        /// Bytes passed to the write.
        len: usize,
        /// Bytes that still fit.
        room: usize,
    },
    /// This backend does not implement the operation. [`crate::ZpoolCaps`] says which operations it has.
    #[error("backend {backend} has no {operation}; check caps() first")]
    Unsupported {
        /// The backend's name.
        backend: &'static str,
        /// The operation's name in the trait.
        operation: &'static str,
    },
    /// The pool was made in the parent process, and this process is its child after `fork`. Make a new pool
    /// here.
    #[error("the {backend} pool was made before this process was forked; build another one here")]
    Forked {
        /// The backend's name.
        backend: &'static str,
    },
    /// A backend or its page provider panicked, and the caller caught the panic.
    #[error("{backend} panicked in {operation}; its memory for this object may be lost")]
    Panicked {
        /// The backend's name.
        backend: &'static str,
        /// The operation's name in the trait.
        operation: &'static str,
    },
    /// No backend is registered under this name.
    #[error("no backend named `{name}`; known: {known}")]
    UnknownBackend {
        /// The requested name.
        name: String,
        /// The registered names, separated by commas.
        known: String,
    },
    /// A backend is registered under this name already.
    #[error("a backend named `{name}` is registered already; choose another name")]
    AlreadyRegistered {
        /// The name.
        name: String,
    },
    /// The backend does not support pages of this size.
    #[error("backend {backend} cannot use pages of {page_size} bytes; choose {allowed}")]
    UnsupportedPageSize {
        /// The backend's name.
        backend: &'static str,
        /// The provider's page size, in bytes.
        page_size: usize,
        /// The supported sizes, in words.
        allowed: &'static str,
    },
}

impl ZpoolError {
    /// Makes a [`ZpoolError::InvalidHandle`] for `handle`.
    pub fn invalid(handle: Handle) -> Self {
        ZpoolError::InvalidHandle { handle: handle.as_u64() }
    }
}

/// Errors of a [`crate::PageProvider`].
///
/// Most of these errors report a lack of memory, so cloning one must not abort if memory is short. If there
/// is no memory for a text, the clone omits the text.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PageError {
    /// The system or the heap refused the memory.
    #[error(
        "the system refused {pages} pages of {page_size} bytes ({reason}); free memory and retry"
    )]
    Refused {
        /// Pages requested.
        pages: usize,
        /// Bytes per page.
        page_size: usize,
        /// The system's reason.
        reason: String,
    },
    /// The run length is 0 or exceeds the greatest length.
    #[error("a run of {pages} pages was requested; runs have 1 to {max} pages")]
    RunLength {
        /// Pages requested.
        pages: usize,
        /// Greatest length of a run, in pages.
        max: usize,
    },
    /// This page size cannot be used here.
    #[error("pages of {page_size} bytes cannot be used here; choose {allowed}")]
    PageSize {
        /// The page size requested, in bytes.
        page_size: usize,
        /// The page sizes that can be used, in words.
        allowed: String,
    },
    /// The pages would exceed a [`crate::PageBudget`].
    #[error("{bytes} bytes of pages exceed the budget: {used} of {limit} bytes are in use")]
    Limit {
        /// Bytes requested.
        bytes: usize,
        /// Bytes in use.
        used: usize,
        /// The limit, in bytes.
        limit: usize,
    },
    /// The provider was made in the parent process, and this process is its child after `fork`.
    #[error("the page provider was made before this process was forked; make another one here")]
    Forked,
    /// `FailingPages` was set to fail this call, or its limit of pages is reached.
    #[error("page request {call} failed on purpose (FailingPages)")]
    Injected {
        /// The number of the failed `alloc_run` call, counted from 1.
        call: u64,
    },
}

impl PageError {
    /// Makes a [`PageError::Refused`]. Meant for providers. Never aborts: if there is no memory for the
    /// whole `reason`, cuts it short.
    ///
    /// ```
    /// use zpool_api::PageError;
    ///
    /// let error = PageError::refused(16, 4096, format_args!("mmap: error {}", 12));
    /// assert!(error.to_string().contains("16 pages of 4096 bytes (mmap: error 12)"));
    /// ```
    pub fn refused(pages: usize, page_size: usize, reason: fmt::Arguments<'_>) -> Self {
        let mut text = Fallible(String::new());
        // If memory runs out, the text is cut short.
        let _ = text.write_fmt(reason);
        PageError::Refused { pages, page_size, reason: text.0 }
    }
}

impl Clone for PageError {
    fn clone(&self) -> Self {
        match *self {
            PageError::Refused { pages, page_size, ref reason } => {
                PageError::refused(pages, page_size, format_args!("{reason}"))
            }
            PageError::RunLength { pages, max } => PageError::RunLength { pages, max },
            PageError::PageSize { page_size, ref allowed } => {
                let mut text = Fallible(String::new());
                // If memory runs out, the text stays empty.
                let _ = text.write_str(allowed);
                PageError::PageSize { page_size, allowed: text.0 }
            }
            PageError::Limit { bytes, used, limit } => PageError::Limit { bytes, used, limit },
            PageError::Forked => PageError::Forked,
            PageError::Injected { call } => PageError::Injected { call },
        }
    }
}

/// A text that can grow without aborting. If there is no memory, writing to it returns an error.
struct Fallible(String);

impl fmt::Write for Fallible {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        self.0.try_reserve(more.len()).map_err(|_| fmt::Error)?;
        self.0.push_str(more);
        Ok(())
    }
}
