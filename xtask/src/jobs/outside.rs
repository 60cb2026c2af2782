//! Uses the library crates as a user outside the workspace does: packaged, unpacked, and used by a
//! crate that depends on nothing else.
//!
//! `cargo package` packs only the files that belong to a package. So the job notices if one is
//! missing. The crate that uses the packages is `xtask/outside`, and it is copied out of the
//! workspace. The crate `xtask/outside/redb` is an example, a database over a disk, with tests. The crate
//! `xtask/outside/faults` has trials of known faults. The job checks that it
//! compiles.

use std::fs;
use std::path::{Path, PathBuf};

use crate::cmd::Cmd;
use crate::error::{Error, Result};
use crate::jobs::publish;
use crate::no_c;
use crate::workspace::Workspace;

pub(crate) fn run(ws: &Workspace) -> Result<()> {
    use_packages(ws, &[&[], &["--features", "defaults"]])
}

/// Does what CI does: leaves out the packages' default features, which take long to build because
/// of their C code.
pub(crate) fn smoke(ws: &Workspace) -> Result<()> {
    use_packages(ws, &[&[]])
}

/// Runs the user's crate once with each of the arguments in `features`.
fn use_packages(ws: &Workspace, features: &[&[&str]]) -> Result<()> {
    let index = publish::publish_all(ws)?;
    let folder = PathBuf::from(ws.target_dir("publish"));
    let user = folder.join("user");
    copy(&ws.root().join("xtask/outside"), &user)?;
    // Outside the workspace, the crate inherits no lints, no profiles and no lock file.
    for features in features {
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
    // The faults are only compiled, so that they stay in step with the code. Run a fault by hand
    // after fixing it.
    Cmd::line("cargo check --quiet --manifest-path xtask/outside/faults/Cargo.toml")
        .args(no_c::config("")?)
        .env("CARGO_TARGET_DIR", ws.target_dir("faults"))
        .run()?;
    Cmd::line("cargo test --quiet --manifest-path xtask/outside/redb/Cargo.toml")
        .env("CARGO_TARGET_DIR", ws.target_dir("redb"))
        .run()
}

/// Copies `Cargo.toml` and `src/main.rs` of a crate. Build artifacts are not copied.
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
