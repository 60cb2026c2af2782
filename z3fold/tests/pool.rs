//! Runs the tests that z3fold shares with zbud. They are in `buddies/tests/pools`.
#![allow(clippy::unwrap_used, reason = "a failure in a test's helper is the test's own message")]

#[macro_use]
#[path = "../../buddies/tests/pools/mod.rs"]
mod pools;

use std::sync::Arc;

use z3fold::Z3fold;

pool_tests!(|pages, budget| Arc::new(Z3fold::with_budget(pages, budget).unwrap()));
