//! Limits the bytes of pages, so that a run fits in this machine's memory.
//!
//! Memory must hold the pages, a store's pool and the codec's compressed pages. Pool and compressed
//! pages are each as large as the pages if these hardly shrink, so the limit is a third of the
//! available memory. Without a limit, a small file that decompresses to more than memory would get
//! the process killed.

use std::fs;

/// The limit if the system does not report its memory.
const FALLBACK: u64 = 16 << 30;

/// Returns the most bytes of pages to read, over all files: a third of the available memory or of
/// the control group's limit, whichever is less, or [`FALLBACK`] if the system reports neither.
pub(crate) fn set_limit() -> u64 {
    let available = fs::read_to_string("/proc/meminfo").ok().and_then(|text| available(&text));
    let group = fs::read_to_string("/sys/fs/cgroup/memory.max")
        .ok()
        .and_then(|text| text.trim().parse::<u64>().ok());
    match available.into_iter().chain(group).min() {
        Some(bytes) => bytes / 3,
        None => FALLBACK,
    }
}

/// Returns the available bytes according to `/proc/meminfo`, or None if it does not name them.
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_available_line_is_read() {
        let text = "MemTotal:       24620404 kB\nMemAvailable:   24000000 kB\nBuffers: 1 kB\n";
        assert_eq!(available(text), Some(24_000_000 * 1024));
        for text in ["", "MemAvailable:", "MemAvailable: x kB", "MemAvailable: 5"] {
            assert_eq!(available(text), None, "{text:?}");
        }
    }

    #[test]
    fn there_is_room_for_the_sample() {
        assert!(set_limit() > 2 << 20);
    }
}
