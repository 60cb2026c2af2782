//! A complete backend without `unsafe`: each object has a page of its own.
//!
//! Handles count up, and each is used only once. So the handle of a freed object stays invalid, and the map
//! holds the objects in the order of their age. The map and each reader own a share (an `Arc`) of an
//! object's page. The page returns to the provider when the last share is dropped. But a reader may be
//! dropped under a lock, so it does not drop its share. It leaves the share to the next call that may
//! block. Pages are allocated and freed outside the lock.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use zpool_api::{
    BackendBits, Evict, Evicted, Handle, ObjRead, ObjSink, ObjWrite, PageProvider, PoolTag, Zpool,
    ZpoolCaps, ZpoolError, ZpoolStats,
};
use zpool_pages::OwnedRun;

const NAME: &str = "onepage";

#[derive(Debug)]
pub(crate) struct OnePage {
    tag: PoolTag,
    pages: Arc<dyn PageProvider>,
    state: Mutex<State>,
    left: Left,
}

/// The shares of pages that readers left.
type Left = Arc<Mutex<Vec<Arc<OwnedRun>>>>;

/// A reader's share of a page.
struct Reader {
    page: Arc<OwnedRun>,
    left: Left,
}

impl AsRef<[u8]> for Reader {
    fn as_ref(&self) -> &[u8] {
        &self.page
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.left.lock().unwrap_or_else(PoisonError::into_inner).push(self.page.clone());
    }
}

#[derive(Debug, Default)]
struct State {
    last: u64,
    objects: BTreeMap<Handle, Object>,
    object_bytes: usize,
    /// The pages of objects that were freed while being read. `stats` removes a page once its readers have
    /// ended.
    parked: Vec<Weak<OwnedRun>>,
    reclaimed: u64,
}

#[derive(Debug)]
struct Object {
    page: Arc<OwnedRun>,
    len: usize,
}

impl OnePage {
    pub(crate) fn new(pages: Arc<dyn PageProvider>) -> Self {
        OnePage { tag: PoolTag::next(), pages, state: Mutex::default(), left: Left::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops all shares that readers left.
    fn sweep(&self) {
        let left = core::mem::take(&mut *self.left.lock().unwrap_or_else(PoisonError::into_inner));
        drop(left);
    }

    /// Removes an object from the map and returns its page.
    fn take(&self, handle: Handle) -> Result<Arc<OwnedRun>, ZpoolError> {
        self.sweep();
        let mut state = self.state();
        let object = state.objects.remove(&handle).ok_or(ZpoolError::invalid(handle))?;
        state.object_bytes -= object.len;
        // Readers are added only under the lock. So from now on this count can only fall.
        if Arc::strong_count(&object.page) > 1 {
            state.parked.push(Arc::downgrade(&object.page));
        }
        Ok(object.page)
    }

    fn check_size(&self, size: usize) -> Result<(), ZpoolError> {
        let max = self.pages.page_size();
        match size {
            0 => Err(ZpoolError::EmptyObject),
            _ if size > max => Err(ZpoolError::ObjectTooLarge { size, max, backend: NAME }),
            _ => Ok(()),
        }
    }
}

impl ObjSink for OnePage {
    fn store(&self, bytes: &[u8]) -> Result<Handle, ZpoolError> {
        self.sweep();
        let mut page = OwnedRun::alloc(self.pages.clone(), 1)?;
        page[..bytes.len()].copy_from_slice(bytes);
        let object = Object { page: Arc::new(page), len: bytes.len() };
        let mut state = self.state();
        let bits = BackendBits::new(state.last + 1)
            .ok_or(ZpoolError::TooManyObjects { backend: NAME, limit: 1 << 52 })?;
        state.last += 1;
        state.object_bytes += object.len;
        let handle = Handle::new(self.tag, bits);
        state.objects.insert(handle, object);
        Ok(handle)
    }
}

impl Zpool for OnePage {
    fn name(&self) -> &'static str {
        NAME
    }

    fn tag(&self) -> PoolTag {
        self.tag
    }

    fn caps(&self) -> ZpoolCaps {
        let page_size = self.pages.page_size();
        ZpoolCaps::new(page_size).with_reclaim().with_alignment(page_size)
    }

    fn malloc(&self, size: usize) -> Result<ObjWrite<'_>, ZpoolError> {
        self.check_size(size)?;
        ObjWrite::buffered(size, self)
    }

    fn free(&self, handle: Handle) -> Result<(), ZpoolError> {
        self.take(handle).map(drop)
    }

    fn obj_read_begin(&self, handle: Handle) -> Result<ObjRead<'_>, ZpoolError> {
        let state = self.state();
        let object = state.objects.get(&handle).ok_or(ZpoolError::invalid(handle))?;
        let reader = Reader { page: object.page.clone(), left: self.left.clone() };
        Ok(ObjRead::from_owner(Arc::new(reader), object.len))
    }

    fn total_pages(&self) -> usize {
        self.stats().total_pages
    }

    fn reclaim(&self, target_pages: usize, evict: &dyn Evict) -> Result<usize, ZpoolError> {
        // Visits only the objects that exist now, oldest first. So objects that callbacks store are not
        // offered.
        let pages: Vec<Handle> = self.state().objects.keys().copied().collect();
        let mut freed = 0;
        for handle in pages {
            if freed >= target_pages {
                break;
            }
            let Ok(object) = self.obj_read_begin(handle) else { continue };
            let given_up = evict.evict(handle, object) == Evicted::Evicted;
            if !given_up {
                continue;
            }
            // The callback may have freed the object already, or a reader may still keep the page.
            if self.take(handle).is_ok_and(|page| Arc::into_inner(page).is_some()) {
                freed += 1;
                self.state().reclaimed += 1;
            }
        }
        Ok(freed)
    }

    fn stats(&self) -> ZpoolStats {
        self.sweep();
        let mut state = self.state();
        state.parked.retain(|page| page.strong_count() > 0);
        let mut stats = ZpoolStats::default();
        stats.page_size = self.pages.page_size();
        stats.objects = state.objects.len();
        stats.object_bytes = state.object_bytes;
        stats.parked_objects = state.parked.len();
        stats.total_pages = stats.objects + stats.parked_objects;
        stats.cached_pages = self.pages.cached_pages();
        stats.metadata_bytes = self.pages.metadata_bytes()
            + stats.objects * size_of::<(Handle, Object)>()
            + state.parked.capacity() * size_of::<Weak<OwnedRun>>();
        stats.reclaimed_pages = state.reclaimed;
        stats
    }

    fn trim(&self) -> usize {
        self.sweep();
        self.pages.trim()
    }
}
