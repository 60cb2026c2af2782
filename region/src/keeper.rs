//! A thread with descriptors of its own, which keeps a userfaultfd open.
//!
//! A program may close descriptors that it does not know, as daemons do with `close_range(3, ~0)`. If that closed the last
//! descriptor of a userfaultfd, evicted pages would read as zeros. The keeper has a table of descriptors of its own, with
//! nothing in it but the userfaultfd, and makes the ioctls of threads whose descriptor is gone.

use std::io;
use std::os::fd::RawFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::ioctl::{Argument, ioctl};
use crate::signals;

#[derive(Debug, Default)]
struct Letter {
    /// The keeper's thread, when it has its own descriptors, or why it has none.
    ready: Option<io::Result<libc::pid_t>>,
    /// An ioctl to make: its number and argument.
    asked: Option<(u32, Argument)>,
    /// What came of it.
    answer: Option<(io::Result<()>, Argument)>,
    /// Whether a thread waits for an answer.
    taken: bool,
    end: bool,
}

#[derive(Debug, Default)]
struct Mailbox {
    letter: Mutex<Letter>,
    changed: Condvar,
}

impl Mailbox {
    fn lock(&self) -> MutexGuard<'_, Letter> {
        self.letter.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&'a self, letter: MutexGuard<'a, Letter>) -> MutexGuard<'a, Letter> {
        self.changed.wait(letter).unwrap_or_else(PoisonError::into_inner)
    }
}

/// The keeper of one userfaultfd. Ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Keeper {
    mailbox: Arc<Mailbox>,
    thread: Option<JoinHandle<()>>,
    id: libc::pid_t,
}

impl Keeper {
    /// Starts the thread, and waits until it has its own descriptors.
    ///
    /// # Errors
    /// The error of `unshare`, which a container may forbid, or of starting a thread.
    pub(crate) fn start(fd: RawFd) -> io::Result<Keeper> {
        let mailbox = Arc::<Mailbox>::default();
        let theirs = mailbox.clone();
        let run = move || keep(fd, &theirs);
        let blocked = signals::block_for_a_thread();
        let thread = std::thread::Builder::new().name("region-keeper".to_owned()).spawn(run);
        drop(blocked);
        let mut keeper = Keeper { mailbox, thread: Some(thread?), id: 0 };
        let mut letter = keeper.mailbox.lock();
        let ready = loop {
            match letter.ready.take() {
                Some(ready) => break ready,
                None => letter = keeper.mailbox.wait(letter),
            }
        };
        drop(letter);
        keeper.id = ready?;
        Ok(keeper)
    }

    /// Returns whether a descriptor of this thread is the file that the keeper has under this number; `None` where the
    /// system, or a filter, does not say.
    pub(crate) fn has_the_same(&self, fd: RawFd) -> Option<bool> {
        const KCMP_FILE: libc::c_int = 0;
        // SAFETY: asks for a number.
        let here = unsafe { libc::gettid() };
        // SAFETY: compares two descriptors, and changes no memory.
        let compared = unsafe { libc::syscall(libc::SYS_kcmp, here, self.id, KCMP_FILE, fd, fd) };
        if compared >= 0 {
            return Some(compared == 0);
        }
        // EBADF: this thread has no such descriptor.
        (io::Error::last_os_error().raw_os_error() == Some(libc::EBADF)).then_some(false)
    }

    /// Makes an ioctl on the thread that still has the descriptor. Waits for it.
    ///
    /// # Errors
    /// The system's error.
    ///
    /// # Safety
    /// That of the ioctl.
    pub(crate) unsafe fn ioctl(&self, number: u32, argument: &mut Argument) -> io::Result<()> {
        let mut letter = self.mailbox.lock();
        while letter.taken {
            letter = self.mailbox.wait(letter);
        }
        letter.taken = true;
        letter.asked = Some((number, *argument));
        self.mailbox.changed.notify_all();
        loop {
            if let Some((done, back)) = letter.answer.take() {
                letter.taken = false;
                self.mailbox.changed.notify_all();
                *argument = back;
                return done;
            }
            letter = self.mailbox.wait(letter);
        }
    }
}

fn keep(fd: RawFd, mailbox: &Mailbox) {
    // SAFETY: the call gives this thread a copy of its table of descriptors, and changes no memory.
    let alone = crate::sys::check(unsafe { libc::unshare(libc::CLONE_FILES) });
    let failed = alone.is_err();
    if !failed {
        close_all_but(fd);
    }
    let mut letter = mailbox.lock();
    // SAFETY: asks for a number.
    letter.ready = Some(alone.map(|()| unsafe { libc::gettid() }));
    mailbox.changed.notify_all();
    while !failed && !letter.end {
        if let Some((number, mut argument)) = letter.asked.take() {
            drop(letter);
            // SAFETY: who asks keeps the contract of the ioctl; the descriptor is the userfaultfd, in this thread's
            // own table.
            let done = crate::sys::check(unsafe { ioctl(fd, number, &mut argument) });
            letter = mailbox.lock();
            letter.answer = Some((done, argument));
            mailbox.changed.notify_all();
        } else {
            letter = mailbox.wait(letter);
        }
    }
}

/// Closes all descriptors of this thread's own table but one. Otherwise this thread would hold files and sockets that the
/// program has closed.
fn close_all_but(fd: RawFd) {
    let kept = fd as u32;
    let close = |first: u32, last: u32| {
        if first <= last {
            // SAFETY: the table is this thread's own, and nothing on this thread uses its descriptors.
            unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
        }
    };
    if kept > 0 {
        close(0, kept - 1);
    }
    close(kept + 1, u32::MAX);
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.mailbox.lock().end = true;
        self.mailbox.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
