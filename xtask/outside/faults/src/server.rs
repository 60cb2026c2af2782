//! Trials of faults in the NBD server.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use zram_nbd::{Export, Listener, Server};

use crate::Seen;
use crate::pages::resident_kib;

const CLIENTS: usize = 64;

/// Runs `trial` with a server that listens on its own socket. Returns the trial's result, and
/// whether the server ended before it was stopped.
fn serve<T>(trial: impl FnOnce(&Path) -> T) -> (T, bool) {
    let disk = Arc::new(zram::Zram::builder().disksize(64 << 20).build().expect("a disk"));
    let name = format!("zswap-fault-{}.sock", std::process::id());
    let path: PathBuf = std::env::temp_dir().join(name);
    let listener = UnixListener::bind(&path).expect("a socket in the temporary folder");
    let stop = AtomicBool::new(false);
    let server = Server::new(Listener::Unix(listener), Export::new(disk, ""))
        .handshake_timeout(Duration::from_millis(300));
    let done = std::thread::scope(|scope| {
        let running = scope.spawn(|| server.run(&stop));
        let seen = trial(&path);
        let ended = running.is_finished();
        stop.store(true, Ordering::SeqCst);
        // An error means that the server ended by itself.
        drop(running.join());
        (seen, ended)
    });
    let _ = std::fs::remove_file(&path);
    done
}

fn connect(path: &Path) -> UnixStream {
    let client = UnixStream::connect(path).expect("a server that listens");
    client.set_read_timeout(Some(Duration::from_secs(2))).expect("a duration above zero");
    client
}

/// Returns whether a client that connects now gets a greeting.
fn is_greeted(path: &Path) -> bool {
    connect(path).read_exact(&mut [0; 18]).is_ok()
}

/// Tests whether the server, and with it the disk, ends when it has no file descriptor for another
/// client.
pub fn ends_without_descriptors() -> Seen {
    let (served, ended) = serve(|path| {
        let mut client = connect(path);
        client.read_exact(&mut [0; 18]).expect("a greeting");
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: the call writes only to `limit`, a local variable.
        unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
        let few = libc::rlimit { rlim_cur: 48, ..limit };
        // SAFETY: the call only reads `few`, a local variable, and sets the limit of this process.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const few) };
        let mut files: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
        // This frees one descriptor, for the client's end of the next connection.
        files.pop();
        let another = UnixStream::connect(path);
        sleep(Duration::from_millis(300));
        drop(files);
        // SAFETY: as for the `setrlimit` above, with `limit`.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
        sleep(Duration::from_millis(300));
        drop(another);
        UnixStream::connect(path).is_ok()
    });
    Seen::new(ended, format!("after EMFILE the server ended: {ended}, takes clients: {served}"))
}

/// Tests whether clients that send their handshake slowly keep all others out. This happens if the
/// time-out is per read and not per handshake.
pub fn trickled_handshakes_keep_others_out() -> Seen {
    let (kept_out, _) = serve(|path| {
        let mut slow: Vec<UnixStream> = (0..CLIENTS).map(|_| connect(path)).collect();
        // The flags, then an option of 8192 bytes that is never completed.
        let mut says = vec![0, 0, 0, 3];
        says.extend(b"IHAVEOPT");
        says.extend(99u32.to_be_bytes());
        says.extend(8192u32.to_be_bytes());
        says.resize(8192, 0);
        let began = Instant::now();
        for byte in says {
            if began.elapsed() > Duration::from_secs(3) {
                break;
            }
            for client in &mut slow {
                let _ = client.write_all(&[byte]);
            }
            sleep(Duration::from_millis(120));
        }
        !is_greeted(path)
    });
    Seen::new(kept_out, format!("after 3 s of a 300 ms time-out another is kept out: {kept_out}"))
}

/// Tests whether clients that announce a large write, but send only one byte of it, make the server
/// keep memory for the whole write.
pub fn announced_writes_hold_memory() -> Seen {
    let (grown, _) = serve(|path| {
        let before = resident_kib();
        let mut clients: Vec<UnixStream> = (0..16).map(|_| connect(path)).collect();
        for client in &mut clients {
            client.read_exact(&mut [0; 18]).expect("a greeting");
            // The flags, with no zeroes wanted; then a request for the export by name; then a write
            // of 32 MiB, of which only one byte is sent.
            let mut says = vec![0, 0, 0, 3];
            says.extend(b"IHAVEOPT");
            says.extend(1u32.to_be_bytes());
            says.extend(0u32.to_be_bytes());
            client.write_all(&says).expect("an open connection");
            client.read_exact(&mut [0; 10]).expect("the export");
            let mut request = 0x2560_9513u32.to_be_bytes().to_vec();
            request.extend([0, 0, 0, 1]);
            request.extend([0; 16]);
            request.extend((32u32 << 20).to_be_bytes());
            request.push(7);
            client.write_all(&request).expect("an open connection");
        }
        sleep(Duration::from_secs(3));
        resident_kib().saturating_sub(before)
    });
    Seen::new(
        grown > 64 << 10,
        format!("16 clients that each send one byte of 32 MiB: {grown} KiB"),
    )
}
