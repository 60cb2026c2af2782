//! A target that is held: all its threads are stopped. Dropping it releases them.
//!
//! First this process attaches to all threads, which stops none of them. Only then does it stop them,
//! so that they stand still only briefly. Both steps repeat until no new threads are found; a stopped
//! thread creates no other. The kernel ties each attachment to the thread that made it, so everything
//! happens on one thread. [`Held`] enforces this by not being `Send`.

use std::collections::BTreeSet;
use std::io;
use std::marker::PhantomData;
use std::time::{Duration, Instant};

use super::SampleError;
use super::ptrace::{self, Wait};
use super::status;

/// The longest time to wait for threads to stop.
const PATIENCE: Duration = Duration::from_secs(10);
/// After this time, `stop` also checks whether the threads that have not stopped have ended.
const LATE: Duration = Duration::from_millis(2);

/// A stopped thread, and the signal to deliver when it is released.
struct Thread {
    tid: i32,
    signal: i32,
}

pub(crate) struct Held {
    pid: i32,
    stopped: Vec<Thread>,
    /// When the first thread was asked to stop.
    since: Instant,
    on_this_thread: PhantomData<*const ()>,
}

impl Held {
    /// Stops every thread of the target. On failure, releases the threads that it has stopped.
    pub(crate) fn attach(pid: i32) -> Result<Self, SampleError> {
        if !ptrace::SUPPORTED {
            return Err(SampleError::Unsupported { pid });
        }
        let mut seized = BTreeSet::new();
        let mut new = seize_new(pid, &mut seized)?;
        let mut held =
            Held { pid, stopped: Vec::new(), since: Instant::now(), on_this_thread: PhantomData };
        while !new.is_empty() {
            held.stop(new)?;
            new = seize_new(pid, &mut seized)?;
        }
        if held.stopped.is_empty() {
            return Err(SampleError::Gone { pid });
        }
        Ok(held)
    }

    /// Asks these threads to stop and waits until each has stopped or ended.
    fn stop(&mut self, mut waiting: Vec<i32>) -> Result<(), SampleError> {
        // All these threads are attached to, so a failure means that the thread has ended.
        waiting.retain(|&tid| ptrace::interrupt(tid).is_ok());
        let begun = Instant::now();
        loop {
            // The first thread of a process does not report its end while other threads live.
            let late = begun.elapsed() > LATE;
            let mut failed = None;
            waiting.retain(|&tid| match ptrace::poll(tid) {
                Ok(Wait::Nothing) => !(late && status::thread_has_ended(self.pid, tid)),
                Ok(Wait::Stopped { signal }) => {
                    self.stopped.push(Thread { tid, signal });
                    false
                }
                Ok(Wait::Ended) => false,
                Err(error) => {
                    failed = Some(error);
                    false
                }
            });
            if let Some(source) = failed {
                let what = "cannot wait for the threads to stop";
                return Err(SampleError::Failed { pid: self.pid, what, reason: source });
            }
            let Some(&tid) = waiting.first() else { return Ok(()) };
            if begun.elapsed() > PATIENCE {
                let seconds = PATIENCE.as_secs();
                return Err(SampleError::NoStop { pid: self.pid, tid, seconds });
            }
            std::thread::sleep(Duration::from_micros(20));
        }
    }

    /// Returns the stack pointer of each thread. Fails if a thread was killed meanwhile.
    pub(crate) fn stack_pointers(&self) -> Result<Vec<u64>, SampleError> {
        let mut pointers = Vec::with_capacity(self.stopped.len());
        for thread in &self.stopped {
            match ptrace::stack_pointer(thread.tid) {
                Ok(pointer) => pointers.push(pointer),
                // The thread was killed meanwhile. Its stack could not be left out of the sample.
                Err(source) => {
                    let what = "cannot find a thread's stack";
                    return Err(status::refused(self.pid, what, source));
                }
            }
        }
        Ok(pointers)
    }

    /// Returns the number of threads held.
    pub(crate) fn threads(&self) -> usize {
        self.stopped.len()
    }

    /// Releases all threads. Returns the time from the first request to stop until the last release.
    pub(crate) fn release(mut self) -> Duration {
        self.let_go();
        self.since.elapsed()
    }

    fn let_go(&mut self) {
        for thread in self.stopped.drain(..) {
            // A thread that was killed meanwhile cannot be released and need not be.
            let _ = ptrace::detach(thread.tid, thread.signal);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.let_go();
    }
}

/// Attaches to every thread that is not in `seized`, and adds it there. Returns the threads added.
fn seize_new(pid: i32, seized: &mut BTreeSet<i32>) -> Result<Vec<i32>, SampleError> {
    let mut new = Vec::new();
    loop {
        let before = new.len();
        for tid in status::threads(pid)? {
            if seized.contains(&tid) || status::thread_has_ended(pid, tid) {
                continue;
            }
            match ptrace::seize(tid) {
                Ok(()) => {
                    seized.insert(tid);
                    new.push(tid);
                }
                Err(_) if status::thread_has_ended(pid, tid) => {}
                Err(source) => return Err(not_attached(pid, source)),
            }
        }
        if new.len() == before {
            return Ok(new);
        }
    }
}

fn not_attached(pid: i32, source: io::Error) -> SampleError {
    status::refused(pid, "cannot attach to a thread", source)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Child, Command};

    fn state(pid: i32) -> String {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.rsplit_once(") ").unwrap().1[..1].to_owned()
    }

    fn sleeper() -> (Child, i32) {
        let child = Command::new("sleep").arg("600").spawn().unwrap();
        let pid = child.id() as i32;
        while state(pid) != "S" {
            std::thread::yield_now();
        }
        (child, pid)
    }

    #[test]
    fn a_child_stands_still_while_held_and_goes_on_when_dropped() {
        let (mut child, pid) = sleeper();
        match Held::attach(pid) {
            Ok(held) => {
                assert_eq!((held.threads(), &*state(pid)), (1, "t"));
                assert_eq!(held.stack_pointers().unwrap().len(), 1);
                drop(held);
                assert_ne!(state(pid), "t", "still held");
            }
            Err(SampleError::NotAllowed { .. }) => eprintln!("NOT TESTED: ptrace is not permitted"),
            Err(error) => panic!("{error}"),
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_signal_that_arrives_meanwhile_is_not_lost() {
        // One of them is a real-time signal, which no enum of signals names.
        for sent in [libc::SIGTERM, libc::SIGRTMIN() + 5] {
            let (mut child, pid) = sleeper();
            if ptrace::seize(pid).is_err() {
                eprintln!("NOT TESTED: ptrace is not permitted");
                child.kill().unwrap();
            } else {
                // The delivery of the signal stops the process.
                let kill = [format!("-{sent}"), pid.to_string()];
                Command::new("kill").args(kill).status().unwrap();
                let signal = loop {
                    match ptrace::poll(pid).unwrap() {
                        Wait::Stopped { signal } => break signal,
                        Wait::Nothing => std::thread::yield_now(),
                        Wait::Ended => panic!("ended before its signal was delivered"),
                    }
                };
                assert_eq!(signal, sent);
                ptrace::detach(pid, signal).unwrap();
                assert_eq!(child.wait().unwrap().signal(), Some(sent));
            }
            let _ = child.wait();
        }
    }
}
