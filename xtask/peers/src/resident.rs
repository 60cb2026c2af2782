//! Measures the resident memory of this process, without mapped files.

use crate::error::{Error, Result};

const STATUS: &str = "/proc/self/status";

/// Returns the bytes of anonymous memory that are resident. Fails if the system does not report
/// them.
pub(crate) fn anonymous() -> Result<usize> {
    let failed = |reason| Error::System { what: "cannot read", path: STATUS.into(), reason };
    let text = std::fs::read_to_string(STATUS).map_err(failed)?;
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok());
    kib.map(|kib| kib * 1024).ok_or(Error::NoLine { path: STATUS, key: "RssAnon:" })
}

#[cfg(test)]
mod tests {
    #[test]
    fn touched_memory_is_seen() {
        let before = super::anonymous().unwrap();
        let touched = vec![1u8; 64 << 20];
        let after = super::anonymous().unwrap();
        assert!(after >= before + (60 << 20), "{before} {after} {}", touched[9]);
    }
}
