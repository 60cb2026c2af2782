//! Reads of several objects: those that are near each other in a segment share one read of the device.

use super::read::Pinned;
use super::state::Segments;
use crate::PAGE_SIZE;
use crate::device::DeviceError;

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
    /// or with the error of its read. Sorts `wanted`. If a read of several objects fails, reads each by itself.
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
        let (block, tag_len) = (self.geometry().block_bytes, self.seal.tag_len());
        let mut buffer: Vec<u8> = Vec::new();
        // Without memory for shared reads, each object is read by itself.
        let room = self.geometry().segment_bytes;
        let shares = wanted.len() > 1 && buffer.try_reserve_exact(room).is_ok();
        buffer.resize(if shares { room } else { 0 }, 0);
        let mut rest = &*wanted;
        while !rest.is_empty() {
            let together = if shares { near(rest, tag_len) } else { 1 };
            let (group, later) = rest.split_at(together);
            rest = later;
            if together > 1 {
                let first = group[0].object.address();
                let start = first.offset() / block * block;
                let end = group.iter().map(|wanted| end_of(wanted, tag_len)).fold(0, usize::max);
                let bytes = &mut buffer[..end.next_multiple_of(block) - start];
                if self.read(first.segment(), start, bytes).is_ok() {
                    let read = bytes.len() as u64;
                    self.with(|table| table.figures.read_bytes += read);
                    let mut last = None;
                    for wanted in group {
                        let at = wanted.object.address();
                        // Opened in its place, an object cannot be opened there again.
                        if last.replace(at) == Some(at) {
                            read_alone(wanted, &mut then);
                        } else {
                            let sealed = &mut bytes[at.offset() - start..];
                            then(wanted, wanted.object.open(wanted.key, sealed));
                        }
                    }
                    continue;
                }
            }
            for wanted in group {
                read_alone(wanted, &mut then);
            }
        }
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
