//! The macro that turns a crate's newtype over a [`Pool`](crate::Pool) into a backend.

/// Implements `Zpool` and `Debug` for a newtype over a [`Pool`](crate::Pool). The implementation passes
/// each call on to the pool.
///
/// ```
/// use std::sync::Arc;
/// use buddies::Pool;
/// use zpool_api::Zpool;
/// use zpool_pages::HeapPages;
///
/// # use buddies::{CHUNKS, Layout, NoMiddle, OneLock, Room};
/// # #[derive(Debug)]
/// # struct Alone(usize);
/// # // SAFETY: the only object of a page begins where the page does.
/// # unsafe impl Layout<1> for Alone {
/// #     const NAME: &'static str = "alone";
/// #     const EMPTY: Self = Alone(0);
/// #     type Locks = OneLock;
/// #     type Middle = NoMiddle;
/// #     fn is_empty(&self) -> bool { self.0 == 0 }
/// #     fn is_headless(&self) -> bool { self.0 == CHUNKS }
/// #     fn largest(&self, _moves: bool) -> usize { if self.is_empty() { CHUNKS } else { 0 } }
/// #     fn room(&self, _chunks: usize) -> Option<Room> {
/// #         self.is_empty().then_some(Room { nth: 0, at: 0, move_middle_to: None })
/// #     }
/// #     fn occupy(&mut self, _room: Room, chunks: usize) { self.0 = chunks; }
/// #     fn vacate(&mut self, _nth: usize) { self.0 = 0; }
/// #     fn start(_nth: usize, _chunks: usize, _middle_at: u8) -> usize { 0 }
/// # }
/// /// A backend over the layout `Alone` of the crate's front page.
/// pub struct OnePerPage(Pool<Alone, 1>);
///
/// buddies::backend!(OnePerPage);
///
/// let pool: Arc<dyn Zpool> = Arc::new(OnePerPage(Pool::new(Arc::new(HeapPages::new()), None)?));
/// pool.malloc_from(b"object")?;
/// assert_eq!((pool.name(), pool.total_pages()), ("alone", 1));
/// # Ok::<(), zpool_api::ZpoolError>(())
/// ```
#[macro_export]
macro_rules! backend {
    ($name:ident) => {
        const _: () = {
            use ::core::fmt;
            use ::zpool_api::{Evict, Handle, ObjRead, ObjWrite, PoolTag, Zpool, ZpoolCaps};
            use ::zpool_api::{ZpoolError, ZpoolStats};

            $crate::backend!(@ $name
                name() -> &'static str;
                tag() -> PoolTag;
                caps() -> ZpoolCaps;
                malloc(size: usize) -> Result<ObjWrite<'_>, ZpoolError>;
                malloc_from(bytes: &[u8]) -> Result<Handle, ZpoolError>;
                free(handle: Handle) -> Result<(), ZpoolError>;
                prefetch(handle: Handle) -> ();
                obj_read_begin(handle: Handle) -> Result<ObjRead<'_>, ZpoolError>;
                /// Returns `len`, but never less than an equal share of the page. A page holds only a fixed
                /// number of objects, so a smaller object saves no memory.
                footprint(len: usize) -> usize;
                total_pages() -> usize;
                reclaim(pages: usize, evict: &dyn Evict) -> Result<usize, ZpoolError>;
                trim() -> usize;
                stats() -> ZpoolStats;
            );

            impl fmt::Debug for $name {
                fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    self.0.fmt_as(stringify!($name), f)
                }
            }
        };
    };
    (@ $name:ident $($(#[$doc:meta])* $call:ident($($argument:ident: $type:ty),*) -> $returned:ty;)*) => {
        impl Zpool for $name {
            $($(#[$doc])* fn $call(&self $(, $argument: $type)*) -> $returned {
                self.0.$call($($argument),*)
            })*
        }
    };
}
