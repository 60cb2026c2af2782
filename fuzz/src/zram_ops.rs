//! Runs operations on a compressed block device and compares it with an array of bytes.

use std::sync::{Arc, Mutex};

use arbitrary::Arbitrary;
use zpool_pages::{FailingPages, HeapPages};
use zram::device::{FaultySwapDevice, MemorySwapDevice};
use zram::{PAGE_SIZE, Recompress, Writeback, Zram, ZramError};

const PAGES: usize = 24;
const SIZE: usize = PAGES * PAGE_SIZE;
const ZPOOLS: [&str; 3] = ["zsmalloc", "z3fold", "zbud"];
/// The units. With 64 KiB the disk ends within its second one.
const UNITS: [usize; 5] = [4096, 8192, 16_384, 32_768, 65_536];

/// A range on the disk. It may end a little beyond the disk's end.
#[derive(Arbitrary, Debug, Clone, Copy)]
pub struct Place {
    page: u8,
    from: u16,
    len: u16,
    whole: bool,
}

/// The content of the bytes that are written.
#[derive(Arbitrary, Debug, Clone, Copy)]
pub enum Content {
    Word(u64),
    Text(u8),
    Noise(u64),
}

#[derive(Arbitrary, Debug)]
pub enum Op {
    Write(Place, Content),
    Read(Place),
    Discard(Place),
    WriteZeroes(Place),
    MarkIdle,
    Recompress { priority: u8, budget: Option<u8>, idle: bool, huge: bool, threshold: u16 },
    Writeback { budget: Option<u8>, idle: bool, huge: bool, incompressible: bool, from: u8, to: u8 },
    WritebackLimit(Option<u8>),
    MemLimit(u8),
    Compact,
    Trim,
    Reset,
    FailCall(u8),
    FailWrites(u8),
    FailReads(u8),
}

#[derive(Arbitrary, Debug)]
pub struct Input {
    zpool: u8,
    access_times: bool,
    ops: Vec<Op>,
}

impl Place {
    /// Returns the offset and the length of the range in bytes. Now and then the range ends beyond
    /// the disk's end.
    fn range(self) -> (usize, usize) {
        let page = usize::from(self.page) % (PAGES + 1);
        let from = if self.whole { 0 } else { usize::from(self.from) % PAGE_SIZE };
        let len = usize::from(self.len) % (3 * PAGE_SIZE);
        (page * PAGE_SIZE + from, if self.whole { len / PAGE_SIZE * PAGE_SIZE } else { len })
    }
}

fn bytes(content: Content, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    match content {
        Content::Word(word) => {
            bytes.chunks_mut(8).for_each(|c| c.copy_from_slice(&word.to_le_bytes()[..c.len()]));
        }
        Content::Text(seed) => {
            for (i, byte) in bytes.iter_mut().enumerate() {
                *byte = b"compressed memory for userspace "[(i + i / 97 * usize::from(seed)) % 32];
            }
        }
        Content::Noise(seed) => {
            let mut word = seed | 1;
            for byte in &mut bytes {
                word ^= word << 13;
                word ^= word >> 7;
                word ^= word << 17;
                *byte = word as u8;
            }
        }
    }
    bytes
}

/// Runs the first 150 operations and checks the disk after each. Then reads and empties it.
pub fn run(input: &Input) {
    let made: Arc<Mutex<Option<Arc<FailingPages>>>> = Arc::default();
    let keep = made.clone();
    let zpool = usize::from(input.zpool);
    let unit = UNITS[zpool / ZPOOLS.len() % UNITS.len()];
    // A device for large units needs several segments.
    let memory = Arc::new(MemorySwapDevice::new(if unit == PAGE_SIZE { 10 } else { 256 }));
    let device = Arc::new(FaultySwapDevice::new(memory.clone()));
    let disk = Zram::builder()
        .disksize(SIZE as u64)
        .unit(unit)
        .zpool(ZPOOLS[zpool % ZPOOLS.len()])
        .algorithm("lz4")
        .recompression("lz4hc")
        .recompression("zstd:level=3")
        .access_times(input.access_times)
        .pages_of(move |bytes| {
            // A backend may be built twice, on larger pages the second time. The last provider is in use.
            let pages = FailingPages::new(Arc::new(HeapPages::with_page_size(bytes)?));
            let pages = Arc::new(pages);
            *keep.lock().expect("no panic under the lock") = Some(pages.clone());
            Ok(pages)
        })
        .backing_device(device.clone())
        .build()
        .expect("built-in names");
    let pages = made.lock().expect("no panic under the lock").take().expect("the pool has one");
    let mut model = vec![0; SIZE];
    for op in input.ops.iter().take(150) {
        run_op(op, &disk, &mut model, &pages, &device);
        assert_eq!(disk.bd_stat().bd_segments, memory.segments() as u64);
        let states = disk.block_state().filter(|state| !state.written_back).count();
        assert_eq!(disk.mm_stat().orig_data_size as usize, (states * unit).min(SIZE));
    }
    device.fail_reads(0, 0);
    let mut back = vec![1; SIZE];
    disk.read(0, &mut back).expect("it is there");
    assert!(back == model, "other bytes came back");
    disk.discard(0, SIZE as u64).expect("on the disk");
    assert_eq!((disk.mm_stat().compr_data_size, memory.segments()), (0, 0));
    drop(disk);
    assert_eq!(pages.pages_out(), 0, "pages left out");
}

fn run_op(op: &Op, disk: &Zram, model: &mut [u8], pages: &FailingPages, device: &FaultySwapDevice) {
    match *op {
        Op::Write(place, content) => {
            let (offset, len) = place.range();
            let new = bytes(content, len);
            let done = disk.write(offset as u64, &new);
            wrote(done, disk.unit(), offset, len, model, |model, range| {
                let from = range.start - offset;
                model[range.clone()].copy_from_slice(&new[from..from + range.len()]);
            });
        }
        Op::WriteZeroes(place) => {
            let (offset, len) = place.range();
            let done = disk.write_zeroes(offset as u64, len as u64);
            wrote(done, disk.unit(), offset, len, model, |model, range| model[range].fill(0));
        }
        Op::Read(place) => {
            let (offset, len) = place.range();
            let mut back = vec![1; len];
            match disk.read(offset as u64, &mut back) {
                Ok(()) => assert!(back == model[offset..offset + len], "other bytes came back"),
                Err(ZramError::OutOfRange { .. }) => assert!(offset + len > SIZE),
                Err(ZramError::Device { .. }) => {}
                Err(other) => panic!("{other}"),
            }
        }
        Op::Discard(place) => {
            let (offset, len) = place.range();
            match disk.discard(offset as u64, len as u64) {
                Ok(()) => {
                    let unit = disk.unit();
                    let first = offset.div_ceil(unit) * unit;
                    // The last unit ends with the disk.
                    let end = offset + len;
                    let last = if end == SIZE { end } else { end / unit * unit };
                    if first < last {
                        model[first..last].fill(0);
                    }
                }
                Err(_) => assert!(offset + len > SIZE),
            }
        }
        Op::MarkIdle => assert!(disk.mark_idle() <= PAGES as u64),
        Op::Recompress { priority, budget, idle, huge, threshold } => {
            let mut what = Recompress::new().threshold(usize::from(threshold) % 5000);
            what = if idle { what.idle() } else { what };
            what = if huge { what.huge() } else { what };
            what = match priority % 4 {
                0 => what,
                n => what.priority(usize::from(n)),
            };
            what = budget.map_or(what.clone(), |n| what.max_pages(u64::from(n)));
            match disk.recompress(&what) {
                Ok(done) => {
                    assert!(
                        budget.is_none_or(|n| {
                            done.recompressed + done.not_smaller <= u64::from(n)
                        })
                    );
                }
                Err(ZramError::NoSuchAlgorithm { .. }) => assert_eq!(priority % 4, 3),
                Err(ZramError::Pool { .. }) => {}
                Err(other) => panic!("{other}"),
            }
        }
        Op::Writeback { budget, idle, huge, incompressible, from, to } => {
            let mut what = Writeback::new();
            what = if idle { what.idle() } else { what };
            what = if huge { what.huge() } else { what };
            what = if incompressible { what.incompressible() } else { what };
            what = if from < to { what.pages(u64::from(from)..u64::from(to)) } else { what };
            what = budget.map_or(what.clone(), |n| what.max_pages(u64::from(n)));
            match disk.writeback(&what) {
                Ok(done) => assert!(budget.is_none_or(|n| done.written <= u64::from(n))),
                Err(ZramError::Device { .. } | ZramError::DeviceFull { .. }) => {}
                Err(other) => panic!("{other}"),
            }
        }
        Op::WritebackLimit(limit) => disk.set_writeback_limit(limit.map(u64::from)),
        Op::MemLimit(n) => disk.set_mem_limit(usize::from(n) * PAGE_SIZE),
        Op::Compact => drop(disk.compact()),
        Op::Trim => drop(disk.trim()),
        Op::Reset => {
            disk.reset();
            model.fill(0);
        }
        Op::FailCall(n) => pages.fail_call(u64::from(n)),
        Op::FailWrites(n) => device.fail_writes(u64::from(n), 2),
        Op::FailReads(n) => device.fail_reads(u64::from(n), 2),
    }
}

/// Applies a write to the model. If the write failed at a page, only the bytes before that page are
/// applied. `done` is the result of the write.
fn wrote(
    done: Result<(), ZramError>,
    unit: usize,
    offset: usize,
    len: usize,
    model: &mut [u8],
    mut change: impl FnMut(&mut [u8], std::ops::Range<usize>),
) {
    match done {
        Ok(()) => change(model, offset..offset + len),
        Err(ZramError::OutOfRange { .. }) => assert!(offset + len > SIZE),
        Err(
            ZramError::Pool { index, .. }
            | ZramError::MemLimit { index, .. }
            | ZramError::Device { index, .. },
        ) => {
            let end = index as usize * unit;
            assert!((offset / unit..=(offset + len) / unit).contains(&(index as usize)));
            if offset < end {
                change(model, offset..end);
            }
        }
        Err(other) => panic!("{other}"),
    }
}
