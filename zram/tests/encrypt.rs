//! A disk that encrypts what it writes to its backing device.

#![cfg(feature = "encrypt")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failure in a test's helper is the test's own message"
)]

mod common;

use std::collections::HashSet;
use std::sync::Arc;

use common::{at, marked};
use zram::device::{DeviceError, MemorySwapDevice, SwapDevice};
use zram::{PAGE_SIZE, Writeback, Zram, ZramError};

const COUNT: u64 = 100;

/// Returns what is in a segment of the device.
fn written(device: &MemorySwapDevice, segment: u64) -> Vec<u8> {
    let (mut bytes, mut some) = (Vec::new(), [0; 16]);
    while device.read(segment, bytes.len(), &mut some).is_ok() {
        bytes.extend(some);
    }
    bytes
}

/// Writes pages, writes them back in part, and overwrites some, so that segments are cleaned. Returns whether a run of
/// 16 bytes of a page was ever on the device.
fn seen(encrypt: bool) -> bool {
    let device = Arc::new(MemorySwapDevice::new(64));
    let builder = Zram::builder().disksize(at(COUNT)).algorithm("null");
    let disk = builder.backing_device(device.clone()).encrypt(encrypt).build().unwrap();
    let (mut runs, mut seen) = (HashSet::new(), false);
    for round in 0..8 {
        for n in (0..40).filter(|n| round == 0 || (n + round) % 3 == 0) {
            let page = marked(n + round * COUNT, PAGE_SIZE);
            runs.extend(page.windows(16).map(<[u8]>::to_vec));
            disk.write(at(n), &page[..]).unwrap();
        }
        disk.writeback(&Writeback::new()).unwrap();
        for segment in 0..device.geometry().segments {
            seen |= written(&device, segment).windows(16).any(|run| runs.contains(run));
        }
    }
    let mut back = [0; PAGE_SIZE];
    for n in 0..40 {
        let round = (0..8).rfind(|round| *round == 0 || (n + round) % 3 == 0).unwrap();
        disk.read(at(n), &mut back).unwrap();
        assert!(back == *marked(n + round * COUNT, PAGE_SIZE), "page {n}");
    }
    seen
}

#[test]
fn pages_are_on_the_device_only_without_encryption() {
    assert!(seen(false));
    assert!(!seen(true));
}

/// A bit that changes on the device makes the read of its page fail, and no other.
#[test]
fn a_changed_bit_is_corrupt() {
    let device = Arc::new(MemorySwapDevice::new(64));
    let builder = Zram::builder().disksize(at(COUNT)).algorithm("null");
    let disk = builder.backing_device(device.clone()).encrypt(true).build().unwrap();
    (0..4).for_each(|n| disk.write(at(n), &marked(n, PAGE_SIZE)[..]).unwrap());
    disk.writeback(&Writeback::new()).unwrap();
    let mut bytes = written(&device, 0);
    bytes[100] ^= 1;
    device.write_segment(0, &bytes).unwrap();
    let mut back = [0; PAGE_SIZE];
    let corrupt = |error: &ZramError| {
        matches!(error, ZramError::Device { source: DeviceError::Corrupt { .. }, .. })
    };
    let results: Vec<_> = (0..4).map(|n| disk.read(at(n), &mut back)).collect();
    let failed = results.iter().filter(|result| result.as_ref().is_err_and(corrupt)).count();
    assert_eq!(
        (failed, results.iter().filter(|result| result.is_ok()).count()),
        (1, 3),
        "{results:?}"
    );
}
