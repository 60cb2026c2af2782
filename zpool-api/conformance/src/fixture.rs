//! The fixture of a check: a new pool over counted pages, with helpers that call it.
//!
//! The helpers assert what must hold for every call. So a check contains only what is specific to it.

use core::sync::atomic::AtomicPtr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Subject;
use super::content::Mark;
use zpool_api::{
    Handle, MAX_RUN_PAGES, Migration, ObjRead, PageProvider, Zpool, ZpoolCaps, ZpoolError,
    ZpoolStats,
};
use zpool_pages::FailingPages;

/// The greatest number of pages that a single object may keep in use: the pages of the longest run.
pub(super) const ONE_OBJECT_PAGES: usize = MAX_RUN_PAGES;

/// Builds fixtures of one subject over one page provider.
pub(super) struct Rig<'s> {
    subject: &'s dyn Subject,
    source: Arc<dyn PageProvider>,
}

impl<'s> Rig<'s> {
    pub(super) fn new(subject: &'s dyn Subject, source: Arc<dyn PageProvider>) -> Self {
        Rig { subject, source }
    }

    pub(super) fn uses_pages(&self) -> bool {
        self.subject.uses_pages()
    }

    /// Builds a new pool.
    pub(super) fn fixture(&self) -> Fixture {
        self.failing_fixture(0).unwrap_or_else(|error| panic!("no pool could be built: {error}"))
    }

    /// Builds a new pool whose `n`-th page request fails. Requests that are made while the pool is built
    /// count, too. If `n` is 0, no request fails.
    pub(super) fn failing_fixture(&self, n: u64) -> Result<Fixture, ZpoolError> {
        let pages = Arc::new(FailingPages::new(self.source.clone()));
        pages.fail_call(n);
        pages.isolate_all(true);
        let built = self.subject.build(pages.clone());
        if built.is_err() {
            assert_eq!(pages.pages_out(), 0, "pages kept by a pool whose build failed");
        }
        Ok(Fixture { pool: built?, pages, uses_pages: self.uses_pages() })
    }

    /// Builds a new pool. Returns `None` if the backend cannot reclaim.
    pub(super) fn reclaiming_fixture(&self) -> Option<Fixture> {
        let fixture = self.fixture();
        fixture.caps().reclaim.then_some(fixture)
    }
}

/// A pool, and the provider that counts its pages.
pub(super) struct Fixture {
    pub(super) pool: Arc<dyn Zpool>,
    pub(super) pages: Arc<FailingPages>,
    pub(super) uses_pages: bool,
}

impl Fixture {
    pub(super) fn caps(&self) -> ZpoolCaps {
        self.pool.caps()
    }

    /// Returns the size of the largest object in bytes.
    pub(super) fn max(&self) -> usize {
        self.caps().max_object_size
    }

    /// Stores an object with the content of `mark`. Returns its handle.
    pub(super) fn store(&self, mark: Mark) -> Handle {
        match self.pool.malloc_from(&mark.content()) {
            Ok(handle) => {
                assert_eq!(
                    handle.tag_bits(),
                    self.pool.tag().get(),
                    "a handle carries its pool's tag (right)"
                );
                handle
            }
            Err(error) => panic!("{mark:?} could not be stored: {error}"),
        }
    }

    /// Begins to read an object, checks its bytes and returns the guard.
    pub(super) fn read(&self, handle: Handle, mark: Mark) -> ObjRead<'_> {
        match self.pool.obj_read_begin(handle) {
            Ok(object) => {
                mark.check(&object);
                object
            }
            Err(error) => panic!("{mark:?} could not be read: {error}"),
        }
    }

    /// Reads an object once and checks its bytes.
    pub(super) fn check(&self, handle: Handle, mark: Mark) {
        drop(self.read(handle, mark));
    }

    pub(super) fn check_all(&self, objects: &[(Handle, Mark)]) {
        for (handle, mark) in objects {
            self.check(*handle, *mark);
        }
    }

    pub(super) fn free(&self, handle: Handle) {
        if let Err(error) = self.pool.free(handle) {
            panic!("a live object could not be freed: {error}");
        }
    }

    /// Asserts that a handle can neither be read nor freed.
    pub(super) fn assert_gone(&self, handle: Handle) {
        assert_invalid(handle, self.pool.obj_read_begin(handle));
        assert_invalid(handle, self.pool.free(handle));
    }

    /// Compacts the pool and returns the number of pages freed. If the pool cannot compact, asserts that it
    /// refuses, and returns 0.
    pub(super) fn compact(&self) -> usize {
        let result = self.pool.compact();
        if self.caps().compaction {
            result.unwrap_or_else(|error| panic!("compact failed: {error}"))
        } else {
            self.assert_unsupported(result, "compact");
            0
        }
    }

    /// Migrates everything that can move. If the pool cannot migrate, asserts that it refuses, and returns
    /// a result of zeros.
    pub(super) fn migrate(&self) -> Migration {
        let result = self.pool.migrate();
        if self.caps().migration {
            result.unwrap_or_else(|error| panic!("migrate failed: {error}"))
        } else {
            self.assert_unsupported(result.map(|done| done.zspages), "migrate");
            Migration::default()
        }
    }

    pub(super) fn assert_unsupported(&self, result: Result<usize, ZpoolError>, operation: &str) {
        match result {
            Err(ZpoolError::Unsupported { backend, operation: said }) => {
                assert_eq!((backend, said), (self.pool.name(), operation));
            }
            other => panic!("{operation} is not in caps(), but returned {other:?}"),
        }
    }

    /// Asserts that the pool counts `objects` objects with `object_bytes` bytes, and that its figures fit
    /// together. Returns the figures. No other thread may use the pool at the same time.
    pub(super) fn assert_counts(&self, objects: usize, object_bytes: usize) -> ZpoolStats {
        let stats = self.pool.stats();
        assert_eq!(stats.objects, objects, "objects (left) in {stats:?}");
        assert_eq!(stats.object_bytes, object_bytes, "object_bytes (left) in {stats:?}");
        assert_eq!(stats.total_pages, self.pool.total_pages(), "total_pages of stats and pool");
        if self.uses_pages {
            let out = self.pages.pages_out();
            assert_eq!(stats.page_size, self.pages.page_size(), "page_size (left)");
            assert!(
                stats.total_pages * stats.page_size >= object_bytes,
                "{object_bytes} bytes of objects do not fit in the pages of {stats:?}"
            );
            assert!(stats.total_pages <= out, "only {out} pages were handed out, but {stats:?}");
        }
        stats
    }

    /// Asserts that nothing is left in the pool. First calls `trim`, so that the pool frees the objects
    /// that readers left to it.
    pub(super) fn assert_empty(&self) {
        self.pool.trim();
        let stats = self.assert_counts(0, 0);
        assert_eq!(stats.parked_objects, 0, "parked objects in an empty pool");
        assert_eq!(stats.total_pages, 0, "pages of an empty pool");
    }

    /// Asserts that the pool holds no more than `most` pages, both by its own count and by the provider's.
    pub(super) fn assert_pages_at_most(&self, most: usize, when: &str) {
        let (total, out) = (self.pool.total_pages(), self.pages.pages_out());
        assert!(total <= most, "{total} pages {when}, expected at most {most}");
        assert!(out <= most, "{out} pages out of the provider {when}, expected at most {most}");
    }

    /// Ends a check: asserts that the pool is empty, and that it returns every page when it is dropped.
    pub(super) fn close(self) {
        self.assert_empty();
        let Fixture { pool, pages, .. } = self;
        drop(pool);
        assert_eq!(pages.pages_out(), 0, "pages kept by a dropped pool");
    }
}

/// Asserts that a call refused `handle` as invalid, and that its error names this handle.
pub(super) fn assert_invalid<T>(handle: Handle, result: Result<T, ZpoolError>) {
    match result {
        Err(ZpoolError::InvalidHandle { handle: said }) => {
            assert_eq!(
                said,
                handle.as_u64(),
                "InvalidHandle (left) must name the handle that was passed"
            );
        }
        Err(error) => {
            panic!("{handle:?} names no live object; expected InvalidHandle, got {error}")
        }
        Ok(_) => panic!("{handle:?} names no live object, but was accepted"),
    }
}

/// Forgets a guard like `mem::forget`, but keeps a pointer to it in a static. So leak checkers do not
/// report this intended leak.
pub(super) fn forget<T>(guard: T) {
    static FORGOTTEN: Mutex<Vec<AtomicPtr<()>>> = Mutex::new(Vec::new());
    let guard = Box::into_raw(Box::new(guard));
    lock(&FORGOTTEN).push(AtomicPtr::new(guard.cast()));
}

/// Locks the mutex even if a panic has poisoned it. That panic is reported by the thread that panicked.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs each job on its own thread and waits for all of them. If a job panicked, propagates the panic.
pub(super) fn together<'a>(jobs: Vec<Box<dyn FnOnce() + Send + 'a>>) {
    std::thread::scope(|scope| {
        let threads: Vec<_> = jobs.into_iter().map(|job| scope.spawn(job)).collect();
        let ends: Vec<_> = threads.into_iter().map(|thread| thread.join()).collect();
        for end in ends {
            if let Err(payload) = end {
                std::panic::resume_unwind(payload);
            }
        }
    });
}
