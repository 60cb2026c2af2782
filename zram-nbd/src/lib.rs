//! Serves a [`Zram`] as a compressed disk over NBD, the network block device protocol. Any NBD client
//! can use the disk, for instance the kernel, QEMU or libnbd.
//!
//! ```
//! use std::sync::Arc;
//! use zram_nbd::{Export, serve};
//!
//! let disk = zram::Zram::builder().disksize(1 << 20).algorithm("null").zpool("zbud").build()?;
//! let export = Export::new(Arc::new(disk), "");
//!
//! // A client that says hello and leaves. Any byte stream works, e.g. a socket.
//! let mut stream = Client { says: &[0, 0, 0, 1], hears: Vec::new() };
//! let ended = serve(&mut stream, &export);
//! assert!(ended.is_err(), "it left during the handshake");
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
//! Supported: the fixed newstyle handshake with one export; read, write, flush, trim, write-zeroes; simple
//! and structured replies. Not supported: TLS, block status.
//!
//! # Hostile clients
//! Whatever a client sends, the client gets a reply of the protocol, or its connection is closed. A session
//! buffers one request at a time, which needs at most 32 MiB. A request can reach only ranges of the disk, and a
//! reply carries only bytes of the disk. A [`Server`] drops clients that send nothing in the handshake or do not
//! read their replies.
//!
//! # Faulty codecs
//! If a user's compressor, backend or device fails or panics, the client that sent the request gets an error;
//! after a panic it is an I/O error. The session goes on, the page still reads as its last acknowledged write,
//! and other clients are not affected.
//!
//! # Files
//!
//! | file | idea |
//! |---|---|
//! | `wire.rs` | the protocol's constants, and integers on the wire |
//! | `handshake.rs` | the options that a client sends until it has chosen the export |
//! | `transmission.rs` | requests and replies |
//! | `server.rs` | sockets, and a thread per client |

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

/// A disk, and the name by which clients choose it.
#[derive(Debug, Clone)]
pub struct Export {
    pub(crate) disk: Arc<Zram>,
    pub(crate) name: String,
}

impl Export {
    /// Exports the disk under a name. A client that gives no name gets this disk, too.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use zram_nbd::Export;
    ///
    /// let disk = zram::Zram::builder().disksize(1 << 20).algorithm("null").zpool("zbud").build()?;
    /// let export = Export::new(Arc::new(disk), "scratch");
    /// # let _ = export;
    /// # Ok::<(), zram::BuildError>(())
    /// ```
    pub fn new(disk: Arc<Zram>, name: &str) -> Self {
        Export { disk, name: name.to_owned() }
    }
}

/// What a session did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Session {
    /// Requests answered, including failed ones.
    pub requests: u64,
    /// Bytes read from the disk.
    pub read_bytes: u64,
    /// Bytes written to the disk.
    pub written_bytes: u64,
}

/// Why a session failed. A session does not fail if the client disconnects between two requests.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// The connection failed, or ended during the handshake or a request.
    #[error("the connection failed")]
    Io(#[from] io::Error),
    /// The client violated the protocol.
    #[error("the client sent {what} {value:#x}; the connection is closed")]
    Protocol {
        /// The field that was wrong.
        what: &'static str,
        /// The field's value.
        value: u64,
    },
    /// There is no memory for a request.
    #[error("no memory for a request of {bytes} bytes; the connection is closed")]
    NoMemory {
        /// Bytes of the request.
        bytes: usize,
    },
}

/// Serves one client until it disconnects, and returns what the session did. The crate's front page has an
/// example.
///
/// # Errors
/// [`SessionError::Io`] if the stream fails or ends during the handshake or a request;
/// [`SessionError::Protocol`] if the client violates the protocol; [`SessionError::NoMemory`] if there is no
/// memory for a request. Errors of the disk are not errors of the session: the client gets them as replies.
///
/// # Blocking
/// Blocks in the stream, for as long as its timeouts allow, and in the disk.
pub fn serve<S: Read + Write>(stream: &mut S, export: &Export) -> Result<Session, SessionError> {
    let mut session = Session::default();
    if let Some(agreed) = handshake::negotiate(stream, export)? {
        transmission::run(stream, &export.disk, agreed, &mut session)?;
    }
    Ok(session)
}
