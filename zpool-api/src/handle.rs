//! The 64-bit handle: a pool's tag, and the bits that belong to the backend.

use core::fmt;
use core::num::NonZeroU64;
use core::sync::atomic::{AtomicU16, Ordering};

const TAG_BITS: u32 = 12;
const BACKEND_BITS: u32 = 52;
const GENERATION_BITS: u32 = 20;
const SLOT_BITS: u32 = 32;

const BACKEND_MASK: u64 = (1 << BACKEND_BITS) - 1;
const MAX_TAG: u16 = (1 << TAG_BITS) - 1;

/// A number of 12 bits, 1 to 4095. It distinguishes the handles of one pool from the handles of other pools.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PoolTag(u16);

impl PoolTag {
    /// Returns the next tag of a counter that the whole process shares. After 4095 comes 1. Never blocks.
    ///
    /// ```
    /// use zpool_api::PoolTag;
    ///
    /// let (mine, other) = (PoolTag::next(), PoolTag::next());
    /// assert_ne!(mine, other);
    /// ```
    pub fn next() -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        Self::next_of(&NEXT)
    }

    /// Advances `counter`, which counts modulo 4095, and returns the tag for its old value. Any 4095
    /// successive tags differ from each other.
    fn next_of(counter: &AtomicU16) -> Self {
        // Relaxed: the tags only have to differ; the counter publishes nothing.
        let relaxed = Ordering::Relaxed;
        let around = |n: u16| Some(if n + 1 >= MAX_TAG { 0 } else { n + 1 });
        // `around` never returns `None`, so the result is never an error.
        let (Ok(n) | Err(n)) = counter.fetch_update(relaxed, relaxed, around);
        PoolTag(n % MAX_TAG + 1)
    }

    /// Returns the tag with this number, or `None` if the number is not in 1 to 4095.
    pub const fn new(tag: u16) -> Option<Self> {
        if tag >= 1 && tag <= MAX_TAG { Some(PoolTag(tag)) } else { None }
    }

    /// Returns the tag's number, 1 to 4095.
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Debug for PoolTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PoolTag({})", self.0)
    }
}

/// The 52 bits of a handle that belong to the backend. A consumer that knows the pool of a handle may keep
/// only these.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendBits(u64);

impl BackendBits {
    /// Makes backend bits from `bits`. Returns `None` if `bits` needs more than 52 bits.
    pub const fn new(bits: u64) -> Option<Self> {
        if bits <= BACKEND_MASK { Some(BackendBits(bits)) } else { None }
    }

    /// Makes backend bits from the low 52 bits of `bits` and drops the others. Meant for words that hold
    /// other fields, too.
    pub const fn truncate(bits: u64) -> Self {
        BackendBits(bits & BACKEND_MASK)
    }

    /// Returns the bits as a number below 2^52.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Debug for BackendBits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BackendBits({:#015x})", self.0)
    }
}

/// Names one object of one pool. Opaque, `Copy`, never zero.
///
/// ```text
///  63        52 51                                                   0
/// +------------+------------------------------------------------------+
/// | pool tag   | backend bits                                         |
/// +------------+------------------------------------------------------+
///                51             32 31                                0
///               +-----------------+-----------------------------------+
///               | generation (20) | slot (32)            `SlotRef`    |
///               +-----------------+-----------------------------------+
/// ```
///
/// All handles of a pool have the same tag. So a consumer that knows the pool of a handle may keep only the
/// 52 bits. Tags count from 1 to 4095 and then start over. So two pools nearly always have different tags,
/// but not always. No tag is 0, so no handle is 0.
///
/// Any handle is memory-safe to pass to any pool. If it names no live object there, the call fails with
/// [`crate::ZpoolError::InvalidHandle`]. A handle is no access right: whoever guesses the handle of a live
/// object can use that object.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct Handle(NonZeroU64);

impl Handle {
    /// Makes a handle from a pool's tag and the backend's bits.
    ///
    /// ```
    /// use zpool_api::{Handle, PoolTag, SlotRef};
    ///
    /// let tag = PoolTag::next();
    /// let slot = SlotRef::new(1, 42).unwrap();
    /// let handle = Handle::new(tag, slot.to_bits());
    ///
    /// // What a backend does with a handle that it receives:
    /// let bits = handle.bits_of(tag).unwrap(); // `None` for another pool's
    /// assert_eq!(SlotRef::from_bits(bits), slot);
    /// ```
    pub const fn new(tag: PoolTag, bits: BackendBits) -> Self {
        match NonZeroU64::new(((tag.0 as u64) << BACKEND_BITS) | bits.0) {
            Some(word) => Handle(word),
            // A tag is at least 1, so the word is not zero; MIN keeps this arm free of a panic.
            None => Handle(NonZeroU64::MIN),
        }
    }

    /// Makes the handle with this number, usually a number that [`Handle::as_u64`] returned. Returns `None`
    /// if the number is 0, since no handle is 0.
    ///
    /// ```
    /// use zpool_api::{BackendBits, Handle, PoolTag};
    ///
    /// let handle = Handle::new(PoolTag::next(), BackendBits::new(7).unwrap());
    /// let kept: u64 = handle.as_u64();
    /// assert_eq!(Handle::from_u64(kept), Some(handle));
    /// ```
    pub const fn from_u64(word: u64) -> Option<Self> {
        match NonZeroU64::new(word) {
            Some(word) => Some(Handle(word)),
            None => None,
        }
    }

    /// Returns the handle as a number. It is never 0.
    pub const fn as_u64(self) -> u64 {
        self.0.get()
    }

    /// Returns the upper 12 bits. In a made-up handle they may be 0, although no pool has the tag 0.
    pub const fn tag_bits(self) -> u16 {
        (self.0.get() >> BACKEND_BITS) as u16
    }

    /// Returns the lower 52 bits.
    pub const fn backend_bits(self) -> BackendBits {
        BackendBits(self.0.get() & BACKEND_MASK)
    }

    /// Returns the backend's bits if the handle has this tag. Returns `None` if it has another one.
    pub const fn bits_of(self, tag: PoolTag) -> Option<BackendBits> {
        if self.tag_bits() == tag.0 { Some(self.backend_bits()) } else { None }
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Handle({:#018x})", self.0.get())
    }
}

/// A slot's number, and the generation that the slot had when the object was allocated. Most backends keep
/// these two numbers in their 52 bits of a handle.
///
/// Freeing an object raises the generation of its slot, so a stale handle never matches again. Once the last
/// generation of a slot is freed, the slot is never used again. docs/handles.md describes how long the bits
/// of each field last, and what happens when they are used up.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct SlotRef {
    generation: u32,
    slot: u32,
}

impl SlotRef {
    /// The last generation of a slot. After an object of this generation is freed, the slot is never used
    /// again.
    pub const MAX_GENERATION: u32 = (1 << GENERATION_BITS) - 1;

    /// Makes a reference from a generation and a slot's number. Returns `None` if the generation needs more
    /// than 20 bits.
    pub const fn new(generation: u32, slot: u32) -> Option<Self> {
        if generation <= Self::MAX_GENERATION { Some(SlotRef { generation, slot }) } else { None }
    }

    /// Returns the generation, 0 to 2^20 - 1.
    pub const fn generation(self) -> u32 {
        self.generation
    }

    /// Returns the slot's number.
    pub const fn slot(self) -> u32 {
        self.slot
    }

    /// Packs the slot's number and the generation into the backend's bits of a handle.
    pub const fn to_bits(self) -> BackendBits {
        BackendBits(((self.generation as u64) << SLOT_BITS) | self.slot as u64)
    }

    /// Unpacks the backend's bits of a handle. Any bits are valid.
    pub const fn from_bits(bits: BackendBits) -> Self {
        SlotRef { generation: (bits.0 >> SLOT_BITS) as u32, slot: bits.0 as u32 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zpool_base::sync::test_rng::Rng;

    const _: fn() = || {
        fn both<T: Send + Sync + Copy>() {}
        both::<Handle>();
        both::<PoolTag>();
        both::<BackendBits>();
        both::<SlotRef>();
    };

    #[test]
    fn handle_is_eight_bytes_and_has_a_niche() {
        assert_eq!(size_of::<Handle>(), 8);
        assert_eq!(size_of::<Option<Handle>>(), 8);
        assert_eq!(TAG_BITS + BACKEND_BITS, 64);
        assert_eq!(GENERATION_BITS + SLOT_BITS, BACKEND_BITS);
    }

    #[test]
    fn split_round_trips_for_every_kind_of_bits() {
        let mut rng = Rng::new(1);
        for i in 0..if cfg!(miri) { 200 } else { 4000u64 } {
            let raw_tag = match i {
                0 => 1,
                1 => MAX_TAG,
                _ => (rng.next() % u64::from(MAX_TAG)) as u16 + 1,
            };
            let raw = [0, BACKEND_MASK, rng.next() & BACKEND_MASK][(i % 3) as usize];
            let tag = PoolTag::new(raw_tag).unwrap();
            let bits = BackendBits::new(raw).unwrap();
            let handle = Handle::new(tag, bits);
            assert_ne!(handle.as_u64(), 0);
            assert_eq!(handle.tag_bits(), raw_tag);
            assert_eq!(handle.backend_bits(), bits);
            assert_eq!(handle.bits_of(tag), Some(bits));
            assert_eq!(Handle::from_u64(handle.as_u64()), Some(handle));
            let other = PoolTag::new(raw_tag % MAX_TAG + 1).unwrap();
            assert_eq!(handle.bits_of(other), None);

            let slot = SlotRef::from_bits(bits);
            assert_eq!(slot.to_bits(), bits);
            let again = SlotRef::new(slot.generation(), slot.slot()).unwrap();
            assert_eq!(again, slot);
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert_eq!(PoolTag::new(0), None);
        assert_eq!(PoolTag::new(MAX_TAG + 1), None);
        assert_eq!(BackendBits::new(1 << BACKEND_BITS), None);
        assert_eq!(BackendBits::truncate(u64::MAX).get(), BACKEND_MASK);
        assert_eq!(SlotRef::new(SlotRef::MAX_GENERATION + 1, 0), None);
        assert_eq!(Handle::from_u64(0), None);
    }

    #[test]
    fn the_largest_of_each_fits_and_no_larger() {
        assert_eq!(PoolTag::new(4095).map(PoolTag::get), Some(4095));
        assert_eq!(BackendBits::new((1 << 52) - 1).map(BackendBits::get), Some((1 << 52) - 1));
        let last = SlotRef::new((1 << 20) - 1, u32::MAX).unwrap();
        assert_eq!((last.generation(), last.slot()), ((1 << 20) - 1, u32::MAX));
        assert_eq!((PoolTag::new(4096), SlotRef::new(1 << 20, 0)), (None, None));
        assert_eq!(BackendBits::new(1 << 52), None);
    }

    #[test]
    fn fields_are_where_the_picture_has_them() {
        let slot = SlotRef::new(0xabcde, 0x0123_4567).unwrap();
        let handle = Handle::new(PoolTag::new(0xfed).unwrap(), slot.to_bits());
        let digits = format!("{:x}", handle.as_u64());
        assert_eq!(digits, "fed".to_owned() + "abcde" + "01234567");
    }

    #[test]
    fn a_message_tells_the_number() {
        let tag = PoolTag::new(7).unwrap();
        let bits = BackendBits::new(0xabc).unwrap();
        assert_eq!(format!("{tag:?} {bits:?}"), "PoolTag(7) BackendBits(0x0000000000abc)");
        assert_eq!(format!("{:?}", Handle::new(tag, bits)), "Handle(0x0070000000000abc)");
    }

    #[test]
    fn tags_are_never_zero_and_neighbours_differ() {
        let mut last = PoolTag::next();
        for _ in 0..if cfg!(miri) { 200 } else { 10_000 } {
            let tag = PoolTag::next();
            assert!((1..=MAX_TAG).contains(&tag.get()));
            assert_ne!(tag, last);
            last = tag;
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "a hundred thousand steps of arithmetic")]
    fn a_tag_comes_again_after_all_others_wherever_the_counter_stands() {
        let counter = AtomicU16::new(0);
        let mut last_seen = [None; 1 << TAG_BITS];
        // Counts past 2^16 twice, where a counter of 16 bits would wrap around.
        for pool in 0..140_000usize {
            let tag = usize::from(PoolTag::next_of(&counter).get());
            if let Some(before) = last_seen[tag].replace(pool) {
                assert_eq!(pool - before, usize::from(MAX_TAG), "tag {tag}");
            }
        }
        assert!(last_seen[1..].iter().all(Option::is_some) && last_seen[0].is_none());
    }
}
