//! Uses a z3fold pool in a child of the process that made the pool.
#![cfg(all(target_os = "linux", not(miri), not(loom)))]
#![allow(clippy::unwrap_used, reason = "a failure in a test's helper is the test's own message")]

#[path = "../../buddies/tests/forks/mod.rs"]
mod forks;

use std::sync::Arc;

use z3fold::Z3fold;

const BUILD: forks::Build = |pages| Arc::new(Z3fold::new(pages).unwrap());

#[test]
fn a_child_of_a_busy_pool_refuses_and_leaks() {
    forks::a_child_of_a_busy_pool_refuses_and_leaks(BUILD);
}

#[test]
fn a_callback_may_return_in_a_child() {
    forks::a_callback_may_return_in_a_child(BUILD);
}
