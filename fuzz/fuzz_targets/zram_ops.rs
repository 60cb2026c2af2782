//! Runs sequences of operations on a compressed block device, checked against an array of bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: zpool_fuzz::zram_ops::Input| {
    zpool_fuzz::zram_ops::run(&input);
});
