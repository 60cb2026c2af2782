//! A device for the stores of `zswap-core` and the disks of `zram` that keeps what they write back on another
//! machine, or on any service that Apache OpenDAL knows: Redis, S3, files.
//!
//! ```
//! use std::sync::Arc;
//! use zswap_core::{SwapEntry, Zswap};
//! use zswap_remote::Remote;
//!
//! # if cfg!(not(feature = "memory")) { return Ok(()); }
//! // Elsewhere: "redis://cache.example:6379/0", or "s3://bucket/prefix".
//! let remote = Remote::open("memory://")?;
//! let device = Arc::new(remote.device(1 << 20).build()?);
//!
//! // What leaves this machine is memory, so it is encrypted.
//! let store = Zswap::builder()
//!     .max_pool_bytes(64 << 20)
//!     .swap_device(device.clone())
//!     .encrypt(true)
//!     .build()?;
//!
//! let (entry, page) = (SwapEntry::new(0, 7)?, core::array::from_fn(|i| (i % 251) as u8));
//! store.store(entry, &page)?;
//! store.shrink(1)?;
//! assert_eq!(device.stats().objects, 1);
//!
//! let mut back = [0; zswap_core::PAGE_SIZE];
//! store.load(entry, &mut back)?;
//! assert_eq!(back, page);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`Remote::open`] takes a URL, and secrets from the environment. [`Remote::new`] takes an `Operator` of OpenDAL, for
//! all other services. [`RemoteSwapDevice`] says what fails, how, and what is left on the service.
//!
//! # What a store does with a bad service
//! A write that fails leaves its pages in memory, so a store that has room does not notice: its calls do not wait for
//! the service. A store at its limit waits for a write, or for two, each at most for
//! [`deadline`](RemoteBuilder::deadline); when the service does not answer, further writes fail at once for a while, and the
//! store refuses pages with the reason `DeviceFailed`. [`RemoteStats`] and the store's own figures show this.
//!
//! # Encryption
//! The store encrypts (`ZswapBuilder::encrypt`, `ZramBuilder::encrypt`, with the feature `encrypt` of `zswap-core` or `zram`); this
//! crate does not. Without it, whoever can read the service reads the pages. On a file system, objects have the mode that
//! the process's umask leaves.
//!
//! # Bytes over the wire
//! A load reads the bytes of its page only, if the service can read a part of an object: S3, Redis through
//! [`Remote::open`], files, and most others. For a service that cannot, OpenDAL reads the whole segment, so segments are
//! small there ([`RemoteBuilder::segment_bytes`]).
//!
//! # Files
//!
//! | file | contents |
//! |---|---|
//! | `remote.rs`, `url.rs`, `service.rs` | a service, and what killed processes left on it; URLs and secrets; where operators come from |
//! | `redis.rs`, `http.rs` | the service for Redis; HTTP clients |
//! | `builder.rs` | the settings of a device |
//! | `device.rs`, `threads.rs` | the device, and the threads on which its requests run |
//! | `name.rs`, `table.rs` | the names of objects, and which object holds a segment |
//! | `deleter.rs`, `queue.rs` | deletes in the background, and the objects that wait for them |
//! | `state.rs`, `health.rs`, `stats.rs` | what threads share; the pauses when the service does not answer; figures |
//! | `error.rs`, `fault.rs` | errors of this crate, and errors of OpenDAL as those of a device |

#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        reason = "a failure in a test's helper is the test's own message"
    )
)]
#![forbid(unsafe_code)]

mod builder;
mod deleter;
mod device;
mod error;
mod fault;
mod health;
#[cfg(feature = "s3")]
mod http;
mod name;
mod queue;
#[cfg(feature = "redis")]
mod redis;
mod remote;
mod service;
mod state;
mod stats;
mod table;
mod threads;
mod url;

pub use builder::RemoteBuilder;
pub use device::RemoteSwapDevice;
pub use error::RemoteError;
pub use name::StoreName;
/// The version of OpenDAL of whose operators [`Remote::new`] takes one.
pub use opendal;
pub use remote::Remote;
pub use stats::RemoteStats;
