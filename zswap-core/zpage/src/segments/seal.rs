//! The seal of what is written to a device: a tag behind each object and behind the directory.
//!
//! The tag covers the bytes and all that the store knows about them without reading the device: the key, the place,
//! the length, the codec, and the number of the attempt that wrote the segment. So a load notices damage; an object
//! that was written for another key or place; a segment that was put back as it was earlier; and what an earlier
//! store left in the same file.
//!
//! There are two kinds:
//! * Plain: the tag is a CRC-32, which covers a random number of the store, too. Damage is missed once in 2^32. It
//!   is no defence against somebody who can write to the device.
//! * Encrypted (feature `encrypt`): the bytes are encrypted in their place. The key is random and belongs to one
//!   store. The tag has 128 bits, and nobody without the key can make one.
//!
//! # Nonces
//! A nonce must not be used twice with a key. It consists of the number of the attempt and an index: the offset
//! of an object in units, or [`u32::MAX`] for the directory. [`Seal::begin`] begins an attempt, and is the only
//! place that makes its number. A [`Sealing`] seals at ascending offsets, and the directory ends it. So a
//! segment that is written again, after a failure or by cleaning, is sealed with other nonces.

use core::sync::atomic::{AtomicU64, Ordering};
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

use super::address::UNIT;
#[cfg(feature = "encrypt")]
use super::cipher::{self, Algorithm, Cipher};
#[cfg(feature = "encrypt")]
use crate::device::AttachError;

/// The bytes of a checksum.
const CHECKSUM: usize = 4;

/// What is sealed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sealed {
    Object {
        key: u64,
        codec: u8,
    },
    /// The list of a segment's objects.
    Directory,
}

/// The place of the bytes that are sealed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    /// The number of the attempt that wrote the segment. No number is used twice in a store.
    pub(super) attempt: u64,
    pub(super) segment: u32,
    pub(super) offset: usize,
}

#[derive(Debug)]
enum Kind {
    Plain {
        /// The store's random number.
        store: u64,
    },
    #[cfg(feature = "encrypt")]
    Encrypted(Cipher),
}

/// The seal of one store.
#[derive(Debug)]
pub(super) struct Seal {
    kind: Kind,
    /// Attempts so far to write a segment.
    attempts: AtomicU64,
}

impl Seal {
    /// Makes a plain seal with a random number of its own.
    pub(super) fn plain() -> Self {
        // The standard library seeds each `RandomState` from the system's random numbers.
        let store = RandomState::new().build_hasher().finish();
        Seal { kind: Kind::Plain { store }, attempts: AtomicU64::new(0) }
    }

    /// Makes an encrypting seal with a random key of its own.
    ///
    /// # Errors
    /// Those of [`Cipher::random`].
    #[cfg(feature = "encrypt")]
    pub(super) fn encrypted(algorithm: Algorithm) -> Result<Self, AttachError> {
        let kind = Kind::Encrypted(Cipher::random(algorithm)?);
        Ok(Seal { kind, attempts: AtomicU64::new(0) })
    }

    /// Returns the bytes of a tag.
    pub(super) fn tag_len(&self) -> usize {
        match self.kind {
            Kind::Plain { .. } => CHECKSUM,
            #[cfg(feature = "encrypt")]
            Kind::Encrypted(_) => cipher::TAG,
        }
    }

    /// Begins an attempt to write a segment.
    pub(super) fn begin(&self, segment: u32) -> Sealing<'_> {
        // Relaxed: only that each number is returned once matters, and it publishes nothing.
        let attempt = self.attempts.fetch_add(1, Ordering::Relaxed) + 1;
        Sealing { seal: self, attempt, segment, free: 0 }
    }

    /// Seals bytes: the last of them are room for the tag.
    fn seal(&self, what: Sealed, place: Place, bytes: &mut [u8]) {
        let (bytes, tag) = bytes.split_at_mut(bytes.len() - self.tag_len());
        match &self.kind {
            Kind::Plain { store } => {
                tag.copy_from_slice(&checksum(&known(*store, what, place, bytes.len()), bytes));
            }
            #[cfg(feature = "encrypt")]
            Kind::Encrypted(cipher) => {
                let known = known(0, what, place, bytes.len());
                tag.copy_from_slice(&cipher.encrypt(nonce(what, place), &known, bytes));
            }
        }
    }

    /// Opens bytes that were sealed: turns the first `len` bytes of `sealed` back into what they were. Returns
    /// whether they are `len` bytes with their tag, as they were sealed in this place. If they are not, the content
    /// of `sealed` is unspecified, but nothing of it is decrypted.
    #[must_use]
    pub(super) fn open(&self, what: Sealed, place: Place, sealed: &mut [u8], len: usize) -> bool {
        let Some(sealed) = sealed.get_mut(..len + self.tag_len()) else { return false };
        let (bytes, tag) = sealed.split_at_mut(len);
        match &self.kind {
            Kind::Plain { store } => checksum(&known(*store, what, place, len), bytes) == *tag,
            #[cfg(feature = "encrypt")]
            Kind::Encrypted(cipher) => {
                let known = known(0, what, place, len);
                let mut own = [0; cipher::TAG];
                own.copy_from_slice(tag);
                cipher.decrypt(nonce(what, place), &known, bytes, own)
            }
        }
    }

    /// Returns the bytes of memory for the key.
    pub(super) fn memory_bytes(&self) -> usize {
        match self.kind {
            Kind::Plain { .. } => 0,
            // A page on most systems.
            #[cfg(feature = "encrypt")]
            Kind::Encrypted(_) => crate::PAGE_SIZE,
        }
    }
}

/// An attempt to write a segment. Seals what goes into the segment, from its start to its end.
#[derive(Debug)]
pub(super) struct Sealing<'a> {
    seal: &'a Seal,
    attempt: u64,
    segment: u32,
    /// The end of what was sealed.
    free: usize,
}

impl Sealing<'_> {
    /// Seals an object at this offset of the segment. `bytes` is the object with room for the tag.
    ///
    /// # Panics
    /// If the offset is not a multiple of [`UNIT`], or not behind the objects that were sealed before.
    pub(super) fn object(&mut self, key: u64, codec: u8, offset: usize, bytes: &mut [u8]) {
        assert!(
            offset % UNIT == 0 && offset >= self.free,
            "an object is sealed in another's place"
        );
        self.free = offset + bytes.len();
        let place = Place { attempt: self.attempt, segment: self.segment, offset };
        self.seal.seal(Sealed::Object { key, codec }, place, bytes);
    }

    /// Seals the directory at this offset, and so ends the attempt. `bytes` is the directory with room for the tag.
    /// Returns the attempt's number.
    pub(super) fn directory(self, offset: usize, bytes: &mut [u8]) -> u64 {
        let place = Place { attempt: self.attempt, segment: self.segment, offset };
        self.seal.seal(Sealed::Directory, place, bytes);
        self.attempt
    }
}

/// Returns what a tag covers beside the bytes, of which there are `len`.
fn known(store: u64, what: Sealed, place: Place, len: usize) -> [u8; 40] {
    let (key, codec, kind) = match what {
        Sealed::Object { key, codec } => (key, codec, 1),
        Sealed::Directory => (0, 0, 2),
    };
    let mut known = [0; 40];
    known[..8].copy_from_slice(&store.to_le_bytes());
    known[8..16].copy_from_slice(&place.attempt.to_le_bytes());
    known[16..24].copy_from_slice(&key.to_le_bytes());
    known[24..28].copy_from_slice(&place.segment.to_le_bytes());
    known[28..32].copy_from_slice(&(place.offset as u32).to_le_bytes());
    known[32..36].copy_from_slice(&(len as u32).to_le_bytes());
    known[36] = codec;
    known[37] = kind;
    known
}

fn checksum(known: &[u8], bytes: &[u8]) -> [u8; CHECKSUM] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(known);
    hasher.update(bytes);
    hasher.finalize().to_le_bytes()
}

/// Returns the nonce of an object or a directory. No two of a store have the same.
#[cfg(feature = "encrypt")]
fn nonce(what: Sealed, place: Place) -> [u8; cipher::NONCE] {
    let index = match what {
        Sealed::Object { .. } => (place.offset / UNIT) as u32,
        Sealed::Directory => u32::MAX,
    };
    let mut nonce = [0; cipher::NONCE];
    nonce[..8].copy_from_slice(&place.attempt.to_le_bytes());
    nonce[8..].copy_from_slice(&index.to_le_bytes());
    nonce
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seals() -> Vec<Seal> {
        #[cfg_attr(not(feature = "encrypt"), expect(unused_mut, reason = "there is one kind"))]
        let mut seals = vec![Seal::plain()];
        #[cfg(feature = "encrypt")]
        seals
            .extend([Algorithm::Aes, Algorithm::ChaCha].map(|kind| Seal::encrypted(kind).unwrap()));
        seals
    }

    /// Seals this in the place of the first attempt.
    fn sealed(seal: &Seal, offset: usize, bytes: &[u8]) -> Vec<u8> {
        let mut sealed = bytes.to_vec();
        sealed.resize(bytes.len() + seal.tag_len(), 0);
        seal.begin(5).object(7, 1, offset, &mut sealed);
        sealed
    }

    #[test]
    fn a_seal_opens_only_what_it_sealed_where_it_sealed_it() {
        let bytes = b"some bytes that are longer than a unit";
        for (seal, another) in seals().iter().zip(&seals()) {
            let what = Sealed::Object { key: 7, codec: 1 };
            let place = Place { attempt: 1, segment: 5, offset: 32 };
            let (mut sealed, len) = (sealed(seal, 32, bytes), bytes.len());
            // What is opened by a seal, if it is opened.
            let opened = |seal: &Seal, what, place, sealed: &[u8], len| {
                let mut copy = sealed.to_vec();
                let opens = seal.open(what, place, &mut copy, len);
                opens.then(|| copy[..len].to_vec())
            };
            assert_eq!(opened(seal, what, place, &sealed, len).as_deref(), Some(&bytes[..]));
            for other in [
                Sealed::Object { key: 8, codec: 1 },
                Sealed::Object { key: 7, codec: 0 },
                Sealed::Directory,
            ] {
                assert_eq!(opened(seal, other, place, &sealed, len), None, "{other:?}");
            }
            for other in [
                Place { attempt: 2, ..place },
                Place { segment: 4, ..place },
                Place { offset: 16, ..place },
            ] {
                assert_eq!(opened(seal, what, other, &sealed, len), None, "{other:?}");
            }
            assert_eq!(opened(another, what, place, &sealed, len), None, "another store's");
            assert_eq!(opened(seal, what, place, &sealed, len - 1), None);
            let short = &sealed[..sealed.len() - 1];
            assert_eq!(opened(seal, what, place, short, len), None);
            for bit in 0..8 * sealed.len() {
                sealed[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(opened(seal, what, place, &sealed, len), None, "bit {bit}");
                sealed[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }

    #[test]
    #[should_panic(expected = "in another's place")]
    fn a_place_is_sealed_once_in_an_attempt() {
        let seal = Seal::plain();
        let mut sealing = seal.begin(0);
        sealing.object(7, 0, 32, &mut [0; 20]);
        sealing.object(7, 0, 48, &mut [0; 20]);
    }

    #[test]
    #[cfg(feature = "encrypt")]
    fn what_does_not_open_is_not_decrypted() {
        let bytes = [0x5a; 200];
        for seal in seals().iter().skip(1) {
            let mut sealed = sealed(seal, 32, &bytes);
            let last = sealed.len() - 1;
            sealed[last] ^= 1;
            let what = Sealed::Object { key: 7, codec: 1 };
            let place = Place { attempt: 1, segment: 5, offset: 32 };
            assert!(!seal.open(what, place, &mut sealed, bytes.len()));
            assert!(!sealed.windows(16).any(|run| run == [0x5a; 16]));
        }
    }

    /// With the nonce of the same bytes the ciphertexts would be equal.
    #[test]
    #[cfg(feature = "encrypt")]
    fn equal_bytes_are_never_encrypted_to_equal_ones() {
        use std::collections::HashSet;
        for seal in seals().iter().skip(1) {
            let (mut seen, mut all) = (HashSet::new(), 0);
            for segment in [0, 0, 1] {
                let mut sealing = seal.begin(segment);
                for offset in [0, 32, 64] {
                    let mut object = [0; 32];
                    sealing.object(7, 0, offset, &mut object);
                    seen.insert(object[..16].to_vec());
                    all += 1;
                }
                let mut directory = [0; 32];
                sealing.directory(96, &mut directory);
                seen.insert(directory[..16].to_vec());
                all += 1;
            }
            assert_eq!(seen.len(), all);
        }
    }

    #[test]
    #[cfg(feature = "encrypt")]
    fn a_seal_shows_no_key() {
        for seal in seals().iter().skip(1) {
            let shown = format!("{seal:?}");
            assert!(shown.contains("Secret { .. }") && shown.len() < 80, "{shown}");
        }
    }
}
