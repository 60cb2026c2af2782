//! A userfaultfd in SIGBUS mode: its ioctls, with the structures and numbers of the kernel's documentation.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

use crate::ioctl::{Argument, ioctl};
use crate::keeper::Keeper;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sys::check;

const USER_MODE_ONLY: libc::c_int = 1;
const API: u64 = 0xaa;
const FEATURE_WP: u64 = 1 << 0;
const FEATURE_SIGBUS: u64 = 1 << 7;
const FEATURE_MOVE: u64 = 1 << 16;
const MODE_MISSING: u64 = 1;
const MODE_WP: u64 = 2;
const COPY_MODE_WP: u64 = 2;

const IOCTL_API: u32 = 0xc018_aa3f;
const IOCTL_REGISTER: u32 = 0xc020_aa00;
const IOCTL_COPY: u32 = 0xc028_aa03;
const IOCTL_MOVE: u32 = 0xc028_aa05;
const IOCTL_WRITEPROTECT: u32 = 0xc018_aa06;

/// How often in a row a call is repeated that the system asks to repeat.
const MOST_TRIES: u32 = 10_000;

/// A userfaultfd of this process. It stays usable if the program closes its descriptor: then a keeper, a thread with
/// descriptors of its own, makes the calls.
#[derive(Debug)]
pub(crate) struct Uffd {
    fd: RawFd,
    /// Whether the number was found to be another's.
    gone: AtomicBool,
    keeper: Keeper,
}

/// What the system refuses.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) call: &'static str,
    pub(crate) error: io::Error,
}

fn named(call: &'static str) -> impl Fn(io::Error) -> Refused {
    move |error| Refused { call, error }
}

impl Uffd {
    /// Opens a userfaultfd.
    ///
    /// # Errors
    /// Which call the system refuses, and its error.
    pub(crate) fn open() -> Result<Uffd, Refused> {
        // SAFETY: the call changes no memory.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | USER_MODE_ONLY) };
        let fd = fd as RawFd;
        check(fd).map_err(named("userfaultfd(UFFD_USER_MODE_ONLY)"))?;
        // SAFETY: the system has just returned this descriptor, so nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let mut api = [API, FEATURE_WP | FEATURE_SIGBUS | FEATURE_MOVE, 0, 0, 0];
        // SAFETY: `api` is longer than the structure that the ioctl reads and writes.
        check(unsafe { ioctl(fd.as_raw_fd(), IOCTL_API, &mut api) })
            .map_err(named("UFFDIO_API with SIGBUS, MOVE and WP"))?;
        let keeper =
            Keeper::start(fd.as_raw_fd()).map_err(named("unshare(CLONE_FILES) in a thread"))?;
        Ok(Uffd { fd: fd.into_raw_fd(), gone: AtomicBool::new(false), keeper })
    }

    /// Registers a range: a touch of a missing page, and a write to a protected one, raise SIGBUS from now on.
    ///
    /// # Errors
    /// The system's error.
    pub(crate) fn register(&self, start: *mut u8, len: usize) -> Result<(), Refused> {
        let mut argument = [start as u64, len as u64, MODE_MISSING | MODE_WP, 0, 0];
        // SAFETY: registering changes no byte of memory; the argument is as long as the structure.
        let done = check(unsafe { ioctl(self.fd, IOCTL_REGISTER, &mut argument) });
        done.map_err(named("UFFDIO_REGISTER"))
    }

    /// Maps copies of `len` bytes at `to`, where nothing is mapped.
    ///
    /// # Errors
    /// The system's error: EEXIST if something is mapped there. The second is how many bytes were mapped before it.
    ///
    /// # Safety
    /// `from` is readable for `len` bytes, and the caller decides what is mapped at `to`.
    pub(crate) unsafe fn copy(
        &self,
        to: *mut u8,
        from: *const u8,
        len: usize,
        protect: bool,
    ) -> Result<(), (io::Error, usize)> {
        let mode = if protect { COPY_MODE_WP } else { 0 };
        // SAFETY: the caller's contract.
        unsafe { self.ranged(IOCTL_COPY, to, from, len, mode) }
    }

    /// Moves the pages of `len` bytes from `from` to `to`, where nothing is mapped.
    ///
    /// # Errors
    /// As [`Uffd::copy`]: EBUSY for a page that is shared or pinned by the kernel, EINVAL for a locked one, ENOENT for a
    /// missing one.
    ///
    /// # Safety
    /// The caller decides what is mapped at both.
    pub(crate) unsafe fn move_pages(
        &self,
        to: *mut u8,
        from: *mut u8,
        len: usize,
    ) -> Result<(), (io::Error, usize)> {
        // SAFETY: the caller's contract.
        unsafe { self.ranged(IOCTL_MOVE, to, from, len, 0) }
    }

    /// Calls an ioctl of five numbers, of which the last comes back as the bytes done or an error, until all are done.
    ///
    /// # Safety
    /// That of the ioctl.
    unsafe fn ranged(
        &self,
        number: u32,
        to: *mut u8,
        from: *const u8,
        len: usize,
        mode: u64,
    ) -> Result<(), (io::Error, usize)> {
        let (mut done, mut tries) = (0, 0);
        while done < len {
            let mut argument =
                [to as u64 + done as u64, from as u64 + done as u64, (len - done) as u64, mode, 0];
            // SAFETY: the caller's contract; the argument is the structure of these ioctls.
            let called = unsafe { self.call(number, &mut argument) };
            let progress = argument[4] as i64;
            if progress > 0 {
                done += progress as usize;
            }
            match called {
                Ok(()) => return Ok(()),
                Err(_) if progress > 0 => tries = 0,
                // The memory map of the process changed meanwhile, or another thread holds one of the page's locks.
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) && tries < MOST_TRIES => {
                    tries += 1;
                    std::thread::yield_now();
                }
                Err(error) => return Err((error, done)),
            }
        }
        Ok(())
    }

    /// Lets the program write the pages of `len` bytes at `start` again.
    ///
    /// # Errors
    /// The system's error.
    pub(crate) fn unprotect(&self, start: *mut u8, len: usize) -> io::Result<()> {
        loop {
            // The third number is the mode: not protected.
            let mut argument = [start as u64, len as u64, 0, 0, 0];
            // SAFETY: whether a page may be written changes no byte; the argument is longer than the structure.
            match unsafe { self.call(IOCTL_WRITEPROTECT, &mut argument) } {
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {}
                done => return done,
            }
        }
    }

    /// # Safety
    /// That of the ioctl. `argument` is at least as long as its structure.
    unsafe fn call(&self, number: u32, argument: &mut Argument) -> io::Result<()> {
        // Relaxed: a shortcut. Who misses it finds the descriptor gone as well.
        if !self.gone.load(Ordering::Relaxed) {
            let before = *argument;
            // SAFETY: the caller's contract.
            let done = check(unsafe { ioctl(self.fd, number, argument) });
            match done.as_ref().map_err(io::Error::raw_os_error) {
                // The program has closed the descriptor, and perhaps opened another file in its place.
                Err(Some(libc::EBADF | libc::ENOTTY)) => {
                    self.gone.store(true, Ordering::Relaxed);
                    *argument = before;
                }
                // Or the other file is a userfaultfd, too, which knows these ioctls and not this memory. If the keeper's
                // refuses as well, it is because of the argument.
                Err(Some(refused @ (libc::EINVAL | libc::ENOENT | libc::EPERM))) => {
                    *argument = before;
                    // SAFETY: the caller's contract.
                    let again = unsafe { self.keeper.ioctl(number, argument) };
                    if again.as_ref().err().and_then(io::Error::raw_os_error) != Some(refused) {
                        self.gone.store(true, Ordering::Relaxed);
                    }
                    return again;
                }
                _ => return done,
            }
        }
        // SAFETY: the caller's contract.
        unsafe { self.keeper.ioctl(number, argument) }
    }
}

impl Drop for Uffd {
    fn drop(&mut self) {
        // The number may be another file's by now.
        let ours = !self.gone.load(Ordering::Relaxed)
            && self.keeper.has_the_same(self.fd).unwrap_or_else(|| is_userfaultfd(self.fd));
        if ours {
            // SAFETY: the descriptor is the userfaultfd that this value owns.
            unsafe { libc::close(self.fd) };
        }
    }
}

/// Returns whether a descriptor is that of a userfaultfd.
fn is_userfaultfd(fd: RawFd) -> bool {
    let target = std::fs::read_link(format!("/proc/self/fd/{fd}"));
    target.is_ok_and(|target| target.as_os_str() == "anon_inode:[userfaultfd]")
}
