//! A disk for tests. Its codecs, pages and device can be made to fail, and count what they do.

#![allow(dead_code, reason = "each test file uses some of it")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use compressors::{Compressor, CompressorCtx, CompressorError};
use zpage::builtin;
use zpool_pages::{FailingPages, HeapPages};
use zram::device::{FaultySwapDevice, MemorySwapDevice};
use zram::{PAGE_SIZE, Page, Zram, ZramBuilder};

/// Makes the codecs fail or panic, and counts compressions.
#[derive(Debug, Default)]
pub(crate) struct Moods {
    pub(crate) fails: AtomicBool,
    pub(crate) panics: AtomicBool,
    pub(crate) compressions: AtomicUsize,
}

impl Moods {
    fn act(&self) -> Result<(), CompressorError> {
        assert!(!self.panics.load(SeqCst), "on purpose");
        if self.fails.load(SeqCst) {
            return Err(CompressorError::OutOfMemory { codec: "trim", what: "a test" });
        }
        Ok(())
    }
}

/// A codec that drops the zeros at a page's end, but keeps `extra` of them.
#[derive(Debug, Clone)]
struct Trim {
    name: &'static str,
    extra: usize,
    moods: Arc<Moods>,
}

impl Compressor for Trim {
    fn name(&self) -> &str {
        self.name
    }
    fn spec(&self) -> String {
        self.name.to_owned()
    }
    fn max_compressed_len(&self, len: usize) -> usize {
        len
    }
    fn new_ctx(&self) -> Result<Box<dyn CompressorCtx>, CompressorError> {
        Ok(Box::new(self.clone()))
    }
}

impl CompressorCtx for Trim {
    fn compress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, CompressorError> {
        self.moods.compressions.fetch_add(1, SeqCst);
        self.moods.act()?;
        let len = src.iter().rposition(|byte| *byte != 0).map_or(1, |last| last + 1);
        let len = (len + self.extra).min(src.len());
        dst[..len].copy_from_slice(&src[..len]);
        Ok(len)
    }
    fn decompress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<(), CompressorError> {
        self.moods.act()?;
        dst.fill(0);
        dst[..src.len()].copy_from_slice(src);
        Ok(())
    }
    fn memory_bytes(&self) -> usize {
        0
    }
}

/// A disk, with handles to make its parts fail.
pub(crate) struct Rig {
    pub(crate) disk: Zram,
    pub(crate) pages: Arc<FailingPages>,
    pub(crate) moods: Arc<Moods>,
    pub(crate) device: Arc<FaultySwapDevice>,
    /// The device that `device` wraps. It holds the pages that are on the device.
    pub(crate) memory: Arc<MemorySwapDevice>,
}

/// Makes a disk of `pages` pages over zbud. Its algorithms drop the zeros at a page's end, but may keep a fixed
/// number of them. `loose` compresses writes and keeps 600 zeros. `trim` and `tight` are for recompression:
/// `trim` keeps 300 zeros, and `tight` keeps none.
pub(crate) fn rig(pages: u64) -> Rig {
    rig_with(pages, |builder| builder)
}

pub(crate) fn rig_with(count: u64, more: impl FnOnce(ZramBuilder) -> ZramBuilder) -> Rig {
    let pages = Arc::new(FailingPages::new(Arc::new(HeapPages::new())));
    let moods = Arc::new(Moods::default());
    let memory = Arc::new(MemorySwapDevice::new(64));
    let device = Arc::new(FaultySwapDevice::new(memory.clone()));
    let mut codecs = builtin::compressors();
    for (name, extra) in [("loose", 600), ("trim", 300), ("tight", 0)] {
        let codec = Trim { name, extra, moods: moods.clone() };
        codecs.register(name, move |_| Ok(Arc::new(codec.clone()))).unwrap();
    }
    let given = pages.clone();
    let builder = Zram::builder()
        .disksize(count * PAGE_SIZE as u64)
        .compressor_registry(codecs)
        .pages(move || Ok(given.clone()))
        .zpool("zbud")
        .algorithm("loose")
        .recompression("trim")
        .recompression("tight")
        .backing_device(device.clone());
    let disk = more(builder).build().unwrap();
    Rig { disk, pages, moods, device, memory }
}

/// Returns a page that depends on `seed`. Its first `len` bytes are not zero, the others are.
pub(crate) fn marked(seed: u64, len: usize) -> Box<Page> {
    let mut page = Box::new([0; PAGE_SIZE]);
    let mut word = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    for byte in &mut page[..len] {
        word = word.wrapping_mul(0x2545_F491_4F6C_DD1D).rotate_left(11) | 1;
        *byte = word as u8 | 1;
    }
    page
}

pub(crate) fn at(index: u64) -> u64 {
    index * PAGE_SIZE as u64
}

pub(crate) fn check(disk: &Zram, index: u64, page: &Page) {
    let mut back = Box::new([7; PAGE_SIZE]);
    disk.read(at(index), &mut back[..]).unwrap();
    assert!(*back == *page, "page {index}");
}

/// Discards every page. Then checks that the pool, the device and the statistics are empty.
pub(crate) fn settle(rig: Rig) {
    rig.disk.discard(0, rig.disk.disksize()).unwrap();
    let stat = rig.disk.mm_stat();
    assert_eq!((stat.orig_data_size, stat.compr_data_size), (0, 0), "{stat}");
    assert_eq!((stat.same_pages, stat.huge_pages), (0, 0), "{stat}");
    assert_eq!((rig.disk.bd_stat().bd_count, rig.memory.pages()), (0, 0));
    assert_eq!(rig.disk.block_state().count(), 0);
    let warm = rig.pages.pages_out();
    assert_eq!(rig.disk.trim(), warm);
    assert_eq!(rig.pages.pages_out(), 0);
}
