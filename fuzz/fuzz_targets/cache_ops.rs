//! Runs sequences of operations on a cache, checked against a map.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: zpool_fuzz::cache_ops::Input| {
    zpool_fuzz::cache_ops::run(&input);
});
