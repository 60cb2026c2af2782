//! Runs sequences of operations on a page store, checked against a map.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: zpool_fuzz::zswap_ops::Input| {
    zpool_fuzz::zswap_ops::run(&input);
});
