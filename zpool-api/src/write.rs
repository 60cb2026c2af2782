//! The write guard: the space of an object that has no handle yet.
//!
//! Invariants: the first `written` bytes have been written, or `advance` has declared them written. Every
//! byte of the space is initialised from the start, even if only with older contents. So safe code can
//! neither see nor store uninitialised memory.

use core::fmt;
use core::marker::PhantomData;
use core::ptr::NonNull;

use crate::{Handle, PAGE_SIZE, PageError, ZpoolError};

/// The backend's half of a write guard over memory of the pool.
///
/// A backend implements it on a private type, so that only the guard can commit or abort.
pub trait ObjCommit: Sync {
    /// Publishes the object and returns its handle. The guard calls this after all bytes have been written.
    ///
    /// # Errors
    /// Any error of the backend, for instance [`ZpoolError::Forked`]. Before it returns an error, `commit`
    /// must free the space.
    fn commit(&self, token: u64) -> Result<Handle, ZpoolError>;
    /// Frees the space. The drop of the guard calls this if [`ObjCommit::commit`] was not called. Must not
    /// panic.
    fn abort(&self, token: u64);
}

/// The backend's half of a write guard that collects the bytes first and passes them on at commit. A
/// backend that keeps each object in its own heap allocation can implement it without `unsafe`.
pub trait ObjSink: Sync {
    /// Stores an object with these bytes and returns its handle.
    ///
    /// # Errors
    /// Any error of the backend. A `store` that fails must store nothing.
    fn store(&self, bytes: &[u8]) -> Result<Handle, ZpoolError>;
}

enum Target<'p> {
    /// The memory of the pool. The pointers are raw, not references, because `commit` may free what they
    /// point to.
    InPlace { start: NonNull<u8>, commit: NonNull<dyn ObjCommit + 'p>, token: u64 },
    /// A buffer on the heap. `bytes` has the object's length from the start.
    Buffer { bytes: Vec<u8>, sink: &'p (dyn ObjSink + 'p) },
    /// The object was committed, so the guard's drop has nothing to free.
    Done,
}

/// Space for one object. The holder writes it from start to end and then commits it.
///
/// An object is written once, and its handle exists only after every byte has been written. So no write can
/// race a read, and no reader sees bytes of an object that was there earlier.
///
/// Dropping the guard before the commit frees the space. If the guard is forgotten, the space stays in use
/// until the pool is dropped. Holds no mutex. `Send` and `Sync`.
#[must_use = "an object that is not committed is freed again"]
pub struct ObjWrite<'p> {
    target: Target<'p>,
    size: usize,
    written: usize,
    pool: PhantomData<&'p ()>,
}

// SAFETY: until commit, the memory belongs to this guard alone (`in_place`). `ObjCommit` is `Sync`, so its
// functions may be called on any thread.
unsafe impl Send for ObjWrite<'_> {}
// SAFETY: through `&ObjWrite`, safe code gets only two numbers.
unsafe impl Sync for ObjWrite<'_> {}

impl<'p> ObjWrite<'p> {
    /// Makes a guard over `bytes`, memory of a pool. Its commit calls `commit.commit(token)`; its drop
    /// without a commit calls `commit.abort(token)`.
    ///
    /// # Safety
    /// The bytes must be initialised and writable, and nobody else may touch them until one of the two
    /// calls is made. The guard makes one of these calls exactly once, or neither if it is forgotten.
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

    /// Makes a guard that collects `size` bytes on the heap and passes them to `sink` at commit.
    ///
    /// # Errors
    /// [`ZpoolError::OutOfMemory`] if the allocator refuses `size` bytes.
    ///
    /// ```
    /// use zpool_api::{Handle, ObjSink, ObjWrite, ZpoolError};
    ///
    /// /// Prints objects and numbers them by their length.
    /// struct Printer;
    /// impl ObjSink for Printer {
    ///     fn store(&self, bytes: &[u8]) -> Result<Handle, ZpoolError> {
    ///         println!("{bytes:?}");
    ///         Handle::from_u64(bytes.len() as u64).ok_or(ZpoolError::EmptyObject)
    ///     }
    /// }
    ///
    /// let mut object = ObjWrite::buffered(5, &Printer)?;
    /// object.write(b"two ")?;
    /// object.write(b"!")?;
    /// assert_eq!(object.commit()?.as_u64(), 5);
    /// # Ok::<(), ZpoolError>(())
    /// ```
    pub fn buffered(size: usize, sink: &'p (dyn ObjSink + 'p)) -> Result<Self, ZpoolError> {
        let mut bytes = Vec::new();
        if bytes.try_reserve_exact(size).is_err() {
            let pages = size.div_ceil(PAGE_SIZE);
            let reason = format_args!("no memory to buffer an object");
            return Err(PageError::refused(pages, PAGE_SIZE, reason).into());
        }
        bytes.resize(size, 0);
        let target = Target::Buffer { bytes, sink };
        Ok(ObjWrite { target, size, written: 0, pool: PhantomData })
    }

    /// Returns the object's length in bytes.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Returns the number of bytes written so far.
    pub fn written(&self) -> usize {
        self.written
    }

    /// Appends `bytes` to what was written so far.
    ///
    /// # Errors
    /// [`ZpoolError::WriteBeyondEnd`] if `bytes` does not fit in the rest of the object. Then nothing is
    /// written.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), ZpoolError> {
        let room = self.size - self.written;
        if bytes.len() > room {
            return Err(ZpoolError::WriteBeyondEnd { len: bytes.len(), room });
        }
        // Always `Some`: only after commit is `spare` shorter than `room`, and commit consumes the guard.
        if let Some(to) = self.spare().get_mut(..bytes.len()) {
            to.copy_from_slice(bytes);
        }
        self.advance(bytes.len());
        Ok(())
    }

    /// Returns the part of the object that is not yet written, for codecs that write in place. Call
    /// [`ObjWrite::advance`] after writing to it. The part's contents are unspecified; usually they come
    /// from an older object.
    pub fn spare(&mut self) -> &mut [u8] {
        let room = self.size - self.written;
        match &mut self.target {
            Target::InPlace { start, .. } => {
                // SAFETY: `written` is at most `size`, so the pointer stays in the object.
                let from = unsafe { start.add(self.written) };
                // SAFETY: the `room` bytes that begin there are initialised and belong to this guard alone
                // (`in_place`). The slice borrows the guard mutably, so nothing else uses the bytes while
                // it lives.
                unsafe { core::slice::from_raw_parts_mut(from.as_ptr(), room) }
            }
            Target::Buffer { bytes, .. } => &mut bytes[self.written..],
            Target::Done => &mut [],
        }
    }

    /// Declares that the next `n` bytes, the first of [`ObjWrite::spare`], are written. If fewer than `n`
    /// remain, declares all of them written. If some of these bytes were not written, the object gets their
    /// unspecified contents.
    pub fn advance(&mut self, n: usize) {
        self.written += n.min(self.size - self.written);
    }

    /// Publishes the object and returns its handle. Consumes the guard.
    ///
    /// # Errors
    /// [`ZpoolError::NotFullyWritten`] if not every byte was written. Otherwise any error of the backend.
    /// After an error the space is free.
    pub fn commit(mut self) -> Result<Handle, ZpoolError> {
        if self.written != self.size {
            return Err(ZpoolError::NotFullyWritten { written: self.written, size: self.size });
        }
        match core::mem::replace(&mut self.target, Target::Done) {
            // SAFETY: the target lives for `'p`, since `in_place` borrowed it for `'p`.
            Target::InPlace { commit, token, .. } => unsafe { commit.as_ref() }.commit(token),
            Target::Buffer { bytes, sink } => sink.store(&bytes),
            // Unreachable: only `commit` sets `Done`, and it consumes the guard.
            Target::Done => Err(ZpoolError::EmptyObject),
        }
    }
}

impl Drop for ObjWrite<'_> {
    fn drop(&mut self) {
        if let Target::InPlace { commit, token, .. } = self.target {
            // SAFETY: the target lives for `'p`, since `in_place` borrowed it for `'p`.
            unsafe { commit.as_ref() }.abort(token);
        }
    }
}

impl std::io::Write for ObjWrite<'_> {
    /// Appends as many of the bytes as fit, and returns their number. It is 0 if the object is full.
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
        // SAFETY: `space` is initialised and outlives all guards, and only one guard uses it at a time.
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
                ObjWrite::buffered(4, &log).unwrap()
            } else {
                // SAFETY: `space` is initialised and outlives the guard, and nobody else touches it.
                unsafe { ObjWrite::in_place(bytes, &log, 9) }
            };
            ObjWrite::write(&mut guard, &[1]).unwrap();
            assert_eq!(guard.spare().len(), 3);
            guard.spare().copy_from_slice(&[2, 3, 4]);
            guard.advance(2);
            assert_eq!((guard.written(), &*guard.spare()), (3, &[4][..]));
            guard.advance(9);
            assert_eq!((guard.written(), guard.spare().len()), (4, 0));
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

    #[test]
    fn a_buffer_that_the_heap_refuses_is_an_error() {
        let log = Log::default();
        let refused = ObjWrite::buffered(usize::MAX, &log).unwrap_err();
        let said = refused.to_string();
        assert!(said.contains("no memory to buffer an object"), "{said}");
        assert_eq!(log.take(), [""; 0]);
    }

    /// The test reads the bytes that each guard leaves. So Miri checks that they are initialised.
    #[test]
    fn safe_code_leaves_nothing_uninitialised() {
        let log = Log::default();
        let mut space = Box::new([7u8; 64]);
        let bytes = NonNull::from(&mut space[..]);
        // SAFETY: `space` is initialised and outlives the guard, and nobody else touches it while the guard
        // lives.
        let mut guard = unsafe { ObjWrite::in_place(bytes, &log, 1) };
        guard.advance(3);
        guard.spare()[0] = 9;
        drop(guard);
        assert_eq!(space.iter().map(|byte| u32::from(*byte)).sum::<u32>(), 63 * 7 + 9);
        let mut guard = ObjWrite::buffered(3, &log).unwrap();
        guard.advance(3);
        guard.commit().unwrap();
        assert_eq!(log.take(), ["abort 1", "store [0, 0, 0]"]);
    }
}
