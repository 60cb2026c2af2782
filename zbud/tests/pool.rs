//! Runs the tests that zbud shares with z3fold. They are in `buddies/tests/pools`.
#![allow(clippy::unwrap_used, reason = "a failure in a test's helper is the test's own message")]

#[macro_use]
#[path = "../../buddies/tests/pools/mod.rs"]
mod pools;

use std::sync::Arc;

use zbud::Zbud;

pool_tests!(|pages, budget| Arc::new(Zbud::with_budget(pages, budget).unwrap()));
