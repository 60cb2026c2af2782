//! Moves pages from one pool to another, and from a pool to the device.

pub(crate) mod cursors;
pub(crate) mod migrate;
pub(crate) mod recompress;
pub(crate) mod relocate;
pub(crate) mod tried;
pub(crate) mod walk;
pub(crate) mod writeback;
