//! A buffer that ends or starts at an inaccessible page, so that an access one byte
//! out of bounds crashes the test. Under Miri, which detects such accesses itself, and
//! on systems other than Linux, the buffer only has the exact length.

/// The side on which the buffer touches a fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Start,
    End,
}

#[cfg(all(target_os = "linux", not(miri)))]
mod imp {
    use std::ptr::NonNull;

    use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

    use super::Side;

    /// The length of a fence in bytes, a multiple of every page size.
    const FENCE: usize = 64 << 10;

    /// At least `len` accessible bytes between two fences. Surplus bytes are on the side that is not tested.
    pub(crate) struct Fenced {
        base: NonNull<u8>,
        total: usize,
        len: usize,
        side: Side,
    }

    impl Fenced {
        pub(crate) fn new(len: usize, side: Side) -> Self {
            let room = len.div_ceil(FENCE).max(1) * FENCE;
            let total = room + 2 * FENCE;
            // SAFETY: makes a new mapping, at an address that the system chooses.
            let base = unsafe {
                mmap_anonymous(
                    std::ptr::null_mut(),
                    total,
                    ProtFlags::READ | ProtFlags::WRITE,
                    MapFlags::PRIVATE,
                )
            }
            .unwrap();
            let base = NonNull::new(base.cast::<u8>()).unwrap();
            for fence in [0, FENCE + room] {
                // SAFETY: the fence lies within the mapping.
                let start = unsafe { base.as_ptr().add(fence) };
                // SAFETY: the fence lies within the mapping, which nothing refers to yet.
                unsafe { mprotect(start.cast(), FENCE, MprotectFlags::empty()) }.unwrap();
            }
            Fenced { base, total, len, side }
        }

        /// Returns the `len` bytes of the buffer that are next to the fence.
        pub(crate) fn slice(&mut self, len: usize) -> &mut [u8] {
            assert!(len <= self.len);
            let offset = match self.side {
                Side::Start => FENCE,
                Side::End => self.total - FENCE - len,
            };
            // SAFETY: the offset lies within the mapping.
            let start = unsafe { self.base.as_ptr().add(offset) };
            // SAFETY: the `len` bytes lie between the fences. They are readable, writable,
            // initialised by the system and borrowed with `self`.
            unsafe { std::slice::from_raw_parts_mut(start, len) }
        }
    }

    impl Drop for Fenced {
        fn drop(&mut self) {
            // SAFETY: the mapping is ours, and nothing refers to it after this.
            unsafe { munmap(self.base.as_ptr().cast(), self.total) }.unwrap();
        }
    }
}

#[cfg(not(all(target_os = "linux", not(miri))))]
mod imp {
    use super::Side;

    pub(crate) struct Fenced {
        bytes: Vec<u8>,
    }

    impl Fenced {
        pub(crate) fn new(len: usize, _side: Side) -> Self {
            Fenced { bytes: vec![0; len] }
        }

        pub(crate) fn slice(&mut self, len: usize) -> &mut [u8] {
            self.bytes = vec![0; len];
            &mut self.bytes
        }
    }
}

pub(crate) use imp::Fenced;
