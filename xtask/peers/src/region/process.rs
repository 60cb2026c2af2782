//! What the system counts for this process: processor time, faults and memory.

use crate::error::{Error, Result};
use crate::kernel::read;

const ROLLUP: &str = "/proc/self/smaps_rollup";

fn usage() -> libc::rusage {
    // SAFETY: all bytes 0 are a valid value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the call writes to `usage` only.
    let done = unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) };
    assert_eq!(done, 0, "the system counts no usage");
    usage
}

/// Returns the processor time of the program, and that of the kernel for it, in microseconds.
pub(crate) fn times() -> [f64; 2] {
    let usage = usage();
    [usage.ru_utime, usage.ru_stime].map(|time| time.tv_sec as f64 * 1e6 + time.tv_usec as f64)
}

/// Returns the number of faults for which the kernel read something.
pub(crate) fn major_faults() -> u64 {
    u64::try_from(usage().ru_majflt).unwrap_or_default()
}

/// Returns the bytes in memory, without mapped files on disk. A page of shared memory that is mapped
/// twice counts once.
pub(crate) fn resident() -> Result<usize> {
    let text = read(ROLLUP)?;
    let kib = |key| {
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        let kib =
            line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok());
        kib.ok_or(Error::NoLine { path: ROLLUP, key })
    };
    Ok((kib("Pss_Anon:")? + kib("Pss_Shmem:")?) * 1024)
}

#[cfg(test)]
mod tests {
    #[test]
    fn time_and_memory_are_seen() {
        let (before, time) = (super::resident().unwrap(), super::times());
        let touched = vec![1u8; 64 << 20];
        let after = super::resident().unwrap();
        assert!(after >= before + (60 << 20), "{before} {after} {}", touched[9]);
        let now = super::times();
        assert!(now[0] + now[1] >= time[0] + time[1]);
    }
}
