//! Runs the tests of the simulated log that the bench of writeback compares cleaning with.
#![allow(dead_code, reason = "the bench uses what the tests do not")]

#[path = "../benches/writeback/greedy.rs"]
mod greedy;
