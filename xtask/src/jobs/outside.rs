//! The library crates as a user outside the workspace gets them: packaged, unpacked, and used by
//! a crate that depends on nothing else.
//!
//! `cargo package` takes only the files that a package would contain, so the job notices a missing one.
//! The crate that uses the packages is in `xtask/outside` and is copied out of the workspace. Beside it,
//! `xtask/outside/faults` has the known faults; the job checks that they compile.

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
    // Outside the workspace nothing is inherited: no lints, no profiles, no lock file.
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
    // The faults are only compiled, so that they follow the code. Run a fault by hand after fixing it.
    Cmd::line("cargo check --quiet --manifest-path xtask/outside/faults/Cargo.toml")
        .env("CARGO_TARGET_DIR", ws.target_dir("faults"))
        .run()
}

/// Copies the files of a crate without its build artifacts.
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
