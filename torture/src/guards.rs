//! Wrapped backends. Now and then a call panics, or a new object gets a read guard that stays open for
//! a while.
//!
//! Whatever is stored, moved or freed meanwhile, the bytes under a guard must neither move nor change:
//! each guard is compared with a copy before it is dropped. Only a few guards are open at once,
//! because an object with a guard cannot move, and its space cannot be reused.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use zpool_api::{
    Compaction, Evict, Handle, Migration, ObjRead, ObjReadOwned, ObjWrite, PoolTag, Registry,
    Zpool, ZpoolCaps, ZpoolError, ZpoolStats, obj_read_owned,
};
use zpool_base::sync::test_rng::Rng;

use crate::clock::Clock;
use crate::finding::{Findings, lock};
use crate::panics::Panics;

/// The most guards that are open at once.
pub const MOST_GUARDS: usize = 24;

/// The guards of a round. `Send` and `Sync`.
#[derive(Debug)]
pub struct Guards {
    clock: Arc<Clock>,
    findings: Arc<Findings>,
    open: Mutex<Vec<(ObjReadOwned, Vec<u8>)>>,
    count: AtomicUsize,
    /// The number of callers that need the open guards to stay open.
    kept: AtomicUsize,
    /// How many of 1000 new objects get a guard.
    often: usize,
}

impl Guards {
    /// Makes a set of guards, none of them open. Of 1000 new objects, `often` get a guard.
    pub fn new(often: usize, clock: Arc<Clock>, findings: Arc<Findings>) -> Self {
        Guards {
            clock,
            findings,
            open: Mutex::default(),
            count: AtomicUsize::new(0),
            kept: AtomicUsize::new(0),
            often,
        }
    }

    /// Returns the number of open guards.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    /// Returns whether guards are made at all.
    pub fn are_used(&self) -> bool {
        self.often > 0
    }

    fn maybe_hold(&self, pool: &Arc<dyn Zpool>, handle: Handle, bytes: &[u8]) {
        let mut rng = Rng::new(self.clock.last());
        if rng.below(1000) >= self.often || self.count() >= MOST_GUARDS {
            return;
        }
        match obj_read_owned(pool.clone(), handle) {
            Ok(guard) => {
                self.count.fetch_add(1, Ordering::SeqCst);
                lock(&self.open).push((guard, bytes.to_vec()));
            }
            Err(error) => {
                let what = format!("a new object of {} cannot be read: {error}", pool.name());
                self.findings.report("a live object was not read", what);
            }
        }
    }

    /// Runs `body` while the open guards stay open. If `body` waits for one of them, it hangs.
    pub fn while_kept<T>(&self, body: impl FnOnce() -> T) -> T {
        struct Release<'a>(&'a AtomicUsize);
        impl Drop for Release<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::SeqCst);
            }
        }
        self.kept.fetch_add(1, Ordering::SeqCst);
        let _release = Release(&self.kept);
        body()
    }

    /// Returns whether a caller needs the guards to stay open.
    pub fn are_kept(&self) -> bool {
        self.kept.load(Ordering::SeqCst) > 0
    }

    /// Checks the bytes of one guard and closes it. Returns false if no guard is open.
    pub fn close_one(&self) -> bool {
        let mut rng = Rng::new(self.clock.last());
        let taken = {
            let mut open = lock(&self.open);
            let at = rng.below(open.len().max(1));
            (at < open.len()).then(|| open.swap_remove(at))
        };
        let Some((guard, bytes)) = taken else { return false };
        if *guard != *bytes {
            let same = guard.iter().zip(&bytes).take_while(|(a, b)| a == b).count();
            let what = format!(
                "an object of {} bytes of {} has {} bytes under its guard, of which the first {same} \
                 are unchanged",
                bytes.len(),
                guard.pool().name(),
                guard.len(),
            );
            self.findings.report("bytes changed under a guard", what);
        }
        drop(guard);
        self.count.fetch_sub(1, Ordering::SeqCst);
        true
    }
}

/// A backend with guards on some objects, and with panics.
#[derive(Debug)]
struct Guarded {
    inner: Arc<dyn Zpool>,
    guards: Arc<Guards>,
    panics: Arc<Panics>,
}

/// Returns the built-in backends, wrapped so that some objects get guards and some calls panic. A call
/// that panics has done either everything or nothing.
///
/// # Errors
/// Fails if a name is taken, which does not occur here.
pub fn registry(guards: &Arc<Guards>, panics: &Arc<Panics>) -> Result<Registry, ZpoolError> {
    let builtin = zswap_core::builtin::zpools();
    let mut registry = Registry::new();
    for name in builtin.names() {
        let (builtin, guards, named) = (builtin.clone(), guards.clone(), name.to_owned());
        let panics = panics.clone();
        registry.register(name, move |config| {
            let inner = builtin.build(&named, config)?;
            Ok(Arc::new(Guarded { inner, guards: guards.clone(), panics: panics.clone() }))
        })?;
    }
    Ok(registry)
}

impl Zpool for Guarded {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn tag(&self) -> PoolTag {
        self.inner.tag()
    }

    fn caps(&self) -> ZpoolCaps {
        self.inner.caps()
    }

    fn malloc(&self, size: usize) -> Result<ObjWrite<'_>, ZpoolError> {
        self.inner.malloc(size)
    }

    fn malloc_from(&self, bytes: &[u8]) -> Result<Handle, ZpoolError> {
        self.panics.maybe();
        let handle = self.inner.malloc_from(bytes)?;
        self.guards.maybe_hold(&self.inner, handle, bytes);
        Ok(handle)
    }

    fn free(&self, handle: Handle) -> Result<(), ZpoolError> {
        let freed = self.inner.free(handle);
        if let Err(error) = &freed {
            let what = format!("a store freed {handle:?} of {}: {error}", self.inner.name());
            self.guards.findings.report("an object was freed twice", what);
        }
        // Panics only after the free, since a panic before it would leak the object.
        self.panics.maybe();
        freed
    }

    fn prefetch(&self, handle: Handle) {
        self.panics.maybe();
        self.inner.prefetch(handle);
    }

    fn obj_read_begin(&self, handle: Handle) -> Result<ObjRead<'_>, ZpoolError> {
        self.panics.maybe();
        self.inner.obj_read_begin(handle)
    }

    fn total_pages(&self) -> usize {
        self.inner.total_pages()
    }

    fn footprint(&self, len: usize) -> usize {
        self.panics.maybe();
        self.inner.footprint(len)
    }

    fn compact(&self) -> Result<usize, ZpoolError> {
        self.panics.maybe();
        self.inner.compact()
    }

    fn compact_some(&self, pages: usize) -> Result<Compaction, ZpoolError> {
        self.panics.maybe();
        self.inner.compact_some(pages)
    }

    fn migrate(&self) -> Result<Migration, ZpoolError> {
        self.inner.migrate()
    }

    fn reclaim(&self, target_pages: usize, evict: &dyn Evict) -> Result<usize, ZpoolError> {
        self.inner.reclaim(target_pages, evict)
    }

    fn trim(&self) -> usize {
        self.panics.maybe();
        self.inner.trim()
    }

    fn stats(&self) -> ZpoolStats {
        self.panics.maybe();
        self.inner.stats()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zpool_api::ZpoolConfig;
    use zpool_pages::HeapPages;

    #[test]
    fn guards_outlive_what_they_guard_and_close_one_by_one() {
        let (clock, findings) = (Arc::new(Clock::default()), Arc::new(Findings::default()));
        let none = Arc::new(Panics::new(0, clock.clone()));
        let guards = Arc::new(Guards::new(1000, clock, findings.clone()));
        let config = ZpoolConfig::new(Arc::new(HeapPages::new()));
        let pool = registry(&guards, &none).unwrap().build("zbud", &config).unwrap();
        for at in 0..MOST_GUARDS + 5 {
            let handle = pool.malloc_from(&[at as u8; 100]).unwrap();
            pool.free(handle).unwrap();
        }
        drop(pool);
        assert_eq!(guards.count(), MOST_GUARDS);
        let closed = std::iter::repeat_with(|| guards.close_one()).take_while(|closed| *closed);
        assert_eq!((closed.count(), guards.count()), (MOST_GUARDS, 0));
        assert_eq!(findings.first(), None);
    }

    #[test]
    fn a_second_free_is_found() {
        let (clock, findings) = (Arc::new(Clock::default()), Arc::new(Findings::default()));
        let none = Arc::new(Panics::new(0, clock.clone()));
        let guards = Arc::new(Guards::new(0, clock, findings.clone()));
        let config = ZpoolConfig::new(Arc::new(HeapPages::new()));
        let pool = registry(&guards, &none).unwrap().build("zbud", &config).unwrap();
        let handle = pool.malloc_from(b"object").unwrap();
        pool.free(handle).unwrap();
        assert!(pool.free(handle).is_err() && findings.any());
    }
}
