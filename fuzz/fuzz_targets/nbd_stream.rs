//! Arbitrary bytes as a client of the NBD server.
#![no_main]

libfuzzer_sys::fuzz_target!(|parts: Vec<zpool_fuzz::nbd_stream::Part>| {
    zpool_fuzz::nbd_stream::run(&parts);
});
