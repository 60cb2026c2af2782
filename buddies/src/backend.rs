//! A crate's own type over a [`Pool`](crate::Pool): each call is handed on.

/// Makes a newtype over a [`Pool`](crate::Pool) the backend: `Zpool` and `Debug`.
#[macro_export]
macro_rules! backend {
    ($name:ident) => {
        impl ::zpool_api::Zpool for $name {
            fn name(&self) -> &'static str {
                self.0.name()
            }
            fn tag(&self) -> ::zpool_api::PoolTag {
                self.0.tag()
            }
            fn caps(&self) -> ::zpool_api::ZpoolCaps {
                self.0.caps()
            }
            fn malloc(
                &self,
                size: usize,
            ) -> ::core::result::Result<::zpool_api::ObjWrite<'_>, ::zpool_api::ZpoolError> {
                self.0.malloc(size)
            }
            fn malloc_from(
                &self,
                bytes: &[u8],
            ) -> ::core::result::Result<::zpool_api::Handle, ::zpool_api::ZpoolError> {
                self.0.malloc_from(bytes)
            }
            fn free(
                &self,
                handle: ::zpool_api::Handle,
            ) -> ::core::result::Result<(), ::zpool_api::ZpoolError> {
                self.0.free(handle)
            }
            fn prefetch(&self, handle: ::zpool_api::Handle) {
                self.0.prefetch(handle);
            }
            fn obj_read_begin(
                &self,
                handle: ::zpool_api::Handle,
            ) -> ::core::result::Result<::zpool_api::ObjRead<'_>, ::zpool_api::ZpoolError> {
                self.0.obj_read_begin(handle)
            }
            /// A page holds so few objects at most that a smaller share than that saves no memory.
            fn footprint(&self, len: usize) -> usize {
                self.0.footprint(len)
            }
            fn total_pages(&self) -> usize {
                self.0.total_pages()
            }
            fn reclaim(
                &self,
                target_pages: usize,
                evict: &dyn ::zpool_api::Evict,
            ) -> ::core::result::Result<usize, ::zpool_api::ZpoolError> {
                self.0.reclaim(target_pages, evict)
            }
            fn trim(&self) -> usize {
                self.0.trim()
            }
            fn stats(&self) -> ::zpool_api::ZpoolStats {
                self.0.stats()
            }
        }

        impl ::core::fmt::Debug for $name {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                self.0.fmt_as(::core::stringify!($name), f)
            }
        }
    };
}
