//! Reads of several objects: those that are near each other in a segment share one read of the device, and reads are
//! handed to the device several at a time.

use super::read::Pinned;
use super::state::Segments;
use crate::PAGE_SIZE;
use crate::device::{DeviceError, RangeRead};

/// Objects share a read if at most this many bytes lie between them. To read that many more takes about as long as
/// another call.
const GAP: usize = PAGE_SIZE;

/// An object that is read together with others.
#[derive(Debug)]
pub struct Wanted<'a, T> {
    /// The key with which the object was written.
    pub key: u64,
    /// The object.
    pub object: Pinned<'a>,
    /// What the caller knows about it.
    pub note: T,
}

impl Segments {
    /// Reads several objects, in the order of their places on the device, and calls `then` with each and its bytes,
    /// or with the error of its read. Sorts `wanted`. Reads objects near each other together, and has the device do several
    /// reads at a time ([`SwapDevice::read_many`](crate::device::SwapDevice::read_many)). If a read of several objects
    /// fails, reads each by itself.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use zpage::device::MemorySwapDevice;
    /// use zpage::segments::{Segments, Wanted};
    /// use zpage::{Codec, Recipe};
    ///
    /// let codec = Arc::new(Codec::new(Recipe::builtin().compressor("null")?.compressor));
    /// let segments = Segments::attach(Arc::new(MemorySwapDevice::new(1000)))?;
    /// let mut draft = segments.draft()?;
    /// assert!(draft.push(7, &codec, b"seven") && draft.push(8, &codec, b"eight"));
    /// let mut wanted = Vec::new();
    /// draft.write()?.install(|number, at| {
    ///     let object = segments.pin(at).expect("this process attached the device");
    ///     wanted.push(Wanted { key: 7 + number as u64, object, note: () });
    ///     true
    /// });
    /// let mut read = Vec::new();
    /// segments.read_merged(&mut wanted, |_, bytes| read.push(bytes.map(<[u8]>::to_vec)));
    /// assert_eq!(read, [Ok(b"seven".to_vec()), Ok(b"eight".to_vec())]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Blocking
    /// Blocks in the device.
    pub fn read_merged<T>(
        &self,
        wanted: &mut [Wanted<'_, T>],
        mut then: impl FnMut(&Wanted<'_, T>, Result<&[u8], DeviceError>),
    ) {
        wanted.sort_unstable_by_key(|wanted| {
            let at = wanted.object.address();
            (at.segment(), at.offset())
        });
        let mut room = Room::default();
        // A single object needs no shared buffer, and without memory each is read by itself.
        let shares = wanted.len() > 1 && room.reserve(self.geometry().segment_bytes);
        let mut rest = &*wanted;
        while !rest.is_empty() {
            let mut lost = None;
            let taken =
                if shares { self.read_some(rest, &mut room, &mut lost, &mut then) } else { 0 };
            if let Some(error) = lost {
                rest[taken..].iter().for_each(|wanted| then(wanted, Err(error.clone())));
                return;
            }
            if taken == 0 {
                read_alone(&rest[0], &mut then);
            }
            rest = &rest[taken.max(1)..];
        }
    }

    /// Reads as many of the first objects as there is room for, with one call of the device. Returns their number;
    /// 0 if there is no memory for that. Sets `lost` if the device cannot be reached.
    fn read_some<T>(
        &self,
        sorted: &[Wanted<'_, T>],
        room: &mut Room,
        lost: &mut Option<DeviceError>,
        then: &mut impl FnMut(&Wanted<'_, T>, Result<&[u8], DeviceError>),
    ) -> usize {
        let (block, tag_len) = (self.geometry().block_bytes, self.seal.tag_len());
        let mut reads: Vec<RangeRead<'_>> = Vec::new();
        let mut groups = Vec::new();
        let mut left = &mut room.0[..];
        let mut taken = 0;
        while taken < sorted.len() {
            let group = &sorted[taken..][..near(&sorted[taken..], tag_len)];
            let first = group[0].object.address();
            let start = first.offset() / block * block;
            let end = group.iter().map(|wanted| end_of(wanted, tag_len)).fold(0, usize::max);
            let len = end.next_multiple_of(block) - start;
            let has_room =
                len <= left.len() && reads.try_reserve(1).is_ok() && groups.try_reserve(1).is_ok();
            if !has_room {
                break;
            }
            let (bytes, after) = left.split_at_mut(len);
            left = after;
            reads.push(RangeRead::new(u64::from(first.segment()), start, bytes));
            groups.push(group);
            taken += group.len();
        }
        if reads.is_empty() {
            return 0;
        }
        self.read_many(&mut reads);
        let failed =
            |read: &RangeRead<'_>| read.result.as_ref().err().is_some_and(is_of_the_device);
        if reads.iter().all(failed) {
            *lost = reads.first().and_then(|read| read.result.clone().err());
        }
        for (RangeRead { offset: start, bytes, result, .. }, group) in reads.iter_mut().zip(groups)
        {
            if let Err(error) = result {
                match (group, &*error) {
                    (all, error) if is_of_the_device(error) => {
                        all.iter().for_each(|wanted| then(wanted, Err(error.clone())));
                    }
                    // A panic ended the other reads of this call, too. And one of several objects may be readable by
                    // itself.
                    (several, DeviceError::Panicked { .. }) | (several @ [_, _, ..], _) => {
                        several.iter().for_each(|wanted| read_alone(wanted, then));
                    }
                    (alone, error) => {
                        alone.iter().for_each(|wanted| then(wanted, Err(error.clone())));
                    }
                }
                continue;
            }
            let read = bytes.len() as u64;
            self.with(|table| table.figures.read_bytes += read);
            let mut last = None;
            for wanted in group {
                let at = wanted.object.address();
                // Opened in its place, an object cannot be opened there again.
                if last.replace(at) == Some(at) {
                    read_alone(wanted, then);
                } else {
                    let sealed = &mut bytes[at.offset() - *start..];
                    then(wanted, wanted.object.open(wanted.key, sealed));
                }
            }
        }
        taken
    }
}

/// Returns whether the device cannot be reached, so that asking again for each object would take long, and in vain.
fn is_of_the_device(error: &DeviceError) -> bool {
    use std::io::ErrorKind as Kind;
    match error {
        DeviceError::Forked => true,
        DeviceError::Io { kind, .. } => matches!(
            kind,
            Kind::TimedOut
                | Kind::NotConnected
                | Kind::ConnectionRefused
                | Kind::ConnectionReset
                | Kind::ConnectionAborted
                | Kind::HostUnreachable
                | Kind::NetworkUnreachable
                | Kind::NetworkDown
        ),
        _ => false,
    }
}

/// A buffer for the bytes of several reads.
#[derive(Debug, Default)]
struct Room(Vec<u8>);

impl Room {
    /// Makes the buffer. Returns false if there is no memory for it.
    fn reserve(&mut self, bytes: usize) -> bool {
        let reserved = self.0.try_reserve_exact(bytes).is_ok();
        self.0.resize(if reserved { bytes } else { 0 }, 0);
        reserved
    }
}

fn read_alone<T>(
    wanted: &Wanted<'_, T>,
    then: &mut impl FnMut(&Wanted<'_, T>, Result<&[u8], DeviceError>),
) {
    let read = wanted.object.read(wanted.key, |bytes| then(wanted, Ok(bytes)));
    read.unwrap_or_else(|error| then(wanted, Err(error)));
}

/// Returns the end of an object's tag in its segment.
fn end_of<T>(wanted: &Wanted<'_, T>, tag_len: usize) -> usize {
    let at = wanted.object.address();
    at.offset() + at.len() + tag_len
}

/// Returns how many of the first objects share a read.
fn near<T>(sorted: &[Wanted<'_, T>], tag_len: usize) -> usize {
    let apart = |pair: &[Wanted<'_, T>]| {
        let (one, two) = (&pair[0], &pair[1]);
        let (segment, start) = (two.object.address().segment(), two.object.address().offset());
        one.object.address().segment() != segment || start > end_of(one, tag_len) + GAP
    };
    sorted.windows(2).position(apart).map_or(sorted.len(), |at| at + 1)
}
