//! Disks whose pages have 4 to 64 KiB: they read like arrays of bytes, too.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure in a test's helper is the test's own message"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread;

use zpool_base::sync::test_rng::Rng;
use zram::device::MemorySwapDevice;
use zram::{BuildError, PAGE_SIZE, Recompress, UnitError, Writeback, Zram, ZramBuilder, ZramError};

const UNITS: [usize; 5] = [4096, 8192, 16_384, 32_768, 65_536];

/// Makes bytes of one kind: zeros, one word, text, noise, or a mixture.
fn content(len: usize, seed: u64) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    let mut bytes = vec![0; len];
    let kind = rng.below(5);
    for (n, chunk) in bytes.chunks_mut(8).enumerate() {
        let word = match (kind, n % 4) {
            (0, _) => 0,
            (1, _) => 0x0102_0304_0506_0708,
            (2, _) => rng.next() % 16 * 0x0101_0101_0101_0101,
            (3, _) | (4, 0) => rng.next(),
            _ => n as u64 / 64,
        };
        chunk.copy_from_slice(&word.to_ne_bytes()[..chunk.len()]);
    }
    bytes
}

fn builder(unit: usize, disksize: u64) -> ZramBuilder {
    Zram::builder().disksize(disksize).unit(unit)
}

#[test]
fn random_operations_agree_with_an_array_of_bytes_in_every_unit() {
    for (unit, zpool) in
        UNITS.iter().flat_map(|unit| ["zsmalloc", "zbud"].map(|zpool| (*unit, zpool)))
    {
        // The last page is short, unless pages have 4096 bytes.
        let size = 10 * unit + 3 * PAGE_SIZE;
        let made = builder(unit, size as u64).zpool(zpool).algorithm("lz4").recompression("zstd");
        let disk = made.backing_device(Arc::new(MemorySwapDevice::new(4096))).build().unwrap();
        assert_eq!((disk.unit(), disk.disksize()), (unit, size as u64));
        let (mut model, mut rng) = (vec![0; size], Rng::new(unit as u64));
        for round in 0..1500 {
            let offset = rng.below(size);
            let offset = match rng.below(3) {
                0 => offset / unit * unit,
                1 => offset / PAGE_SIZE * PAGE_SIZE,
                _ => offset,
            };
            let len = [rng.below(300), PAGE_SIZE, unit, rng.below(3 * unit), size][rng.below(5)];
            let len = len.min(size - offset);
            let range = offset..offset + len;
            let (offset, bytes) = (offset as u64, len as u64);
            match rng.below(9) {
                0..=3 => {
                    let new = content(len, round);
                    disk.write(offset, &new).unwrap();
                    model[range].copy_from_slice(&new);
                }
                4 => {
                    disk.write_zeroes(offset, bytes).unwrap();
                    model[range].fill(0);
                }
                5 => {
                    disk.discard(offset, bytes).unwrap();
                    // A page that ends with the disk is whole if the range has all of it.
                    let first = range.start.next_multiple_of(unit);
                    let last = if range.end == size { size } else { range.end / unit * unit };
                    if first < last {
                        model[first..last].fill(0);
                    }
                }
                6 => {
                    disk.recompress(&Recompress::new().max_pages(3).priority(1)).unwrap();
                }
                7 => {
                    disk.writeback(&Writeback::new().max_pages(2)).unwrap();
                }
                _ => {
                    let mut read = vec![9; len];
                    disk.read(offset, &mut read).unwrap();
                    assert!(read == model[range], "unit {unit}, {zpool}, round {round}");
                }
            }
        }
        let mut read = vec![9; size];
        disk.read(0, &mut read).unwrap();
        assert!(read == model, "unit {unit}, {zpool}");
        for (part, expected) in model.chunks(1000).enumerate() {
            let read = &mut read[..expected.len()];
            disk.read(part as u64 * 1000, read).unwrap();
            assert!(read == expected, "unit {unit}, part {part}");
        }
        disk.reset();
        assert_eq!((disk.block_state().count(), disk.mm_stat().compr_data_size), (0, 0));
    }
}

/// Each thread owns words of every page, and writes only those.
#[test]
fn threads_that_write_parts_of_one_page_lose_no_write_and_read_no_old_one() {
    for unit in [4096, 32_768] {
        let (threads, pages) = (4, 3);
        let disk = builder(unit, (pages * unit) as u64).algorithm("lz4").build().unwrap();
        thread::scope(|scope| {
            for thread in 0..threads {
                let disk = &disk;
                scope.spawn(move || {
                    let words = unit / 8 / threads;
                    let (mut rng, mut written) = (Rng::new(thread as u64), vec![0; pages * words]);
                    for turn in 1..1500_u64 {
                        let mine = rng.below(written.len());
                        let (page, word) = (mine / words, mine % words);
                        let at = (page * unit + (word * threads + thread) * 8) as u64;
                        let mut read = [9; 8];
                        disk.read(at, &mut read).unwrap();
                        assert_eq!(
                            u64::from_ne_bytes(read),
                            written[mine],
                            "unit {unit}, word {mine}"
                        );
                        disk.write(at, &turn.to_ne_bytes()).unwrap();
                        written[mine] = turn;
                    }
                });
            }
        });
    }
}

/// A reader of parts never sees a number go back, whoever keeps copies of decompressed pages.
#[test]
fn a_part_is_never_older_than_the_last_write_that_has_returned() {
    let unit = 65_536;
    let disk = builder(unit, 4 * unit as u64).algorithm("lz4").build().unwrap();
    let acknowledged = [const { AtomicU64::new(0) }; 4];
    let rounds = 3000;
    thread::scope(|scope| {
        for page in 0..4_u64 {
            let (disk, acknowledged) = (&disk, &acknowledged[page as usize]);
            scope.spawn(move || {
                for n in 1..=rounds {
                    match n % 3 {
                        0 => disk.write(page * unit as u64, &vec![n as u8; unit]).unwrap(),
                        _ => disk.write(page * unit as u64 + 40_000, &[n as u8; 8]).unwrap(),
                    }
                    // SeqCst: whoever sees the number reads the disk after this write has returned.
                    acknowledged.store(n, SeqCst);
                }
            });
        }
        for _ in 0..2 {
            scope.spawn(|| {
                let mut rng = Rng::new(5);
                loop {
                    let page = rng.below(4);
                    let (before, mut read) = (acknowledged[page].load(SeqCst), [0; 8]);
                    disk.read((page * unit + 40_000) as u64, &mut read).unwrap();
                    let after = acknowledged[page].load(SeqCst) + 1;
                    let valid = (before..=after).any(|n| read == [n as u8; 8]);
                    assert!(valid, "page {page}: {read:?} is of no write from {before} to {after}");
                    if (0..4).all(|page| acknowledged[page].load(SeqCst) == rounds) {
                        return;
                    }
                }
            });
        }
    });
}

#[test]
fn parts_of_one_page_cost_one_decompression_and_their_copies_are_counted() {
    let unit = 32_768;
    let disk = builder(unit, 64 * unit as u64).build().unwrap();
    let bytes = content(64 * unit, 2);
    disk.write(0, &bytes).unwrap();
    let before = disk.metadata_bytes();
    let mut read = [0; 512];
    for at in (0..bytes.len()).step_by(512) {
        disk.read(at as u64, &mut read).unwrap();
        assert!(read == bytes[at..at + 512]);
    }
    assert_eq!(disk.metadata_bytes() - before, 16 * unit, "sixteen pages are kept");
    let small = builder(PAGE_SIZE, 1 << 20).build().unwrap();
    let before = small.metadata_bytes();
    small.read(100, &mut read).unwrap();
    assert_eq!(small.metadata_bytes(), before);
}

#[test]
fn a_page_that_is_read_in_part_is_not_idle() {
    let unit = 32_768;
    let disk = builder(unit, 4 * unit as u64).build().unwrap();
    disk.write(0, &content(2 * unit, 2)).unwrap();
    let mut read = [0; 512];
    disk.read(100, &mut read).unwrap();
    disk.mark_idle();
    // Found in the copy of the page.
    disk.read(5000, &mut read).unwrap();
    let idle: Vec<bool> = disk.block_state().map(|page| page.idle).collect();
    assert_eq!(idle, [false, true]);
}

#[test]
fn copies_of_pages_end_with_a_reset_or_a_trim() {
    let unit = 32_768;
    let disk = builder(unit, 4 * unit as u64).build().unwrap();
    let without = disk.metadata_bytes();
    for drop_copies in [Zram::reset as fn(&Zram), |disk| _ = disk.trim()] {
        disk.write(0, &content(2 * unit, 2)).unwrap();
        disk.read(100, &mut [0; 512]).unwrap();
        assert!(disk.metadata_bytes() >= without + unit);
        drop_copies(&disk);
        assert!(disk.metadata_bytes() < without + unit, "{}", disk.metadata_bytes() - without);
    }
}

#[test]
fn the_last_page_of_a_disk_may_be_short() {
    let (unit, rest) = (65_536, 4096);
    let disk = builder(unit, (unit + rest) as u64).build().unwrap();
    let bytes = content(unit + rest, 7);
    disk.write(0, &bytes).unwrap();
    assert_eq!(disk.mm_stat().orig_data_size, (unit + rest) as u64);
    disk.write(unit as u64, &bytes[..rest]).unwrap();
    let mut read = vec![0; rest];
    disk.read(unit as u64, &mut read).unwrap();
    assert!(read == bytes[..rest]);
}

#[test]
fn at_the_limit_a_write_of_a_part_keeps_the_old_content() {
    let unit = 16_384;
    let disk = builder(unit, 256 * unit as u64).mem_limit(1 << 20).build().unwrap();
    let mut noise = vec![0; unit];
    let (mut rng, mut written) = (Rng::new(3), 0);
    let refused = loop {
        noise.chunks_mut(8).for_each(|word| word.copy_from_slice(&rng.next().to_ne_bytes()));
        match disk.write(written * unit as u64, &noise) {
            Ok(()) => written += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, ZramError::MemLimit { .. }), "{refused}");
    assert!(written >= 40, "{written}");
    let mut before = vec![0; unit];
    disk.read(0, &mut before).unwrap();
    let error = disk.write(300 + written * unit as u64, &noise[..5000]).unwrap_err();
    assert!(matches!(error, ZramError::MemLimit { .. }), "{error}");
    let mut after = vec![1; unit];
    disk.read(written * unit as u64, &mut after).unwrap();
    assert_eq!(after, vec![0; unit], "the page was never written");
    disk.read(0, &mut after).unwrap();
    assert!(before == after);
}

#[test]
fn a_length_that_is_no_unit_is_refused() {
    for bytes in [0, 512, 12_288, 131_072] {
        let refused = builder(bytes, 1 << 20).build().unwrap_err();
        assert_eq!(refused, BuildError::Unit(UnitError { bytes }));
        assert!(refused.to_string().contains("32768"), "{refused}");
    }
}
