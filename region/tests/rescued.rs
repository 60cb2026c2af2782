//! A limbo whose pages have all come back is no reason to run out of room.
#![cfg(all(target_os = "linux", not(miri), not(loom)))]
#![allow(clippy::unwrap_used, reason = "a failure in a test's helper is the test's own message")]

use zswap_region::{BackendKind, PAGE_SIZE, Region};

#[test]
fn a_limbo_that_was_emptied_from_the_front_is_drained_to_its_end() {
    for kind in [BackendKind::Move, BackendKind::Guard] {
        let resident = 64 << 20;
        let builder = Region::builder().capacity(3 * resident).resident_bytes(resident);
        let builder = builder.backend(kind).background(false).fault_around(false);
        // SAFETY: the test keeps the rules of the crate's front page.
        let Ok(mut region) = (unsafe { builder.build() }) else { continue };
        let touch = |region: &mut Region, from: usize, to: usize| {
            for page in region.as_mut_slice()[from..to].chunks_mut(PAGE_SIZE) {
                page[9] = page[9].wrapping_add(1);
            }
        };
        // The first pages are cold, the next ones are in the limbo, as many blocks as it may have.
        touch(&mut region, 0, resident / 4 * 5);
        let limbo = region.stats().limbo_bytes;
        assert!(limbo > 100 * 16 * PAGE_SIZE, "{limbo}");
        // All of those come back.
        let cold = region.stats().cold_bytes;
        touch(&mut region, cold, cold + 2 * limbo);
        assert!(region.stats().rescued > 1600, "{:?}", region.stats());
        // And now others need room.
        touch(&mut region, 2 * resident, 2 * resident + resident / 4);
        assert!(region.stats().resident_bytes <= resident);
    }
}
