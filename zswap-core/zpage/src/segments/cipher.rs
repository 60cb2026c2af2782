//! The ciphers that encrypt what is written to a device. Each has a random 256-bit key, a 96-bit nonce and a
//! 128-bit tag.

use aes_gcm::Aes256Gcm;
use aes_gcm::aead::consts::{U12, U16, U32};
use aes_gcm::aead::{AeadInOut, KeyInit};
use chacha20poly1305::ChaCha20Poly1305;
use std::io;
use zeroize::{ZeroizeOnDrop, Zeroizing};

use super::secret::Secret;
use crate::device::AttachError;

/// The bytes of a tag.
pub(super) const TAG: usize = 16;
/// The bytes of a nonce.
pub(super) const NONCE: usize = 12;

/// A way to encrypt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Algorithm {
    /// AES-256-GCM. Fast and without timing leaks if the processor has instructions for it.
    Aes,
    /// ChaCha20-Poly1305. Needs no special instructions.
    ChaCha,
}

impl Algorithm {
    /// Returns AES if the processor has instructions for all of it, else ChaCha20-Poly1305.
    pub(super) fn of_this_processor() -> Self {
        #[cfg(any(target_arch = "x86_64", target_arch = "x86"))]
        let aes = std::arch::is_x86_feature_detected!("aes")
            && std::arch::is_x86_feature_detected!("avx")
            && std::arch::is_x86_feature_detected!("pclmulqdq");
        #[cfg(target_arch = "aarch64")]
        let aes = std::arch::is_aarch64_feature_detected!("aes");
        #[cfg(not(any(target_arch = "x86_64", target_arch = "x86", target_arch = "aarch64")))]
        let aes = false;
        if aes { Algorithm::Aes } else { Algorithm::ChaCha }
    }
}

/// A cipher with its key, and with all that it computed from the key in advance.
#[derive(Debug)]
pub(super) enum Cipher {
    Aes(Secret<Aes256Gcm>),
    ChaCha(Secret<ChaCha20Poly1305>),
}

impl Cipher {
    /// Makes a cipher with a random key.
    ///
    /// # Errors
    /// [`AttachError::Key`] if the system gives no random numbers or no mapping for the key;
    /// [`AttachError::OutOfMemory`] if there is no memory.
    pub(super) fn random(algorithm: Algorithm) -> Result<Self, AttachError> {
        Ok(match algorithm {
            Algorithm::Aes => Cipher::Aes(Secret::new(with_random_key)?),
            Algorithm::ChaCha => Cipher::ChaCha(Secret::new(with_random_key)?),
        })
    }

    /// Encrypts bytes in their place. Returns the tag, which covers `known`, too. The caller never uses a nonce
    /// twice.
    ///
    /// # Panics
    /// In a child after `fork`.
    pub(super) fn encrypt(&self, nonce: [u8; NONCE], known: &[u8], bytes: &mut [u8]) -> [u8; TAG] {
        match self {
            Cipher::Aes(key) => encrypt(key, nonce, known, bytes),
            Cipher::ChaCha(key) => encrypt(key, nonce, known, bytes),
        }
    }

    /// Decrypts bytes in their place. Returns whether `tag` is the tag that was made with this nonce and for
    /// these bytes. If it is not, the content of `bytes` is unspecified, but not decrypted. Always false in a child
    /// after `fork`.
    pub(super) fn decrypt(
        &self,
        nonce: [u8; NONCE],
        known: &[u8],
        bytes: &mut [u8],
        tag: [u8; TAG],
    ) -> bool {
        match self {
            Cipher::Aes(key) => decrypt(key, nonce, known, bytes, tag),
            Cipher::ChaCha(key) => decrypt(key, nonce, known, bytes, tag),
        }
    }
}

fn with_random_key<C: KeyInit<KeySize = U32>>() -> Result<C, AttachError> {
    let mut key = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *key).map_err(|error| {
        let code = error.raw_os_error();
        let kind = code.map(|code| io::Error::from_raw_os_error(code).kind());
        AttachError::Key {
            operation: "getrandom",
            kind: kind.unwrap_or(io::ErrorKind::Other),
            code,
        }
    })?;
    Ok(C::new((&*key).into()))
}

#[expect(clippy::expect_used, reason = "a broken invariant of the segments")]
fn encrypt<C: AeadInOut<NonceSize = U12, TagSize = U16> + ZeroizeOnDrop>(
    key: &Secret<C>,
    nonce: [u8; NONCE],
    known: &[u8],
    bytes: &mut [u8],
) -> [u8; TAG] {
    let cipher = key.get().expect("a child after fork encrypts, and has no key");
    let tag = cipher.encrypt_inout_detached(&nonce.into(), known, bytes.into());
    tag.expect("a segment is longer than what a cipher encrypts").into()
}

fn decrypt<C: AeadInOut<NonceSize = U12, TagSize = U16> + ZeroizeOnDrop>(
    key: &Secret<C>,
    nonce: [u8; NONCE],
    known: &[u8],
    bytes: &mut [u8],
    tag: [u8; TAG],
) -> bool {
    key.get().is_some_and(|cipher| {
        cipher.decrypt_inout_detached(&nonce.into(), known, bytes.into(), &tag.into()).is_ok()
    })
}

#[cfg(all(test, target_os = "linux", not(miri), not(loom)))]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::os::unix::fs::FileExt;

    /// Returns where the writable memory of this process holds the key that is the complement of `inverted`.
    fn copies(inverted: &[u8; 32]) -> Vec<u64> {
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let memory = File::open("/proc/self/mem").unwrap();
        let mut bytes = vec![0; 1 << 16];
        let own = bytes.as_ptr_range();
        let own = own.start.addr() as u64..own.end.addr() as u64;
        let mut found = Vec::new();
        for line in maps.lines().filter(|line| line.contains(" rw")) {
            let (start, rest) = line.split_once('-').unwrap();
            let end = rest.split(' ').next().unwrap();
            let number = |digits| u64::from_str_radix(digits, 16).unwrap();
            let (mut at, end) = (number(start), number(end));
            while at < end {
                let len = (end - at).min(bytes.len() as u64) as usize;
                // Other tests may have unmapped this meanwhile.
                if memory.read_exact_at(&mut bytes[..len], at).is_ok() {
                    let is_it =
                        |run: &[u8]| run.iter().zip(inverted).all(|(byte, not)| *byte == !*not);
                    let places = bytes[..len].windows(32).enumerate().filter(|(_, run)| is_it(run));
                    found.extend(places.map(|(place, _)| at + place as u64));
                }
                // Runs on the border of two parts are in the next part, too.
                at +=
                    if len > 31 && at + (len as u64) < end { len as u64 - 31 } else { len as u64 };
            }
        }
        bytes.fill(0);
        found.retain(|at| !own.contains(at));
        found
    }

    /// Checks that no copy of a key is elsewhere. Returns how many are in the key's memory.
    fn check<C: KeyInit<KeySize = U32> + ZeroizeOnDrop>() -> usize {
        let mut inverted = [0; 32];
        getrandom::fill(&mut inverted).unwrap();
        let secret = Secret::new(|| {
            let key = Zeroizing::new(inverted.map(|byte| !byte));
            Ok(C::new((&*key).into()))
        })
        .unwrap();
        let place = core::ptr::from_ref(secret.get().unwrap()).addr() as u64;
        let found = copies(&inverted);
        assert!(found.iter().all(|at| (place..place + 4096).contains(at)), "{place:x}: {found:x?}");
        drop(secret);
        assert_eq!(copies(&inverted), []);
        found.len()
    }

    #[test]
    fn a_key_is_in_its_own_memory_only_and_is_gone_after_it_was_dropped() {
        assert_eq!(check::<ChaCha20Poly1305>(), 1);
        // AES keeps what it computes from the key. On some processors that begins with the key.
        check::<Aes256Gcm>();
    }

    #[test]
    fn a_panic_does_not_keep_a_key() {
        let mut inverted = [0; 32];
        getrandom::fill(&mut inverted).unwrap();
        let unwound = zpool_base::unwind::caught(|| {
            let _secret = Secret::new(|| {
                let key = Zeroizing::new(inverted.map(|byte| !byte));
                Ok(ChaCha20Poly1305::new((&*key).into()))
            });
            std::panic::resume_unwind(Box::new(()));
        });
        assert_eq!((unwound, copies(&inverted)), (None::<()>, vec![]));
    }
}
