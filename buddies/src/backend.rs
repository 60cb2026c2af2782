//! A crate's own type over a [`Pool`](crate::Pool), to which it passes on each call.

/// Implements `Zpool` and `Debug` for a newtype over a [`Pool`](crate::Pool).
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
                /// At least a page's share for the most objects that it holds: a smaller object saves no memory.
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
