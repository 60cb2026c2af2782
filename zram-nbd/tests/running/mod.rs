//! A server in its own thread, on a TCP port or on a Unix socket. All waits have a timeout, so that a failure does
//! not hang. The timeout is long enough for slow machines.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use zram::Zram;
use zram_nbd::{Export, Listener, Server, Totals};

use crate::client::Client;

/// The timeout of every wait. It is shorter than a server's default timeouts.
const NEVER: Duration = Duration::from_secs(20);

pub(crate) trait Stream: Read + Write + Send {}
impl<S: Read + Write + Send> Stream for S {}

#[derive(Clone)]
enum Place {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

pub(crate) struct Running {
    place: Place,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<Totals>>>,
}

/// Polls until the condition holds. Panics with `what` after the timeout.
pub(crate) fn wait_until(what: &str, mut is: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is() {
        assert!(begin.elapsed() < NEVER, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

impl Running {
    /// Starts a TCP server and a Unix server for the disk. `options` sets their options.
    pub(crate) fn both(disk: &Arc<Zram>, options: impl Fn(Server) -> Server) -> [Running; 2] {
        static SOCKETS: AtomicUsize = AtomicUsize::new(0);
        let tcp = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let number = SOCKETS.fetch_add(1, SeqCst);
        let path = format!("nbd-{}-{number}", process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(path);
        let _ = fs::remove_file(&path);
        let unix = UnixListener::bind(&path).unwrap();
        let places = [
            (Place::Tcp(tcp.local_addr().unwrap()), Listener::Tcp(tcp)),
            (Place::Unix(path), Listener::Unix(unix)),
        ];
        places.map(|(place, listener)| {
            let server = options(Server::new(listener, Export::new(disk.clone(), "disk")));
            let stop = Arc::new(AtomicBool::new(false));
            let flag = stop.clone();
            let thread = Some(thread::spawn(move || server.run(&flag)));
            Running { place, stop, thread }
        })
    }

    pub(crate) fn connect(&self) -> Client<Box<dyn Stream>> {
        let stream: Box<dyn Stream> = match &self.place {
            Place::Tcp(address) => {
                let stream = TcpStream::connect(address).unwrap();
                stream.set_read_timeout(Some(NEVER)).unwrap();
                stream.set_write_timeout(Some(NEVER)).unwrap();
                Box::new(stream)
            }
            Place::Unix(path) => {
                let stream = UnixStream::connect(path).unwrap();
                stream.set_read_timeout(Some(NEVER)).unwrap();
                stream.set_write_timeout(Some(NEVER)).unwrap();
                Box::new(stream)
            }
        };
        Client { stream, structured: false }
    }

    /// Returns a client that has finished the handshake. Retries if a slow machine made the handshake time out.
    pub(crate) fn through(&self) -> Client<Box<dyn Stream>> {
        let mut client = self.connect();
        wait_until("nobody gets through the handshake", || {
            let through = client.go_at_once().is_ok();
            if !through {
                client = self.connect();
            }
            through
        });
        client
    }

    /// Stops the server and returns its totals.
    pub(crate) fn end(mut self) -> Totals {
        self.stop.store(true, SeqCst);
        let thread = self.thread.take().unwrap();
        wait_until("the server does not stop", || thread.is_finished());
        thread.join().unwrap().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
        if let Place::Unix(path) = &self.place {
            let _ = fs::remove_file(path);
        }
    }
}
