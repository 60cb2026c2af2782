//! The packages as somebody outside the workspace gets them: published (`publish.rs`), and used by a crate that
//! knows nothing else.
//!
//! That crate is kept in `xtask/outside` and copied out of the workspace. Beside it, `xtask/outside/faults`
//! has the faults that are known and not mended yet; that they compile is checked.

use std::fs;
use std::path::{Path, PathBuf};

use crate::cmd::Cmd;
use crate::error::{Error, Result};
use crate::jobs::publish;
use crate::workspace::Workspace;

pub(crate) fn run(ws: &Workspace) -> Result<()> {
    let index = publish::publish_all(ws)?;
    let folder = PathBuf::from(ws.target_dir("publish"));
    let user = folder.join("user");
    copy(&ws.root().join("xtask/outside"), &user)?;
    // Outside, nothing is inherited: neither lints nor profiles nor the lock file.
    for features in [&[][..], &["--features", "defaults"]] {
        let ran = index
            .cargo("run")
            .args(["--quiet", "--manifest-path"])
            .arg(user.join("Cargo.toml").display().to_string())
            .args(features.iter().copied())
            .env("CARGO_TARGET_DIR", folder.join("target").display().to_string())
            .run_and_read()?;
        if !ran.contains("pages came back equal") {
            return Err(Error::NothingRan { krate: "outside".to_owned(), what: "store" });
        }
    }
    // Compiled, so that they follow the code; whoever mends one of them runs it.
    Cmd::line("cargo check --quiet --manifest-path xtask/outside/faults/Cargo.toml")
        .env("CARGO_TARGET_DIR", ws.target_dir("faults"))
        .run()
}

/// Copies the files of a crate, not what was built of it.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let files: [PathBuf; 2] = ["Cargo.toml".into(), ["src", "main.rs"].iter().collect()];
    for file in files {
        let (source, place) = (from.join(&file), to.join(&file));
        let folder = place.parent().unwrap_or(to);
        fs::create_dir_all(folder)
            .and_then(|()| fs::copy(&source, &place))
            .map_err(|error| Error::Read { path: source.clone(), source: error })?;
    }
    Ok(())
}
