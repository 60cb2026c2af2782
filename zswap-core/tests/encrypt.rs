//! Stores that encrypt what they write to a device.

#![cfg(all(target_os = "linux", not(miri)))]
#![allow(clippy::unwrap_used, reason = "a failure in a test's helper is the test's own message")]

mod common;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use common::page;
use zswap_core::device::{FaultySwapDevice, FileSwapDevice};
use zswap_core::{PAGE_SIZE, Page, SwapEntry, Zswap, ZswapBuilder, builtin};

/// A file that is removed at the end.
struct Path(PathBuf);

impl Path {
    fn new(test: &str) -> Self {
        let name = format!("zswap-encrypt-{test}-{}", std::process::id());
        Path(std::env::temp_dir().join(name))
    }
    fn bytes(&self) -> Vec<u8> {
        std::fs::read(&self.0).unwrap()
    }
}

impl Drop for Path {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

const ENTRIES: u64 = 150;

fn entry(number: u64) -> SwapEntry {
    SwapEntry::new(77, 0x5a_1234_5678 + number * 0x101_0101).unwrap()
}

/// The bytes of an entry's key: its area in the upper 8 bits, and its offset.
fn key(number: u64) -> [u8; 8] {
    (77 << 56 | (0x5a_1234_5678 + number * 0x101_0101)).to_le_bytes()
}

/// Whether many runs of memory and of what is written are like this one.
fn is_common(run: &[u8]) -> bool {
    run.iter().collect::<HashSet<_>>().len() < 4
}

fn runs(bytes: &[u8]) -> impl Iterator<Item = [u8; 16]> {
    bytes.windows(16).filter(|run| !is_common(run)).map(|run| run.try_into().unwrap())
}

fn compressed(page: &Page) -> Vec<u8> {
    let codec = builtin::compressors().build("lz4").unwrap();
    let mut object = vec![0; codec.max_compressed_len(PAGE_SIZE)];
    let len = codec.new_ctx().unwrap().compress(page, &mut object).unwrap();
    object.truncate(len);
    object
}

/// Stores, writes back, overwrites, fails to write, loads and cleans. Returns whether runs of pages, runs of
/// compressed pages, and keys of entries were ever in the file.
fn seen(test: &str, more: impl FnOnce(ZswapBuilder) -> ZswapBuilder) -> [bool; 3] {
    let path = Path::new(test);
    let file = FileSwapDevice::create(&path.0, 112).unwrap();
    let faulty = Arc::new(FaultySwapDevice::new(Arc::new(file)));
    let builder = Zswap::builder().compressor("lz4").swap_device(faulty.clone());
    let store = more(builder).build().unwrap();
    let keys: HashSet<_> = (0..ENTRIES).map(key).collect();
    let (mut pages, mut objects) = (HashSet::new(), HashSet::new());
    let mut seen = [false; 3];
    for round in 0..9 {
        for number in (0..ENTRIES).filter(|number| round == 0 || (number + round) % 3 == 0) {
            let page = page(number + round * ENTRIES);
            store.store(entry(number), &page).unwrap();
            pages.extend(runs(&*page));
            objects.extend(runs(&compressed(&page)));
        }
        if round % 4 == 1 {
            faulty.fail_writes(1, 1);
            assert!(store.shrink(usize::MAX).is_err());
        }
        store.shrink(usize::MAX).unwrap();
        let bytes = path.bytes();
        seen[0] |= bytes.windows(16).any(|run| pages.contains(run));
        seen[1] |= bytes.windows(16).any(|run| objects.contains(run));
        seen[2] |= bytes.windows(8).any(|run| keys.contains(run));
    }
    assert!(store.stats().device_moved_pages > 0);
    let mut back = [0; PAGE_SIZE];
    for number in 0..ENTRIES {
        let round = (0..9).rfind(|round| *round == 0 || (number + round) % 3 == 0).unwrap();
        store.load(entry(number), &mut back).unwrap();
        assert!(back == *page(number + round * ENTRIES), "entry {number}");
    }
    seen
}

#[test]
fn pages_and_entries_are_in_the_file_only_without_encryption() {
    assert_eq!(seen("plain", |builder| builder), [true; 3]);
    assert_eq!(seen("encrypted", |builder| builder.encrypt(true)), [false; 3]);
}
