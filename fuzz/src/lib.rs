//! The code of the fuzz targets: interpreters of operations, each checked against a model.

pub mod nbd_stream;
pub mod zpool_ops;
pub mod zram_ops;
pub mod zswap_ops;
