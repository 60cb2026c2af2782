//! Memory, codec and device fail in the middle of every operation. Nothing leaks, and every page still reads as
//! its last acknowledged write.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure in a test's helper is the test's own message"
)]

mod common;

use std::sync::atomic::Ordering::SeqCst;

use common::{Rig, at, check, marked, rig, rig_of, settle};
use compressors::CompressorError;
use zpool_base::sync::test_rng::Rng;
use zram::device::DeviceError;
use zram::{PAGE_SIZE, Page, Recompress, Writeback, ZramError};

/// Returns a disk with three pages of each kind (compressed, huge, same-filled, on the device), and the content
/// of the pages.
fn filled() -> (Rig, Vec<Box<Page>>) {
    let rig = rig(16);
    let mut pages = Vec::new();
    for n in 0..12u64 {
        let page = match n / 3 {
            0 | 3 => marked(n, 900),
            1 => marked(n, PAGE_SIZE),
            _ => Box::new([n as u8; PAGE_SIZE]),
        };
        rig.disk.write(at(n), &page[..]).unwrap();
        pages.push(page);
    }
    assert_eq!(rig.disk.writeback(&Writeback::new().pages(9..12)).unwrap().written, 3);
    (rig, pages)
}

fn all_read(rig: &Rig, pages: &[Box<Page>]) {
    (0..).zip(pages).for_each(|(n, page)| check(&rig.disk, n, page));
}

/// Runs every kind of operation that writes: writes of whole pages and of parts, on pages of each kind, then
/// recompression and writeback.
fn everything(rig: &Rig) -> Vec<Result<(), ZramError>> {
    let mut results = Vec::new();
    for n in (0..12).step_by(2) {
        results.push(rig.disk.write(at(n), &marked(n + 100, 1000)[..]));
        results.push(rig.disk.write(at(n) + 5, &[7; 100]));
        results.push(rig.disk.write_zeroes(at(n) + 5, 10));
    }
    results.push(rig.disk.recompress(&Recompress::new()).map(drop));
    results.push(rig.disk.writeback(&Writeback::new()).map(drop));
    results
}

#[test]
fn a_codec_that_fails_changes_nothing() {
    let (rig, pages) = filled();
    rig.moods.fails.store(true, SeqCst);
    let mut results = everything(&rig);
    assert_eq!(results.pop(), Some(Ok(())), "writeback needs no codec");
    assert!(results.iter().all(|r| matches!(r, Err(ZramError::Codec { .. }))), "{results:?}");
    let mut back = [0; PAGE_SIZE];
    assert!(matches!(rig.disk.read(at(1), &mut back), Err(ZramError::Codec { index: 1, .. })));
    rig.moods.fails.store(false, SeqCst);
    all_read(&rig, &pages);
    assert_eq!((rig.disk.io_stat().failed_writes, rig.disk.io_stat().failed_reads), (18, 1));
    settle(rig);
}

#[test]
fn a_codec_that_panics_leaves_every_slot_unlocked_and_as_it_was() {
    let (rig, pages) = filled();
    rig.moods.panics.store(true, SeqCst);
    let mut results = everything(&rig);
    assert_eq!(results.pop(), Some(Ok(())), "writeback needs no codec");
    let panicked = |result: &Result<(), ZramError>| {
        let panicked =
            |source: &CompressorError| matches!(source, CompressorError::Panicked { .. });
        matches!(result, Err(ZramError::Codec { source, .. }) if panicked(source))
    };
    assert!(results.iter().all(panicked), "{results:?}");
    assert!(panicked(&rig.disk.read(at(0), &mut [0; 9])));
    rig.moods.panics.store(false, SeqCst);
    all_read(&rig, &pages);
    assert!(everything(&rig).iter().all(Result::is_ok));
    settle(rig);
}

#[test]
fn memory_that_runs_out_at_any_step_changes_nothing() {
    for spare in 0..if cfg!(miri) { 1 } else { 4 } {
        let (rig, mut pages) = filled();
        rig.disk.trim();
        rig.pages.limit_pages(rig.pages.pages_out() + spare);
        let mut rng = Rng::new(spare as u64);
        let mut refused = 0;
        for round in 0..if cfg!(miri) { 12 } else { 400 } {
            let n = rng.below(12);
            let new = marked(round + 500, [900, 2000, PAGE_SIZE][rng.below(3)]);
            match rng.below(4) {
                0 => match rig.disk.write(at(n as u64), &new[..]) {
                    Ok(()) => pages[n] = new,
                    Err(error) => {
                        assert!(matches!(error, ZramError::Pool { .. }), "{error}");
                        refused += 1;
                    }
                },
                1 => match rig.disk.write(at(n as u64) + 100, &new[100..900]) {
                    Ok(()) => pages[n][100..900].copy_from_slice(&new[100..900]),
                    Err(_) => refused += 1,
                },
                2 => refused += u64::from(rig.disk.recompress(&Recompress::new()).is_err()),
                _ => {
                    let what = Writeback::new().max_pages(1);
                    rig.disk.writeback(&what).unwrap();
                }
            }
            check(&rig.disk, n as u64, &pages[n]);
        }
        assert!(refused > 0, "{spare}");
        all_read(&rig, &pages);
        rig.pages.limit_pages(usize::MAX);
        settle(rig);
    }
}

#[test]
fn a_device_that_cannot_be_read_keeps_the_page() {
    let (rig, pages) = filled();
    rig.device.fail_reads(0, 2);
    let mut back = [0; PAGE_SIZE];
    let error = rig.disk.read(at(9), &mut back).unwrap_err();
    assert!(matches!(error, ZramError::Device { index: 9, .. }), "{error}");
    let error = rig.disk.write(at(9) + 3, &[1]).unwrap_err();
    assert!(matches!(error, ZramError::Device { index: 9, .. }), "{error}");
    all_read(&rig, &pages);
    // A write of a whole page does not read the old one.
    rig.device.fail_reads(0, 1);
    rig.disk.write(at(9), &marked(77, 10)[..]).unwrap();
    rig.device.fail_reads(0, 0);
    check(&rig.disk, 9, &marked(77, 10));
    settle(rig);
}

#[test]
fn a_write_that_fails_leaves_its_pages_in_memory_and_the_budget_whole() {
    for panics in [false, true] {
        let (rig, pages) = filled();
        rig.disk.set_writeback_limit(Some(10));
        let error = rig.gate.in_write(
            || {
                let done = rig.disk.writeback(&Writeback::new());
                rig.gate.write_panics.store(false, SeqCst);
                done.unwrap_err()
            },
            || {
                assert_eq!(rig.disk.writeback_limit(), Some(4), "six pages are being written");
                assert_eq!(rig.disk.mark_idle(), 6);
                match panics {
                    true => rig.gate.write_panics.store(true, SeqCst),
                    false => rig.device.fail_writes(0, 1),
                }
            },
        );
        let ZramError::Device { index: 0, source } = error else { panic!("{error}") };
        assert_eq!(matches!(source, DeviceError::Panicked { .. }), panics, "{source}");
        let stat = rig.disk.bd_stat();
        assert_eq!((stat.bd_count, stat.bd_writes, stat.bd_segments), (3, 3, 1));
        assert_eq!((rig.memory.segments(), rig.disk.writeback_limit()), (1, Some(10)));
        assert_eq!(rig.disk.block_state().filter(|page| page.idle).count(), 6);
        all_read(&rig, &pages);
        assert_eq!(rig.disk.writeback(&Writeback::new()).unwrap().written, 6);
        all_read(&rig, &pages);
        settle(rig);
    }
}

#[test]
fn an_error_leaves_the_segments_before_it_on_the_device() {
    // A segment has room for five of these pages.
    let rig = rig_of(20, 16, 8192);
    (0..20).for_each(|n| rig.disk.write(at(n), &marked(n, 900)[..]).unwrap());
    rig.disk.set_writeback_limit(Some(100));
    rig.device.fail_writes(2, 1);
    let error = rig.disk.writeback(&Writeback::new()).unwrap_err();
    assert!(matches!(error, ZramError::Device { index: 10, .. }), "{error}");
    assert_eq!((rig.disk.bd_stat().bd_count, rig.disk.bd_stat().bd_writes), (10, 10));
    assert_eq!((rig.memory.segments(), rig.disk.writeback_limit()), (2, Some(90)));
    (0..20).for_each(|n| check(&rig.disk, n, &marked(n, 900)));
    settle(rig);
}

#[test]
fn a_full_device_is_said_and_serves_again_when_pages_leave_it() {
    // Three segments of 15 uncompressed pages each, and one for cleaning.
    let rig = rig_of(60, 4, 1 << 16);
    let page = |n| marked(n, PAGE_SIZE);
    assert_eq!(rig.disk.writeback(&Writeback::new()).unwrap().written, 0);
    (0..50).for_each(|n| rig.disk.write(at(n), &page(n)[..]).unwrap());
    let full = Err(ZramError::DeviceFull { segments: 4 });
    assert_eq!(rig.disk.writeback(&Writeback::new()), full);
    assert_eq!(rig.disk.bd_stat().bd_count, 45);
    assert_eq!(rig.disk.writeback(&Writeback::new().pages(0..45)).unwrap().written, 0);
    (0..45).step_by(3).for_each(|n| rig.disk.write(at(n), &page(n + 100)[..]).unwrap());
    assert_eq!(rig.disk.writeback(&Writeback::new().max_pages(10)).unwrap().written, 10);
    for n in 0..50 {
        check(&rig.disk, n, &page(if n < 45 && n % 3 == 0 { n + 100 } else { n }));
    }
    settle(rig);
}
