//! Runs sequences of operations on every backend, each checked against its own model.
#![no_main]

libfuzzer_sys::fuzz_target!(|ops: Vec<zpool_fuzz::zpool_ops::Op>| zpool_fuzz::zpool_ops::run(&ops));
