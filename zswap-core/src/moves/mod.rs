//! Moves pages from one pool to another, from a pool to the device, on the device, and back.

pub(crate) mod clean;
pub(crate) mod cursors;
pub(crate) mod migrate;
pub(crate) mod outgoing;
pub(crate) mod promote;
pub(crate) mod promotion;
pub(crate) mod recompress;
pub(crate) mod relocate;
pub(crate) mod tried;
pub(crate) mod victims;
pub(crate) mod walk;
pub(crate) mod writeback;
