//! Sends arbitrary bytes to the NBD server as a client.
#![no_main]

libfuzzer_sys::fuzz_target!(|parts: Vec<zpool_fuzz::nbd_stream::Part>| {
    zpool_fuzz::nbd_stream::run(&parts);
});
