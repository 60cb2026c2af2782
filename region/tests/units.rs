//! Regions whose pages are larger than the system's.
#![cfg(all(target_os = "linux", not(miri), not(loom)))]
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a failure in a test's helper is the test's own message"
)]

use zpool_base::sync::test_rng::Rng;
use zswap_region::{BackendKind, BuildError, PAGE_SIZE, Region};

/// Builds a region, unless this system cannot.
fn region(kind: BackendKind, unit: usize, pages: usize) -> Option<Region> {
    let limit = 100 * unit;
    let builder =
        Region::builder().capacity(pages * unit).unit(unit).resident_bytes(limit).backend(kind);
    // SAFETY: the tests keep the rules of the crate's front page.
    match unsafe { builder.build() } {
        Ok(region) => Some(region),
        Err(BuildError::Unsupported { why, .. }) => {
            println!("test skipped: {why}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn fill(bytes: &mut [u8], seed: u64) {
    let mut rng = Rng::new(seed);
    for chunk in bytes.chunks_mut(16) {
        let random = rng.next().to_le_bytes();
        for (n, byte) in chunk.iter_mut().enumerate() {
            *byte = if n < 8 { random[n] } else { n as u8 };
        }
    }
}

const KINDS: [BackendKind; 2] = [BackendKind::Move, BackendKind::Guard];

#[test]
fn a_fault_brings_the_whole_page_and_every_byte_comes_back() {
    for (kind, unit) in KINDS.into_iter().flat_map(|kind| [8192, 65_536].map(|unit| (kind, unit))) {
        let Some(mut region) = region(kind, unit, 400) else { continue };
        assert_eq!((region.unit(), region.len()), (unit, 400 * unit));
        let mut expected = vec![0; region.len()];
        fill(&mut expected, 7);
        region.as_mut_slice().copy_from_slice(&expected);
        let stats = region.stats();
        assert!(stats.resident_bytes <= 100 * unit && stats.cold_bytes >= 300 * unit, "{stats:?}");
        assert_eq!(stats.cold_bytes, stats.store.stored_pages * unit);
        assert!(region.as_slice() == expected);
        region.advise_cold(0..unit).unwrap();
        let before = region.stats();
        for at in (0..unit).step_by(PAGE_SIZE).rev() {
            assert_eq!(region.as_slice()[at], expected[at]);
        }
        let after = region.stats();
        assert_eq!(after.fault_latency.count(), before.fault_latency.count() + 1, "{kind:?}");
        // SAFETY: nobody has a reference to these bytes.
        let dropped = unsafe { region.discard(1..4 * unit) }.unwrap();
        assert_eq!(dropped, 3, "the first page is not wholly in the range");
        expected[unit..4 * unit].fill(0);
        assert!(region.as_slice() == expected);
    }
}

#[test]
fn a_part_of_a_page_that_the_program_drops_is_zero_and_the_rest_stays() {
    for kind in KINDS {
        let unit = 32_768;
        let Some(mut region) = region(kind, unit, 64) else { continue };
        fill(region.as_mut_slice(), 9);
        let kept = region.as_slice()[..2 * unit].to_vec();
        for (page, part) in [(0, 3), (1, 0)] {
            let start = page * unit + part * PAGE_SIZE;
            let at = region.as_ptr().wrapping_add(start);
            // SAFETY: nobody has a reference to these bytes; they become zero or stay.
            let done = unsafe { libc::madvise(at.cast(), PAGE_SIZE, libc::MADV_DONTNEED) };
            assert_eq!(done, 0);
            let check = |region: &Region, what: &str| {
                let now = &region.as_slice()[page * unit..][..unit];
                let (before, here) = (&kept[page * unit..][..unit], part * PAGE_SIZE);
                let there = here..here + PAGE_SIZE;
                let dropped = &now[there.clone()];
                assert!(
                    dropped.iter().all(|byte| *byte == 0) || *dropped == before[there.clone()],
                    "{kind:?}, {what}"
                );
                assert!(now[..here] == before[..here], "{kind:?}, {what}");
                assert!(now[there.end..] == before[there.end..], "{kind:?}, {what}");
            };
            // Page 0 is evicted without having been touched since; page 1 is touched first.
            if page == 1 {
                check(&region, "touched");
            }
            assert_eq!(region.advise_cold(page * unit..(page + 1) * unit).unwrap(), 1);
            check(&region, "evicted");
        }
    }
}

#[test]
fn a_length_that_is_no_unit_is_refused() {
    for bytes in [0, 1000, 2048, 12_288, 131_072] {
        let builder = Region::builder().capacity(1 << 20).resident_bytes(1 << 20).unit(bytes);
        // SAFETY: no region is built.
        let refused = unsafe { builder.build() }.unwrap_err();
        assert!(matches!(refused, BuildError::Unit(_)), "{refused:?}");
        assert!(refused.to_string().contains("16384"), "{refused}");
    }
}

#[cfg(feature = "allocator")]
#[test]
fn an_allocator_wants_pages_of_the_systems_length() {
    let Some(region) = KINDS.into_iter().find_map(|kind| region(kind, 8192, 64)) else { return };
    let refused = region.into_allocator().err();
    assert!(matches!(refused, Some(BuildError::AllocatorUnit { unit: 8192, .. })), "{refused:?}");
}
