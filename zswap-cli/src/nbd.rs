//! `zswap nbd`: serves a compressed disk until a signal ends it. With `--backing`, a thread writes back pages that are
//! not used.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM};
use zram::device::FileSwapDevice;
use zram::{Writeback, Zram, ZramError};
use zram_nbd::{Export, Listener, Server, Totals};

use measure::chain;

use crate::args::Nbd;
use crate::backing::{self, Backing, Service};
use crate::error::{Error, Result};

/// How often the thread that writes pages back checks whether the server has ended.
const STEP: Duration = Duration::from_millis(50);

/// Serves until SIGTERM or SIGINT, then reports what was served.
pub(crate) fn run(args: &Nbd, services: &[Service]) -> Result<()> {
    let backing = place(args, services)?;
    let mut disk =
        Zram::builder().disksize(args.size).zpool(&args.zpool).algorithm(&args.compressor);
    disk = disk.unit(args.unit);
    if let Some(limit) = args.mem_limit {
        disk = disk.mem_limit(usize::try_from(limit).unwrap_or(usize::MAX));
    }
    if let Some((place, file)) = &backing {
        disk = disk.backing_device(place.device.clone());
        #[cfg(feature = "encrypt")]
        {
            disk = disk.encrypt(file.is_none() && !args.plain);
        }
        #[cfg(not(feature = "encrypt"))]
        let _ = file;
    }
    let disk = Arc::new(disk.build().map_err(Error::Disk)?);
    // The handlers are registered before anybody can connect, so that no signal is missed.
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        signal_hook::flag::register(signal, stop.clone()).map_err(Error::Serve)?;
    }
    let (listener, place, _socket) = listen(args)?;
    say(&format!(
        "serving {} bytes at {place}, {} and {}; SIGTERM ends it",
        args.size, args.zpool, args.compressor
    ));
    let server = Server::new(listener, Export::new(disk.clone(), ""));
    let (served, failure) = std::thread::scope(|scope| {
        let writer = backing.is_some().then(|| scope.spawn(|| write_back(&disk, args.idle, &stop)));
        let served = server.run(&stop);
        // The server may end without a signal, if it fails.
        stop.store(true, Ordering::SeqCst);
        // Ends a writeback that is under way.
        disk.set_writeback_limit(Some(0));
        let failure = writer.and_then(|writer| writer.join().unwrap_or_default());
        (served, failure)
    });
    say(&summary(&disk, served.map_err(Error::Serve)?));
    if let Some((place, _)) = &backing {
        let failure = failure.map(|error| chain(&error));
        say(&written(&disk, failure, place.failure()));
    }
    Ok(())
}

/// A file that holds a disk's pages, which nobody needs after the server. Deleted on drop.
struct PagesFile(PathBuf);

impl Drop for PagesFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Returns how many pages of 4096 bytes a device needs to hold a disk of `size` bytes although nothing on it
/// compresses. A segment holds at least three units and a directory, where four would fit without one. A small device
/// needs several segments.
fn device_pages(size: u64) -> u64 {
    const LEAST: u64 = 256;
    let pages = size.div_ceil(4096);
    pages.saturating_add(pages / 3).saturating_add(LEAST)
}

/// Opens what `--backing` names, if it was given.
fn place(args: &Nbd, services: &[Service]) -> Result<Option<(Backing, Option<PagesFile>)>> {
    let Some(given) = &args.backing else { return Ok(None) };
    let pages = device_pages(args.size);
    let Some((url, scheme)) = backing::url(given) else {
        if args.plain {
            return Err(Error::PlainFile);
        }
        let device = FileSwapDevice::create(given, pages);
        let device = device.map_err(|reason| Error::Backing { reason })?;
        return Ok(Some((Backing::new(device), Some(PagesFile(given.clone())))));
    };
    let service = backing::service(scheme, services)?;
    #[cfg(not(feature = "encrypt"))]
    if !args.plain {
        return Err(Error::NoEncryption);
    }
    Ok(Some((service.device(url, pages)?, None)))
}

/// Writes back the pages that are idle and marks all others idle, every `idle` seconds until the server ends. Returns
/// the last failure. After one the pages stay in memory, and the next round tries them again.
fn write_back(disk: &Zram, idle: u32, stop: &AtomicBool) -> Option<ZramError> {
    let mut failure = None;
    let mut next = Instant::now() + Duration::from_secs(idle.into());
    while !stop.load(Ordering::SeqCst) {
        std::thread::sleep(STEP);
        if Instant::now() < next {
            continue;
        }
        failure = disk.writeback(&Writeback::new().idle()).err().or(failure);
        disk.mark_idle();
        next = Instant::now() + Duration::from_secs(idle.into());
    }
    failure
}

/// Returns what was written back, in words.
fn written(disk: &Zram, failure: Option<String>, said: Option<String>) -> String {
    let stat = disk.bd_stat();
    let mut text = format!("{} pages were on the backing device", stat.bd_count);
    if let Some(failure) = failure {
        text += &format!("; writing pages back failed, at last with: {failure}");
    }
    if let Some(said) = said {
        text += &format!("; the service said: {said}");
    }
    text
}

/// A socket's file, which is removed on drop unless somebody has replaced it.
#[cfg(unix)]
struct SocketFile {
    path: PathBuf,
    /// Device and inode number of the file.
    id: (u64, u64),
}

#[cfg(unix)]
impl SocketFile {
    fn at(path: &Path) -> io::Result<Self> {
        Ok(SocketFile { path: path.to_owned(), id: Self::id(path)? })
    }

    fn id(path: &Path) -> io::Result<(u64, u64)> {
        use std::os::unix::fs::MetadataExt;

        let file = std::fs::symlink_metadata(path)?;
        Ok((file.dev(), file.ino()))
    }
}

#[cfg(unix)]
impl Drop for SocketFile {
    fn drop(&mut self) {
        if Self::id(&self.path).is_ok_and(|id| id == self.id) {
            // An error is ignored: if somebody else has removed the file, it is gone as well.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Never constructed: this system has no Unix sockets.
#[cfg(not(unix))]
enum SocketFile {}

fn listen(args: &Nbd) -> Result<(Listener, String, Option<SocketFile>)> {
    if let Some(path) = &args.unix {
        let place = format!("nbd+unix:///?socket={}", path.display());
        let failed = |reason| Error::Listen { place: path.display().to_string(), reason };
        let (listener, file) = listen_at(path).map_err(failed)?;
        return Ok((listener, place, Some(file)));
    }
    if !args.listen.ip().is_loopback() && !args.any_address {
        return Err(Error::NotLoopback { address: args.listen });
    }
    let failed = |reason| Error::Listen { place: args.listen.to_string(), reason };
    let listener = std::net::TcpListener::bind(args.listen).map_err(failed)?;
    let place = format!("nbd://{}", listener.local_addr().map_err(failed)?);
    Ok((Listener::Tcp(listener), place, None))
}

/// Listens on a new Unix socket at `path`. Only the socket's owner can connect to it.
#[cfg(unix)]
fn listen_at(path: &Path) -> io::Result<(Listener, SocketFile)> {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixListener;

    // Fails if the path exists, even if it is the socket of a server that has ended.
    let listener = as_owner(|| UnixListener::bind(path))?;
    let file = SocketFile::at(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok((Listener::Unix(listener), file))
}

/// Calls `make`. On Linux, sets the umask during the call so that only the owner can use a new file.
/// Then nobody else can connect before the file's mode is set. The umask applies to the whole process,
/// but no other thread that could create a file has been started yet.
#[cfg(unix)]
fn as_owner<T>(make: impl FnOnce() -> T) -> T {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::Mode;
        let before = rustix::process::umask(Mode::from_raw_mode(0o177));
        let made = make();
        rustix::process::umask(before);
        made
    }
    #[cfg(not(target_os = "linux"))]
    make()
}

#[cfg(not(unix))]
fn listen_at(_path: &Path) -> io::Result<(Listener, SocketFile)> {
    Err(io::ErrorKind::Unsupported.into())
}

fn summary(disk: &Zram, totals: Totals) -> String {
    let stat = disk.mm_stat();
    let Totals { clients, failed, sessions, .. } = totals;
    format!(
        "served {clients} clients, of which {failed} failed: {} requests, {} bytes read, {} written; \
         the disk held {} bytes in {} bytes of memory and {} of metadata",
        sessions.requests,
        sessions.read_bytes,
        sessions.written_bytes,
        stat.orig_data_size,
        stat.mem_used_total,
        disk.metadata_bytes()
    )
}

/// Writes a line to standard output. Ignores errors, as the reader may have gone away.
fn say(line: &str) {
    let mut out = io::stdout();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::device_pages;
    use std::sync::Arc;
    use zram::device::MemorySwapDevice;
    use zram::{Writeback, Zram};

    #[test]
    fn the_device_holds_a_disk_that_does_not_compress() {
        for unit in [4096_usize, 8192, 16_384, 32_768, 65_536] {
            for size in [4096, unit as u64, 102_400, 4 << 20] {
                let device = Arc::new(MemorySwapDevice::new(device_pages(size)));
                let disk = Zram::builder().disksize(size).unit(unit).backing_device(device);
                let disk = disk.build().unwrap();
                let noise = (1..=size.div_ceil(8)).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
                let noise: Vec<u8> = noise.flat_map(u64::to_le_bytes).take(size as usize).collect();
                disk.write(0, &noise).unwrap();
                let units = size.div_ceil(unit as u64);
                disk.writeback(&Writeback::new()).unwrap();
                assert_eq!(disk.bd_stat().bd_count, units, "units of {unit}, {size} bytes");
                let mut back = vec![0; size as usize];
                disk.read(0, &mut back).unwrap();
                assert!(back == noise);
            }
        }
    }
}
