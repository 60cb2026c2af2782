//! Serves a disk on a socket, with a thread for each client.

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

/// The most clients at the same time. Further clients are turned away.
const MOST_CLIENTS: usize = 64;
/// The default of a server's two timeouts.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the server sleeps when no client is waiting, before it checks `stop` again.
const LOOK: Duration = Duration::from_millis(20);

/// A socket on which clients connect.
#[derive(Debug)]
pub enum Listener {
    /// A TCP port.
    Tcp(TcpListener),
    /// A Unix socket.
    #[cfg(unix)]
    Unix(UnixListener),
}

impl Listener {
    /// Listens on a TCP address.
    ///
    /// ```
    /// use std::net::SocketAddr;
    /// use zram_nbd::Listener;
    ///
    /// let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
    /// assert!(matches!(Listener::tcp(any_port)?, Listener::Tcp(_)));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`TcpListener::bind`].
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
        // An error means that the connection is closed already.
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

/// What all sessions of a server did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Totals {
    /// Clients that connected.
    pub clients: u64,
    /// Clients whose session failed, because of the client, the connection or a panic.
    pub failed: u64,
    /// Clients turned away because there were too many clients, or because the system had no thread or file
    /// descriptor for them.
    pub turned_away: u64,
    /// The sum of the figures of all sessions.
    pub sessions: Session,
}

/// Serves a disk to at most 64 clients at the same time. Further clients are turned away.
///
/// A client that keeps its thread waiting is dropped. During the handshake, it is dropped if it sends nothing for
/// [`handshake_timeout`](Self::handshake_timeout). At any time, it is dropped if it reads nothing for
/// [`write_timeout`](Self::write_timeout) while bytes wait for it. Other clients are not affected. After the
/// handshake, a client may be silent for any time.
///
/// ```
/// use std::net::SocketAddr;
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicBool, Ordering};
/// use std::time::Duration;
/// use zram_nbd::{Export, Listener, Server};
///
/// let disk = zram::Zram::builder().disksize(1 << 20).algorithm("null").zpool("zbud").build()?;
/// let listener = Listener::tcp(SocketAddr::from(([127, 0, 0, 1], 0)))?;
/// let server = Server::new(listener, Export::new(Arc::new(disk), "disk"));
/// let server = server.handshake_timeout(Duration::from_secs(5));
///
/// let stop = AtomicBool::new(false);
/// let totals = std::thread::scope(|scope| {
///     let running = scope.spawn(|| server.run(&stop));
///     stop.store(true, Ordering::Relaxed);
///     running.join().expect("run does not panic")
/// })?;
/// assert_eq!(totals.clients, 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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
    /// Makes a server with the default timeouts. It starts to serve in [`run`](Self::run).
    pub fn new(listener: Listener, export: Export) -> Self {
        Server { listener, export, handshake_timeout: PATIENCE, write_timeout: PATIENCE }
    }

    /// Sets how long a client may be silent during the handshake before its connection is closed. Default: 30
    /// seconds. Zero means the system's shortest timeout.
    #[must_use = "returns the server"]
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.handshake_timeout = not_zero(timeout);
        self
    }

    /// Sets how long a client may leave the bytes that wait for it unread before its connection is closed. Closing
    /// may take up to twice as long. Default: 30 seconds. Zero means the system's shortest timeout.
    #[must_use = "returns the server"]
    pub fn write_timeout(mut self, timeout: Duration) -> Self {
        self.write_timeout = not_zero(timeout);
        self
    }

    /// Serves until `stop` is true. Then closes the clients' connections, joins their threads, and returns what
    /// all sessions did.
    ///
    /// # Errors
    /// The listener's error. Before the error is returned, the connections are closed and the threads are joined.
    ///
    /// # Blocking
    /// Blocks until `stop` is true. If no client is waiting, `stop` is checked every 20 milliseconds.
    pub fn run(&self, stop: &AtomicBool) -> io::Result<Totals> {
        self.listener.set_nonblocking()?;
        let totals = Mutex::new(Totals::default());
        // A second handle of each client's connection, for closing the connection.
        let clients: Mutex<BTreeMap<u64, Stream>> = Mutex::new(BTreeMap::new());
        let ended = thread::scope(|scope| {
            let ended = loop {
                // Relaxed: the flag publishes nothing else.
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
            // A user's codec may panic with a payload that panics again when it is dropped. That ends only
            // this client's session.
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
            // The failed spawn dropped the closure and the stream in it.
            lock(clients).remove(&number);
            lock(totals).turned_away += 1;
        }
    }
}

impl Server {
    /// Serves one client like [`crate::serve`], but with a timeout during the handshake.
    fn serve(&self, stream: &mut Stream, session: &mut Session) -> Result<(), SessionError> {
        stream.set_read_timeout(Some(self.handshake_timeout))?;
        let Some(agreed) = handshake::negotiate(stream, &self.export)? else { return Ok(()) };
        stream.set_read_timeout(None)?;
        transmission::run(stream, &self.export.disk, agreed, session)
    }
}

/// Returns the timeout, or one nanosecond if the timeout is zero. `std` refuses to set a socket's timeout to zero.
fn not_zero(timeout: Duration) -> Duration {
    timeout.max(Duration::from_nanos(1))
}

/// Returns whether an error of `accept` is temporary: no client is waiting, a client left before it
/// was accepted, or a signal interrupted the call.
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
