//! Many threads on one disk: reads and writes of a page are atomic, and a read returns the last acknowledged
//! write or a later one.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure in a test's helper is the test's own message"
)]

mod common;

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Barrier};
use std::thread;

use common::{at, check, marked, rig, settle};
use compressors::{Compressor, CompressorCtx, CompressorError, StatelessDecompress};
use zpage::builtin;
use zpool_base::sync::test_rng::Rng;
use zram::{PAGE_SIZE, Recompress, Writeback, Zram, ZramError};

const PAGES: u64 = 8;

/// Returns the byte that fills the first half of a page, and the byte that fills the second. Panics if a half is
/// not filled with one byte.
fn halves(page: &[u8]) -> (u8, u8) {
    let (first, second) = page.split_at(PAGE_SIZE / 2);
    assert!(first.iter().all(|byte| *byte == first[0]), "half a write");
    assert!(second.iter().all(|byte| *byte == second[0]), "half a write");
    (first[0], second[0])
}

#[test]
fn own_pages_hold_what_was_written_last_and_shared_ones_are_never_torn() {
    let rig = rig(64);
    let (threads, rounds) = if cfg!(miri) { (2, 12) } else { (4, 3000) };
    let (disk, stop) = (&rig.disk, &AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut rng = Rng::new(5);
            while !stop.load(SeqCst) {
                match rng.below(4) {
                    0 => drop(disk.mark_idle()),
                    1 => drop(
                        disk.recompress(&Recompress::new().priority(1 + rng.below(2))).unwrap(),
                    ),
                    2 => {
                        let done = disk.writeback(&Writeback::new().idle().max_pages(3));
                        let fine = matches!(done, Ok(_) | Err(ZramError::DeviceFull { .. }));
                        assert!(fine, "{done:?}");
                    }
                    _ => assert!(disk.block_state().count() <= 64),
                }
                thread::yield_now();
            }
        });
        let workers: Vec<_> = (0..threads)
            .map(|t| {
                scope.spawn(move || {
                    let mut rng = Rng::new(t + 1);
                    let mut held = vec![Box::new([0; PAGE_SIZE]); PAGES as usize];
                    let mut back = [0; PAGE_SIZE];
                    for round in 0..rounds {
                        // The thread's own pages lie after the shared ones.
                        let n = rng.below(PAGES as usize);
                        let own = PAGES * (t + 1) + n as u64;
                        match rng.below(6) {
                            0 => {
                                let page = marked(round * 9 + t, rng.below(PAGE_SIZE));
                                disk.write(at(own), &page[..]).unwrap();
                                held[n] = page;
                            }
                            1 => {
                                let (from, len) = (rng.below(4000), rng.below(96) + 1);
                                disk.write(at(own) + from as u64, &vec![9; len]).unwrap();
                                held[n][from..from + len].fill(9);
                            }
                            2 => {
                                disk.discard(at(own), at(1)).unwrap();
                                held[n].fill(0);
                            }
                            3 => disk
                                .write(
                                    at(rng.below(PAGES as usize) as u64),
                                    &[t as u8 + 1; PAGE_SIZE],
                                )
                                .unwrap(),
                            4 => {
                                // Writes half a page. The other half must stay as it is.
                                let half = (PAGE_SIZE / 2) as u64;
                                let shared = at(rng.below(PAGES as usize) as u64);
                                let side = rng.below(2) as u64 * half;
                                let bytes = [t as u8 + 101; PAGE_SIZE / 2];
                                disk.write(shared + side, &bytes).unwrap();
                            }
                            _ => {
                                let shared = rng.below(PAGES as usize) as u64;
                                disk.read(at(shared), &mut back).unwrap();
                                halves(&back);
                            }
                        }
                        check(disk, own, &held[n]);
                    }
                })
            })
            .collect();
        let results: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        stop.store(true, SeqCst);
        results.into_iter().for_each(|result| result.unwrap());
    });
    settle(rig);
}

/// Threads change different bytes of one page. No change is lost.
#[test]
fn changes_of_parts_of_one_page_add_up() {
    let rig = rig(1);
    let (threads, rounds) = if cfg!(miri) { (2, 8) } else { (4, 500) };
    thread::scope(|scope| {
        for t in 0..threads {
            let disk = &rig.disk;
            scope.spawn(move || {
                for round in 1..=rounds {
                    let bytes = (round as u32).to_le_bytes();
                    disk.write(t * 8, &bytes).unwrap();
                    let mut back = [0; 4];
                    disk.read(t * 8, &mut back).unwrap();
                    assert_eq!(back, bytes);
                }
            });
        }
    });
    settle(rig);
}

/// A codec that keeps only the first half of a page. If `sleeps` is set, the next compression sleeps until the
/// test wakes it.
#[derive(Clone, Debug)]
struct Sleepy {
    sleeps: Arc<AtomicBool>,
    asleep: Arc<Barrier>,
    wakes: Arc<Barrier>,
}

impl Compressor for Sleepy {
    fn name(&self) -> &str {
        "sleepy"
    }
    fn spec(&self) -> String {
        "sleepy".to_owned()
    }
    fn max_compressed_len(&self, len: usize) -> usize {
        len
    }
    fn new_ctx(&self) -> Result<Box<dyn CompressorCtx>, CompressorError> {
        Ok(Box::new(self.clone()))
    }
    fn stateless(&self) -> Option<&dyn StatelessDecompress> {
        Some(self)
    }
}

impl StatelessDecompress for Sleepy {
    fn decompress(&self, src: &[u8], dst: &mut [u8]) -> Result<(), CompressorError> {
        dst.fill(0);
        dst[..src.len()].copy_from_slice(src);
        Ok(())
    }
}

impl CompressorCtx for Sleepy {
    fn compress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, CompressorError> {
        if self.sleeps.swap(false, SeqCst) {
            self.asleep.wait();
            self.wakes.wait();
        }
        dst[..src.len() / 2].copy_from_slice(&src[..src.len() / 2]);
        Ok(src.len() / 2)
    }
    fn decompress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<(), CompressorError> {
        StatelessDecompress::decompress(self, src, dst)
    }
    fn memory_bytes(&self) -> usize {
        0
    }
}

/// Readers do not wait while a compression sleeps, with one exception: if the compression belongs to a write of a
/// part of a page, readers of that page wait.
#[test]
fn a_compression_that_sleeps_holds_up_its_own_page_at_most() {
    let both = || Arc::new(Barrier::new(2));
    let codec = Sleepy { sleeps: Arc::default(), asleep: both(), wakes: both() };
    let (mut codecs, theirs) = (builtin::compressors(), codec.clone());
    codecs.register("sleepy", move |_| Ok(Arc::new(theirs.clone()))).unwrap();
    let disk = Zram::builder().disksize(at(2)).compressor_registry(codecs).zpool("zbud");
    let disk = disk.algorithm("sleepy").build().unwrap();
    let (first, second) = (marked(1, 300), marked(2, 300));
    disk.write(at(0), &first[..]).unwrap();
    disk.write(at(1), &second[..]).unwrap();

    thread::scope(|scope| {
        let disk = &disk;
        codec.sleeps.store(true, SeqCst);
        let whole = scope.spawn(|| disk.write(at(0), &marked(3, 300)[..]));
        codec.asleep.wait();
        check(disk, 0, &first);
        check(disk, 1, &second);
        codec.wakes.wait();
        whole.join().unwrap().unwrap();
        check(disk, 0, &marked(3, 300));

        codec.sleeps.store(true, SeqCst);
        let part = scope.spawn(|| disk.write(40, b"a part"));
        codec.asleep.wait();
        check(disk, 1, &second);
        let mut changed = marked(3, 300);
        changed[40..46].copy_from_slice(b"a part");
        // A write of a part locks the slot before it reads the page, and unlocks it when the change is stored.
        let waits = scope.spawn(move || check(disk, 0, &changed));
        // Gives the reader time to read the old page. If it did, `check` would fail.
        (0..if cfg!(miri) { 50 } else { 5000 }).for_each(|_| thread::yield_now());
        codec.wakes.wait();
        part.join().unwrap().unwrap();
        waits.join().unwrap();
    });
}

#[test]
fn what_is_counted_page_by_page_is_never_below_nothing() {
    let rig = rig(1);
    let rounds = if cfg!(miri) { 3 } else { 150_000 };
    let (disk, stop) = (&rig.disk, &AtomicBool::new(false));
    thread::scope(|scope| {
        let workers: Vec<_> = (0..2)
            .map(|t| {
                let page = marked(t, PAGE_SIZE);
                scope.spawn(move || {
                    for _ in 0..rounds {
                        disk.write(0, &page[..]).unwrap();
                        disk.write(0, &[7; PAGE_SIZE]).unwrap();
                        disk.discard(0, PAGE_SIZE as u64).unwrap();
                    }
                })
            })
            .collect();
        scope.spawn(move || {
            while !stop.load(SeqCst) {
                let stat = disk.mm_stat();
                let one =
                    [stat.orig_data_size / PAGE_SIZE as u64, stat.same_pages, stat.huge_pages];
                assert!(one.iter().all(|pages| *pages <= 1), "{stat}");
                thread::yield_now();
            }
        });
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        stop.store(true, SeqCst);
    });
    settle(rig);
}
