//! A device that can be made to fail, and that checks how it is used.
//!
//! It wraps another device. Faults are switched while it is in use. The stamps of the last failures are
//! recorded, so that an error of the store can be compared with what really happened. The device checks
//! the contract of `SwapDevice`: a segment that was written is discarded before it is written again; only
//! ranges that were written are read, and none whose write failed; no segment is written or discarded
//! while it is read or written; lengths and offsets are multiples of the block.

use core::time::Duration;
use std::cell::Cell;
use std::io;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use zpool_base::sync::test_rng::Rng;
use zswap_core::device::{DeviceError, Geometry, SwapDevice};

use crate::action::{self, Marks, Tally};
use crate::clock::Clock;
use crate::finding::{Findings, lock};

/// A way in which a device can fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub enum Fault {
    /// Writes fail.
    Write = 1,
    /// Reads fail.
    Read = 2,
    /// Writes fail for lack of space.
    Full = 4,
    /// Writes store half of the segment and fail.
    Torn = 8,
    /// Half of the reads, writes, discards and flushes panic, chosen at random.
    Panic = 16,
    /// Movers, and one in eight other calls, pause for up to a few milliseconds before a write or read.
    Slow = 32,
    /// Half of the reads succeed with other bytes: flipped ones, those of another segment, or those that the
    /// segment held before it was last written.
    Corrupt = 64,
    /// Flushes fail.
    Flush = 128,
}

impl Fault {
    /// Every fault.
    pub const ALL: [Fault; 8] = [
        Fault::Write,
        Fault::Read,
        Fault::Full,
        Fault::Torn,
        Fault::Panic,
        Fault::Slow,
        Fault::Corrupt,
        Fault::Flush,
    ];
}

/// What can fail, or be reported. Each kind has a stamp of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failed {
    /// A write failed or panicked.
    Write,
    /// A write was refused with `DeviceError::Full`.
    Full,
    /// A read of a page that is being loaded failed or panicked.
    Load,
    /// A read of a page that is being loaded gave other bytes.
    CorruptLoad,
    /// A read of a segment that is being cleaned failed or panicked.
    Clean,
    /// A read of a segment that is being cleaned gave other bytes.
    CorruptClean,
    /// A flush failed or panicked.
    Flush,
}

const KINDS: usize = Failed::Flush as usize + 1;

/// The segment was written, or a write of it failed, and it was not discarded since.
const WRITTEN: u32 = 1 << 31;
/// The segment is being written.
const WRITING: u32 = 1 << 30;

thread_local! {
    /// Whether this thread loads pages. Other reads of the device are those of cleaning.
    static LOADS: Cell<bool> = const { Cell::new(false) };
    /// Whether the last load of this thread got bytes that cannot be those of its page.
    static MISLED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `body`, which loads pages on this thread. Returns its result, and whether the device has given the
/// load a page's worth of wrong bytes, so that the load cannot succeed.
pub fn loading<T>(body: impl FnOnce() -> T) -> (T, bool) {
    struct Reset;
    impl Drop for Reset {
        fn drop(&mut self) {
            LOADS.set(false);
        }
    }
    LOADS.set(true);
    MISLED.set(false);
    let _reset = Reset;
    let result = body();
    (result, MISLED.get())
}

/// The faults of a device, and when it last failed. A device of pages below the device shares them.
#[derive(Debug)]
pub struct Faults {
    clock: Arc<Clock>,
    /// The active faults, as bits.
    active: AtomicU16,
    /// For each kind of failure, the stamp of the last.
    stamps: [AtomicU64; KINDS],
    /// For each kind of failure, when it last came, in nanoseconds since `made`, plus one; 0 if it did not.
    times: [AtomicU64; KINDS],
    made: Instant,
}

impl Faults {
    /// Makes a record without failures. No fault is active.
    pub fn new(clock: Arc<Clock>) -> Self {
        Faults {
            clock,
            active: AtomicU16::new(0),
            stamps: Default::default(),
            times: Default::default(),
            made: Instant::now(),
        }
    }

    /// Returns whether a fault is active.
    pub fn is_on(&self, fault: Fault) -> bool {
        self.active.load(Ordering::SeqCst) & fault as u16 != 0
    }

    /// Records a failure.
    pub fn fail(&self, kind: Failed) {
        // The stamp is taken before the call returns, so it is below the end of any call that reports
        // the failure.
        self.stamps[kind as usize].fetch_max(self.clock.stamp(), Ordering::SeqCst);
        let nanos = u64::try_from(self.made.elapsed().as_nanos()).unwrap_or(u64::MAX - 1);
        self.times[kind as usize].fetch_max(nanos + 1, Ordering::SeqCst);
    }

    fn panics_now(&self) -> bool {
        self.is_on(Fault::Panic) && Rng::new(self.clock.stamp()).below(2) == 0
    }

    /// If [`Fault::Panic`] is active, panics at random, and records that as a failure of this kind. A panic of a
    /// discard is none.
    pub fn maybe_panic(&self, kind: Option<Failed>) {
        if self.panics_now() {
            if let Some(kind) = kind {
                self.fail(kind);
            }
            // Does not call the panic hook, which records only panics that were not ordered.
            std::panic::resume_unwind(Box::new("torture ordered this panic of the device"))
        }
    }
}

/// What the device knows about a segment.
#[derive(Debug, Default)]
struct Segment {
    /// The number of readers, [`WRITTEN`] and [`WRITING`].
    state: AtomicU32,
    /// How many bytes can be read: 0 unless the last write succeeded and is over.
    len: AtomicUsize,
    /// The bytes that were written last, and those before, for [`Fault::Corrupt`].
    held: Mutex<[Vec<u8>; 2]>,
}

/// A device that fails on request. See the module's documentation.
#[derive(Debug)]
pub struct TortureDevice {
    inner: Arc<dyn SwapDevice>,
    geometry: Geometry,
    clock: Arc<Clock>,
    marks: Arc<Marks>,
    tally: Arc<Tally>,
    findings: Arc<Findings>,
    faults: Arc<Faults>,
    /// Whether the bytes of segments are kept for [`Fault::Corrupt`].
    keeps: bool,
    /// The longest pause before a write or read, in microseconds. [`Fault::Slow`] makes it longer.
    pause: u32,
    segments: Box<[Segment]>,
    /// Segments that were written and not discarded since.
    written: AtomicUsize,
    /// How many segments may be taken without being written.
    in_hand: AtomicUsize,
    /// The stamp of the last discard that made room on a full device.
    full: AtomicU64,
    /// Discards that may have lowered `written` already and have not set `full` yet.
    discarding: AtomicUsize,
}

impl TortureDevice {
    /// Wraps `inner`. Nothing fails yet; writes and reads pause for up to `pause`. At most `in_hand`
    /// segments are not free although they are not written: they are about to be written, were just
    /// discarded, or are left for cleaning. `may_corrupt` says whether [`Fault::Corrupt`] is used.
    #[expect(clippy::too_many_arguments, reason = "it is made in one place")]
    pub fn new(
        inner: Arc<dyn SwapDevice>,
        pause: Duration,
        in_hand: usize,
        may_corrupt: bool,
        faults: Arc<Faults>,
        marks: Arc<Marks>,
        tally: Arc<Tally>,
        findings: Arc<Findings>,
    ) -> Self {
        let geometry = inner.geometry();
        TortureDevice {
            segments: (0..geometry.segments).map(|_| Segment::default()).collect(),
            inner,
            geometry,
            clock: faults.clock.clone(),
            marks,
            tally,
            findings,
            faults,
            keeps: may_corrupt,
            pause: u32::try_from(pause.as_micros()).unwrap_or(u32::MAX),
            written: AtomicUsize::new(0),
            in_hand: AtomicUsize::new(in_hand),
            full: AtomicU64::new(0),
            discarding: AtomicUsize::new(0),
        }
    }

    /// Activates exactly these faults.
    pub fn set(&self, faults: &[Fault]) {
        let bits = faults.iter().fold(0, |bits, fault| bits | *fault as u16);
        self.faults.active.store(bits, Ordering::SeqCst);
    }

    /// Changes how many segments may be taken without being written. Nobody uses the device now.
    pub fn set_in_hand(&self, in_hand: usize) {
        self.in_hand.store(in_hand, Ordering::SeqCst);
        self.full.store(0, Ordering::SeqCst);
    }

    /// Returns whether any fault is active.
    pub fn is_failing(&self) -> bool {
        self.faults.active.load(Ordering::SeqCst) != 0
    }

    /// Returns whether there was a failure of one of these kinds at or after a stamp.
    pub fn failed_since(&self, kinds: &[Failed], stamp: u64) -> bool {
        kinds.iter().any(|kind| self.faults.stamps[*kind as usize].load(Ordering::SeqCst) >= stamp)
    }

    /// Returns whether there was a failure of one of these kinds at or after an instant.
    pub fn failed_after(&self, kinds: &[Failed], moment: Instant) -> bool {
        let after = |kind: &Failed| {
            let nanos = self.faults.times[*kind as usize].load(Ordering::SeqCst).checked_sub(1);
            nanos.is_some_and(|nanos| self.faults.made + Duration::from_nanos(nanos) >= moment)
        };
        kinds.iter().any(after)
    }

    /// Returns whether no segment but those in hand may have been free at some moment at or after a stamp.
    pub fn was_full_since(&self, stamp: u64) -> bool {
        // The order of these loads matters. `discard` raises `discarding` before it lowers `written`,
        // and lowers `discarding` after it has set `full`.
        self.written.load(Ordering::SeqCst) >= self.full_from()
            || self.discarding.load(Ordering::SeqCst) > 0
            || self.full.load(Ordering::SeqCst) >= stamp
    }

    fn full_from(&self) -> usize {
        self.segments.len().saturating_sub(self.in_hand.load(Ordering::SeqCst))
    }

    /// Returns the fewest segments that are written while the device is full.
    pub fn fewest_written(&self) -> usize {
        self.full_from()
    }

    /// Returns the number of segments that are written.
    pub fn written_segments(&self) -> usize {
        self.written.load(Ordering::SeqCst)
    }

    fn misused(&self, what: &str, segment: u64) {
        let what = format!("segment {segment} of the device {what}");
        self.findings.report("the device was misused", what);
    }

    /// Returns what is known about a segment. Reports a finding if it does not exist, or if the range is not
    /// within it or does not consist of whole blocks.
    fn segment(&self, segment: u64, offset: usize, len: usize) -> Option<&Segment> {
        if let Err(error) = self.geometry.check(segment, offset, len) {
            self.misused(&format!("does not have this range: {error}"), segment);
        }
        self.segments.get(usize::try_from(segment).ok()?)
    }

    /// Pauses. If [`Fault::Panic`] is active, then panics at random, and records that as a failure.
    fn take_time(&self, kind: Failed) {
        let slow = self.faults.is_on(Fault::Slow);
        let most = if slow { 5 * self.pause + 2000 } else { self.pause };
        let mut rng = Rng::new(self.clock.last());
        let pause = rng.below(most as usize + 1);
        // A mover that is slow here gives other threads the most time to overtake it.
        if most > 0 && (action::is_mover() || rng.below(8) == 0) {
            std::thread::sleep(Duration::from_micros(pause as u64));
        }
        self.faults.maybe_panic(Some(kind));
    }

    /// Changes the bytes of a successful read. Returns whether the result cannot be taken for what was written:
    /// every object in it has changed.
    fn corrupt(&self, segment: &Segment, offset: usize, bytes: &mut [u8]) -> Option<bool> {
        let mut rng = Rng::new(self.clock.stamp());
        if bytes.is_empty() || rng.below(2) == 0 {
            return None;
        }
        let range = offset..offset + bytes.len();
        let (right, mut all) = (bytes.to_vec(), false);
        match rng.below(4) {
            0 => {
                for _ in 0..=rng.below(3) {
                    let at = rng.below(8 * bytes.len());
                    bytes[at / 8] ^= 1 << (at % 8);
                }
            }
            1 => {
                bytes.iter_mut().for_each(|byte| *byte = !*byte);
                all = true;
            }
            2 => {
                let other = &self.segments[rng.below(self.segments.len())];
                if let Some(wrong) = lock(&other.held)[0].get(range) {
                    bytes.copy_from_slice(wrong);
                }
            }
            _ => {
                if let Some(wrong) = lock(&segment.held)[1].get(range) {
                    bytes.copy_from_slice(wrong);
                }
            }
        }
        // Without blocks, a load reads nothing but its object and the checksum.
        (*bytes != right).then_some(all || self.geometry.block_bytes == 1)
    }
}

/// Ends a read or write in a segment's state, even if the device panics.
struct Under<'a>(&'a AtomicU32, u32);

impl Drop for Under<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Ordering::SeqCst);
    }
}

impl SwapDevice for TortureDevice {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn write_segment(&self, segment: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        self.marks.moves_some(&self.tally);
        self.take_time(Failed::Write);
        let (faults, state) = (&self.faults, self.segment(segment, 0, bytes.len()));
        let _writing = state.map(|Segment { state, .. }| {
            self.written.fetch_add(1, Ordering::SeqCst);
            if state.fetch_or(WRITTEN | WRITING, Ordering::SeqCst) != 0 {
                self.misused("was written before it was discarded, or while it is read", segment);
            }
            Under(state, WRITING)
        });
        if faults.is_on(Fault::Torn) {
            let half = bytes.len() / 2 / self.geometry.block_bytes * self.geometry.block_bytes;
            let _ = self.inner.write_segment(segment, &bytes[..half]);
            faults.fail(Failed::Write);
            let cut = io::Error::other("torture tore this write");
            return Err(DeviceError::io("write", segment, &cut));
        }
        if faults.is_on(Fault::Full) && Rng::new(self.clock.stamp()).below(2) == 0 {
            faults.fail(Failed::Full);
            return Err(DeviceError::Full { segments: self.geometry.segments });
        }
        if faults.is_on(Fault::Full) || faults.is_on(Fault::Write) {
            faults.fail(Failed::Write);
            let full = faults.is_on(Fault::Full);
            let kind = if full { io::ErrorKind::StorageFull } else { io::ErrorKind::Other };
            return Err(DeviceError::io("write", segment, &io::Error::from(kind)));
        }
        self.inner.write_segment(segment, bytes)?;
        if let Some(state) = state {
            if self.keeps {
                let mut held = lock(&state.held);
                held.swap(0, 1);
                held[0].clear();
                held[0].extend_from_slice(bytes);
            }
            state.len.store(bytes.len(), Ordering::SeqCst);
        }
        Ok(())
    }

    fn read(&self, segment: u64, offset: usize, bytes: &mut [u8]) -> Result<(), DeviceError> {
        let loads = LOADS.get();
        let failed = if loads { Failed::Load } else { Failed::Clean };
        let state = self.segment(segment, offset, bytes.len());
        let _reading = state.map(|Segment { state, len, .. }| {
            let before = state.fetch_add(1, Ordering::SeqCst);
            if before & (WRITTEN | WRITING) != WRITTEN {
                self.misused("was read while it is not written", segment);
            }
            if len.load(Ordering::SeqCst) < offset + bytes.len() {
                self.misused("was read where nothing was written", segment);
            }
            Under(state, 1)
        });
        self.take_time(failed);
        if self.faults.is_on(Fault::Read) {
            let some = bytes.len().min(100);
            bytes[..some].fill(0xEE);
            self.faults.fail(failed);
            let broken = io::Error::other("torture broke this read");
            return Err(DeviceError::io("read", segment, &broken));
        }
        self.inner.read(segment, offset, bytes)?;
        if self.faults.is_on(Fault::Corrupt) {
            let wrong = state.and_then(|state| self.corrupt(state, offset, bytes));
            if let Some(all) = wrong {
                self.faults.fail(if loads { Failed::CorruptLoad } else { Failed::CorruptClean });
                MISLED.set(loads && (all || MISLED.get()));
            }
        }
        Ok(())
    }

    fn discard(&self, segment: u64) {
        if let Some(Segment { state, len, .. }) = self.segment(segment, 0, 0) {
            if state.load(Ordering::SeqCst) & !WRITTEN != 0 {
                self.misused("was discarded while it is read or written", segment);
            }
            len.store(0, Ordering::SeqCst);
            self.inner.discard(segment);
            if state.fetch_and(!WRITTEN, Ordering::SeqCst) & WRITTEN != 0 {
                self.discarding.fetch_add(1, Ordering::SeqCst);
                if self.written.fetch_sub(1, Ordering::SeqCst) >= self.full_from() {
                    self.full.fetch_max(self.clock.stamp(), Ordering::SeqCst);
                }
                self.discarding.fetch_sub(1, Ordering::SeqCst);
            }
        }
        self.faults.maybe_panic(None);
    }

    fn flush(&self) -> Result<(), DeviceError> {
        self.take_time(Failed::Flush);
        if self.faults.is_on(Fault::Flush) {
            self.faults.fail(Failed::Flush);
            let broken = io::Error::other("torture broke this flush");
            return Err(DeviceError::io("flush", 0, &broken));
        }
        self.inner.flush()
    }

    fn inner(&self) -> &[Arc<dyn SwapDevice>] {
        std::slice::from_ref(&self.inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zswap_core::device::MemorySwapDevice;

    fn device(block_bytes: usize) -> (TortureDevice, Arc<Findings>) {
        let (clock, findings) = (Arc::new(Clock::default()), Arc::new(Findings::default()));
        let (marks, tally) = (Arc::new(Marks::new(1)), Arc::new(Tally::default()));
        let geometry = Geometry { segments: 4, segment_bytes: 8192, block_bytes };
        let inner = Arc::new(MemorySwapDevice::with_geometry(geometry));
        let (pause, faults) = (Duration::ZERO, Arc::new(Faults::new(clock)));
        let device =
            TortureDevice::new(inner, pause, 1, true, faults, marks, tally, findings.clone());
        (device, findings)
    }

    #[test]
    fn faults_leave_their_stamp() {
        let (device, findings) = device(512);
        let mut bytes = [1; 1024];
        device.write_segment(0, &bytes).unwrap();
        assert!(!device.failed_since(&[Failed::Write], 1) && !device.is_failing());
        for fault in [Fault::Write, Fault::Full, Fault::Torn] {
            device.set(&[fault]);
            assert!(device.write_segment(1, &bytes).is_err(), "{fault:?}");
            let kinds = [Failed::Write, Failed::Full];
            assert!(device.failed_since(&kinds, 1));
            assert!(device.failed_after(&kinds, device.faults.made));
            device.discard(1);
        }
        device.set(&[Fault::Read]);
        assert!(device.read(0, 0, &mut bytes).is_err());
        assert!(device.failed_since(&[Failed::Clean], 1));
        assert!(!device.failed_since(&[Failed::Load], 1));
        assert!(loading(|| device.read(0, 0, &mut bytes)).0.is_err());
        assert!(device.failed_since(&[Failed::Load], 1));
        device.set(&[Fault::Flush]);
        assert!(device.flush().is_err() && device.failed_since(&[Failed::Flush], 1));
        device.set(&[]);
        device.read(0, 0, &mut bytes).unwrap();
        assert_eq!((bytes, device.written_segments()), ([1; 1024], 1));
        assert_eq!(findings.first(), None);
    }

    #[test]
    fn wrong_bytes_are_recorded_and_right_ones_are_not() {
        let (device, findings) = device(1);
        device.write_segment(0, &[1; 100]).unwrap();
        device.discard(0);
        device.write_segment(0, &[2; 100]).unwrap();
        device.write_segment(1, &[3; 100]).unwrap();
        device.set(&[Fault::Corrupt]);
        let mut seen = [false; 5];
        for _ in 0..500 {
            let (before, mut bytes) = (device.clock.last(), [0; 40]);
            let (read, misled) = loading(|| device.read(0, 50, &mut bytes));
            let recorded = device.failed_since(&[Failed::CorruptLoad], before + 1);
            assert_eq!((read, misled, recorded), (Ok(()), bytes != [2; 40], bytes != [2; 40]));
            let kinds = [[2; 40], [1; 40], [3; 40], [!2; 40]];
            seen[kinds.iter().position(|kind| *kind == bytes).unwrap_or(4)] = true;
        }
        assert_eq!((seen, findings.first()), ([true; 5], None));
    }

    #[test]
    fn it_was_full_while_all_but_those_in_hand_were_written() {
        let (device, _) = device(1);
        (0..2).for_each(|segment| device.write_segment(segment, &[1]).unwrap());
        assert!(!device.was_full_since(1));
        device.write_segment(2, &[1]).unwrap();
        assert!(device.was_full_since(u64::MAX));
        let before = device.clock.stamp();
        device.discard(2);
        assert!(device.was_full_since(before) && !device.was_full_since(device.clock.stamp()));
    }

    #[test]
    fn misuse_is_found() {
        let uses: [fn(&TortureDevice); 6] = [
            |device| {
                let _ = device.write_segment(2, &[0; 512]);
                let _ = device.write_segment(2, &[0; 512]);
            },
            |device| {
                let _ = device.read(2, 0, &mut [0; 512]);
            },
            |device| {
                let _ = device.write_segment(2, &[0; 512]);
                let _ = device.read(2, 512, &mut [0; 512]);
            },
            |device| {
                device.set(&[Fault::Torn]);
                let _ = device.write_segment(2, &[0; 1024]);
                device.set(&[]);
                let _ = device.read(2, 0, &mut [0; 512]);
            },
            |device| {
                let _ = device.write_segment(2, &[0; 100]);
            },
            |device| {
                let _ = device.write_segment(4, &[0; 512]);
            },
        ];
        for (at, misuse) in uses.into_iter().enumerate() {
            let (device, findings) = device(512);
            misuse(&device);
            assert!(findings.any(), "{at}");
        }
    }
}
