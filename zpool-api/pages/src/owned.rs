//! A run that frees itself: safe access to a provider's pages.

use core::fmt;
use core::mem::ManuallyDrop;
use core::ops::{Deref, DerefMut};
use std::sync::Arc;

use zpool_api::PageError;
use zpool_api::{PageProvider, PageRun};
use zpool_base::fork::Leaked;
use zpool_base::unwind::in_destructor;

/// A run of pages as a byte slice. Dropping it returns the pages to their provider.
///
/// Meant for backends and tools that avoid `unsafe`. `Send` and `Sync`.
///
/// After `fork`, a child of the process that made the run frees nothing when it drops its copy. The child
/// can access the bytes, unless the provider excludes them from children.
///
/// ```
/// use std::sync::Arc;
/// use zpool_pages::{HeapPages, OwnedRun};
///
/// let mut run = OwnedRun::alloc(Arc::new(HeapPages::new()), 2)?;
/// run[..3].copy_from_slice(b"abc");
/// assert_eq!(run.len(), 8192);
/// # Ok::<(), zpool_api::PageError>(())
/// ```
pub struct OwnedRun {
    run: ManuallyDrop<PageRun>,
    len: usize,
    pages: Leaked<Arc<dyn PageProvider>>,
}

// SAFETY: only this value has the run's memory. It lends the memory as `&[u8]` or `&mut [u8]`, as a box
// does.
unsafe impl Sync for OwnedRun {}

impl OwnedRun {
    /// Allocates a run of `pages` pages from `provider` and marks all of them as resident.
    ///
    /// # Errors
    /// Those of [`PageProvider::alloc_run`].
    pub fn alloc(provider: Arc<dyn PageProvider>, pages: usize) -> Result<Self, PageError> {
        let mut run = provider.alloc_run(pages)?;
        run.mark_resident(0..pages);
        let len = run.pages() * provider.page_size();
        Ok(OwnedRun { run: ManuallyDrop::new(run), len, pages: Leaked::new(provider) })
    }
}

impl Deref for OwnedRun {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: the provider promises that the run's pages are valid, initialised and used by nobody
        // else. The `Arc` keeps the provider alive, and only the drop frees the run.
        unsafe { core::slice::from_raw_parts(self.run.base().as_ptr(), self.len) }
    }
}

impl DerefMut for OwnedRun {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `deref`. And `&mut self` excludes every other borrow.
        unsafe { core::slice::from_raw_parts_mut(self.run.base().as_ptr(), self.len) }
    }
}

impl AsRef<[u8]> for OwnedRun {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for OwnedRun {
    fn drop(&mut self) {
        if !self.pages.is_here() {
            return;
        }
        // SAFETY: only the drop takes the run.
        let run = unsafe { ManuallyDrop::take(&mut self.run) };
        // SAFETY: the run comes from this provider. Every borrow of its bytes has ended, because `self` is
        // being dropped.
        let give_back = || unsafe { self.pages.free_run(run) };
        in_destructor(give_back);
    }
}

impl fmt::Debug for OwnedRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnedRun").field("len", &self.len).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::{FailingPages, HeapPages};

    #[test]
    fn gives_its_pages_back_once() {
        let pages = Arc::new(FailingPages::new(Arc::new(HeapPages::new())));
        let mut run = OwnedRun::alloc(pages.clone(), 2).unwrap();
        run.fill(7);
        assert!(run.iter().all(|b| *b == 7));
        assert_eq!((run.len(), pages.pages_out()), (8192, 2));
        drop(run);
        assert_eq!(pages.pages_out(), 0);
        assert!(OwnedRun::alloc(pages.clone(), 17).is_err());
        assert_eq!(pages.pages_out(), 0);
    }
}
