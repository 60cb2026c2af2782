//! The concurrent tests under ThreadSanitizer, the standard library rebuilt with it.
//!
//! rustix makes its system calls through libc here, where the sanitizer sees them: told of no
//! `munmap`, it takes a reused address for a race. Crates run without their C code, which is not
//! instrumented.

use crate::cmd::Cmd;
use crate::error::{Error, Result};
use crate::jobs::miri;
use crate::libtest;
use crate::workspace::Workspace;

const TARGET: &str = "x86_64-unknown-linux-gnu";

const CRATES: &[(&str, &str)] = &[
    ("zpool-api", "--features conformance"),
    ("zbud", ""),
    ("z3fold", ""),
    ("zsmalloc", ""),
    ("zswap-core", "--no-default-features --features zbud"),
    ("zram", "--no-default-features --features zbud"),
    ("zram-nbd", ""),
];

/// Tests of pages that the system will not take back (the sanitizer's `mlock` does nothing), and of
/// little address space (the sanitizer needs much).
const LEFT_OUT: &[&str] =
    &["that_the_system_refuses", "refused_pages", "no_address_space_is_an_error"];

#[derive(Debug, Default, clap::Args)]
pub(crate) struct Args {
    /// Only this crate; may be given several times.
    #[arg(short, long = "package", value_name = "CRATE")]
    packages: Vec<String>,
}

pub(crate) fn run(ws: &Workspace, args: &Args) -> Result<()> {
    let names: Vec<&str> = CRATES.iter().map(|&(name, _)| name).collect();
    let wanted = libtest::choose("tsan", &names, &args.packages)?;
    miri::ensure_nightly_source()?;
    for (krate, features) in CRATES.iter().filter(|(name, _)| wanted.contains(name)) {
        let output = Cmd::line("cargo +nightly test -Zbuild-std --tests --target")
            .args([TARGET, "-p", krate])
            .args(features.split_whitespace())
            .arg("--")
            .args(LEFT_OUT.iter().flat_map(|name| ["--skip", name]))
            .env("RUSTFLAGS", "-Zsanitizer=thread --cfg rustix_use_libc")
            .env("CARGO_TARGET_DIR", ws.target_dir("tsan"))
            .run_and_read()?;
        if libtest::passed(&output) == 0 {
            return Err(Error::NothingRan { krate: (*krate).to_owned(), what: "test" });
        }
    }
    Ok(())
}
