//! Makes pages of noise and text, and measures the process's resident memory.

use zram::{PAGE_SIZE, Page};

/// Returns a page that begins with `random` bytes of noise, followed by text and by `seed`. Each
/// seed gives a different page.
pub fn page_of(seed: u64, random: usize) -> Page {
    let mut state = (seed + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut noise = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    let text = b"some words that repeat ";
    let mut page = [0; PAGE_SIZE];
    for (at, byte) in page.iter_mut().enumerate() {
        *byte = if at < random { noise() } else { text[at % text.len()] };
    }
    page[PAGE_SIZE - 8..].copy_from_slice(&seed.to_le_bytes());
    page
}

/// Returns the process's resident memory in KiB; 0 if the system does not report it.
pub fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0)
}
