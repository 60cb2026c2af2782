//! Why the store refused a page. A refusal is internal: the store counts it and turns it into a
//! [`StoreError`](crate::StoreError).

use core::fmt;

use crate::pool::Fault;

/// Why a store at its limit could not make room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum LimitReason {
    /// There is no device, or writeback is switched off, for the store or for the area.
    NoDevice,
    /// No segment of the device is free, and cleaning frees none.
    DeviceFull,
    /// The device failed. For up to 64 ms, stores at the limit write nothing to it; then they try it again.
    DeviceFailed,
    /// The pages in the pools cannot be read, so they cannot be written back.
    Unreadable,
}

impl fmt::Display for LimitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LimitReason::NoDevice => {
                "there is no device to write pages back to, or writeback is switched off"
            }
            LimitReason::DeviceFull => "the device is full",
            LimitReason::DeviceFailed => "the device failed; the store tries it again soon",
            LimitReason::Unreadable => "the pages in the pools cannot be read",
        })
    }
}

/// Why a page was not stored.
pub(crate) enum Refusal {
    Fault(Fault),
    Index(usize),
    /// The pools of an area or of the store are at their limit of `limit` bytes.
    Limit {
        reason: LimitReason,
        limit: usize,
    },
    /// Memory that cannot be written back has reached `max_bytes`.
    Memory {
        unwritable: usize,
        limit: usize,
    },
}
