//! What the tests share: pages, stores, a Redis server, and a proxy in front of a server.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    unreachable_pub,
    reason = "each test uses a part of this, and a failure is the test's own message"
)]

pub mod proxy;
pub mod redis_server;
pub mod s3_server;
pub mod workload;

use std::sync::Arc;
use std::time::{Duration, Instant};

use zswap_core::{PAGE_SIZE, Page, SwapEntry, Zswap};
use zswap_remote::RemoteSwapDevice;

/// Begins the line that a test prints when it cannot run here. `cargo xtask remote` counts these lines.
pub const NOT_RUN: &str = "NOT RUN:";

/// The numbers of xorshift.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.roll() % end
    }
}

/// Returns a page of which 1600 bytes do not get smaller. No two numbers have equal pages.
pub fn page(number: u64) -> Page {
    let mut dice = Dice(number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let mut page = [0; PAGE_SIZE];
    page[..8].copy_from_slice(&number.to_le_bytes());
    for bytes in page[8..1608].chunks_mut(8) {
        bytes.copy_from_slice(&dice.roll().to_le_bytes());
    }
    page
}

pub fn entry(number: u64) -> SwapEntry {
    SwapEntry::new(0, number).unwrap()
}

/// Builds an encrypting store on the device. Its pools hold about `pages` of the pages that [`page`] returns.
pub fn store(device: Arc<RemoteSwapDevice>, pages: usize) -> Zswap {
    let store = Zswap::builder().zpool("zsmalloc").compressor("lz4").encrypt(true);
    store.max_pool_bytes(pages * 1700).swap_device(device).build().unwrap()
}

/// Waits until `holds` returns true. Fails after 30 seconds.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(30), "it never happened: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
