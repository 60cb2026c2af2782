//! Makes pages for the tests of the store. They are of the kinds that are found in real memory.

#![allow(dead_code, reason = "each test file uses some of it")]

pub(crate) mod areas;
pub(crate) mod rig;

use std::thread;
use std::time::Duration;

use zpool_base::sync::test_rng::Rng;
use zswap_core::{PAGE_SIZE, Page, SwapEntry, builtin};

const TEXT: &[u8] = b"Pages that a program does not need right now are compressed, packed \
densely and given back on demand. A page of one repeated word is kept as that word. A page that does \
not get smaller is kept as it is, or refused, by a setting. Whoever stores last is read; who reads \
meanwhile gets one page or the other, and never a mixture.";

/// Makes a page. `seed` determines its contents: text, a few bytes among zeros, noise, or one repeated word.
pub(crate) fn page(seed: u64) -> Box<Page> {
    let mut rng = Rng::new(seed);
    let mut page = Box::new([0u8; PAGE_SIZE]);
    match seed % 8 {
        // One repeated word. There are three kinds of such words.
        0 => {
            let word = match seed / 8 % 3 {
                0 => seed / 8,
                1 => (seed & 0xffff_ffff) * 0x1_0000_0001,
                _ => rng.next(),
            };
            page.chunks_exact_mut(8).for_each(|w| w.copy_from_slice(&word.to_ne_bytes()));
        }
        // Noise, which does not get smaller.
        1 => page.chunks_exact_mut(8).for_each(|w| w.copy_from_slice(&rng.next().to_ne_bytes())),
        // Sparse.
        2 | 3 => {
            for _ in 0..rng.below(200) + 1 {
                page[rng.below(PAGE_SIZE)] = rng.next() as u8;
            }
        }
        // Pieces of a short text.
        _ => {
            let mut at = 0;
            while at < PAGE_SIZE {
                // Each piece has 3 to 10 letters, from anywhere in the text.
                let (from, len) = (rng.below(TEXT.len() - 10), rng.below(8) + 3);
                let n = len.min(PAGE_SIZE - at);
                page[at..at + n].copy_from_slice(&TEXT[from..from + n]);
                at += n;
            }
        }
    }
    page
}

/// Returns the names of the backends that are switched on.
pub(crate) fn backends() -> Vec<String> {
    builtin::zpools().names().map(str::to_owned).collect()
}

/// Returns the entry at `offset` of area 0.
pub(crate) fn at(offset: u64) -> SwapEntry {
    SwapEntry::new(0, offset).unwrap()
}

/// Waits until another thread has made `holds` return true. Panics if that takes too long.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let looked = (0..20_000).any(|_| {
        holds() || {
            thread::sleep(Duration::from_millis(1));
            false
        }
    });
    assert!(looked, "never: {what}");
}
