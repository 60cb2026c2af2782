//! Enables the AVX-512 variant if the compiler has its intrinsics, as Rust has from 1.89 on.

#![allow(clippy::print_stdout, reason = "this is how a build script speaks to cargo")]

use std::env;
use std::process::Command;

/// Returns the minor version of the compiler, for instance 89 for `rustc 1.89.0 (…)`; `None` if it is unknown.
fn minor() -> Option<u32> {
    let output = Command::new(env::var_os("RUSTC")?).arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.split('.').nth(1)?.parse().ok()
}

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(linewords_avx512)");
    if minor().is_some_and(|minor| minor >= 89) {
        println!("cargo::rustc-cfg=linewords_avx512");
    }
}
