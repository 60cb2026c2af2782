//! The least that a fault in user space can cost: the signal, the decompression by liblz4, and the
//! system call that gives the page.
//!
//! There are two floors, one for each backend of a region. `Way::Copy` is a userfaultfd in SIGBUS
//! mode and `UFFDIO_COPY`. `Way::Guard` is a guard page on a mapping of a memfd: SIGSEGV,
//! decompression into the other mapping, and the guard's removal. Neither keeps any state of its pages.
//!
//! A floor has the handlers of both signals while it lives, and gives them back on drop. Only the
//! thread that made it may touch its pages.

use std::cell::UnsafeCell;
use std::ffi::{c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering};

use measure::Page;

use super::memory::Map;
use super::packed::Packed;
use crate::source::PAGE;

const UFFDIO_API: libc::c_ulong = 0xc018_aa3f;
const UFFDIO_REGISTER: libc::c_ulong = 0xc020_aa00;
const UFFDIO_COPY: libc::c_ulong = 0xc028_aa03;
const UFFD_API: u64 = 0xaa;
const FEATURE_SIGBUS: u64 = 1 << 7;
const USER_MODE_ONLY: c_int = 1;
const MODE_MISSING: u64 = 1;
const GUARD_INSTALL: c_int = 102;
const GUARD_REMOVE: c_int = 103;
/// The pages of a call of `bring_all`.
const WINDOW: usize = 16;
const SIGNALS: [c_int; 2] = [libc::SIGBUS, libc::SIGSEGV];

/// How a page comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Copy,
    /// As `Copy`, without decompression: every page is the same.
    CopyOnly,
    Guard,
}

/// The floor that the handler serves.
static CURRENT: AtomicPtr<Inner<'_>> = AtomicPtr::new(null_mut());

struct Inner<'a> {
    way: Way,
    start: *mut u8,
    len: usize,
    /// The other mapping of the memfd.
    other: *mut u8,
    uffd: c_int,
    packed: &'a Packed,
    /// Used by the handler alone, on the one thread that faults.
    buffer: UnsafeCell<Page>,
}

pub(crate) struct Floor<'a> {
    // Dropped after `drop` has given the handlers back.
    memory: super::memory::Memory,
    _other: Option<Map>,
    _descriptor: OwnedFd,
    inner: Box<Inner<'a>>,
    before: [libc::sigaction; 2],
}

impl<'a> Floor<'a> {
    /// Makes a floor for all pages of `packed`. None is in memory. Fails if the kernel refuses one
    /// of the calls, or if there is another floor.
    pub(crate) fn new(way: Way, packed: &'a Packed) -> io::Result<Self> {
        let len = packed.count() * PAGE;
        let (map, other, descriptor) = match way {
            Way::Copy | Way::CopyOnly => {
                let map = Map::anonymous(len)?;
                let uffd = userfaultfd(&map)?;
                (map, None, uffd)
            }
            Way::Guard => guarded(len)?,
        };
        let mut inner = Box::new(Inner {
            way,
            start: map.start(),
            len,
            other: other.as_ref().map_or(null_mut(), Map::start),
            uffd: descriptor.as_raw_fd(),
            packed,
            buffer: UnsafeCell::new([1; PAGE]),
        });
        let at = (&raw mut *inner).cast();
        if CURRENT.compare_exchange(null_mut(), at, Ordering::SeqCst, Ordering::SeqCst).is_err() {
            return Err(io::Error::other("there is another floor"));
        }
        let before = SIGNALS.map(|signal| install(signal, handler()));
        Ok(Floor {
            memory: super::memory::Memory::from_map(map),
            _other: other,
            _descriptor: descriptor,
            inner,
            before,
        })
    }

    /// Brings all pages in, [`WINDOW`] at a time, before anything touches them. Only for `Way::Copy`.
    pub(crate) fn bring_all(&self) -> io::Result<()> {
        let inner = &self.inner;
        let mut window = vec![[1; PAGE]; WINDOW];
        for first in (0..inner.packed.count()).step_by(WINDOW) {
            let end = (first + WINDOW).min(inner.packed.count());
            for page in first..end {
                if !inner.packed.decode(page, &mut window[page - first]) {
                    return Err(io::ErrorKind::InvalidData.into());
                }
            }
            if !inner.copy(first, &window[..end - first]) {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    }

    pub(crate) fn memory(&self) -> &super::memory::Memory {
        &self.memory
    }
}

impl Drop for Floor<'_> {
    fn drop(&mut self) {
        for (signal, before) in SIGNALS.into_iter().zip(self.before) {
            install(signal, before);
        }
        CURRENT.store(null_mut(), Ordering::SeqCst);
    }
}

fn handler() -> libc::sigaction {
    // SAFETY: all bytes 0 are a valid value: no flags, an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_fault as extern "C" fn(_, _, _) as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
    action
}

/// Sets a signal's action and returns the one before.
fn install(signal: c_int, action: libc::sigaction) -> libc::sigaction {
    // SAFETY: all bytes 0 are a valid value.
    let mut before: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: both point to valid actions. The handler is `on_fault` or was there before.
    let set = unsafe { libc::sigaction(signal, &raw const action, &raw mut before) };
    assert_eq!(set, 0, "signal {signal} has no action");
    before
}

/// Opens a userfaultfd in SIGBUS mode, for the faults of the process itself, on `map`.
fn userfaultfd(map: &Map) -> io::Result<OwnedFd> {
    // SAFETY: the call takes only flags.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | USER_MODE_ONLY) };
    let fd = c_int::try_from(fd).ok().filter(|&fd| fd >= 0).ok_or_else(io::Error::last_os_error)?;
    // SAFETY: the descriptor is new.
    let uffd = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut api = [UFFD_API, FEATURE_SIGBUS, 0];
    let mut register = [map.start() as u64, map.len() as u64, MODE_MISSING, 0];
    for (request, argument) in
        [(UFFDIO_API, api.as_mut_ptr()), (UFFDIO_REGISTER, register.as_mut_ptr())]
    {
        // SAFETY: each argument has as many words as its request reads and writes. The faults of the
        // range are answered by the handler.
        if unsafe { libc::ioctl(fd, request, argument) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(uffd)
}

/// Maps a memfd twice. The first mapping consists of guard pages.
fn guarded(len: usize) -> io::Result<(Map, Option<Map>, OwnedFd)> {
    let memfd = rustix::fs::memfd_create(c"floor", rustix::fs::MemfdFlags::CLOEXEC)?;
    rustix::fs::ftruncate(&memfd, len as u64)?;
    let (map, other) = (Map::file(&memfd, len)?, Map::file(&memfd, len)?);
    // SAFETY: the range is the mapping, which nobody uses yet.
    if unsafe { libc::madvise(map.start().cast(), len, GUARD_INSTALL) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((map, Some(other), memfd))
}

extern "C" fn on_fault(_signal: c_int, info: *mut libc::siginfo_t, _context: *mut c_void) {
    // SAFETY: the kernel passes a valid `info`.
    let info = unsafe { &*info };
    // SAFETY: both signals have an address.
    let at = unsafe { info.si_addr() }.cast::<u8>();
    let current = CURRENT.load(Ordering::SeqCst);
    // SAFETY: the pointer is null or that of a living floor.
    let served = unsafe { current.as_ref() }.is_some_and(|floor| floor.serve(at));
    if !served {
        // SAFETY: it ends the process, which would otherwise fault for ever.
        unsafe { libc::abort() };
    }
}

impl Inner<'_> {
    /// Gives the page at `at`. Returns false if it cannot.
    fn serve(&self, at: *mut u8) -> bool {
        let offset = at.addr().wrapping_sub(self.start.addr());
        if offset >= self.len {
            return false;
        }
        let page = offset / PAGE;
        let start = self.start.addr() + page * PAGE;
        if self.way == Way::Guard {
            // SAFETY: the other mapping is as long as the first.
            let to = unsafe { self.other.add(page * PAGE) }.cast::<Page>();
            // SAFETY: only this handler writes to it, and nobody has a reference to it.
            let to = unsafe { &mut *to };
            // SAFETY: the range is one page of the mapping.
            return self.packed.decode(page, to)
                && unsafe { libc::madvise(start as *mut c_void, PAGE, GUARD_REMOVE) } == 0;
        }
        // SAFETY: only this handler uses the buffer, and it does not fault.
        let buffer = unsafe { &mut *self.buffer.get() };
        if self.way == Way::Copy && !self.packed.decode(page, buffer) {
            return false;
        }
        self.copy(page, std::slice::from_ref(buffer))
    }

    /// Maps copies of `pages`, from page `first` on. Returns whether the kernel did.
    fn copy(&self, first: usize, pages: &[Page]) -> bool {
        let to = self.start.addr() + first * PAGE;
        let mut copy = [to as u64, pages.as_ptr() as u64, size_of_val(pages) as u64, 0, 0];
        loop {
            // SAFETY: the request has five words. The target is pages of the mapping that are not in
            // memory, or the call fails.
            if unsafe { libc::ioctl(self.uffd, UFFDIO_COPY, copy.as_mut_ptr()) } == 0 {
                return true;
            }
            // It may have copied some.
            let done = if (copy[4] as i64) < 0 { 0 } else { copy[4] };
            if io::Error::last_os_error().raw_os_error() != Some(libc::EAGAIN) {
                return false;
            }
            copy = [copy[0] + done, copy[1] + done, copy[2] - done, 0, 0];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use measure::PageSet;

    #[test]
    fn pages_come_back_and_so_do_the_handlers() {
        let _alone = super::super::memory::tests::alone();
        let set = PageSet::load(&[], 64 << 20).unwrap();
        let packed = Packed::new(set.pages()).unwrap();
        let address = |signal| {
            let before = install(signal, handler());
            install(signal, before);
            before.sa_sigaction
        };
        let before = SIGNALS.map(address);
        for way in [Way::Copy, Way::Guard, Way::Copy] {
            let floor = match Floor::new(way, &packed) {
                Ok(floor) => floor,
                Err(reason) => {
                    println!("skipped: {way:?}: {reason}");
                    continue;
                }
            };
            assert!(Floor::new(way, &packed).is_err(), "one at a time");
            for (n, page) in set.pages().iter().enumerate() {
                assert_eq!(&floor.memory().copy(n), page, "{n}");
            }
        }
        assert_eq!(SIGNALS.map(address), before);
    }
}
