//! The names of the codecs, for specs, the registry and errors.

#[cfg(feature = "lz4")]
pub(crate) const LZ4: &str = "lz4";
#[cfg(feature = "lz4")]
pub(crate) const LZ4HC: &str = "lz4hc";
#[cfg(feature = "linewords")]
pub(crate) const LINEWORDS: &str = "linewords";
#[cfg(feature = "zstd")]
pub(crate) const ZSTD: &str = "zstd";
#[cfg(feature = "deflate")]
pub(crate) const DEFLATE: &str = "deflate";
#[cfg(feature = "lzo")]
pub(crate) const LZO: &str = "lzo";
pub(crate) const NULL: &str = "null";
