//! Tests stores with checksums: if a pool, a codec or the device damages a page, the load returns an error,
//! and never the damaged page.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure in a test's helper is the test's own message"
)]

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use common::rig::{check, marked, rig_with};
use common::{at, page};
use zswap_core::device::{DeviceError, MemorySwapDevice, SwapDevice};
use zswap_core::{LoadError, MigrateError, PAGE_SIZE, Page, Recompress, StoreError, Zswap};

fn is_corrupt(error: &LoadError, of: u64) -> bool {
    matches!(error, LoadError::Corrupt { entry, noted, found } if *entry == at(of) && noted != found)
}

#[test]
fn what_a_codec_gives_back_wrongly_is_corrupt_wherever_it_is_read() {
    let device = Arc::new(MemorySwapDevice::new(100));
    let given: Arc<dyn SwapDevice> = device.clone();
    let rig = rig_with(|builder| builder.checksums(true).swap_device(given));
    let store = &rig.store;
    (0..4).for_each(|entry| store.store(at(entry), &marked(entry, 0)).unwrap());
    store.store(at(4), &[5; PAGE_SIZE]).unwrap();
    let entries: Vec<_> = (0..5).map(at).collect();
    let mut back = vec![[0; PAGE_SIZE]; 5];

    rig.spoils.store(true, SeqCst);
    assert!(is_corrupt(&store.load(at(1), &mut back[0]).unwrap_err(), 1));
    assert!(is_corrupt(&store.take(at(1), &mut back[0]).unwrap_err(), 1));
    let results = store.load_batch(&entries, &mut back).unwrap();
    for (entry, result) in results.iter().enumerate().take(4) {
        assert!(is_corrupt(result.as_ref().unwrap_err(), entry as u64));
    }
    // A same-filled page is not decompressed, so it is not damaged.
    assert!(results[4].is_ok() && back[4] == [5; PAGE_SIZE]);
    // A damaged page is not moved, so it does not get a new checksum.
    store.set_compressor("trim1").unwrap();
    let moved = store.migrate_pools(99).unwrap_err();
    assert!(matches!(&moved, MigrateError::Load(LoadError::Corrupt { .. })), "{moved}");
    let moved = store.recompress(&Recompress::new("trim2").max_pages(99)).unwrap_err();
    assert!(matches!(&moved, MigrateError::Load(LoadError::Corrupt { .. })), "{moved}");
    assert_eq!((store.len(), device.segments()), (5, 0));
    assert_eq!(store.stats().corrupt_pages, 8);
    // Writeback does not decompress a page. A load from the device does, and notices.
    assert_eq!(store.shrink(99), Ok(4));
    assert!(is_corrupt(&store.load(at(1), &mut back[0]).unwrap_err(), 1));
    assert_eq!((store.stats().device_pages, store.stats().corrupt_pages), (4, 9));

    rig.spoils.store(false, SeqCst);
    (0..4).for_each(|entry| check(store, entry, 0));
    assert!(store.load_batch(&entries, &mut back).unwrap().iter().all(Result::is_ok));
    assert_eq!(store.stats().corrupt_pages, 9);
}

/// Without checksums of its own, the store still checks what it reads from the device.
#[test]
fn what_the_device_gives_back_wrongly_is_an_error_and_nothing_else_is_lost() {
    for checksums in [true, false] {
        let device = Arc::new(MemorySwapDevice::new(100));
        let given: Arc<dyn SwapDevice> = device.clone();
        let rig = rig_with(|builder| builder.checksums(checksums).swap_device(given));
        let store = &rig.store;
        (0..6).for_each(|entry| store.store(at(entry), &marked(entry, 0)).unwrap());
        // Two segments with one page each, and one with four.
        assert_eq!([1, 1, 99].map(|pages| store.shrink(pages)), [Ok(1), Ok(1), Ok(4)]);
        // Exchange two segments of the same length on the device, and change a bit of the third.
        let read = |segment: u64| {
            let whole = (1..).take_while(|len| device.read(segment, 0, &mut vec![0; *len]).is_ok());
            let mut bytes = vec![0; whole.last().unwrap()];
            device.read(segment, 0, &mut bytes).unwrap();
            bytes
        };
        let (one, two, mut three) = (read(0), read(1), read(2));
        assert_eq!(one.len(), two.len());
        three[0] ^= 0x80;
        for (segment, bytes) in [(0, &two), (1, &one), (2, &three)] {
            device.write_segment(segment, bytes).unwrap();
        }
        let wrong = |error: &LoadError, of: u64| match error {
            LoadError::Device { entry, source: DeviceError::Corrupt { .. } } => *entry == at(of),
            _ => false,
        };
        let mut back = vec![[0; PAGE_SIZE]; 3];
        for entry in 0..3 {
            assert!(wrong(&store.load(at(entry), &mut back[0]).unwrap_err(), entry), "{entry}");
            assert!(wrong(&store.take(at(entry), &mut back[0]).unwrap_err(), entry));
            assert!(store.contains(at(entry)), "the entry stays until its owner drops it");
        }
        let entries: Vec<_> = (0..3).map(at).collect();
        let results = store.load_batch(&entries, &mut back).unwrap();
        assert!((0..3).all(|entry| wrong(results[entry].as_ref().unwrap_err(), entry as u64)));
        (3..6).for_each(|entry| check(store, entry, 0));
        // Storing the page again makes the entry sound and frees the place on the device.
        store.store(at(0), &marked(0, 1)).unwrap();
        check(store, 0, 1);
        assert!(store.invalidate(at(1)) && store.invalidate(at(2)));
        assert_eq!((store.stats().device_pages, device.segments()), (3, 1));
    }
}

#[test]
fn a_checksum_is_the_pages_through_overwrites_moves_and_writeback() {
    let device = Arc::new(MemorySwapDevice::new(1000));
    let given: Arc<dyn SwapDevice> = device.clone();
    let store = Zswap::builder().checksums(true).swap_device(given).build().unwrap();
    let count = if cfg!(miri) { 9 } else { 300 };
    let check = |seed: u64| {
        let mut back = Box::new([0; PAGE_SIZE]);
        for entry in 0..count {
            store.load(at(entry), &mut back).unwrap();
            assert!(back == page(entry + seed), "{entry}");
        }
    };
    let fill = |seed: u64| (0..count).for_each(|n| store.store(at(n), &page(n + seed)).unwrap());
    fill(0);
    check(0);
    // Replace other pages by same-filled ones, and same-filled ones by other pages.
    fill(1);
    check(1);
    let pages: Vec<Box<Page>> = (0..count).map(|n| page(n + 3)).collect();
    let batch: Vec<_> = pages.iter().enumerate().map(|(n, page)| (at(n as u64), &**page)).collect();
    assert!(store.store_batch(&batch).unwrap().iter().all(Result::is_ok));
    check(3);
    store.set_zpool("zbud").unwrap();
    assert_eq!(store.migrate_pools(usize::MAX).unwrap().left, 0);
    check(3);
    #[cfg(feature = "zstd")]
    {
        assert!(store.recompress(&Recompress::new("zstd")).unwrap().moved > 0);
        check(3);
    }
    assert!(store.shrink(count as usize / 2).unwrap() > 0);
    check(3);
    let mut back = Box::new([0; PAGE_SIZE]);
    for entry in 0..count {
        store.take(at(entry), &mut back).unwrap();
        assert!(back == page(entry + 3), "{entry}");
    }
    assert_eq!((store.len(), device.segments(), store.stats().corrupt_pages), (0, 0, 0));
}

#[cfg_attr(miri, ignore = "a sum over many entries, which gains nothing from Miri")]
#[test]
fn they_cost_four_bytes_an_entry_and_nothing_without() {
    let with = |checksums: bool| {
        let rig = rig_with(|builder| builder.checksums(checksums));
        let before = rig.store.stats().metadata_bytes;
        (0..512).for_each(|n| rig.store.store(at(n), &[n as u8; PAGE_SIZE]).unwrap());
        let bytes = rig.store.stats().metadata_bytes - before;
        // Without checksums, the store does not detect the damage.
        if !checksums {
            rig.store.store(at(9), &marked(9, 0)).unwrap();
            rig.spoils.store(true, SeqCst);
            let mut back = [0; PAGE_SIZE];
            assert!(rig.store.load(at(9), &mut back).is_ok() && back != *marked(9, 0));
        }
        bytes
    };
    let (without, with) = (with(false), with(true));
    assert!((without + 2048..without + 2600).contains(&with), "{without} {with}");
}

#[test]
fn a_store_that_fails_leaves_no_checksum_behind() {
    let rig = rig_with(|builder| builder.checksums(true).store_incompressible(false));
    let store = &rig.store;
    store.store(at(1), &marked(1, 0)).unwrap();
    let error = store.store(at(1), &[&[1u8; 4095][..], &[2]].concat().try_into().unwrap());
    assert!(matches!(error, Err(StoreError::Incompressible { .. })));
    assert!(!store.contains(at(1)));
    store.store(at(1), &marked(1, 2)).unwrap();
    check(store, 1, 2);
}
