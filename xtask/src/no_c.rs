//! Lets cargo check crates without compiling the C code of the codecs and of the peers' allocators.
//! A check links nothing. So a setting makes cargo believe that the C libraries are already there,
//! and cargo skips their build scripts.

use crate::cmd::Cmd;
use crate::error::Result;

/// The C libraries, named as in the `links` field of the packages that bind them.
const LIBRARIES: &[&str] = &["jemalloc", "libdeflate", "lz4", "mimalloc", "zstd"];

/// Returns the `--config` arguments for a cargo command. `toolchain` is `+nightly`, or empty for
/// the default toolchain. The arguments also switch off the optimisation of dependencies: macros
/// and build scripts run only for a moment.
pub(crate) fn config(toolchain: &str) -> Result<Vec<String>> {
    let rustc = Cmd::line(&format!("rustc {toolchain} -vV")).quiet()?;
    let host = rustc.lines().find_map(|line| line.strip_prefix("host: ")).unwrap_or_default();
    let given = LIBRARIES.iter().map(|links| format!("target.{host}.{links}.rustc-link-lib=[]"));
    let settings = given.chain([r#"profile.dev.package."*".opt-level=0"#.to_owned()]);
    Ok(settings.flat_map(|setting| ["--config".to_owned(), setting]).collect())
}
