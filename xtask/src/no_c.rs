//! Keeps checks that link nothing from compiling C: cargo takes the codecs' libraries as given and
//! does not run their build scripts.

use crate::cmd::Cmd;
use crate::error::Result;

/// The `links` keys of the packages that bind a codec in C.
const LIBRARIES: &[&str] = &["libdeflate", "lz4", "zstd"];

/// Returns the `--config` arguments for a cargo of `toolchain` (`+nightly`, or nothing for the
/// default one) on its host. They also keep dependencies unoptimised: macros and build scripts run
/// only for a moment.
pub(crate) fn config(toolchain: &str) -> Result<Vec<String>> {
    let rustc = Cmd::line(&format!("rustc {toolchain} -vV")).quiet()?;
    let host = rustc.lines().find_map(|line| line.strip_prefix("host: ")).unwrap_or_default();
    let given = LIBRARIES.iter().map(|links| format!("target.{host}.{links}.rustc-link-lib=[]"));
    let settings = given.chain([r#"profile.dev.package."*".opt-level=0"#.to_owned()]);
    Ok(settings.flat_map(|setting| ["--config".to_owned(), setting]).collect())
}
