//! Checks that link nothing compile no C: cargo takes the codecs' libraries as given and leaves their
//! build scripts out.

use crate::cmd::Cmd;
use crate::error::Result;

/// The `links` of the packages that bind a codec.
const LIBRARIES: &[&str] = &["libdeflate", "lz4", "zstd"];

/// `--config` for a cargo whose host is that of `toolchain` (`+nightly`, or nothing for the default).
/// Dependencies are not optimised either: macros and build scripts run for a moment only.
pub(crate) fn config(toolchain: &str) -> Result<Vec<String>> {
    let rustc = Cmd::line(&format!("rustc {toolchain} -vV")).quiet()?;
    let host = rustc.lines().find_map(|line| line.strip_prefix("host: ")).unwrap_or_default();
    let given = LIBRARIES.iter().map(|links| format!("target.{host}.{links}.rustc-link-lib=[]"));
    let settings = given.chain([r#"profile.dev.package."*".opt-level=0"#.to_owned()]);
    Ok(settings.flat_map(|setting| ["--config".to_owned(), setting]).collect())
}
