//! zswap-cli
fn main() {}
