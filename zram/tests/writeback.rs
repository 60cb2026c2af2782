//! Writeback: pages are packed as they are compressed, no page is locked while the device reads or writes, and the
//! device is cleaned.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure in a test's helper is the test's own message"
)]

mod common;

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use common::{Rig, at, check, marked, rig, rig_of, settle};
use zpool_base::sync::test_rng::Rng;
use zram::device::MemorySwapDevice;
use zram::{PAGE_SIZE, Page, Recompress, Writeback, Zram, ZramError};

/// Returns the number and the flags of each page that is not empty.
fn flags(disk: &Zram) -> String {
    let state = |page: zram::BlockState| {
        let line = page.to_string();
        format!("{}{}", page.index, &line[line.len() - 6..])
    };
    disk.block_state().map(state).collect::<Vec<_>>().join(" ")
}

fn write(disk: &Zram, n: u64, page: &Page) {
    disk.write(at(n), &page[..]).unwrap();
}

#[test]
fn pages_are_packed_as_they_are_compressed_and_no_codec_is_called() {
    let rig = rig(300);
    let (disk, count) = (&rig.disk, if cfg!(miri) { 30 } else { 300 });
    let page = |n: u64| marked(n, [100, 900, 1500, 3000, PAGE_SIZE][n as usize % 5]);
    (0..count).for_each(|n| write(disk, n, &page(n)));
    // Objects of all three algorithms.
    disk.recompress(&Recompress::new().priority(1).max_pages(count / 2)).unwrap();
    disk.recompress(&Recompress::new().priority(2).max_pages(count / 4)).unwrap();
    let compressed = disk.mm_stat().compr_data_size;
    rig.moods.fails.store(true, SeqCst);
    assert_eq!(disk.writeback(&Writeback::new()).unwrap().written, count);
    rig.moods.fails.store(false, SeqCst);
    let stat = disk.bd_stat();
    assert_eq!((stat.bd_count, stat.bd_writes, disk.mm_stat().compr_data_size), (count, count, 0));
    let written = stat.bd_bytes_written;
    assert!(100 * written <= 106 * compressed, "{written} bytes for {compressed}");
    assert_eq!(rig.memory.bytes() as u64, written);
    // Each segment but the last has no room for another page.
    assert_eq!(stat.bd_segments, rig.memory.segments() as u64);
    let room = (1 << 16) - 5000;
    assert!(stat.bd_segments <= written / room + 1, "{} segments", stat.bd_segments);
    (0..count).for_each(|n| check(disk, n, &page(n)));
    assert!(disk.bd_stat().bd_bytes_read <= written);
    settle(rig);
}

#[test]
fn segments_are_filled_across_ranges_and_a_page_in_two_ranges_is_written_once() {
    let rig = rig(64);
    let disk = &rig.disk;
    (0..20).for_each(|n| write(disk, n, &marked(n, 900)));
    let what = Writeback::new().pages(0..3).pages(10..12).pages(1..5);
    assert_eq!(disk.writeback(&what).unwrap().written, 7);
    let stat = disk.bd_stat();
    assert_eq!((stat.bd_count, stat.bd_segments, stat.bd_writes), (7, 1, 7));
    assert_eq!(stat.bd_live_bytes, 7 * 1504, "each of 1500 bytes and a checksum");
    assert_eq!(stat.bd_bytes_written, 7 * (1504 + 13) + 4);
    settle(rig);
}

#[test]
fn what_changes_during_the_write_stays_and_does_not_count() {
    for rounds in [1, if cfg!(miri) { 2 } else { 40 }] {
        let rig = rig(10);
        let disk = &rig.disk;
        (0..7).for_each(|n| write(disk, n, &marked(n, 900 + 10 * n as usize)));
        disk.mark_idle();
        disk.set_writeback_limit(Some(10));
        let mut part = marked(2, 920);
        let mut done = rig.gate.in_write(
            || disk.writeback(&Writeback::new()).unwrap(),
            || {
                assert_eq!((disk.bd_stat().bd_count, disk.writeback_limit()), (0, Some(3)));
                for round in 0..rounds {
                    // The objects' places and sizes recur.
                    write(disk, 0, &marked(50 + round, 900));
                    check(disk, 0, &marked(50 + round, 900));
                }
                disk.discard(at(1), at(1)).unwrap();
                disk.write(at(2) + 100, &[9; 50]).unwrap();
                part[100..150].fill(9);
                check(disk, 2, &part);
                let done = disk.recompress(&Recompress::new().threshold(1560).max_pages(1));
                assert_eq!(done.unwrap().recompressed, 1, "page 6");
                check(disk, 5, &marked(5, 950));
            },
        );
        assert_eq!((done.written, done.budget_used_up), (3, false));
        assert_eq!(flags(disk), "0...... 2...... 3.w.i.. 4.w.i.. 5.w.... 6...ir.");
        let stat = disk.bd_stat();
        assert_eq!((stat.bd_count, stat.bd_writes, disk.writeback_limit()), (3, 3, Some(7)));
        let all = |disk: &Zram| {
            check(disk, 0, &marked(49 + rounds, 900));
            check(disk, 1, &[0; PAGE_SIZE]);
            check(disk, 2, &part);
            (3..7).for_each(|n| check(disk, n, &marked(n, 900 + 10 * n as usize)));
        };
        all(disk);
        done = disk.writeback(&Writeback::new()).unwrap();
        assert_eq!((done.written, disk.bd_stat().bd_count), (3, 6));
        all(disk);
        settle(rig);
    }
}

#[test]
fn a_change_of_flags_during_the_write_is_kept_and_is_no_change_of_the_page() {
    let rig = rig(4);
    let disk = &rig.disk;
    (0..2).for_each(|n| write(disk, n, &marked(n, 900)));
    write(disk, 2, &marked(2, PAGE_SIZE));
    let done = rig.gate.in_write(
        || disk.writeback(&Writeback::new()).unwrap(),
        || {
            assert_eq!(disk.mark_idle(), 3);
            check(disk, 1, &marked(1, 900));
            // Recompression notes that the page did not get smaller.
            let tried = disk.recompress(&Recompress::new().huge()).unwrap();
            assert_eq!((tried.recompressed, tried.not_smaller), (0, 1));
        },
    );
    assert_eq!((done.written, flags(disk).as_str()), (3, "0.w.i.. 1.w.... 2.w.i.."));
    check(disk, 0, &marked(0, 900));
    assert_eq!(flags(disk), "0.w.... 1.w.... 2.w.i..", "a read removes the mark");
    settle(rig);
}

#[test]
fn a_page_that_does_not_arrive_is_replaced_by_another_in_the_budgets() {
    let rig = rig(8);
    let disk = &rig.disk;
    (0..6).for_each(|n| write(disk, n, &marked(n, 900)));
    let done = rig.gate.in_write(
        || disk.writeback(&Writeback::new().max_pages(3)).unwrap(),
        || write(disk, 1, &marked(10, 900)),
    );
    assert_eq!((done.written, done.budget_used_up), (3, true));
    assert_eq!(flags(disk), "0.w.... 1...... 2.w.... 3.w.... 4...... 5......");
    disk.set_writeback_limit(Some(2));
    let done = rig.gate.in_write(
        || disk.writeback(&Writeback::new().pages(1..6)).unwrap(),
        || disk.discard(at(1), at(1)).unwrap(),
    );
    assert_eq!((done.written, done.budget_used_up), (2, false));
    assert_eq!(
        (flags(disk).as_str(), disk.writeback_limit()),
        ("0.w.... 2.w.... 3.w.... 4.w.... 5.w....", Some(0))
    );
    settle(rig);
}

#[test]
fn two_writers_of_the_same_pages_write_each_once() {
    let rig = rig(8);
    let disk = &rig.disk;
    (0..6).for_each(|n| write(disk, n, &marked(n, 900)));
    let first = rig.gate.in_write(
        || disk.writeback(&Writeback::new()).unwrap().written,
        || assert_eq!(disk.writeback(&Writeback::new().pages(0..4)).unwrap().written, 4),
    );
    let stat = disk.bd_stat();
    assert_eq!((first, stat.bd_count, stat.bd_writes), (2, 6, 6));
    assert_eq!(stat.bd_live_bytes, 6 * 1504);
    (0..6).for_each(|n| check(disk, n, &marked(n, 900)));
    settle(rig);
}

/// A page that the device reads can be written, discarded and listed meanwhile. Its segment stays until the read ends.
#[test]
fn a_read_of_the_device_holds_up_nobody() {
    let rig = rig(4);
    let disk = &rig.disk;
    (0..2).for_each(|n| write(disk, n, &marked(n, 900)));
    disk.writeback(&Writeback::new()).unwrap();
    let mut back = [0; PAGE_SIZE];
    rig.gate.in_read(
        || disk.read(at(0), &mut back).unwrap(),
        || {
            check(disk, 0, &marked(0, 900));
            assert_eq!(flags(disk), "0.w.... 1.w....");
            write(disk, 0, &marked(7, 900));
            disk.discard(at(1), at(1)).unwrap();
            check(disk, 0, &marked(7, 900));
            assert_eq!((disk.bd_stat().bd_count, rig.memory.segments()), (0, 1));
        },
    );
    assert_eq!((back, rig.memory.segments()), (*marked(0, 900), 0));
    settle(rig);
}

#[test]
fn a_part_of_a_page_that_is_on_the_device_is_written_as_one_change() {
    let rig = rig(4);
    let disk = &rig.disk;
    write(disk, 0, &marked(0, 900));
    disk.writeback(&Writeback::new()).unwrap();
    let mut page = marked(0, 900);
    page[10..20].fill(1);
    page[30..40].fill(2);
    thread::scope(|scope| {
        let mut other = None;
        rig.gate.in_read(
            || disk.write(at(0) + 10, &[1; 10]).unwrap(),
            || {
                other = Some(scope.spawn(|| disk.write(at(0) + 30, &[2; 10]).unwrap()));
                // Gives the other thread time to change the old page, if nothing keeps it from that.
                (0..if cfg!(miri) { 50 } else { 5000 }).for_each(|_| thread::yield_now());
            },
        );
        other.unwrap().join().unwrap();
    });
    check(disk, 0, &page);
    settle(rig);
}

#[cfg_attr(miri, ignore = "writes megabytes, of no use to Miri")]
#[test]
fn a_device_of_few_segments_takes_twenty_times_its_size() {
    let count = 240;
    let rig = rig_of(count, 8, 1 << 16);
    let (disk, device) = (&rig.disk, 8 << 16);
    let len = |n: u64| 200 + (n * 37 % 1400) as usize;
    let mut seeds: Vec<u64> = (0..count).collect();
    (0..count).for_each(|n| write(disk, n, &marked(n, len(n))));
    let (mut rng, mut packed, mut most, mut round) = (Rng::new(7), 0, 0, 0);
    while packed < 20 * device {
        let before = disk.mm_stat().compr_data_size;
        let done = disk.writeback(&Writeback::new());
        assert!(done.is_ok(), "round {round}: {done:?}, {:?}", disk.bd_stat());
        packed += before;
        let live = disk.bd_stat().bd_live_bytes;
        assert!(100 * live <= 70 * device, "{live} bytes of {device} are live");
        assert_eq!(disk.bd_stat().bd_count, count);
        most = most.max(100 * live / device);
        for _ in 0..40 {
            let n = rng.below(count as usize) as u64;
            seeds[n as usize] = 1000 * (round + 1) + n;
            write(disk, n, &marked(seeds[n as usize], len(n)));
        }
        round += 1;
    }
    assert!(most >= 65, "{most} percent at most were live: too few to say anything");
    assert!(disk.bd_stat().bd_bytes_written > packed, "cleaning writes, too");
    (0..count).for_each(|n| check(disk, n, &marked(seeds[n as usize], len(n))));
    settle(rig);
}

/// Each page's model is locked while the page is changed, so a read that holds the model's lock knows what to find.
#[test]
fn reads_agree_with_a_model_while_pages_leave_move_and_change() {
    const COUNT: u64 = 40;
    const MOST_TIME: Duration = Duration::from_secs(60);
    // About 60 KiB of 128 KiB are live, in segments of five pages.
    let rig = rig_of(COUNT, 16, 8192);
    let disk = &rig.disk;
    let model: Vec<RwLock<Box<Page>>> =
        (0..COUNT).map(|_| RwLock::new(Box::new([0; PAGE_SIZE]))).collect();
    let (model, stop) = (&model, &AtomicBool::new(false));
    let enough = if cfg!(miri) { 8192 } else { 40 * 16 * 8192 };
    let begin = Instant::now();
    let written = thread::scope(|scope| {
        for t in 0..if cfg!(miri) { 1 } else { 4 } {
            scope.spawn(move || {
                let mut rng = Rng::new(t + 40);
                while !stop.load(SeqCst) {
                    let n = rng.below(COUNT as usize);
                    let page = model[n].read().unwrap();
                    check(disk, n as u64, &page);
                    drop(page);
                    thread::yield_now();
                }
            });
        }
        let writer = scope.spawn(move || {
            let (mut rng, mut written) = (Rng::new(3), 0);
            while !stop.load(SeqCst) {
                let what = Writeback::new().max_pages(1 + rng.below(20) as u64);
                match disk.writeback(&what) {
                    Ok(done) => written += done.written,
                    Err(error) => assert!(matches!(error, ZramError::DeviceFull { .. }), "{error}"),
                }
                thread::yield_now();
            }
            written
        });
        let changers: Vec<_> = (0..2)
            .map(|t| {
                scope.spawn(move || {
                    let mut rng = Rng::new(t + 70);
                    let mut round = 0;
                    while disk.bd_stat().bd_bytes_written < enough && begin.elapsed() < MOST_TIME {
                        round += 1;
                        let n = rng.below(COUNT as usize);
                        let mut page = model[n].write().unwrap();
                        match rng.below(8) {
                            0 => {
                                page.fill(0);
                                disk.discard(at(n as u64), at(1)).unwrap();
                            }
                            1 => {
                                let from = rng.below(800);
                                page[from..from + 50].fill(round as u8);
                                disk.write(at(n as u64) + from as u64, &[round as u8; 50]).unwrap();
                            }
                            _ => {
                                *page = marked(round * 2 + t, 300 + rng.below(600));
                                disk.write(at(n as u64), &page[..]).unwrap();
                            }
                        }
                    }
                })
            })
            .collect();
        let results: Vec<_> = changers.into_iter().map(|changer| changer.join()).collect();
        stop.store(true, SeqCst);
        results.into_iter().for_each(|result| result.unwrap());
        writer.join().unwrap()
    });
    (0..).zip(model).for_each(|(n, page)| check(disk, n, &page.read().unwrap()));
    let stat = disk.bd_stat();
    assert!(stat.bd_writes == written, "{written} {stat}");
    assert!(stat.bd_bytes_written >= enough, "{stat:?}");
    let on_device = disk.block_state().filter(|page| page.written_back).count() as u64;
    assert_eq!(stat.bd_count, on_device);
    settle(rig);
}

/// Cleaning moves pages to other places while they are read.
#[test]
fn a_page_is_moved_while_it_is_read() {
    let rig: Rig = rig_of(64, 4, 8192);
    let disk = &rig.disk;
    // Five pages fill each of three segments. Then two thirds of the pages leave.
    (0..15).for_each(|n| write(disk, n, &marked(n, 900)));
    disk.mark_idle();
    assert_eq!(disk.writeback(&Writeback::new()).unwrap().written, 15);
    (0..15).filter(|n| n % 3 > 0).for_each(|n| write(disk, n, &marked(n + 50, 900)));
    let mut back = [0; PAGE_SIZE];
    rig.gate.in_read(
        || disk.read(at(0), &mut back).unwrap(),
        || {
            // No segment is free but the one for cleaning.
            assert_eq!(disk.writeback(&Writeback::new().max_pages(5)).unwrap().written, 5);
            check(disk, 0, &marked(0, 900));
            write(disk, 0, &marked(90, 900));
        },
    );
    assert_eq!(back, *marked(0, 900));
    assert_eq!(disk.bd_stat().bd_writes, 20, "a page that is moved does not count");
    let idle: Vec<_> = disk.block_state().filter(|page| page.idle).map(|page| page.index).collect();
    assert_eq!(idle, [3, 6, 9, 12], "a page that is moved keeps its mark");
    for n in 1..15 {
        check(disk, n, &marked(if n % 3 > 0 { n + 50 } else { n }, 900));
    }
    settle(rig);
}

#[cfg_attr(miri, ignore = "the codecs are C libraries")]
#[test]
fn a_page_on_the_device_is_decompressed_by_the_codec_that_compressed_it() {
    if cfg!(not(all(feature = "lz4", feature = "zstd", feature = "deflate"))) {
        return;
    }
    let device = Arc::new(MemorySwapDevice::new(64));
    let disk = Zram::builder().disksize(at(9)).algorithm("lz4").recompression("deflate");
    let disk = disk.recompression("zstd").backing_device(device).build().unwrap();
    let page = |n: u64| {
        let text: String = (0..600).map(|line| format!("line {line} of page {n}; ")).collect();
        *text.as_bytes().first_chunk::<PAGE_SIZE>().unwrap()
    };
    (0..8).for_each(|n| write(&disk, n, &page(n)));
    write(&disk, 8, &marked(8, PAGE_SIZE));
    for (priority, pages) in [(1, 6), (2, 3)] {
        let what = Recompress::new().priority(priority).max_pages(pages);
        assert_eq!(disk.recompress(&what).unwrap().recompressed, pages);
    }
    assert_eq!(disk.writeback(&Writeback::new()).unwrap().written, 9);
    (0..8).for_each(|n| check(&disk, n, &page(n)));
    check(&disk, 8, &marked(8, PAGE_SIZE));
    assert_eq!(disk.bd_stat().bd_reads, 9);
}
