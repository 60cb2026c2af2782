//! A long value: one that takes more than an object. It is cut into frames of 256 KiB, each of which is compressed by
//! itself, and each frame into pieces that fill whole pages.
//!
//! The list of pieces is on the heap and shared by reference. Readers hold a reference while they read, so the pieces
//! stay although the value leaves the index. The last reference frees them.

use std::sync::Arc;

use zpool_api::{BackendBits, Handle};

use crate::codecs::{Codecs, FRAME};
use crate::error::CacheError;
use crate::invariant::broken;
use crate::key::Key;
use crate::ledger::Part;
use crate::pool::{Pool, Room};
use crate::word::CodecNumber;

/// The length of a piece in bytes: eight pages, which zsmalloc keeps without a header and without rounding. Only the
/// last piece of a frame is shorter.
const PIECE: usize = 32 << 10;

/// A long value.
#[derive(Debug)]
pub(crate) struct Long {
    pool: Arc<Pool>,
    key: OwnedKey,
    value_len: usize,
    /// The compressed length of each frame. As many bytes as the frame has before compression are the frame itself.
    frames: Vec<u32>,
    /// The handles of the pieces without their tag, frame after frame.
    pieces: Vec<u64>,
    /// The heap bytes that count in the ledger.
    counted: usize,
}

#[derive(Debug)]
enum OwnedKey {
    Number(u64),
    Bytes(Box<[u8]>),
}

fn no_memory(what: &'static str, bytes: usize) -> CacheError {
    CacheError::NoMemory { what, bytes }
}

/// Reserves room in a list.
fn reserve<T>(list: &mut Vec<T>, more: usize) -> Result<(), CacheError> {
    list.try_reserve(more).map_err(|_| no_memory("a list of pieces", more * size_of::<T>()))
}

impl Long {
    /// Compresses and stores a value. Evicts for it. `first` is the first frame if it is compressed already.
    ///
    /// # Errors
    /// Those of the codec, the pool and `room`. What was stored is freed.
    pub(crate) fn store(
        pool: &Arc<Pool>,
        codecs: &Codecs,
        key: Key<'_>,
        value: &[u8],
        first: Option<&[u8]>,
        room: &dyn Room,
    ) -> Result<Arc<Self>, CacheError> {
        let key = match key {
            Key::Number(number) => OwnedKey::Number(number),
            Key::Bytes(bytes) => {
                let mut own = Vec::new();
                own.try_reserve_exact(bytes.len()).map_err(|_| no_memory("a key", bytes.len()))?;
                own.extend_from_slice(bytes);
                OwnedKey::Bytes(own.into_boxed_slice())
            }
        };
        let (frames, pieces) = (Vec::new(), Vec::new());
        let value_len = value.len();
        let mut long = Long { pool: pool.clone(), key, value_len, frames, pieces, counted: 0 };
        reserve(&mut long.frames, value_len.div_ceil(FRAME))?;
        // Dropped on an error, it frees the pieces that it has.
        let mut frames = value.chunks(FRAME);
        if let Some(bytes) = first {
            frames.next();
            long.put_frame(bytes, room)?;
        }
        for frame in frames {
            long.store_frame(codecs, frame, room)?;
        }
        long.pieces.shrink_to_fit();
        long.counted = long.heap_bytes();
        pool.ledger.add(Part::Long, long.counted);
        Ok(Arc::new(long))
    }

    fn store_frame(
        &mut self,
        codecs: &Codecs,
        frame: &[u8],
        room: &dyn Room,
    ) -> Result<(), CacheError> {
        let codec = codecs.plain_for(frame.len());
        // The bytes leave the context's buffer, since the context must not be held while others are evicted.
        let compressed = codec.compress(frame, |bytes| -> Result<Option<Vec<u8>>, CacheError> {
            if bytes.len() == frame.len() {
                return Ok(None);
            }
            let mut copy = Vec::new();
            copy.try_reserve_exact(bytes.len())
                .map_err(|_| no_memory("a compressed frame", bytes.len()))?;
            copy.extend_from_slice(bytes);
            Ok(Some(copy))
        })?;
        self.put_frame(compressed?.as_deref().unwrap_or(frame), room)
    }

    /// Stores a compressed frame.
    fn put_frame(&mut self, bytes: &[u8], room: &dyn Room) -> Result<(), CacheError> {
        let max = self.pool.ledger.max_bytes() / 2;
        if self.stored_len() + bytes.len() > max {
            return Err(CacheError::TooLarge { max });
        }
        reserve(&mut self.pieces, bytes.len().div_ceil(PIECE))?;
        for piece in bytes.chunks(PIECE) {
            let handle = self.pool.put(&[piece], room)?;
            self.pieces.push(handle.backend_bits().get());
        }
        self.frames.push(bytes.len() as u32);
        Ok(())
    }

    fn heap_bytes(&self) -> usize {
        let key = match &self.key {
            OwnedKey::Number(_) => 0,
            OwnedKey::Bytes(bytes) => bytes.len(),
        };
        let lists =
            self.frames.capacity() * size_of::<u32>() + self.pieces.capacity() * size_of::<u64>();
        // The reference's counters, and what the system allocator adds to four blocks.
        size_of::<Self>() + 16 + key + lists + 64
    }

    pub(crate) fn key(&self) -> Key<'_> {
        match &self.key {
            OwnedKey::Number(number) => Key::Number(*number),
            OwnedKey::Bytes(bytes) => Key::Bytes(bytes),
        }
    }

    pub(crate) fn value_len(&self) -> usize {
        self.value_len
    }

    /// Returns the bytes of the value's objects.
    pub(crate) fn stored_len(&self) -> usize {
        self.frames.iter().map(|&len| len as usize).sum()
    }

    /// Decompresses the value and fills `into`, which has its length.
    ///
    /// # Errors
    /// Those of the codec and of the pool; [`CacheError::NoMemory`] if there is none to gather a frame.
    pub(crate) fn read(&self, codecs: &Codecs, into: &mut [u8]) -> Result<(), CacheError> {
        let mut gathered = Vec::new();
        let mut pieces = self.pieces.iter();
        for (&len, frame) in self.frames.iter().zip(into.chunks_mut(FRAME)) {
            let len = len as usize;
            let is_plain = len == frame.len();
            if !is_plain {
                gathered.clear();
                let reserved = gathered.try_reserve_exact(len);
                reserved.map_err(|_| no_memory("a compressed frame", len))?;
            }
            let mut at = 0;
            while at < len {
                let bits = pieces
                    .next()
                    .unwrap_or_else(|| broken(format_args!("a long value lacks a piece")));
                let object = self.pool.read(self.handle(*bits))?;
                let expected = (len - at).min(PIECE);
                if object.len() != expected {
                    return Err(CacheError::Corrupt { len: object.len() });
                }
                if is_plain {
                    frame[at..at + expected].copy_from_slice(&object);
                } else {
                    gathered.extend_from_slice(&object);
                }
                at += expected;
            }
            if !is_plain {
                codecs.of(CodecNumber::PLAIN).codec().decompress(&gathered, frame)?;
            }
        }
        Ok(())
    }

    fn handle(&self, bits: u64) -> Handle {
        Handle::new(self.pool.tag(), BackendBits::truncate(bits))
    }
}

impl Drop for Long {
    fn drop(&mut self) {
        for &bits in &self.pieces {
            self.pool.free(self.handle(bits));
        }
        self.pool.ledger.sub(Part::Long, self.counted);
    }
}
