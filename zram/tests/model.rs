//! After any sequence of operations a disk reads like an array of bytes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure in a test's helper is the test's own message"
)]

mod common;

use common::{at, marked, rig, settle};
use zpool_base::sync::test_rng::Rng;
use zram::{PAGE_SIZE, Recompress, Writeback, ZramError};

#[test]
fn random_operations_agree_with_an_array_of_bytes() {
    let (pages, rounds) = if cfg!(miri) { (6, 60) } else { (40, 20_000) };
    for seed in 0..if cfg!(miri) { 1 } else { 3 } {
        let rig = rig(pages);
        let disk = &rig.disk;
        let mut model = vec![0u8; at(pages) as usize];
        let mut rng = Rng::new(seed + 90);
        for round in 0..rounds {
            let offset = rng.below(model.len());
            let len = match rng.below(4) {
                0 => rng.below(200),
                1 => PAGE_SIZE,
                2 => rng.below(3 * PAGE_SIZE),
                _ => 0,
            };
            let whole = rng.below(2) == 0;
            let offset = if whole { offset / PAGE_SIZE * PAGE_SIZE } else { offset };
            let len = len.min(model.len() - offset);
            let range = offset..offset + len;
            match rng.below(9) {
                0..=2 => {
                    let mut bytes = vec![0; len];
                    for (n, part) in bytes.chunks_mut(PAGE_SIZE).enumerate() {
                        // Pages of every kind: same-filled, sparse, or full of noise.
                        let full = [0, 8, 100, 1500, PAGE_SIZE][rng.below(5)];
                        let page = marked(round * 8 + n as u64, full);
                        part.copy_from_slice(&page[..part.len()]);
                    }
                    disk.write(offset as u64, &bytes).unwrap();
                    model[range].copy_from_slice(&bytes);
                }
                3 => {
                    disk.write_zeroes(offset as u64, len as u64).unwrap();
                    model[range].fill(0);
                }
                4 => {
                    disk.discard(offset as u64, len as u64).unwrap();
                    let first = offset.div_ceil(PAGE_SIZE) * PAGE_SIZE;
                    let last = (offset + len) / PAGE_SIZE * PAGE_SIZE;
                    if first < last {
                        model[first..last].fill(0);
                    }
                }
                5 => {
                    disk.mark_idle();
                }
                6 => {
                    let what = Recompress::new().max_pages(rng.below(10) as u64);
                    let what = if rng.below(2) == 0 { what.idle() } else { what };
                    disk.recompress(&what.priority(1 + rng.below(2))).unwrap();
                }
                7 => {
                    let what = Writeback::new().max_pages(rng.below(4) as u64);
                    let what = if rng.below(2) == 0 { what.idle() } else { what.huge() };
                    disk.writeback(&what).unwrap();
                }
                _ => {
                    let mut bytes = vec![9; len];
                    disk.read(offset as u64, &mut bytes).unwrap();
                    assert!(bytes == model[range], "seed {seed}, round {round}");
                }
            }
        }
        let mut bytes = vec![9; model.len()];
        disk.read(0, &mut bytes).unwrap();
        assert!(bytes == model);
        settle(rig);
    }
}

#[test]
fn ranges_that_are_not_on_the_disk_are_refused_and_touch_nothing() {
    let rig = rig(3);
    let (disk, size) = (&rig.disk, at(3));
    disk.write(0, &marked(1, 4000)[..]).unwrap();
    let mut bytes = [9; 10];
    for offset in [size - 9, size, size + 1, u64::MAX, u64::MAX - 5] {
        let error = disk.read(offset, &mut bytes).unwrap_err();
        assert_eq!(error, ZramError::OutOfRange { offset, len: 10, disksize: size });
        assert!(disk.write(offset, &bytes).is_err());
        assert!(disk.discard(offset, 10).is_err());
        assert!(disk.write_zeroes(offset, 10).is_err());
        assert!(disk.discard(offset, u64::MAX).is_err());
    }
    assert_eq!(bytes, [9; 10]);
    assert_eq!(disk.io_stat().to_string(), "0 0 25 0");
    // An empty range at the very end is valid.
    disk.read(size, &mut []).unwrap();
    disk.write(size, &[]).unwrap();
    common::check(disk, 0, &marked(1, 4000));
    settle(rig);
}
