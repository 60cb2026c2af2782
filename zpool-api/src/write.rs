//! The write guard: space of an object that has no handle yet.
//!
//! An object is written once, before its handle exists: no write can race a read, and nobody sees
//! another object's bytes, because a handle is given only when every byte has been written.
//! Invariant: `written` bytes from the start are initialised; only the rest is handed out, as
//! `MaybeUninit`.

use core::fmt;
use core::marker::PhantomData;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

use crate::{Handle, ZpoolError};

/// The backend's half of a write guard over memory of the pool.
///
/// Implemented by a backend's private type, so that nobody else can commit or abort.
pub trait ObjCommit: Sync {
    /// Every byte is written: publish the object. On error the space has been freed.
    fn commit(&self, token: u64) -> Result<Handle, ZpoolError>;
    /// The guard was dropped uncommitted: free the space. Must not panic.
    fn abort(&self, token: u64);
}

/// The backend's half of a write guard whose bytes are collected first and then handed over: the
/// safe way for a backend that keeps each object in memory of its own.
pub trait ObjSink: Sync {
    /// Takes the object's bytes, all of them written.
    fn store(&self, bytes: &[u8]) -> Result<Handle, ZpoolError>;
}

enum Target<'p> {
    /// Raw for the same reason as in the read guard: `commit` may be the last use of the memory.
    InPlace {
        start: NonNull<u8>,
        commit: NonNull<dyn ObjCommit + 'p>,
        token: u64,
    },
    Buffer {
        bytes: Vec<u8>,
        sink: &'p (dyn ObjSink + 'p),
    },
    /// Committed: nothing left to free.
    Done,
}

/// Space for one object, to be written from start to end and then committed.
///
/// Dropped uncommitted, it frees the space. Holds no mutex; `Send` and `Sync`. Forgotten, it keeps
/// its space until the pool is dropped.
#[must_use = "an object that is not committed is freed again"]
pub struct ObjWrite<'p> {
    target: Target<'p>,
    size: usize,
    written: usize,
    pool: PhantomData<&'p ()>,
}

// SAFETY: the memory belongs to this guard alone until commit (`in_place`); `ObjCommit` is `Sync`
// and its calls may come from any thread.
unsafe impl Send for ObjWrite<'_> {}
// SAFETY: `&ObjWrite` gives out numbers only.
unsafe impl Sync for ObjWrite<'_> {}

impl<'p> ObjWrite<'p> {
    /// A guard over `size` bytes of a pool's memory.
    ///
    /// # Safety
    /// The bytes must be writable by this guard and touched by nobody else until `commit.commit`
    /// or `commit.abort` is called with `token`, which happens exactly once unless the guard is
    /// forgotten.
    #[inline]
    pub unsafe fn in_place(
        bytes: NonNull<[u8]>,
        commit: &'p (dyn ObjCommit + 'p),
        token: u64,
    ) -> Self {
        ObjWrite {
            size: bytes.len(),
            target: Target::InPlace { start: bytes.cast(), commit: NonNull::from(commit), token },
            written: 0,
            pool: PhantomData,
        }
    }

    /// A guard that collects `size` bytes on the heap and hands them to `sink` on commit.
    pub fn buffered(size: usize, sink: &'p (dyn ObjSink + 'p)) -> Self {
        let bytes = Vec::with_capacity(size);
        ObjWrite { target: Target::Buffer { bytes, sink }, size, written: 0, pool: PhantomData }
    }

    /// The object's length in bytes.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Bytes written so far.
    pub fn written(&self) -> usize {
        self.written
    }

    /// Appends `bytes`. [`ZpoolError::WriteBeyondEnd`] if they do not all fit; then none is written.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), ZpoolError> {
        let room = self.size - self.written;
        if bytes.len() > room {
            return Err(ZpoolError::WriteBeyondEnd { len: bytes.len(), room });
        }
        let spare = self.spare().as_mut_ptr();
        // SAFETY: `spare` has `room` writable bytes, `bytes` are fewer, and they cannot overlap:
        // the spare bytes are borrowed from this guard alone.
        unsafe { spare.cast::<u8>().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        // SAFETY: those bytes were initialised just now.
        unsafe { self.advance(bytes.len()) };
        Ok(())
    }

    /// The bytes not yet written, for codecs that write in place; tell of them by
    /// [`ObjWrite::advance`].
    pub fn spare(&mut self) -> &mut [MaybeUninit<u8>] {
        let room = self.size - self.written;
        match &mut self.target {
            Target::InPlace { start, .. } => {
                // SAFETY: `written` is at most `size`, so the pointer stays in the object.
                let from = unsafe { start.add(self.written) };
                // SAFETY: `room` bytes from there are the guard's alone (`in_place`), and borrowed
                // from it for as long as the slice lives.
                unsafe { core::slice::from_raw_parts_mut(from.as_ptr().cast(), room) }
            }
            Target::Buffer { bytes, .. } => {
                let spare = bytes.spare_capacity_mut();
                let room = room.min(spare.len());
                &mut spare[..room]
            }
            Target::Done => &mut [],
        }
    }

    /// Says that the first `n` bytes of [`ObjWrite::spare`] have been written. More than there are
    /// counts as all of them.
    ///
    /// # Safety
    /// They must have been.
    pub unsafe fn advance(&mut self, n: usize) {
        let n = n.min(self.size - self.written);
        self.written += n;
        if let Target::Buffer { bytes, .. } = &mut self.target {
            let len = (bytes.len() + n).min(bytes.capacity());
            // SAFETY: within the capacity; initialised, says the caller.
            unsafe { bytes.set_len(len) };
        }
    }

    /// Publishes the object and gives its handle.
    ///
    /// [`ZpoolError::NotFullyWritten`] unless every byte was written. On any error the space has
    /// been freed.
    pub fn commit(mut self) -> Result<Handle, ZpoolError> {
        if self.written != self.size {
            return Err(ZpoolError::NotFullyWritten { written: self.written, size: self.size });
        }
        match core::mem::replace(&mut self.target, Target::Done) {
            // SAFETY: the target lives for `'p` (`in_place`).
            Target::InPlace { commit, token, .. } => unsafe { commit.as_ref() }.commit(token),
            Target::Buffer { bytes, sink } => sink.store(&bytes),
            // Only `commit` leaves `Done`, and it consumes the guard.
            Target::Done => Err(ZpoolError::EmptyObject),
        }
    }
}

impl Drop for ObjWrite<'_> {
    fn drop(&mut self) {
        if let Target::InPlace { commit, token, .. } = self.target {
            // SAFETY: the target lives for `'p` (`in_place`).
            unsafe { commit.as_ref() }.abort(token);
        }
    }
}

impl std::io::Write for ObjWrite<'_> {
    /// Writes as much as fits; 0 at the end, as for a full slice.
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let n = bytes.len().min(self.size - self.written);
        ObjWrite::write(self, &bytes[..n]).map_err(std::io::Error::other)?;
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for ObjWrite<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjWrite")
            .field("size", &self.size)
            .field("written", &self.written)
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::sync::Mutex;

    const _: fn() = || {
        fn both<T: Send + Sync>() {}
        both::<ObjWrite<'static>>();
    };

    #[derive(Default)]
    struct Log(Mutex<Vec<String>>);
    impl Log {
        fn take(&self) -> Vec<String> {
            std::mem::take(&mut self.0.lock().unwrap())
        }
    }
    impl ObjCommit for Log {
        fn commit(&self, token: u64) -> Result<Handle, ZpoolError> {
            self.0.lock().unwrap().push(format!("commit {token}"));
            Ok(Handle::from_u64(token).unwrap())
        }
        fn abort(&self, token: u64) {
            self.0.lock().unwrap().push(format!("abort {token}"));
        }
    }
    impl ObjSink for Log {
        fn store(&self, bytes: &[u8]) -> Result<Handle, ZpoolError> {
            self.0.lock().unwrap().push(format!("store {bytes:?}"));
            Ok(Handle::from_u64(1).unwrap())
        }
    }

    #[test]
    fn commits_only_when_full_and_aborts_once() {
        let log = Log::default();
        let mut space = [0u8; 6];
        let bytes = NonNull::from(&mut space[..]);
        // SAFETY: `space` is touched by one guard at a time and outlives them all.
        let guard = |token| unsafe { ObjWrite::in_place(bytes, &log, token) };

        drop(guard(1));
        assert_eq!(log.take(), ["abort 1"]);

        let mut short = guard(2);
        ObjWrite::write(&mut short, b"abc").unwrap();
        assert_eq!(
            ObjWrite::write(&mut short, b"defg"),
            Err(ZpoolError::WriteBeyondEnd { len: 4, room: 3 })
        );
        assert_eq!(short.written(), 3);
        assert_eq!(short.commit(), Err(ZpoolError::NotFullyWritten { written: 3, size: 6 }));
        assert_eq!(log.take(), ["abort 2"]);

        let mut full = guard(3);
        assert_eq!(std::io::Write::write(&mut full, b"abcdXYZZY").unwrap(), 6);
        assert_eq!(full.write_all(b"!").unwrap_err().kind(), std::io::ErrorKind::WriteZero);
        assert_eq!(full.commit().unwrap().as_u64(), 3);
        assert_eq!(log.take(), ["commit 3"]);
        assert_eq!(&space, b"abcdXY");
    }

    #[test]
    fn spare_and_advance_write_in_place_and_into_a_buffer() {
        let log = Log::default();
        for buffered in [false, true] {
            let mut space = [0u8; 4];
            let bytes = NonNull::from(&mut space[..]);
            let mut guard = if buffered {
                ObjWrite::buffered(4, &log)
            } else {
                // SAFETY: `space` outlives the guard and nobody else touches it.
                unsafe { ObjWrite::in_place(bytes, &log, 9) }
            };
            ObjWrite::write(&mut guard, &[1]).unwrap();
            assert_eq!(guard.spare().len(), 3);
            for (i, byte) in guard.spare().iter_mut().enumerate() {
                byte.write(i as u8 + 2);
            }
            // SAFETY: the loop above wrote all three.
            unsafe { guard.advance(3) };
            guard.commit().unwrap();
            let said = log.take();
            if buffered {
                assert_eq!(said, ["store [1, 2, 3, 4]"]);
            } else {
                assert_eq!(said, ["commit 9"]);
                assert_eq!(space, [1, 2, 3, 4]);
            }
        }
    }
}
