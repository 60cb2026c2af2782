//! A disk for tests. Its codecs, pages and device can be made to fail, and count what they do.

#![allow(dead_code, reason = "each test file uses some of it")]

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Barrier};
use std::thread;

use compressors::{Compressor, CompressorCtx, CompressorError};
use zpage::builtin;
use zpool_pages::{FailingPages, HeapPages};
use zram::device::{DeviceError, FaultySwapDevice, Geometry, MemorySwapDevice, SwapDevice};
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

/// Wraps a device. The next write or read can be made to wait until the test lets it go on, or to panic.
#[derive(Debug)]
pub(crate) struct Gate {
    inner: Arc<dyn SwapDevice>,
    stops_write: AtomicBool,
    stops_read: AtomicBool,
    pub(crate) write_panics: AtomicBool,
    stopped: Barrier,
    goes_on: Barrier,
}

impl Gate {
    fn new(inner: Arc<dyn SwapDevice>) -> Self {
        let (stops_write, stops_read, write_panics) = Default::default();
        let (stopped, goes_on) = (Barrier::new(2), Barrier::new(2));
        Gate { inner, stops_write, stops_read, write_panics, stopped, goes_on }
    }

    fn pass(&self, stops: &AtomicBool) {
        if stops.swap(false, SeqCst) {
            self.stopped.wait();
            self.goes_on.wait();
        }
    }

    fn with_stopped<T: Send>(
        &self,
        stops: &AtomicBool,
        call: impl FnOnce() -> T + Send,
        act: impl FnOnce(),
    ) -> T {
        stops.store(true, SeqCst);
        thread::scope(|scope| {
            let called = scope.spawn(call);
            self.stopped.wait();
            let acted = catch_unwind(AssertUnwindSafe(act));
            self.goes_on.wait();
            let result = called.join().unwrap();
            acted.unwrap_or_else(|panic| resume_unwind(panic));
            result
        })
    }

    /// Runs `call` on another thread, and `act` while the device is in the first write of `call`.
    pub(crate) fn in_write<T: Send>(
        &self,
        call: impl FnOnce() -> T + Send,
        act: impl FnOnce(),
    ) -> T {
        self.with_stopped(&self.stops_write, call, act)
    }

    /// Runs `call` on another thread, and `act` while the device is in the first read of `call`.
    pub(crate) fn in_read<T: Send>(
        &self,
        call: impl FnOnce() -> T + Send,
        act: impl FnOnce(),
    ) -> T {
        self.with_stopped(&self.stops_read, call, act)
    }
}

impl SwapDevice for Gate {
    fn geometry(&self) -> Geometry {
        self.inner.geometry()
    }
    fn write_segment(&self, segment: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        self.pass(&self.stops_write);
        assert!(!self.write_panics.load(SeqCst), "on purpose");
        self.inner.write_segment(segment, bytes)
    }
    fn read(&self, segment: u64, offset: usize, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.pass(&self.stops_read);
        self.inner.read(segment, offset, bytes)
    }
    fn discard(&self, segment: u64) {
        self.inner.discard(segment);
    }
    fn inner(&self) -> &[Arc<dyn SwapDevice>] {
        core::slice::from_ref(&self.inner)
    }
    fn memory_bytes(&self) -> usize {
        self.inner.memory_bytes()
    }
}

/// A disk, with handles to make its parts fail.
pub(crate) struct Rig {
    pub(crate) disk: Zram,
    pub(crate) pages: Arc<FailingPages>,
    pub(crate) moods: Arc<Moods>,
    /// The disk's device. It wraps `device`.
    pub(crate) gate: Arc<Gate>,
    pub(crate) device: Arc<FaultySwapDevice>,
    /// The device that `device` wraps. It holds the segments that are on the device.
    pub(crate) memory: Arc<MemorySwapDevice>,
}

/// Makes a disk of `pages` pages over zbud. Its algorithms drop the zeros at a page's end, but may keep a fixed
/// number of them. `loose` compresses writes and keeps 600 zeros. `trim` and `tight` are for recompression:
/// `trim` keeps 300 zeros, and `tight` keeps none.
pub(crate) fn rig(pages: u64) -> Rig {
    rig_with(pages, |builder| builder)
}

pub(crate) fn rig_with(count: u64, more: impl FnOnce(ZramBuilder) -> ZramBuilder) -> Rig {
    rig_on(count, MemorySwapDevice::new(256), more)
}

/// As `rig`, with a device of this number of segments of this many bytes.
pub(crate) fn rig_of(count: u64, segments: u64, segment_bytes: usize) -> Rig {
    let geometry = Geometry { segments, segment_bytes, block_bytes: 1 };
    rig_on(count, MemorySwapDevice::with_geometry(geometry), |builder| builder)
}

fn rig_on(
    count: u64,
    memory: MemorySwapDevice,
    more: impl FnOnce(ZramBuilder) -> ZramBuilder,
) -> Rig {
    let pages = Arc::new(FailingPages::new(Arc::new(HeapPages::new())));
    let moods = Arc::new(Moods::default());
    let memory = Arc::new(memory);
    let device = Arc::new(FaultySwapDevice::new(memory.clone()));
    let gate = Arc::new(Gate::new(device.clone()));
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
        .backing_device(gate.clone());
    let disk = more(builder).build().unwrap();
    Rig { disk, pages, moods, gate, device, memory }
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
    let stat = rig.disk.bd_stat();
    assert_eq!((stat.bd_count, stat.bd_live_bytes, stat.bd_segments), (0, 0, 0), "{stat}");
    assert_eq!(rig.memory.segments(), 0);
    assert_eq!(rig.disk.block_state().count(), 0);
    // A page with an object that a reader still held when it was freed goes straight back, so it is out
    // and yet not warm.
    let out = rig.pages.pages_out();
    let trimmed = rig.disk.trim();
    assert!(trimmed <= out, "{trimmed} {out}");
    assert_eq!(rig.pages.pages_out(), 0);
}
