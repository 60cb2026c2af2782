//! Reads the parts of a stream for the decoders that use vector instructions. All of these do it alike, whatever the
//! length of their vectors.

use core::marker::PhantomData;

use crate::format::{
    ALL_CODES, CODE_LOW, CODES, CODES_OF_KIND, DISTANCE, LINE, MIN_DISTANCE, kind,
};
use crate::parts::Parts;

/// Reads the control and the payload of a unit, line by line. A load may pass their ends, but stays in the body or in
/// `copy`.
pub(crate) struct Reader<'a> {
    /// The control of the next line.
    control: *const u8,
    /// The distance in force.
    distance: usize,
    /// For each code 1 so far, the lowest bit of the code. No word has this code. The other bits mean nothing.
    bad_codes: u64,
    /// Invariant R1: here begin the `left` bytes of payload that are still to be read. If `copied`, this is in `copy`,
    /// else in the body.
    payload: *const u8,
    left: usize,
    /// The last place in the body from which 64 bytes can be loaded. If the body is too short for one, all loads are
    /// from `copy`.
    last: *const u8,
    copied: bool,
    /// 128 bytes, which only this reader uses. A pointer, since a moved reference would invalidate `payload`.
    copy: *mut u8,
    borrowed: PhantomData<(&'a [u8], &'a mut [u8; 2 * LINE])>,
}

impl<'a> Reader<'a> {
    /// Finds the parts of `body`, which is a stream without its first three bytes, for a unit of `len` bytes. Returns a
    /// reader and the kinds of each block's lines. Returns `None` if `body` is malformed. The reader needs `copy` for
    /// the end of the payload.
    #[inline(always)]
    pub(crate) fn of(
        body: &'a [u8],
        len: usize,
        copy: &'a mut [u8; 2 * LINE],
    ) -> Option<(Self, impl Iterator<Item = u64>)> {
        let parts = Parts::of(body, len)?;
        let start = body.as_ptr();
        let mut reader = Reader {
            control: start.wrapping_add(parts.payload.len()),
            distance: MIN_DISTANCE,
            bad_codes: 0,
            payload: start,
            left: parts.payload.len(),
            last: start.wrapping_add(body.len()).wrapping_sub(LINE),
            copied: false,
            copy: copy.as_mut_ptr(),
            borrowed: PhantomData,
        };
        if body.len() < LINE {
            // SAFETY: nothing was copied, and the payload is a part of the body, which has fewer than 64 bytes.
            unsafe { reader.load_from_copy() };
        }
        Some((reader, parts.kinds()))
    }

    /// Copies the rest of the payload. All further loads are from the copy.
    ///
    /// # Safety
    /// Nothing was copied yet, and fewer than 64 bytes are left.
    #[inline(always)]
    unsafe fn load_from_copy(&mut self) {
        // SAFETY: R1, and the caller's promise: `copy` has room for the bytes.
        unsafe { core::ptr::copy_nonoverlapping(self.payload, self.copy, self.left) };
        self.payload = self.copy;
        self.copied = true;
    }

    /// Reads the control of the next line, of kind `this`, whose first word has the index `base`. Returns the line's
    /// distance and codes; `None` if the distance is malformed.
    ///
    /// # Safety
    /// The kinds passed so far, with this one, are those of the body's first lines, in order.
    #[inline(always)]
    pub(crate) unsafe fn control(&mut self, this: u64, base: usize) -> Option<(usize, u64)> {
        let new = this == kind::CODED_AT;
        // SAFETY: the control before this line was read, all of it is as long as the kinds require, and at least 8
        // bytes of kinds follow. So the load stays in the body.
        let stored = unsafe { self.control.cast::<u16>().read_unaligned() };
        // Made into a distance before the choice. Otherwise compilers branch here, and the branch is often mispredicted.
        let stored = usize::from(u16::from_le(stored));
        let distance = if new { stored } else { self.distance };
        self.distance = distance;
        if distance < MIN_DISTANCE || distance > base.max(MIN_DISTANCE) {
            return None;
        }
        let with_distance = DISTANCE * usize::from(new);
        // SAFETY: as above. If the line has control, the load passes its end by at most 2 bytes, else by 8.
        let stored =
            unsafe { self.control.wrapping_add(with_distance).cast::<u64>().read_unaligned() };
        let coded = this >= kind::CODED;
        let codes = if coded {
            u64::from_le(stored) & ALL_CODES
        } else {
            CODES_OF_KIND[(this & 1) as usize]
        };
        // SAFETY: the control of this line is a part of all control.
        self.control = unsafe { self.control.add(if coded { with_distance + CODES } else { 0 }) };
        self.bad_codes |= codes & !(codes >> 1 | codes >> 2);
        Some((distance, codes))
    }

    /// Passes over `used` bytes of payload. Returns where they begin; 64 bytes can be loaded from there. Returns `None`
    /// if fewer than `used` are left.
    #[inline(always)]
    pub(crate) fn payload(&mut self, used: usize) -> Option<*const u8> {
        if used > self.left {
            return None;
        }
        if !self.copied && self.payload > self.last {
            // SAFETY: nothing was copied, and a load of 64 bytes would pass the end of the body, so fewer are left.
            unsafe { self.load_from_copy() };
        }
        let here = self.payload;
        // SAFETY: R1, and at most `left` bytes are used.
        self.payload = unsafe { here.add(used) };
        self.left -= used;
        Some(here)
    }

    /// Returns whether the payload was used up and all codes exist.
    #[inline(always)]
    pub(crate) fn is_done(&self) -> bool {
        self.left == 0 && self.bad_codes & CODE_LOW == 0
    }
}
