//! The interfaces of a compressed-memory store: the backend trait, handles, guards, errors and a registry.
//! This crate contains no store and no allocator.
//!
//! A *backend* (zsmalloc, z3fold, zbud, or one of your own) packs objects of 1 byte up to a page densely
//! into pages, and returns a [`Handle`] for each object. [`Zpool`] is the trait that a backend implements.
//! Its names follow the kernel's zpool interface. A *consumer* (a page store, a block device) knows only
//! `Arc<dyn Zpool>`.
//!
//! ```
//! use std::collections::HashMap;
//! use std::sync::{Arc, Mutex};
//! use zpool_api::{
//!     BackendBits, Handle, ObjRead, ObjSink, ObjWrite, PoolTag, Zpool, ZpoolCaps, ZpoolError,
//!     ZpoolStats,
//! };
//!
//! /// A backend that keeps each object in its own box: simple, safe, not dense.
//! #[derive(Debug)]
//! struct Boxes {
//!     tag: PoolTag,
//!     objects: Mutex<(u64, HashMap<Handle, Arc<Vec<u8>>>)>,
//! }
//!
//! impl ObjSink for Boxes {
//!     fn store(&self, bytes: &[u8]) -> Result<Handle, ZpoolError> {
//!         let (next, objects) = &mut *self.objects.lock().unwrap();
//!         *next += 1; // never a number twice, so a freed handle stays invalid
//!         let bits = BackendBits::new(*next)
//!             .ok_or(ZpoolError::TooManyObjects { backend: "boxes", limit: 1 << 52 })?;
//!         let handle = Handle::new(self.tag, bits);
//!         objects.insert(handle, Arc::new(bytes.to_vec()));
//!         Ok(handle)
//!     }
//! }
//!
//! impl Zpool for Boxes {
//!     fn name(&self) -> &'static str {
//!         "boxes"
//!     }
//!     fn tag(&self) -> PoolTag {
//!         self.tag
//!     }
//!     fn caps(&self) -> ZpoolCaps {
//!         ZpoolCaps::new(4096)
//!     }
//!     fn malloc(&self, size: usize) -> Result<ObjWrite<'_>, ZpoolError> {
//!         match size {
//!             0 => Err(ZpoolError::EmptyObject),
//!             1..=4096 => ObjWrite::buffered(size, self),
//!             _ => Err(ZpoolError::ObjectTooLarge { size, max: 4096, backend: "boxes" }),
//!         }
//!     }
//!     fn free(&self, handle: Handle) -> Result<(), ZpoolError> {
//!         let gone = self.objects.lock().unwrap().1.remove(&handle);
//!         gone.map(drop).ok_or(ZpoolError::invalid(handle))
//!     }
//!     fn obj_read_begin(&self, handle: Handle) -> Result<ObjRead<'_>, ZpoolError> {
//!         let found = self.objects.lock().unwrap().1.get(&handle).cloned();
//!         let bytes = found.ok_or(ZpoolError::invalid(handle))?;
//!         let len = bytes.len();
//!         Ok(ObjRead::from_owner(bytes, len))
//!     }
//!     fn total_pages(&self) -> usize {
//!         0 // its memory is the heap's, not pages of a provider
//!     }
//!     fn stats(&self) -> ZpoolStats {
//!         let objects = &self.objects.lock().unwrap().1;
//!         let mut stats = ZpoolStats::default();
//!         stats.page_size = 4096;
//!         stats.objects = objects.len();
//!         stats.object_bytes = objects.values().map(|bytes| bytes.len()).sum();
//!         stats
//!     }
//! }
//!
//! let pool: Arc<dyn Zpool> =
//!     Arc::new(Boxes { tag: PoolTag::next(), objects: Mutex::default() });
//! let handle = pool.malloc_from(b"a page, compressed")?;
//! let object = pool.obj_read_begin(handle)?;
//! pool.free(handle)?; // allowed during a read: the guard keeps the bytes
//! assert_eq!(&*object, b"a page, compressed");
//! drop(object); // ends the read
//! assert!(matches!(pool.free(handle), Err(ZpoolError::InvalidHandle { .. })));
//! # Ok::<(), ZpoolError>(())
//! ```
//!
//! [`Zpool`] lists what every backend promises. The test suite in the crate `zpool-conformance` checks
//! these promises for any backend.
//!
//! # Contents
//!
//! | items | |
//! |---|---|
//! | [`Handle`], [`PoolTag`], [`BackendBits`], [`SlotRef`] | the 64-bit handle: a 12-bit pool tag and 52 bits that belong to the backend |
//! | [`ObjRead`], [`ObjReadOwned`], [`ObjWrite`] | the guards through which objects are read and written |
//! | [`PageProvider`], [`PageRun`], [`PageBudget`] | where pages come from; the crate `zpool-pages` has the providers |
//! | [`Registry`] | finds a backend's constructor by name; third parties can add their own backends |

#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        reason = "a failure in a test's helper is the test's own message"
    )
)]

mod error;
mod evict;
mod handle;
mod owned_read;
mod provider;
mod read;
mod registry;
mod stats;
mod write;
mod zpool;

pub use error::{PageError, ZpoolError};
pub use evict::{Evict, Evicted};
pub use handle::{BackendBits, Handle, PoolTag, SlotRef};
pub use owned_read::{ObjReadOwned, obj_read_owned};
pub use provider::{MAX_RUN_PAGES, PAGE_SIZE, PageBlock, PageBudget, PageProvider, PageRun};
pub use read::{ObjPin, ObjRead};
pub use registry::{MOST_OBJECT, Registry, ZpoolConfig};
pub use stats::ZpoolStats;
pub use write::{ObjCommit, ObjSink, ObjWrite};
pub use zpool::{Compaction, Migration, Zpool, ZpoolCaps};
