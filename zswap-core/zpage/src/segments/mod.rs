//! The segments of a device: what each holds, which are being read, and which is cleaned next.
//!
//! Objects are packed into a [`Draft`], which is written with one call. An object has an [`Address`] from then on.
//! Whoever names it in an entry owns it: the owner gives it up exactly once ([`Segments::give_up`]). A segment
//! whose last object was given up is discarded, when its last reader has gone, and is then free.
//!
//! A free segment may be written again, and the addresses of its objects then mean other objects. So a thread that
//! reads an address from an entry, and later compares it with the address in the entry, keeps the segment pinned in
//! between. A pinned segment is not discarded, and no address of a segment is used twice before it is discarded. So
//! an equal address means the same object.
//!
//! If no segment is free, or few are, *cleaning* moves the objects of the emptiest segments together
//! ([`Segments::clean`]). One segment is kept free for it, if there are at least four.
//!
//! If the device panics, only that call fails ([`Panicked`](crate::device::DeviceError::Panicked)). No segment
//! is lost, and none is used twice.
//!
//! # Locks
//! *Segments of the device*: a leaf mutex, held briefly. Only taking a segment that was never used, and freeing the
//! last one in use, may call the allocator under it. The device is called, and codecs are dropped, without it. Pinning neither allocates nor waits, since
//! it is done under an entry's lock.
//!
//! *Cleaning*: one thread cleans at a time. It holds no lock while it reads and writes segments, and takes one
//! entry's lock at a time. Other threads that find no free segment wait for it with nothing locked.

mod address;
mod buffer;
#[cfg(feature = "encrypt")]
mod cipher;
mod clean;
mod codecs;
mod draft;
mod format;
mod merge;
mod read;
mod seal;
#[cfg(feature = "encrypt")]
mod secret;
mod state;
mod table;

pub use self::address::Address;
pub use self::clean::{Cleaned, Entries};
pub use self::draft::{Draft, Written};
pub use self::merge::Wanted;
pub use self::read::{LoadFault, Pinned};
pub use self::state::Segments;
pub use self::table::Figures;

#[cfg(all(test, not(loom)))]
mod tests;
