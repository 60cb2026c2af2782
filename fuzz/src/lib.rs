//! The code of the fuzz targets that run operations. Each interprets the input as operations and
//! compares the results with a model.

pub mod cache_ops;
pub mod nbd_stream;
pub mod zpool_ops;
pub mod zram_ops;
pub mod zswap_ops;
