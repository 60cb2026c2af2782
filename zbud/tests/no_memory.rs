//! Uses a zbud pool while the heap refuses memory.
#![cfg(all(target_os = "linux", not(miri), not(loom)))]
#![allow(clippy::unwrap_used, reason = "a failure in a test's helper is the test's own message")]

#[path = "../../buddies/tests/no_memory/mod.rs"]
mod no_memory;
#[path = "../../zpool-api/tests/refusing/mod.rs"]
mod refusing;

use std::sync::Arc;

use zbud::Zbud;

const BUILD: no_memory::Build = |pages, budget| Arc::new(Zbud::with_budget(pages, budget).unwrap());

#[test]
fn a_pool_refuses_and_goes_on() {
    no_memory::a_pool_refuses_and_goes_on(BUILD);
}

#[test]
fn failed_allocations_use_nothing_up() {
    no_memory::failed_allocations_use_nothing_up(BUILD);
}
