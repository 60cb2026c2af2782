//! Values in the pool: compressed, stored, found again, decompressed, freed. This module knows no index and takes no
//! lock of one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use zpool_api::{Handle, ObjRead};

use crate::codecs::{Codecs, FRAME, InUse, SHORT};
use crate::error::CacheError;
use crate::invariant::broken;
use crate::key::{Key, MOST_KEY};
use crate::long::Long;
use crate::object::{self, Head};
use crate::pool::{MOST_OBJECT, Pool, Room};
use crate::word::CodecNumber;

/// The longest value in bytes.
pub(crate) const MOST_VALUE: usize = 256 << 20;

/// Where values are.
#[derive(Debug)]
pub(crate) struct Values {
    pub(crate) pool: Arc<Pool>,
    pub(crate) codecs: Codecs,
    /// The length of all values before compression, in bytes.
    value_bytes: AtomicUsize,
    /// The length of those values that dictionaries are for.
    short_bytes: AtomicUsize,
}

/// A stored value that is in no index.
#[derive(Debug)]
pub(crate) enum Body {
    Object { handle: Handle, codec: CodecNumber },
    Long(Arc<Long>),
}

/// A stored value that is freed unless it is put into an index.
#[derive(Debug)]
pub(crate) struct Stored<'a> {
    values: &'a Values,
    body: Option<Body>,
}

impl Stored<'_> {
    /// Takes the value out, to put it into an index.
    pub(crate) fn into_body(mut self) -> Body {
        self.body
            .take()
            .unwrap_or_else(|| broken(format_args!("a stored value has a body until it is taken")))
    }
}

impl Drop for Stored<'_> {
    fn drop(&mut self) {
        if let Some(body) = self.body.take() {
            self.values.free(body);
        }
    }
}

/// A value that stays as it is while this lives, whether or not it leaves the index.
#[derive(Debug)]
pub(crate) enum Pinned<'a> {
    Object { handle: Handle, object: ObjRead<'a>, codec: InUse<'a> },
    Long(Arc<Long>),
}

impl Pinned<'_> {
    /// Calls `then` with the value's key.
    pub(crate) fn with_key<T>(&self, then: impl FnOnce(Key<'_>) -> T) -> T {
        match self {
            Pinned::Object { object, .. } => match object::parse(object) {
                Some(value) => then(value.key),
                None => broken(format_args!("a pinned object has changed")),
            },
            Pinned::Long(long) => then(long.key()),
        }
    }
}

impl Values {
    pub(crate) fn new(pool: Pool, codecs: Codecs) -> Self {
        Values {
            pool: Arc::new(pool),
            codecs,
            value_bytes: AtomicUsize::new(0),
            short_bytes: AtomicUsize::new(0),
        }
    }

    /// Returns the length of all values before compression, in bytes.
    pub(crate) fn value_bytes(&self) -> usize {
        self.value_bytes.load(SeqCst)
    }

    /// Returns the length of the values that dictionaries are for, in bytes.
    #[cfg(feature = "zstd")]
    pub(crate) fn short_bytes(&self) -> usize {
        self.short_bytes.load(SeqCst)
    }

    /// Checks the lengths of a key and a value.
    ///
    /// # Errors
    /// [`CacheError::KeyTooLong`] or [`CacheError::ValueTooLong`].
    pub(crate) fn check(key: Key<'_>, value: &[u8]) -> Result<(), CacheError> {
        match key {
            Key::Bytes(bytes) if bytes.len() > MOST_KEY => {
                return Err(CacheError::KeyTooLong { len: bytes.len(), max: MOST_KEY });
            }
            _ => {}
        }
        if value.len() > MOST_VALUE {
            return Err(CacheError::ValueTooLong { len: value.len(), max: MOST_VALUE });
        }
        Ok(())
    }

    /// Compresses and stores a value. Evicts through `room` if the budget is used up.
    ///
    /// # Errors
    /// Those of the codec, the pool and `room`; [`CacheError::NoMemory`].
    pub(crate) fn store(
        &self,
        key: Key<'_>,
        value: &[u8],
        room: &dyn Room,
    ) -> Result<Stored<'_>, CacheError> {
        let long = |first: Option<&[u8]>| {
            Long::store(&self.pool, &self.codecs, key, value, first, room).map(Body::Long)
        };
        let body = if value.len() > FRAME {
            long(None)?
        } else {
            match self.store_object(key, value, room)? {
                Ok(body) => body,
                Err(frame) => long(Some(&frame))?,
            }
        };
        self.count(value.len());
        Ok(Stored { values: self, body: Some(body) })
    }

    /// Stores a value as one object. If it does not fit into one, returns what it is compressed to.
    fn store_object(
        &self,
        key: Key<'_>,
        value: &[u8],
        room: &dyn Room,
    ) -> Result<Result<Body, Vec<u8>>, CacheError> {
        let head = Head::new(key, value.len());
        let key = match key {
            Key::Number(_) => &[],
            Key::Bytes(bytes) => bytes,
        };
        let (in_use, number) = self.codecs.claim(value.len());
        let claim = Claim { codecs: &self.codecs, number };
        let done = in_use.codec().compress(value, |payload| -> Result<Attempt, CacheError> {
            let parts = [head.bytes(), key, payload];
            let fits = parts.iter().map(|part| part.len()).sum::<usize>() <= MOST_OBJECT;
            let put = if fits { self.pool.try_put(&parts)? } else { None };
            if let Some(handle) = put {
                return Ok(Attempt::Done(handle));
            }
            // The bytes leave the context's buffer, since the context must not be held while others are evicted.
            let mut copy = Vec::new();
            copy.try_reserve_exact(payload.len()).map_err(|_| CacheError::NoMemory {
                what: "a compressed value",
                bytes: payload.len(),
            })?;
            copy.extend_from_slice(payload);
            Ok(if fits { Attempt::NoRoom(copy) } else { Attempt::TooLong(copy) })
        })?;
        drop(in_use);
        let handle = match done? {
            Attempt::Done(handle) => handle,
            Attempt::NoRoom(payload) => self.pool.put(&[head.bytes(), key, &payload], room)?,
            Attempt::TooLong(payload) => return Ok(Err(payload)),
        };
        Ok(Ok(Body::Object { handle, codec: claim.keep() }))
    }

    /// Returns the value of an object if it has this key. The caller holds the lock of the shard whose index has the
    /// object.
    ///
    /// # Errors
    /// [`CacheError::Pool`] if the object has as many readers as its backend can count; [`CacheError::Corrupt`].
    pub(crate) fn open(
        &self,
        handle: Handle,
        codec: CodecNumber,
        key: Option<Key<'_>>,
    ) -> Result<Option<Pinned<'_>>, CacheError> {
        let object = self.pool.read(handle)?;
        let found = object::parse(&object).ok_or(CacheError::Corrupt { len: object.len() })?.key;
        if key.is_some_and(|key| key != found) {
            return Ok(None);
        }
        Ok(Some(Pinned::Object { handle, object, codec: self.codecs.of(codec) }))
    }

    /// Pins a value that is in no index.
    ///
    /// # Errors
    /// Those of [`Values::open`].
    pub(crate) fn pin(&self, body: &Body) -> Result<Pinned<'_>, CacheError> {
        match body {
            Body::Object { handle, codec } => match self.open(*handle, *codec, None)? {
                Some(pinned) => Ok(pinned),
                None => broken(format_args!("without a key, every object is opened")),
            },
            Body::Long(long) => Ok(Pinned::Long(long.clone())),
        }
    }

    fn count(&self, value_len: usize) {
        self.value_bytes.fetch_add(value_len, SeqCst);
        if value_len <= SHORT {
            self.short_bytes.fetch_add(value_len, SeqCst);
        }
    }

    /// Decompresses a value into `into`, which gets its length. After an error `into` is empty.
    ///
    /// # Errors
    /// Those of the codec and of the pool; [`CacheError::NoMemory`]; [`CacheError::Corrupt`].
    pub(crate) fn read(&self, pinned: &Pinned<'_>, into: &mut Vec<u8>) -> Result<(), CacheError> {
        let read = self.fill(pinned, into);
        if read.is_err() {
            into.clear();
        }
        read
    }

    fn fill(&self, pinned: &Pinned<'_>, into: &mut Vec<u8>) -> Result<(), CacheError> {
        match pinned {
            Pinned::Object { object, codec, .. } => {
                let corrupt = CacheError::Corrupt { len: object.len() };
                let Some(value) = object::parse(object) else { return Err(corrupt) };
                if value.value_len > FRAME || value.payload.len() > value.value_len {
                    return Err(corrupt);
                }
                set_len(into, value.value_len)?;
                if value.payload.len() == value.value_len {
                    into.copy_from_slice(value.payload);
                } else {
                    codec.codec().decompress(value.payload, into)?;
                }
                Ok(())
            }
            Pinned::Long(long) => {
                set_len(into, long.value_len())?;
                long.read(&self.codecs, into)
            }
        }
    }

    /// Frees a value that has left its index, or never came into one. Returns the bytes of its objects.
    pub(crate) fn free(&self, body: Body) -> usize {
        let (value_len, stored_len) = match body {
            Body::Object { handle, codec } => {
                // A value with too many readers, which cannot be read, is not counted exactly.
                let lens = self.pool.read(handle).map_or((0, 0), |object| {
                    (object::parse(&object).map_or(0, |value| value.value_len), object.len())
                });
                self.pool.free(handle);
                self.codecs.release(codec);
                lens
            }
            Body::Long(long) => (long.value_len(), long.stored_len()),
        };
        self.value_bytes.fetch_sub(value_len, SeqCst);
        if value_len <= SHORT {
            self.short_bytes.fetch_sub(value_len, SeqCst);
        }
        stored_len
    }
}

/// Gives a buffer a length. Bytes that it has already are not cleared, since they are overwritten.
fn set_len(buffer: &mut Vec<u8>, len: usize) -> Result<(), CacheError> {
    if let Some(more) = len.checked_sub(buffer.len()) {
        buffer
            .try_reserve_exact(more)
            .map_err(|_| CacheError::NoMemory { what: "a value", bytes: len })?;
    }
    buffer.resize(len, 0);
    Ok(())
}

/// What became of a value under its context.
enum Attempt {
    Done(Handle),
    /// The budget has no page. This is the compressed value.
    NoRoom(Vec<u8>),
    /// It does not fit into one object. This is the compressed value.
    TooLong(Vec<u8>),
}

/// An entry that counts for a dictionary until this is dropped.
struct Claim<'a> {
    codecs: &'a Codecs,
    number: CodecNumber,
}

impl Claim<'_> {
    /// Lets the entry count until the value is freed.
    fn keep(self) -> CodecNumber {
        core::mem::ManuallyDrop::new(self).number
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.codecs.release(self.number);
    }
}
