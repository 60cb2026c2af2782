//! Serves a [`Zram`] over NBD, the network block device protocol, so that anything that
//! speaks it (the kernel, QEMU, libnbd) has a compressed disk.
//!
//! ```
//! use std::sync::Arc;
//! use zram_nbd::{Export, serve};
//!
//! let disk = zram::Zram::builder().disksize(1 << 20).algorithm("null").zpool("zbud").build()?;
//! let export = Export::new(Arc::new(disk), "");
//!
//! // A client that says hello and goes: any stream of bytes will do, a socket as well.
//! let mut stream = Client { says: &[0, 0, 0, 1], hears: Vec::new() };
//! let ended = serve(&mut stream, &export);
//! assert!(ended.is_err(), "gone in the middle of the handshake");
//! assert_eq!(&stream.hears[..16], b"NBDMAGICIHAVEOPT");
//!
//! struct Client<'a> {
//!     says: &'a [u8],
//!     hears: Vec<u8>,
//! }
//! impl std::io::Read for Client<'_> {
//!     fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
//!         self.says.read(bytes)
//!     }
//! }
//! impl std::io::Write for Client<'_> {
//!     fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
//!         self.hears.write(bytes)
//!     }
//!     fn flush(&mut self) -> std::io::Result<()> {
//!         Ok(())
//!     }
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! What is served: the fixed newstyle handshake with one export; read, write, flush, trim,
//! write-zeroes; simple and structured replies. No TLS, no block status.
//!
//! # What a client may not do
//! Whatever a client sends, it gets an answer of the protocol or the end of its connection. Most bytes
//! that a session holds: one request, 32 MiB at most. Nothing that it sends names anything but a range of
//! the disk, and it hears of nothing but the disk's bytes. A [`Server`] drops whoever is silent in the
//! handshake or does not take what it asked for.
//!
//! # What a codec may do
//! A compressor, backend or device of your own that fails is an error to the client that asked, and an
//! I/O error if it panics. The session goes on, the page that it was at stays as it was acknowledged
//! last, and nobody else notices.
//!
//! # Files
//!
//! | file | idea |
//! |---|---|
//! | `wire.rs` | the protocol's numbers, and numbers on the wire |
//! | `handshake.rs` | options, until the client has chosen the export |
//! | `transmission.rs` | requests and replies |
//! | `server.rs` | sockets, and a thread for each client |

#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        reason = "a failure in a test's helper is the test's own message"
    )
)]

mod handshake;
mod server;
mod transmission;
mod wire;

use std::io::{self, Read, Write};
use std::sync::Arc;

use zram::Zram;

pub use server::{Listener, Server, Totals};
pub use wire::MOST_BYTES;

/// A disk, and the name that clients ask for it by.
#[derive(Debug, Clone)]
pub struct Export {
    pub(crate) disk: Arc<Zram>,
    pub(crate) name: String,
}

impl Export {
    /// The disk under a name; clients that give none get it, too.
    pub fn new(disk: Arc<Zram>, name: &str) -> Self {
        Export { disk, name: name.to_owned() }
    }
}

/// What a session did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Session {
    /// Requests answered, failed ones too.
    pub requests: u64,
    /// Bytes read from the disk.
    pub read_bytes: u64,
    /// Bytes written to it.
    pub written_bytes: u64,
}

/// How a session ended that did not end as the protocol has it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// The connection failed, or ended in the middle of something.
    #[error("the connection failed")]
    Io(#[from] io::Error),
    /// The client did not keep to the protocol.
    #[error("the client sent {what} {value:#x}; the connection is closed")]
    Protocol {
        /// What was wrong.
        what: &'static str,
        /// Its value.
        value: u64,
    },
    /// No memory for a request.
    #[error("no memory for a request of {bytes} bytes; the connection is closed")]
    NoMemory {
        /// Bytes of the request.
        bytes: usize,
    },
}

/// Serves one client until it disconnects. Blocks in the stream, which may have timeouts, and in the
/// disk.
pub fn serve<S: Read + Write>(stream: &mut S, export: &Export) -> Result<Session, SessionError> {
    let mut session = Session::default();
    if let Some(agreed) = handshake::negotiate(stream, export)? {
        transmission::run(stream, &export.disk, agreed, &mut session)?;
    }
    Ok(session)
}
