//! Greedy cleaning of a log, simulated: the fewest writes that a device of segments is compared with.
//!
//! The log fills one segment after the other. When it needs a segment and only one is free, it takes that one, copies
//! the objects of the emptiest full segment there, and frees the full segment. It never cleans earlier, and what it
//! copies shares a segment with what is written next.

/// Bytes that a segment needs besides its objects: the checksum of its directory.
pub(crate) const OF_SEGMENT: usize = 4;

/// Returns the bytes that an object of this length takes on the device: it and its checksum, rounded up to 16, and
/// its line in the directory.
pub(crate) fn cost(len: usize) -> usize {
    (len + 4).next_multiple_of(16) + 12
}

/// The log cannot take an object: every segment is full of live ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Full;

#[derive(Clone, Debug, Default)]
struct Segment {
    /// Bytes of the objects, dead ones included.
    used: usize,
    /// Bytes of live objects.
    live: usize,
    objects: Vec<usize>,
}

/// A log of numbered objects.
#[derive(Debug)]
pub(crate) struct Log {
    segment_bytes: usize,
    segments: Vec<Segment>,
    free: Vec<usize>,
    /// The segment that is being filled.
    open: Option<usize>,
    /// For each object its segment and its bytes.
    places: Vec<Option<(usize, usize)>>,
    /// Bytes written, copies included.
    pub(crate) written: u64,
    /// Objects copied by cleaning.
    pub(crate) copied: u64,
}

impl Log {
    /// Makes a log of free segments, for objects with numbers below `objects`.
    pub(crate) fn new(segments: usize, segment_bytes: usize, objects: usize) -> Self {
        Log {
            segment_bytes,
            segments: vec![Segment::default(); segments],
            free: (0..segments).rev().collect(),
            open: None,
            places: vec![None; objects],
            written: 0,
            copied: 0,
        }
    }

    /// Notes that an object is not needed any more, if the log has it.
    pub(crate) fn discard(&mut self, object: usize) {
        if let Some((segment, bytes)) = self.places[object].take() {
            self.segments[segment].live -= bytes;
        }
    }

    /// Writes an object of `bytes`. An older one with the same number is discarded.
    ///
    /// # Errors
    /// [`Full`] if cleaning makes no room for it.
    pub(crate) fn append(&mut self, object: usize, bytes: usize) -> Result<(), Full> {
        self.discard(object);
        // Cleaning makes some room each time, unless all segments are full.
        for _ in 0..=self.segments.len() {
            match self.open {
                Some(open) if self.has_room(open, bytes) => {
                    self.put(open, object, bytes);
                    return Ok(());
                }
                _ => self.take_segment()?,
            }
        }
        Err(Full)
    }

    /// Ends the segment that is being filled, as if it had no more room.
    pub(crate) fn close(&mut self) {
        self.open = None;
    }

    fn has_room(&self, segment: usize, bytes: usize) -> bool {
        self.segments[segment].used + bytes + OF_SEGMENT <= self.segment_bytes
    }

    fn put(&mut self, segment: usize, object: usize, bytes: usize) {
        let at = &mut self.segments[segment];
        at.used += bytes;
        at.live += bytes;
        at.objects.push(object);
        self.places[object] = Some((segment, bytes));
        self.written += bytes as u64;
    }

    fn take_segment(&mut self) -> Result<(), Full> {
        let clean = self.free.len() <= 1;
        let open = self.free.pop().ok_or(Full)?;
        self.open = Some(open);
        self.written += OF_SEGMENT as u64;
        if !clean {
            return Ok(());
        }
        let full = (0..self.segments.len()).filter(|at| *at != open);
        let emptiest = full.min_by_key(|&at| self.segments[at].live).ok_or(Full)?;
        for object in std::mem::take(&mut self.segments[emptiest]).objects {
            match self.places[object] {
                Some((segment, bytes)) if segment == emptiest => {
                    self.put(open, object, bytes);
                    self.copied += 1;
                }
                // Discarded, or copied a moment ago.
                _ => {}
            }
        }
        self.free.push(emptiest);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #[allow(unused_imports, reason = "the bench itself is compiled without its tests")]
    use super::*;

    #[test]
    fn an_object_costs_its_units_and_its_line() {
        assert_eq!([1, 12, 13, 1000].map(cost), [28, 28, 44, 1020]);
    }

    #[test]
    fn nothing_is_copied_while_more_than_one_segment_is_free() {
        let mut log = Log::new(4, 100, 10);
        for object in 0..6 {
            log.append(object, 48).unwrap();
        }
        assert_eq!((log.copied, log.free.len()), (0, 1));
        assert_eq!(log.written, 6 * 48 + 3 * 4);
        assert_eq!(log.places[5], Some((2, 48)));
    }

    #[test]
    fn the_emptiest_segment_is_cleaned() {
        let mut log = Log::new(4, 100, 10);
        for object in 0..6 {
            log.append(object, 48).unwrap();
        }
        // One object of segment 1 is replaced: the other one is copied, and both share the last segment.
        log.append(2, 48).unwrap();
        assert_eq!(log.copied, 1);
        assert_eq!((log.places[2], log.places[3]), (Some((3, 48)), Some((3, 48))));
        assert_eq!(log.free, [1]);
        // A discarded object is not copied, and a segment without live objects costs no copy.
        log.discard(0);
        log.discard(1);
        log.append(9, 48).unwrap();
        assert_eq!((log.copied, log.places[9], log.free.clone()), (1, Some((1, 48)), vec![0]));
        assert_eq!(log.places[0], None);
    }

    #[test]
    fn a_log_of_live_objects_is_full() {
        let mut log = Log::new(3, 100, 10);
        for object in 0..4 {
            log.append(object, 48).unwrap();
        }
        assert_eq!(log.append(4, 48), Err(Full));
        // What was there still is, and an overwrite of it fits.
        assert!((0..4).all(|object| log.places[object].is_some()));
        log.append(3, 48).unwrap();
    }

    #[test]
    fn live_bytes_and_places_agree_after_many_overwrites() {
        let mut log = Log::new(20, 1000, 100);
        let mut state = 1_u64;
        for turn in 0..5000_usize {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let object = (state >> 33) as usize % 100;
            log.append(object, 44 + 16 * (turn % 12)).unwrap();
            if turn % 7 == 0 {
                log.close();
            }
        }
        for (at, segment) in log.segments.iter().enumerate() {
            let places = log.places.iter().flatten().filter(|place| place.0 == at);
            assert_eq!(places.map(|place| place.1).sum::<usize>(), segment.live);
            assert!(segment.live <= segment.used && segment.used + OF_SEGMENT <= 1000);
        }
        assert!(log.copied > 0 && log.places.iter().flatten().count() > 90);
    }
}
