//! Runs sequences of operations on every backend, each checked against its own model. The first byte selects
//! the size of the largest object.
#![no_main]

use zpool_fuzz::zpool_ops::{Op, run};

libfuzzer_sys::fuzz_target!(|input: (u8, Vec<Op>)| run(input.0, &input.1));
