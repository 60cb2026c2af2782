//! What each segment holds, and the groups of segments by fullness.
//!
//! A segment that is written and not being cleaned is in the fullness group of its live bytes. So the segment that
//! is cheapest to clean is found in a bounded number of steps. Segments that could not be read are set aside:
//! they are offered for cleaning again when there is no other. Segments that could not be written are not free until
//! no other is: so one bad segment does not stop the writes.

use zpool_base::bitmap::Bitmap;

use super::address::{Address, Layout, UNIT};
use super::codecs::CodecList;
use super::format::{BYTES_AN_OBJECT, LISTED, Listed, listed, units};

/// Fullness groups.
const GROUPS: usize = 64;
/// The list of segments that are set aside.
const ASIDE: usize = GROUPS;
/// The list of segments that could not be written. They hold nothing, and are used again when no other is free.
const SUSPECT: usize = GROUPS + 1;
/// The list of segments that only readers keep. They are never cleaned.
const EMPTY: usize = GROUPS + 2;
const LISTS: usize = GROUPS + 3;
/// No segment.
const NONE: u32 = u32::MAX;

/// What a segment is used for. A segment whose bit is not set in `taken` is free, whatever this says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Use {
    /// It is about to be written, or its objects are being installed.
    #[default]
    Draft,
    /// It holds objects, and is in the list of this number.
    Listed(usize),
    /// It holds objects that are being moved to another segment.
    Cleaned,
    /// Its last object is gone, and it is about to be discarded.
    Released,
}

/// What the table knows about a segment.
#[derive(Debug, Default)]
struct Record {
    used: Use,
    attempt: u64,
    codecs: CodecList,
    /// Objects that entries name, or that are about to be named.
    objects: u32,
    /// Units of those objects, with their tags.
    live: u32,
    /// Whether it is counted as settled: listed, and with objects.
    settled: bool,
    readers: u32,
    /// Where the directory starts, in bytes, and how many objects it lists.
    directory: (u32, u32),
    next: u32,
    previous: u32,
}

impl Record {
    /// Returns the units that the objects take: their bytes, and their entries in the directory, which are nearly a
    /// unit each. A segment with as many objects as it may have is full, too.
    fn weight(&self) -> u32 {
        (self.live + self.objects).max(self.objects * (BYTES_AN_OBJECT / UNIT) as u32)
    }
}

/// Counts of what was written and moved, in bytes and segments, and of what is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Figures {
    /// Objects on the device.
    pub objects: u64,
    /// Bytes of those objects, with their checksums or tags, rounded up to 16 each.
    pub live_bytes: u64,
    /// Segments that hold objects or are being written.
    pub segments: u64,
    /// Bytes written to the device, including failed writes.
    pub written_bytes: u64,
    /// Bytes of the objects that arrived from pools: written for the first time, not by cleaning, and installed.
    pub new_bytes: u64,
    /// Bytes read from the device for loads.
    pub read_bytes: u64,
    /// Segments that cleaning emptied.
    pub cleaned_segments: u64,
    /// Objects that cleaning moved to another segment.
    pub moved_objects: u64,
}

/// All segments of a device.
#[derive(Debug)]
pub(super) struct Table {
    segments: u64,
    /// Units of a segment.
    units: u32,
    /// A segment of more weight than this is not worth cleaning.
    worth: u32,
    taken: Bitmap,
    records: Vec<Record>,
    heads: [u32; LISTS],
    /// Bytes of the tag behind each object.
    tag_len: usize,
    /// Listed segments with objects.
    settled: u64,
    /// Segments that could not be written.
    suspects: u64,
    pub(super) figures: Figures,
}

/// A free segment that was taken to be written.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    Segment(u32),
    None,
    NoMemory,
}

/// A segment that is taken off the lists to be cleaned. It has a reader, so it is not released.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Victim {
    pub(super) segment: u32,
    pub(super) attempt: u64,
    /// Where the directory starts, in bytes.
    pub(super) directory: usize,
    /// The objects that the directory lists.
    pub(super) objects: usize,
}

impl Victim {
    /// Reads the directory from the segment's bytes. It was opened.
    pub(super) fn listed<'b>(
        &self,
        layout: Layout,
        bytes: &'b [u8],
    ) -> impl Iterator<Item = Listed> + use<'b> {
        let directory = &bytes[self.directory..self.directory + self.objects * LISTED];
        listed(layout, self.segment, directory)
    }
}

impl Table {
    /// Makes a table of segments that are all free. `spare` is the number of bytes that a segment must be able
    /// to win for cleaning it to be worth the writes.
    pub(super) fn new(segments: u64, segment_bytes: usize, spare: usize, tag_len: usize) -> Self {
        Table {
            segments,
            units: (segment_bytes / UNIT) as u32,
            worth: (segment_bytes.saturating_sub(spare) / UNIT) as u32,
            taken: Bitmap::default(),
            records: Vec::new(),
            heads: [NONE; LISTS],
            tag_len,
            settled: 0,
            suspects: 0,
            figures: Figures::default(),
        }
    }

    pub(super) fn free(&self) -> u64 {
        self.segments - self.taken.count()
    }

    /// Returns whether a segment may soon become free without cleaning: it is being filled, written, cleaned or
    /// discarded, or only readers keep it.
    pub(super) fn is_in_flight(&self) -> bool {
        self.taken.count() > self.settled + self.suspects
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.taken.memory_bytes() + self.records.capacity() * size_of::<Record>()
    }

    /// Takes the lowest free segment, if more than `reserve` are free.
    pub(super) fn take(&mut self, reserve: u64) -> Taken {
        if self.free() <= reserve {
            return Taken::None;
        }
        // Room for the record of any segment that may be taken now.
        let lowest = self.taken.lowest() as usize;
        let more = (lowest + 1).saturating_sub(self.records.len());
        // Grown by an eighth at a time: the memory counts against the store's limit.
        let room = self.records.capacity() - self.records.len();
        let grown = more.max(self.records.len() / 8).max(16);
        if room < more && self.records.try_reserve_exact(grown).is_err() {
            return Taken::NoMemory;
        }
        match self.taken.take(self.segments) {
            Ok(Some(segment)) => {
                self.records.extend((0..more).map(|_| Record::default()));
                let record = &mut self.records[segment as usize];
                assert!(record.objects == 0 && record.readers == 0, "a free segment in use");
                *record = Record::default();
                self.figures.segments += 1;
                Taken::Segment(segment)
            }
            Ok(None) => Taken::None,
            Err(_) => Taken::NoMemory,
        }
    }

    /// Sets a taken segment aside that could not be written.
    pub(super) fn suspect(&mut self, segment: u32) {
        self.link(segment, SUSPECT);
        self.suspects += 1;
        self.figures.segments -= 1;
    }

    /// Frees the segments that could not be written. Returns whether there were any.
    pub(super) fn forgive(&mut self) -> bool {
        let any = self.heads[SUSPECT] != NONE;
        while self.heads[SUSPECT] != NONE {
            let segment = self.heads[SUSPECT];
            self.unlink(segment, SUSPECT, Use::Draft);
            self.suspects -= 1;
            self.taken.clear(segment);
        }
        self.shrink();
        any
    }

    /// Frees a taken segment that was not written, or was discarded.
    pub(super) fn give_back(&mut self, segment: u32) {
        let was_taken = self.taken.clear(segment);
        assert!(was_taken, "segment {segment} is free already");
        self.figures.segments -= 1;
        self.shrink();
    }

    /// Forgets the last records, if their segments are free, and gives memory back if little of it is needed.
    fn shrink(&mut self) {
        while self.records.len().checked_sub(1).is_some_and(|last| !self.taken.has(last as u32)) {
            self.records.pop();
        }
        if self.records.len() < self.records.capacity() / 2 {
            // `Vec::shrink_to` would abort if there is no memory for the smaller table.
            let mut smaller = Vec::new();
            if smaller.try_reserve_exact(self.records.len() + self.records.len() / 4).is_ok() {
                smaller.append(&mut self.records);
                self.records = smaller;
            }
        }
    }

    /// Notes that a draft was written with these objects. It is not on a list until [`Table::list`].
    pub(super) fn written(
        &mut self,
        segment: u32,
        attempt: u64,
        codecs: CodecList,
        lens: impl Iterator<Item = usize>,
        directory: usize,
    ) {
        let record = &mut self.records[segment as usize];
        assert_eq!(record.used, Use::Draft, "a segment that nobody drafts was written");
        (record.attempt, record.codecs) = (attempt, codecs);
        for len in lens {
            record.objects += 1;
            record.live += units(len, self.tag_len);
        }
        record.directory = (directory as u32, record.objects);
        self.figures.objects += u64::from(record.objects);
        self.figures.live_bytes += u64::from(record.live) * UNIT as u64;
    }

    /// Ends a draft whose objects are installed or given up, or the cleaning of a segment. Returns whether the
    /// caller must discard the segment, since nothing is left in it.
    pub(super) fn list(&mut self, segment: u32) -> bool {
        let record = &self.records[segment as usize];
        assert!(matches!(record.used, Use::Draft | Use::Cleaned), "a listed segment is listed");
        let list = self.list_of(segment, 0);
        self.link(segment, list);
        self.release_if_unused(segment)
    }

    fn group(&self, weight: u32) -> usize {
        (weight as usize * GROUPS / self.units as usize).min(GROUPS - 1)
    }

    /// Returns the list of a segment that was in the list `before`.
    fn list_of(&self, segment: u32, before: usize) -> usize {
        let record = &self.records[segment as usize];
        match before {
            _ if record.objects == 0 => EMPTY,
            ASIDE => ASIDE,
            _ => self.group(record.weight()),
        }
    }

    fn link(&mut self, segment: u32, list: usize) {
        let first = core::mem::replace(&mut self.heads[list], segment);
        if first != NONE {
            self.records[first as usize].previous = segment;
        }
        let record = &mut self.records[segment as usize];
        (record.used, record.next, record.previous) = (Use::Listed(list), first, NONE);
        record.settled = record.objects > 0;
        self.settled += u64::from(record.settled);
    }

    fn unlink(&mut self, segment: u32, list: usize, then: Use) {
        let record = &mut self.records[segment as usize];
        let (next, previous) = (record.next, record.previous);
        record.used = then;
        self.settled -= u64::from(core::mem::take(&mut record.settled));
        match previous {
            NONE => self.heads[list] = next,
            _ => self.records[previous as usize].next = next,
        }
        if next != NONE {
            self.records[next as usize].previous = previous;
        }
    }

    /// Takes a listed segment that nobody uses off its list, to be discarded. Returns whether it did.
    fn release_if_unused(&mut self, segment: u32) -> bool {
        let record = &self.records[segment as usize];
        match record.used {
            Use::Listed(list) if record.objects == 0 && record.readers == 0 => {
                self.unlink(segment, list, Use::Released);
                true
            }
            _ => false,
        }
    }

    /// Takes the codecs of a segment that is about to be discarded, so that they are dropped without the lock.
    pub(super) fn codecs_of_released(&mut self, segment: u32) -> CodecList {
        let record = &mut self.records[segment as usize];
        assert_eq!(record.used, Use::Released, "a segment in use is discarded");
        core::mem::take(&mut record.codecs)
    }

    fn record(&mut self, at: Address) -> &mut Record {
        let record = self.records.get_mut(at.segment() as usize);
        let record = record.filter(|record| record.objects > 0 && record.used != Use::Released);
        #[expect(clippy::panic, reason = "a broken invariant of the entries")]
        record.unwrap_or_else(|| panic!("an entry names {at:?}, which holds no object"))
    }

    /// Counts a reader of the segment of an object that an entry names. Returns the attempt that wrote the
    /// segment, and its codecs.
    pub(super) fn pin(&mut self, at: Address) -> (u64, &CodecList) {
        let record = self.record(at);
        record.readers += 1;
        (record.attempt, &record.codecs)
    }

    /// Ends a read. Returns whether the caller must discard the segment.
    pub(super) fn unpin(&mut self, segment: u32) -> bool {
        let record = &mut self.records[segment as usize];
        assert!(record.readers > 0, "a read of segment {segment} ends that nobody began");
        record.readers -= 1;
        self.release_if_unused(segment)
    }

    /// Notes that no entry names an object any more. Returns whether the caller must discard the segment.
    pub(super) fn give_up(&mut self, at: Address) -> bool {
        let gone = units(at.len(), self.tag_len);
        let record = self.record(at);
        assert!(record.live >= gone, "{at:?} is given up twice");
        record.objects -= 1;
        record.live -= gone;
        let used = record.used;
        let emptied = record.objects == 0 && core::mem::take(&mut record.settled);
        self.settled -= u64::from(emptied);
        self.figures.objects -= 1;
        self.figures.live_bytes -= u64::from(gone) * UNIT as u64;
        if let Use::Listed(list) = used {
            let now = self.list_of(at.segment(), list);
            if now != list {
                self.unlink(at.segment(), list, Use::Draft);
                self.link(at.segment(), now);
            }
        }
        self.release_if_unused(at.segment())
    }

    /// Takes the segment that is cheapest to clean off its list, and counts a reader of it. Returns `None` if no
    /// segment is worth cleaning.
    pub(super) fn victim(&mut self) -> Option<Victim> {
        let lists = 0..=self.group(self.worth);
        let segment = lists.map(|list| self.heads[list]).find(|at| *at != NONE)?;
        let record = &mut self.records[segment as usize];
        let (Use::Listed(list), true) = (record.used, record.weight() <= self.worth) else {
            return None;
        };
        record.readers += 1;
        let (attempt, (directory, objects)) = (record.attempt, record.directory);
        self.unlink(segment, list, Use::Cleaned);
        Some(Victim { segment, attempt, directory: directory as usize, objects: objects as usize })
    }

    /// Puts a segment that could not be read aside.
    pub(super) fn set_aside(&mut self, segment: u32) {
        self.link(segment, self.list_of(segment, ASIDE));
    }

    /// Offers the segments that were set aside for cleaning again.
    pub(super) fn offer_again(&mut self) {
        while self.heads[ASIDE] != NONE {
            let segment = self.heads[ASIDE];
            self.unlink(segment, ASIDE, Use::Cleaned);
            self.link(segment, self.list_of(segment, 0));
        }
    }

    /// Returns whether a segment holds no object.
    pub(super) fn is_empty(&self, segment: u32) -> bool {
        self.records[segment as usize].objects == 0
    }

    /// Returns the codecs of a segment that is being cleaned.
    pub(super) fn codecs(&self, victim: &Victim) -> &CodecList {
        &self.records[victim.segment as usize].codecs
    }
}
