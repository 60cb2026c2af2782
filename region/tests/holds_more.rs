//! A region as memory: more than its budget, nothing lost.
#![cfg(all(target_os = "linux", not(miri), not(loom)))]
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a failure in a test's helper is the test's own message"
)]

use zswap_region::{BackendKind, Region};

fn build(kind: BackendKind, capacity: usize, resident: usize) -> Region {
    // SAFETY: the tests keep the rules of the crate's front page.
    unsafe { Region::builder().capacity(capacity).resident_bytes(resident).backend(kind).build() }
        .unwrap()
}

#[test]
fn what_is_written_is_read_again() {
    for kind in [BackendKind::Move, BackendKind::Guard] {
        let mut region = build(kind, 32 << 20, 4 << 20);
        for (n, page) in region.as_mut_slice().chunks_mut(4096).enumerate() {
            page[..8].copy_from_slice(&(n as u64).to_le_bytes());
            page[4000] = n as u8;
        }
        for round in 0..3 {
            for (n, page) in region.as_slice().chunks(4096).enumerate() {
                assert_eq!(page[..8], (n as u64).to_le_bytes(), "round {round}");
                assert_eq!(page[4000], n as u8);
            }
        }
        let stats = region.stats();
        println!("{kind:?} {stats:#?}");
        assert!(stats.resident_bytes <= 4 << 20);
    }
}
