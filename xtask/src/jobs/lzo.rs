//! Tests the `lzo` feature, which is off by default in every crate and needs cmake.

use crate::apt;
use crate::cmd::Cmd;
use crate::error::Result;
use crate::jobs::compare;

const CRATES: &str =
    "-p zswap-compressors -p zpage -p zswap-core -p zram -p zswap-cli --features lzo";

pub(crate) fn run() -> Result<()> {
    smoke()?;
    cargo(&format!("cargo clippy {CRATES} --all-targets -- -D warnings")).run()?;
    compare::check(
        &cargo(
            "cargo run -p zswap-cli --features lzo -- \
             compare --compressor lzo --rounds 1 --json",
        ),
        Some("lzo"),
    )
}

/// Tests what CI tests: the codec itself.
pub(crate) fn smoke() -> Result<()> {
    apt::ensure("cmake", &["cmake --version"], "cmake")?;
    // Only the tests of the codec itself. For the other crates, lzo is just one more codec name.
    // The command also names the binary's package, so that cargo reuses the other codecs as `cargo
    // test --workspace` built them.
    cargo(
        "cargo test -p zswap-compressors -p zswap-cli --features zswap-compressors/lzo \
         --lib --test round_trip --test hostile",
    )
    .run()
}

/// Makes a cargo command that sets a variable for cmake. cmake 4 refuses projects as old as liblzo2
/// unless this variable allows them. Older versions ignore it.
fn cargo(line: &str) -> Cmd {
    Cmd::line(line).env("CMAKE_POLICY_VERSION_MINIMUM", "3.5")
}
