//! The jobs, one file each.

pub(crate) mod aging;
pub(crate) mod asan;
pub(crate) mod bench;
pub(crate) mod churn;
pub(crate) mod ci;
pub(crate) mod clippy;
pub(crate) mod compare;
pub(crate) mod cross;
pub(crate) mod docs;
pub(crate) mod examples;
pub(crate) mod features;
pub(crate) mod fmt;
pub(crate) mod fuzz;
pub(crate) mod loom;
pub(crate) mod lzo;
pub(crate) mod miri;
pub(crate) mod msrv;
pub(crate) mod mutants;
pub(crate) mod nbd;
pub(crate) mod outside;
pub(crate) mod peers;
pub(crate) mod report;
pub(crate) mod sweep;
pub(crate) mod test;
pub(crate) mod torture;
pub(crate) mod tsan;
