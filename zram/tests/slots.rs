//! The states of a page (same-filled, huge, idle, recompressed, written back), and the statistics that show
//! them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure in a test's helper is the test's own message"
)]

mod common;

use core::time::Duration;
use std::sync::atomic::Ordering::SeqCst;

use common::{Rig, at, check, marked, rig, rig_with, settle};
use zram::{BdStat, BuildError, PAGE_SIZE, Recompress, Writeback, Zram, ZramError};

/// Returns the number and the flags of each page that is not empty.
fn flags(disk: &Zram) -> String {
    let states = disk.block_state().map(|state| {
        let line = state.to_string();
        let words: Vec<&str> = line.split_whitespace().collect();
        format!("{}{} ", words[0], words[2])
    });
    states.collect::<String>().trim_end().to_owned()
}

#[test]
fn pages_are_counted_as_what_they_are_in_the_kernels_order() {
    let rig = rig(10);
    let disk = &rig.disk;
    assert_eq!(disk.mm_stat().to_string(), "0 0 0 0 0 0 0 0 0");
    disk.write(at(0), &marked(1, 1000)[..]).unwrap();
    disk.write(at(1), &[5; PAGE_SIZE]).unwrap();
    disk.write(at(2), &marked(2, PAGE_SIZE)[..]).unwrap();
    // A pattern of eight different bytes.
    let pattern: Vec<u8> = (0..PAGE_SIZE).map(|n| n as u8 & 7).collect();
    disk.write(at(3), &pattern).unwrap();
    // A page that hardly gets smaller is stored uncompressed.
    disk.write(at(4), &marked(3, 3300)[..]).unwrap();
    let stat = disk.mm_stat();
    assert_eq!((stat.orig_data_size, stat.compr_data_size), (at(5), 1600 + 2 * 4096));
    assert_eq!((stat.same_pages, stat.huge_pages, stat.huge_pages_since), (2, 2, 2));
    assert!(stat.mem_used_total >= at(3) && stat.mem_used_max == at(3), "{stat}");
    assert_eq!(flags(disk), "0...... 1s..... 2..h... 3s..... 4..h...");
    check(disk, 4, &marked(3, 3300));
    check(disk, 3, &pattern.clone().try_into().unwrap());
    check(disk, 9, &[0; PAGE_SIZE]);

    // Overwriting a page changes its kind.
    disk.write(at(2), &[0; PAGE_SIZE]).unwrap();
    disk.write(at(1), &marked(4, 100)[..]).unwrap();
    let stat = disk.mm_stat();
    assert_eq!((stat.same_pages, stat.huge_pages, stat.huge_pages_since), (2, 1, 2));
    assert_eq!(flags(disk), "0...... 1...... 2s..... 3s..... 4..h...");
    disk.reset_mem_used_max();
    assert_eq!(disk.mm_stat().mem_used_max, at(2));
    disk.discard(at(0), at(2)).unwrap();
    assert_eq!(disk.io_stat().to_string(), "0 0 0 2");
    // `write_zeroes` leaves the page empty.
    disk.write_zeroes(at(3), at(1)).unwrap();
    assert_eq!(flags(disk), "2s..... 4..h...");
    disk.reset();
    assert_eq!(disk.mm_stat().to_string(), "0 0 0 0 0 0 0 0 0");
    assert_eq!(disk.io_stat().to_string(), "0 0 0 0");
    check(disk, 4, &[0; PAGE_SIZE]);
    settle(rig);
}

#[cfg_attr(miri, ignore = "a sum over many slots, of no use to Miri")]
#[test]
fn a_slot_takes_eight_bytes_and_twelve_with_access_times() {
    let bytes = |times: bool| {
        let disk = Zram::builder().disksize(at(1 << 20)).zpool("zbud").algorithm("null");
        let disk = disk.access_times(times).build().unwrap();
        let empty = disk.metadata_bytes();
        (0..1024).for_each(|n| disk.write(at(n), &[3; PAGE_SIZE]).unwrap());
        (empty, disk.metadata_bytes() - empty)
    };
    let (empty, without) = bytes(false);
    assert!(empty < (1 << 20) / 10, "{empty}");
    assert_eq!((without, bytes(true).1), (8 * 1024, 12 * 1024));
}

#[test]
fn metadata_grow_with_table_patterns_descriptors_and_slots() {
    let rig = rig(8);
    let disk = &rig.disk;
    let mut last = disk.metadata_bytes();
    let mut grown = || {
        let before = core::mem::replace(&mut last, disk.metadata_bytes());
        last.checked_sub(before).expect("metadata do not shrink")
    };
    disk.write(at(0), &[3; PAGE_SIZE]).unwrap();
    let chunk = if cfg!(miri) { 16 * 8 } else { 512 * 8 };
    assert_eq!(grown(), chunk, "a chunk of the table");
    // A pattern of eight different bytes does not fit in the slot's word.
    let pattern: Vec<u8> = (0..PAGE_SIZE).map(|n| (n as u8 & 7) * 17 + 9).collect();
    disk.write(at(1), &pattern).unwrap();
    let patterns = grown();
    disk.write(at(2), &marked(2, 1000)[..]).unwrap();
    let descriptors = grown();
    assert_eq!(disk.writeback(&Writeback::new()).unwrap().written, 1);
    let slots = grown();
    for (what, bytes) in [("patterns", patterns), ("descriptors", descriptors), ("slots", slots)] {
        assert!((8..1 << 20).contains(&bytes), "{what}: {bytes}");
    }
    settle(rig);
}

#[test]
fn contexts_are_counted_once_they_are_made() {
    let rig = rig(4);
    let disk = &rig.disk;
    let none = disk.context_bytes();
    disk.write(at(0), &marked(1, 1000)[..]).unwrap();
    let first = disk.context_bytes();
    // Each context has a buffer of at least one page.
    assert!(first >= none + PAGE_SIZE, "{first} {none}");
    disk.recompress(&Recompress::new()).unwrap();
    assert!(disk.context_bytes() >= first + PAGE_SIZE);
    settle(rig);
}

#[test]
fn idle_pages_are_those_nobody_used_since() {
    let rig = rig_with(8, |builder| builder.access_times(true));
    let disk = &rig.disk;
    (0..5).for_each(|n| disk.write(at(n), &marked(n, 500)[..]).unwrap());
    disk.write(at(5), &[1; PAGE_SIZE]).unwrap();
    assert_eq!(disk.mark_idle(), 5);
    check(disk, 1, &marked(1, 500));
    disk.write(at(2) + 100, &[1; 7]).unwrap();
    assert_eq!(flags(disk), "0...i.. 1...... 2...... 3...i.. 4...i.. 5s.....");
    // By age: no page is an hour old; every page is at least 0 seconds old.
    let rig2 = rig_with(8, |builder| builder.access_times(true));
    rig2.disk.write(at(0), &marked(1, 500)[..]).unwrap();
    assert_eq!(rig2.disk.mark_idle_older_than(Duration::from_secs(3600)), 0);
    assert_eq!(rig2.disk.mark_idle_older_than(Duration::ZERO), 1);
    settle(rig2);
    // A disk that does not record access times marks nothing.
    let rig3 = common::rig(8);
    rig3.disk.write(at(0), &marked(1, 500)[..]).unwrap();
    assert_eq!(rig3.disk.mark_idle_older_than(Duration::ZERO), 0);
    settle(rig3);
    settle(rig);
}

#[test]
fn recompression_follows_priorities_filters_and_budgets() {
    let rig = rig(20);
    let (disk, moods) = (&rig.disk, &rig.moods);
    (0..4).for_each(|n| disk.write(at(n), &marked(n, 1000)[..]).unwrap());
    disk.write(at(4), &marked(4, 3300)[..]).unwrap();
    disk.write(at(5), &marked(5, PAGE_SIZE)[..]).unwrap();
    let bytes = || disk.mm_stat().compr_data_size;
    assert_eq!(bytes(), 4 * 1600 + 2 * 4096);

    // Recompresses at most three pages, with the first algorithm for recompression.
    let done = disk.recompress(&Recompress::new().priority(1).max_pages(3)).unwrap();
    assert_eq!((done.recompressed, done.not_smaller, done.bytes_saved), (3, 0, 900));
    assert_eq!(flags(disk), "0....r. 1....r. 2....r. 3...... 4..h... 5..h...");
    // Pages already at this priority are skipped, whether the algorithm is given by name or by priority.
    let done = disk.recompress(&Recompress::new().algorithm("trim").threshold(1400)).unwrap();
    assert_eq!((done.recompressed, done.bytes_saved), (2, 300 + 4096 - 3600));
    assert_eq!(done.not_smaller, 1, "noise");
    let before = moods.compressions.load(SeqCst);
    let done = disk.recompress(&Recompress::new().priority(1)).unwrap();
    assert_eq!((done.recompressed, done.not_smaller), (0, 0), "nothing is tried again");
    assert_eq!(moods.compressions.load(SeqCst), before);
    assert_eq!(flags(disk), "0....r. 1....r. 2....r. 3....r. 4....r. 5..h...");

    // Uses the algorithm of the highest priority: first on idle pages, then on huge pages.
    disk.mark_idle();
    check(disk, 0, &marked(0, 1000));
    let done = disk.recompress(&Recompress::new().idle().threshold(1300)).unwrap();
    assert_eq!((done.recompressed, done.not_smaller, done.bytes_saved), (4, 1, 1200));
    assert_eq!(flags(disk), "0....r. 1...ir. 2...ir. 3...ir. 4...ir. 5..hi.n");
    disk.write(at(6), &marked(6, PAGE_SIZE)[..]).unwrap();
    let done = disk.recompress(&Recompress::new().huge()).unwrap();
    assert_eq!((done.recompressed, done.not_smaller), (0, 1), "0 is not huge, 5 was tried");
    let done = disk.recompress(&Recompress::new()).unwrap();
    assert_eq!((done.recompressed, done.not_smaller), (1, 0));
    assert_eq!(bytes(), 4 * 1000 + 3300 + 2 * 4096);
    (0..4).for_each(|n| check(disk, n, &marked(n, 1000)));
    check(disk, 4, &marked(4, 3300));
    check(disk, 5, &marked(5, PAGE_SIZE));
    // A write makes the page eligible again.
    disk.write(at(5), &marked(7, 50)[..]).unwrap();
    assert_eq!(disk.recompress(&Recompress::new()).unwrap().recompressed, 1);

    for what in [Recompress::new().priority(3), Recompress::new().priority(0)] {
        let error = disk.recompress(&what).unwrap_err();
        assert!(error.to_string().contains("trim, tight"), "{error}");
    }
    assert!(disk.recompress(&Recompress::new().algorithm("loose")).is_err(), "the first of all");
    settle(rig);
}

#[test]
fn a_budget_of_recompression_counts_what_did_not_get_smaller_too() {
    let rig = rig(8);
    let disk = &rig.disk;
    for (n, len) in [(0, PAGE_SIZE), (1, 1000), (2, PAGE_SIZE), (3, 1000)] {
        disk.write(at(n), &marked(n, len)[..]).unwrap();
    }
    let before = rig.moods.compressions.load(SeqCst);
    let done = disk.recompress(&Recompress::new().max_pages(3)).unwrap();
    assert_eq!((done.recompressed, done.not_smaller), (1, 2));
    assert_eq!(rig.moods.compressions.load(SeqCst), before + 3);
    assert_eq!(flags(disk), "0..h..n 1....r. 2..h..n 3......");
    settle(rig);
}

#[test]
fn an_object_of_fifteen_sixteenths_of_a_page_wins_nothing() {
    let rig = rig(2);
    let disk = &rig.disk;
    // `trim` adds 300 bytes: page 0 compresses to 3840 bytes, the threshold, and page 1 to 3839.
    (0..2).for_each(|n| disk.write(at(n), &marked(n, 3540 - n as usize)[..]).unwrap());
    assert_eq!(flags(disk), "0..h... 1..h...");
    let done = disk.recompress(&Recompress::new().priority(1)).unwrap();
    assert_eq!((done.recompressed, done.not_smaller, done.bytes_saved), (1, 1, 4096 - 3839));
    assert_eq!(flags(disk), "0..h... 1....r.");
    settle(rig);
}

#[cfg_attr(miri, ignore = "the codec is a C library")]
#[test]
fn an_algorithm_goes_by_its_name_and_by_its_spec() {
    if cfg!(not(feature = "zstd")) {
        return;
    }
    let disk = Zram::builder().disksize(4096).algorithm("null").recompression("zstd:level=7");
    let disk = disk.build().unwrap();
    for known in ["zstd", "zstd:level=7"] {
        assert!(disk.recompress(&Recompress::new().algorithm(known)).is_ok(), "{known}");
    }
    for unknown in ["zstd:level=8", "null", ""] {
        let error = disk.recompress(&Recompress::new().algorithm(unknown)).unwrap_err();
        assert!(matches!(error, ZramError::NoSuchAlgorithm { .. }), "{error}");
    }
}

#[test]
fn writeback_takes_what_it_is_told_and_no_more_than_its_budgets() {
    let rig = rig(20);
    let disk = &rig.disk;
    (0..4).for_each(|n| disk.write(at(n), &marked(n, 1000)[..]).unwrap());
    (4..6).for_each(|n| disk.write(at(n), &marked(n, PAGE_SIZE)[..]).unwrap());
    disk.write(at(6), &[1; PAGE_SIZE]).unwrap();
    let written = |what: &Writeback| disk.writeback(what).unwrap().written;
    assert_eq!(written(&Writeback::new().incompressible()), 0);
    assert_eq!(written(&Writeback::new().idle()), 0);
    assert_eq!(written(&Writeback::new().huge().max_pages(1)), 1);
    assert_eq!(flags(disk), "0...... 1...... 2...... 3...... 4.w.... 5..h... 6s.....");
    disk.recompress(&Recompress::new().huge()).unwrap();
    assert_eq!(written(&Writeback::new().incompressible()), 1);
    assert_eq!(written(&Writeback::new().pages(1..2).pages(3..900).pages(6..7)), 2);
    assert_eq!(flags(disk), "0...... 1.w.... 2...... 3.w.... 4.w.... 5.w.... 6s.....");
    assert_eq!(disk.bd_stat().to_string(), "4 0 4");
    let stat = disk.mm_stat();
    assert_eq!((stat.orig_data_size, stat.huge_pages), (at(3), 0));
    for n in [1, 3] {
        check(disk, n, &marked(n, 1000));
    }
    check(disk, 5, &marked(5, PAGE_SIZE));
    assert_eq!(disk.bd_stat().to_string(), "4 3 4");
    // Each object has a checksum of 4 bytes. The pages were written by three calls.
    let stat = disk.bd_stat();
    let objects = [2 * (1600 + 16), 2 * (4096 + 16)].iter().sum::<u64>();
    assert_eq!((stat.bd_live_bytes, stat.bd_segments), (objects, 3));
    assert_eq!(stat.bd_bytes_written, rig.memory.bytes() as u64);
    assert_eq!(stat.bd_bytes_read, 2 * (1600 + 4) + 4096 + 4);
    // Writes a part of a page that is on the device.
    disk.write(at(1) + 10, &[9; 5]).unwrap();
    let mut page = marked(1, 1000);
    page[10..15].fill(9);
    check(disk, 1, &page);
    assert_eq!(disk.bd_stat().bd_count, 3);

    disk.set_writeback_limit(Some(1));
    disk.mark_idle();
    let done = disk.writeback(&Writeback::new().idle()).unwrap();
    assert_eq!((done.written, done.budget_used_up), (1, true));
    assert_eq!((disk.writeback_limit(), written(&Writeback::new())), (Some(0), 0));
    disk.set_writeback_limit(None);
    assert_eq!(written(&Writeback::new()), 2);
    assert_eq!(disk.mm_stat().orig_data_size, at(1), "the pattern");
    check(disk, 0, &marked(0, 1000));
    disk.reset();
    assert_eq!(disk.bd_stat(), BdStat::default());
    disk.write(at(0), &marked(0, 1000)[..]).unwrap();
    assert_eq!(written(&Writeback::new()), 1);
    check(disk, 0, &marked(0, 1000));
    let stat = disk.bd_stat();
    assert_eq!((stat.bd_bytes_written, stat.bd_bytes_read), (1616 + 13 + 4, 1604));

    let none = Zram::builder().disksize(4096).algorithm("null").build().unwrap();
    assert_eq!(none.writeback(&Writeback::new()), Err(ZramError::NoDevice));
    settle(rig);
}

#[test]
fn the_memory_limit_refuses_and_keeps_what_was_there() {
    let Rig { disk, .. } = &rig(20);
    disk.set_mem_limit(3 * PAGE_SIZE);
    let mut written = 0;
    let error = loop {
        match disk.write(at(written), &marked(written, PAGE_SIZE)[..]) {
            Ok(()) => written += 1,
            Err(error) => break error,
        }
    };
    assert_eq!((written, &error), (3, &ZramError::MemLimit { index: 3, limit: 3 * PAGE_SIZE }));
    // An overwrite stores the new page before it frees the old one, so it needs room for both.
    assert!(disk.write(at(1), &marked(9, PAGE_SIZE)[..]).is_err());
    (0..3).for_each(|n| check(disk, n, &marked(n, PAGE_SIZE)));
    check(disk, 3, &[0; PAGE_SIZE]);
    assert_eq!(disk.mm_stat().mem_limit, at(3));
    assert_eq!(disk.io_stat().failed_writes, 2);
    disk.discard(at(0), at(1)).unwrap();
    disk.write(at(3), &marked(3, PAGE_SIZE)[..]).unwrap();
    disk.set_mem_limit(0);
    (4..9).for_each(|n| disk.write(at(n), &marked(n, PAGE_SIZE)[..]).unwrap());
}

#[cfg_attr(miri, ignore = "a sum over many objects, of no use to Miri")]
#[test]
fn compaction_is_counted() {
    if cfg!(not(feature = "zsmalloc")) {
        return;
    }
    let count = 400;
    let packed = rig_with(count, |builder| builder.zpool("zsmalloc"));
    let disk = &packed.disk;
    (0..count).for_each(|n| disk.write(at(n), &marked(n, 900)[..]).unwrap());
    (0..count).filter(|n| n % 4 > 0).for_each(|n| disk.discard(at(n), at(1)).unwrap());
    let given_back = disk.compact().unwrap() as u64;
    assert!(given_back > 1, "{given_back}");
    assert_eq!(disk.mm_stat().pages_compacted, given_back);
    (0..count).step_by(4).for_each(|n| check(disk, n, &marked(n, 900)));
    settle(packed);
    let simple = rig(4);
    assert!(simple.disk.compact().is_err(), "zbud cannot");
    settle(simple);
}

#[cfg_attr(miri, ignore = "under Miri the pool keeps no pages warm")]
#[test]
fn trimming_gives_the_warm_pages_back_and_says_how_many() {
    let disk = Zram::builder().disksize(at(64)).algorithm("null").build().unwrap();
    (0..64).for_each(|n| disk.write(at(n), &marked(n, PAGE_SIZE)[..]).unwrap());
    disk.discard(0, at(64)).unwrap();
    let warm = disk.mm_stat().mem_used_total;
    assert!(warm > 1);
    assert_eq!(at(disk.trim() as u64), warm);
    assert_eq!((disk.mm_stat().mem_used_total, disk.trim()), (0, 0));
}

#[test]
fn what_cannot_be_built_is_said() {
    for bytes in [0, 1, 4095, 4097, u64::MAX] {
        let error = Zram::builder().disksize(bytes).build().unwrap_err();
        assert!(matches!(error, BuildError::DiskSize { .. }), "{error}");
    }
    let many = Zram::builder().disksize(4096).algorithm("null");
    let many = (0..4).fold(many, |builder, _| builder.recompression("null"));
    assert_eq!(many.build().unwrap_err(), BuildError::TooManyAlgorithms { asked: 5, most: 3 });
    let error = Zram::builder().disksize(4096).zpool("zlab").build().unwrap_err();
    assert!(error.to_string().contains("zbud"), "{error}");
    let error = Zram::builder().disksize(4096).recompression("zlab").build().unwrap_err();
    assert!(error.to_string().contains("null"), "{error}");
}

#[test]
fn a_disk_may_be_shared_and_sent() {
    fn both<T: Send + Sync>() {}
    both::<Zram>();
    both::<ZramError>();
    both::<Recompress>();
    both::<Writeback>();
}
