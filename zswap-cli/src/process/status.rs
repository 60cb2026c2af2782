//! What `/proc` says about the target and its threads.

use std::fs;
use std::io;
use std::ops::Range;

use nix::libc;

use super::SampleError;

/// Checks that a process can be sampled. Fails if it does not exist, is this process, has ended, is
/// a kernel thread, or is traced by another process.
pub(crate) fn check(pid: i32) -> Result<(), SampleError> {
    if u32::try_from(pid) == Ok(std::process::id()) {
        return Err(SampleError::Itself { pid });
    }
    let text =
        fs::read_to_string(format!("/proc/{pid}/status")).map_err(|_| SampleError::Gone { pid })?;
    let field = |name| field(&text, name);
    // /proc also resolves the number of any thread. `Tgid` is the number of the thread's process.
    if field("Tgid").and_then(|tgid| tgid.parse().ok()) != Some(pid) {
        return Err(SampleError::Gone { pid });
    }
    if field("State").is_some_and(|state| state.starts_with(['Z', 'X'])) {
        return Err(SampleError::Ended { pid });
    }
    if field("VmSize").is_none() {
        return Err(SampleError::KernelThread { pid });
    }
    match field("TracerPid").and_then(|tracer| tracer.parse().ok()) {
        None | Some(0) => Ok(()),
        Some(tracer) => Err(SampleError::Traced { pid, tracer }),
    }
}

/// Returns the value of the field `name` in the text of a status file.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

/// Returns the process's name from `/proc/PID/comm`; empty if the process is gone.
pub(crate) fn comm(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim_end().to_owned()
}

/// Returns two address ranges: the initial arguments and the initial environment.
pub(crate) fn initial(pid: i32) -> Result<[Range<u64>; 2], SampleError> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))
        .map_err(|source| refused(pid, "cannot read the status", source))?;
    let missing = || io::Error::new(io::ErrorKind::InvalidData, "fields 48 to 51 are missing");
    initial_of(&text).ok_or_else(|| SampleError::Failed {
        pid,
        what: "cannot find the environment",
        reason: missing(),
    })
}

/// Fields 48 to 51 of a stat file: `arg_start`, `arg_end`, `env_start`, `env_end`. The second field
/// is a name in parentheses that may contain anything.
fn initial_of(stat: &str) -> Option<[Range<u64>; 2]> {
    let (_, rest) = stat.rsplit_once(')')?;
    let field = |number: usize| rest.split_whitespace().nth(number - 3)?.parse::<u64>().ok();
    Some([field(48)?..field(49)?, field(50)?..field(51)?])
}

/// Returns whether a thread has ended or is gone, so that it cannot be stopped.
pub(crate) fn thread_has_ended(pid: i32, tid: i32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/task/{tid}/stat")) else { return true };
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().next());
    matches!(state, None | Some("Z" | "X" | "x"))
}

/// Lists the threads that the process has now.
pub(crate) fn threads(pid: i32) -> Result<Vec<i32>, SampleError> {
    let failed = |source| refused(pid, "cannot list the threads", source);
    let mut threads = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task")).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        threads.extend(name.to_str().and_then(|name| name.parse::<i32>().ok()));
    }
    Ok(threads)
}

/// Classifies the failure of a system call on the target.
pub(crate) fn refused(pid: i32, what: &'static str, source: io::Error) -> SampleError {
    match source.raw_os_error() {
        Some(libc::ESRCH | libc::ENOENT) => SampleError::Gone { pid },
        Some(libc::EPERM | libc::EACCES) => SampleError::NotAllowed { pid, reason: source },
        _ => SampleError::Failed { pid, what, reason: source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_other_process_is_refused() {
        let own = std::process::id() as i32;
        assert!(matches!(check(own), Err(SampleError::Itself { .. })));
        for pid in [i32::MAX, 0, -1] {
            assert!(matches!(check(pid), Err(SampleError::Gone { .. })), "{pid}");
        }
    }

    #[test]
    fn a_thread_is_no_process() {
        let (say, hear) = std::sync::mpsc::channel();
        let (end, wait) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            say.send(rustix::thread::gettid().as_raw_nonzero().get()).unwrap();
            let _ = wait.recv();
        });
        let tid = hear.recv().unwrap();
        assert!(matches!(check(tid), Err(SampleError::Gone { .. })));
        drop(end);
        thread.join().unwrap();
    }

    #[test]
    fn a_child_that_ended_is_told_from_one_that_is_gone() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id() as i32;
        while !thread_has_ended(pid, pid) {
            std::thread::yield_now();
        }
        assert!(matches!(check(pid), Err(SampleError::Ended { .. })));
        child.wait().unwrap();
        assert!(matches!(check(pid), Err(SampleError::Gone { .. })));
    }

    #[test]
    fn the_initial_block_holds_the_environment() {
        let [args, env] = initial(std::process::id() as i32).unwrap();
        assert!(args.start < args.end && env.start <= env.end);
        assert!(args.end - args.start >= std::env::args().next().unwrap().len() as u64);
        let stat = "7 (a ) b) S 1 ".to_owned()
            + &(5..=52).map(|n| (n * 10).to_string() + " ").collect::<String>();
        assert_eq!(initial_of(&stat), Some([480..490, 500..510]));
        assert_eq!(initial_of("7 (x) S 1"), None);
    }
}
