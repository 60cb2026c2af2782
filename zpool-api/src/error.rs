//! Errors of backends and page providers. Each names the offending value and the remedy.

use core::fmt::{self, Write as _};

use crate::handle::Handle;

/// Errors of a [`crate::Zpool`] and of the [`crate::Registry`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ZpoolError {
    /// The handle names no live object of this pool: it was freed, never given out, or is another pool's.
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
        /// Bytes asked for.
        size: usize,
        /// Largest object of this pool, bytes.
        max: usize,
        /// The backend's name.
        backend: &'static str,
    },
    /// The page provider or the budget refused a page. Nothing was allocated; free objects or retry later.
    #[error(transparent)]
    OutOfMemory {
        /// The refusal.
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
    /// The pool's handle space is used up (limits: docs/handles.md).
    #[error("{backend} holds its limit of {limit} objects; use a second pool")]
    TooManyObjects {
        /// The backend's name.
        backend: &'static str,
        /// Handle slots a pool can have.
        limit: u64,
    },
    /// The object's reader count is at its limit; drop guards and retry.
    #[error("object {handle:#018x} has {limit} readers, the limit; drop some guards and retry")]
    TooManyReaders {
        /// The handle that was passed.
        handle: u64,
        /// The most guards that one object can have.
        limit: u64,
    },
    /// [`crate::ObjWrite::commit`] was called before every byte was written. The space was freed.
    #[error(
        "only {written} of the object's {size} bytes were written before commit; its space was freed"
    )]
    NotFullyWritten {
        /// Bytes written.
        written: usize,
        /// Bytes allocated.
        size: usize,
    },
    /// A write would have gone past the end of the object. Nothing was written.
    #[error("{len} bytes do not fit in the {room} bytes left in the object")]
    WriteBeyondEnd {
        /// Bytes offered.
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
    /// The pool belongs to the parent process, and this is its child after `fork`. Build a new pool here.
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
    /// No backend of that name is registered.
    #[error("no backend named `{name}`; known: {known}")]
    UnknownBackend {
        /// The name asked for.
        name: String,
        /// Registered names, comma-separated.
        known: String,
    },
    /// A backend of that name is registered already.
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
        /// The provider's page size, bytes.
        page_size: usize,
        /// The sizes that it supports, in words.
        allowed: &'static str,
    },
}

impl ZpoolError {
    /// Makes the error for a handle that names no live object.
    pub fn invalid(handle: Handle) -> Self {
        ZpoolError::InvalidHandle { handle: handle.as_u64() }
    }
}

/// Errors of a [`crate::PageProvider`].
///
/// Most of them report a lack of memory, so cloning one must not fail for lack of memory. A clone omits text
/// for which there is no memory.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PageError {
    /// The operating system or the heap refused the memory.
    #[error(
        "the system refused {pages} pages of {page_size} bytes ({reason}); free memory and retry"
    )]
    Refused {
        /// Pages asked for.
        pages: usize,
        /// Bytes per page.
        page_size: usize,
        /// The system's reason.
        reason: String,
    },
    /// The run length is 0 or above the provider's maximum.
    #[error("a run of {pages} pages was requested; runs have 1 to {max} pages")]
    RunLength {
        /// Pages asked for.
        pages: usize,
        /// Longest run.
        max: usize,
    },
    /// This page size cannot be used here.
    #[error("pages of {page_size} bytes cannot be used here; choose {allowed}")]
    PageSize {
        /// The size asked for, bytes.
        page_size: usize,
        /// The sizes that can be used, in words.
        allowed: String,
    },
    /// The pages would exceed a [`crate::PageBudget`].
    #[error("{bytes} bytes of pages exceed the budget: {used} of {limit} bytes are in use")]
    Limit {
        /// Bytes asked for.
        bytes: usize,
        /// Bytes in use.
        used: usize,
        /// The limit, bytes.
        limit: usize,
    },
    /// The provider belongs to the parent process, and this is its child after `fork`.
    #[error("the page provider was made before this process was forked; make another one here")]
    Forked,
    /// `FailingPages` was set to fail this call, or its page limit is reached.
    #[error("page request {call} failed on purpose (FailingPages)")]
    Injected {
        /// Which `alloc_run` call it was, from 1.
        call: u64,
    },
}

impl PageError {
    /// Makes a [`PageError::Refused`]. For providers. If there is no memory for `reason`, truncates it
    /// instead of aborting.
    ///
    /// ```
    /// use zpool_api::PageError;
    ///
    /// let error = PageError::refused(16, 4096, format_args!("mmap: error {}", 12));
    /// assert!(error.to_string().contains("16 pages of 4096 bytes (mmap: error 12)"));
    /// ```
    pub fn refused(pages: usize, page_size: usize, reason: fmt::Arguments<'_>) -> Self {
        let mut text = Fallible(String::new());
        // On error the text is truncated.
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
                // On error the text is omitted.
                let _ = text.write_str(allowed);
                PageError::PageSize { page_size, allowed: text.0 }
            }
            PageError::Limit { bytes, used, limit } => PageError::Limit { bytes, used, limit },
            PageError::Forked => PageError::Forked,
            PageError::Injected { call } => PageError::Injected { call },
        }
    }
}

/// A text whose growth fails with an error, not an abort, if there is no memory.
struct Fallible(String);

impl fmt::Write for Fallible {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        self.0.try_reserve(more.len()).map_err(|_| fmt::Error)?;
        self.0.push_str(more);
        Ok(())
    }
}
