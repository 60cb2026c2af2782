//! A TCP proxy that counts bytes, and delays, holds or cuts its connections.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

/// What the proxy does with bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Passes them on.
    Pass = 0,
    /// Keeps them until the mode changes, also if the client has gone meanwhile.
    Hold = 1,
    /// Closes connections.
    Cut = 2,
}

#[derive(Default)]
struct Shared {
    mode: AtomicU8,
    delay_us: AtomicU64,
    to_server: AtomicU64,
    to_client: AtomicU64,
    connections: AtomicU64,
}

impl Shared {
    fn is(&self, mode: Mode) -> bool {
        self.mode.load(SeqCst) == mode as u8
    }
}

/// A proxy. Its threads end with the process.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Proxy {
    pub fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, shared) = (listener.local_addr().unwrap(), Arc::new(Shared::default()));
        let held = shared.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if held.is(Mode::Cut) {
                    continue;
                }
                let Ok(server) = TcpStream::connect(server) else { continue };
                held.connections.fetch_add(1, SeqCst);
                for socket in [&client, &server] {
                    socket.set_nodelay(true).unwrap();
                    socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
                }
                let ends = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let (there, back) = (held.clone(), held.clone());
                std::thread::spawn(move || pump(client, server, &there, |s| &s.to_server));
                std::thread::spawn(move || pump(ends.1, ends.0, &back, |s| &s.to_client));
            }
        });
        Proxy { address, shared }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn set(&self, mode: Mode) {
        self.shared.mode.store(mode as u8, SeqCst);
    }

    /// Delays whatever arrives, in both directions.
    pub fn set_delay(&self, delay: Duration) {
        self.shared.delay_us.store(delay.as_micros() as u64, SeqCst);
    }

    /// Returns the bytes that went to the server, and those that came from it.
    pub fn bytes(&self) -> (u64, u64) {
        (self.shared.to_server.load(SeqCst), self.shared.to_client.load(SeqCst))
    }

    pub fn connections(&self) -> u64 {
        self.shared.connections.load(SeqCst)
    }
}

fn pump(
    mut from: TcpStream,
    mut to: TcpStream,
    shared: &Shared,
    count: impl Fn(&Shared) -> &AtomicU64,
) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        if shared.is(Mode::Cut) {
            break;
        }
        let read = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            // The read's time-out: look at the mode again.
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(_) => break,
        };
        std::thread::sleep(Duration::from_micros(shared.delay_us.load(SeqCst)));
        while shared.is(Mode::Hold) {
            std::thread::sleep(Duration::from_millis(2));
        }
        if shared.is(Mode::Cut) || to.write_all(&buffer[..read]).is_err() {
            break;
        }
        count(shared).fetch_add(read as u64, SeqCst);
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
