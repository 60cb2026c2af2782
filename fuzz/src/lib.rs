//! What the fuzz targets share: an interpreter of operations on a backend, checked against a model.

pub mod nbd_stream;
pub mod zpool_ops;
pub mod zram_ops;
pub mod zswap_ops;
