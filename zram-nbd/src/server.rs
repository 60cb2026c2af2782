//! Sockets: a listener, and a thread for each client.

use core::time::Duration;
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
#[cfg(unix)]
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::{Export, Session, SessionError, handshake, transmission};

/// Clients at a time; more are turned away.
const MOST_CLIENTS: usize = 64;
/// Both timeouts, unless others are given.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks whether the server is to stop.
const LOOK: Duration = Duration::from_millis(20);

/// Where clients come from.
#[derive(Debug)]
pub enum Listener {
    /// A TCP port.
    Tcp(TcpListener),
    /// A socket in the file system.
    #[cfg(unix)]
    Unix(UnixListener),
}

impl Listener {
    /// Listens on a TCP address.
    pub fn tcp(address: SocketAddr) -> io::Result<Self> {
        TcpListener::bind(address).map(Listener::Tcp)
    }

    fn accept(&self) -> io::Result<Stream> {
        match self {
            Listener::Tcp(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nodelay(true)?;
                stream.set_nonblocking(false)?;
                Ok(Stream::Tcp(stream))
            }
            #[cfg(unix)]
            Listener::Unix(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(false)?;
                Ok(Stream::Unix(stream))
            }
        }
    }

    fn set_nonblocking(&self) -> io::Result<()> {
        match self {
            Listener::Tcp(listener) => listener.set_nonblocking(true),
            #[cfg(unix)]
            Listener::Unix(listener) => listener.set_nonblocking(true),
        }
    }
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
}

impl Stream {
    fn try_clone(&self) -> io::Result<Self> {
        match self {
            Stream::Tcp(stream) => stream.try_clone().map(Stream::Tcp),
            #[cfg(unix)]
            Stream::Unix(stream) => stream.try_clone().map(Stream::Unix),
        }
    }

    fn shut_down(&self) {
        // One that is closed already is what is wanted.
        let _ = match self {
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Both),
            #[cfg(unix)]
            Stream::Unix(stream) => stream.shutdown(Shutdown::Both),
        };
    }

    fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.set_read_timeout(timeout),
            #[cfg(unix)]
            Stream::Unix(stream) => stream.set_read_timeout(timeout),
        }
    }

    fn set_write_timeout(&self, timeout: Duration) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.set_write_timeout(Some(timeout)),
            #[cfg(unix)]
            Stream::Unix(stream) => stream.set_write_timeout(Some(timeout)),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.read(bytes),
            #[cfg(unix)]
            Stream::Unix(stream) => stream.read(bytes),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.write(bytes),
            #[cfg(unix)]
            Stream::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What all sessions did together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Totals {
    /// Clients served.
    pub clients: u64,
    /// Clients whose session ended with an error, theirs or the connection's.
    pub failed: u64,
    /// Clients turned away, since there were too many.
    pub turned_away: u64,
    /// All sessions' sums.
    pub sessions: Session,
}

/// Serves a disk to 64 clients at a time; more are turned away.
///
/// A client that keeps a thread waiting is dropped, and nobody else notices: after
/// [`handshake_timeout`](Self::handshake_timeout) if it says nothing, after
/// [`write_timeout`](Self::write_timeout) if it takes nothing. Once it is through the handshake it may be
/// silent for as long as it likes.
#[derive(Debug)]
pub struct Server {
    listener: Listener,
    export: Export,
    handshake_timeout: Duration,
    write_timeout: Duration,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Server {
    /// A server that has not begun.
    pub fn new(listener: Listener, export: Export) -> Self {
        Server { listener, export, handshake_timeout: PATIENCE, write_timeout: PATIENCE }
    }

    /// How long a client may be silent in the handshake before its connection is closed. Default: 30
    /// seconds. Zero is the shortest that the system has.
    #[must_use = "returns the server"]
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.handshake_timeout = not_zero(timeout);
        self
    }

    /// How long a client may take nothing of what is sent to it before its connection is closed, which
    /// can come as late as after twice that. Default: 30 seconds. Zero is the shortest that the system
    /// has.
    #[must_use = "returns the server"]
    pub fn write_timeout(mut self, timeout: Duration) -> Self {
        self.write_timeout = not_zero(timeout);
        self
    }

    /// Serves until `stop` is true; then the clients' connections are closed, and their threads waited
    /// for. An error if the listener fails.
    pub fn run(&self, stop: &AtomicBool) -> io::Result<Totals> {
        self.listener.set_nonblocking()?;
        let totals = Mutex::new(Totals::default());
        // A second handle of each client's connection, to close it by.
        let clients: Mutex<BTreeMap<u64, Stream>> = Mutex::new(BTreeMap::new());
        let ended = thread::scope(|scope| {
            let ended = loop {
                // Relaxed: a flag that publishes nothing.
                if stop.load(Ordering::Relaxed) {
                    break Ok(());
                }
                match self.listener.accept() {
                    Ok(stream) => self.admit(scope, stream, &clients, &totals),
                    Err(error) if is_passing(&error) => thread::sleep(LOOK),
                    Err(error) => break Err(error),
                }
            };
            lock(&clients).values().for_each(Stream::shut_down);
            ended
        });
        ended.map(|()| *lock(&totals))
    }

    fn admit<'scope>(
        &'scope self,
        scope: &'scope thread::Scope<'scope, '_>,
        mut stream: Stream,
        clients: &'scope Mutex<BTreeMap<u64, Stream>>,
        totals: &'scope Mutex<Totals>,
    ) {
        let number = {
            let mut totals = lock(totals);
            totals.clients += 1;
            totals.clients
        };
        let second = stream.set_write_timeout(self.write_timeout).and_then(|()| stream.try_clone());
        let turned_away = match second {
            Ok(second) if lock(clients).len() < MOST_CLIENTS => {
                lock(clients).insert(number, second);
                false
            }
            _ => true,
        };
        if turned_away {
            lock(totals).turned_away += 1;
            return;
        }
        let serve = move || {
            let mut session = Session::default();
            // What a codec of the user's panicked with may panic when it is dropped: that is the end of
            // this client only.
            let ended = catch_unwind(AssertUnwindSafe(|| self.serve(&mut stream, &mut session)));
            lock(clients).remove(&number);
            let mut totals = lock(totals);
            totals.failed += u64::from(!matches!(ended, Ok(Ok(()))));
            totals.sessions.requests += session.requests;
            totals.sessions.read_bytes += session.read_bytes;
            totals.sessions.written_bytes += session.written_bytes;
        };
        let builder = thread::Builder::new().name(format!("nbd-{number}"));
        if builder.spawn_scoped(scope, serve).is_err() {
            // The stream went with the closure.
            lock(clients).remove(&number);
            lock(totals).turned_away += 1;
        }
    }
}

impl Server {
    /// As [`crate::serve`]; whoever is silent in the middle of the handshake is given up.
    fn serve(&self, stream: &mut Stream, session: &mut Session) -> Result<(), SessionError> {
        stream.set_read_timeout(Some(self.handshake_timeout))?;
        let Some(agreed) = handshake::negotiate(stream, &self.export)? else { return Ok(()) };
        stream.set_read_timeout(None)?;
        transmission::run(stream, &self.export.disk, agreed, session)
    }
}

/// A socket takes zero for an error.
fn not_zero(timeout: Duration) -> Duration {
    timeout.max(Duration::from_nanos(1))
}

/// Nobody is there now, or somebody has gone before being let in.
fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, WouldBlock};
    matches!(error.kind(), WouldBlock | Interrupted | ConnectionAborted | ConnectionReset)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_client_has_30_seconds_unless_told_otherwise() {
        let disk = zram::Zram::builder().disksize(4096).zpool("zbud").algorithm("null");
        let export = Export::new(Arc::new(disk.build().unwrap()), "");
        let listener = Listener::tcp(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let server = Server::new(listener, export);
        let thirty = Duration::from_secs(30);
        assert_eq!((server.handshake_timeout, server.write_timeout), (thirty, thirty));
    }
}
