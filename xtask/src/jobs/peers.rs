//! Runs and checks the crate `xtask/peers`. That crate compares this project with its peers (`cargo
//! xtask bench --peers` and `--region`), ages a store (`cargo xtask aging`) and writes the report (`cargo xtask
//! report`). `cargo xtask peers` checks the crate itself.
//!
//! The crate is not a member of the workspace, since the peers need other allocators and codecs.

use std::path::{Path, PathBuf};

use crate::cmd::Cmd;
use crate::error::Result;
use crate::no_c;
use crate::workspace::Workspace;

const MANIFEST: &str = "xtask/peers/Cargo.toml";
/// The number of pages in a check. It is enough for every contestant to store and free some.
const SMOKE_PAGES: &str = "256";

/// The options of a run.
#[derive(Debug, Default)]
pub(crate) struct Run<'a> {
    pub(crate) quick: bool,
    pub(crate) filter: Option<&'a str>,
    pub(crate) json: Option<&'a PathBuf>,
    pub(crate) pages: Vec<PathBuf>,
}

/// Runs the comparison of this project with its peers.
pub(crate) fn measure(ws: &Workspace, run: &Run<'_>) -> Result<()> {
    let mut cmd = cargo(ws, "run --release").args(["--", "run"]);
    if run.quick {
        cmd = cmd.arg("--quick");
    }
    if let Some(filter) = run.filter {
        cmd = cmd.args(["--only", filter]);
    }
    if let Some(json) = run.json {
        cmd = cmd.arg("--json").arg(json.display().to_string());
    }
    cmd.args(whole(&run.pages)).run()
}

/// Compares the codecs `names`, separated by commas, with liblz4 on the files `pages`.
pub(crate) fn codecs(
    ws: &Workspace,
    names: &str,
    quick: bool,
    json: Option<&Path>,
    pages: &[PathBuf],
) -> Result<()> {
    let mut cmd = cargo(ws, "run --release").args(["--", "codec", "--codecs", names]);
    if quick {
        cmd = cmd.args(["--rounds", "5", "--most", "500"]);
    }
    if let Some(json) = json {
        cmd = cmd.arg("--json").arg(json.display().to_string());
    }
    cmd.args(whole(pages)).run()
}

/// Compares a region with its floors and its rivals on the files `pages`.
pub(crate) fn region(
    ws: &Workspace,
    quick: bool,
    filter: Option<&str>,
    pages: &[PathBuf],
) -> Result<()> {
    let mut cmd = cargo(ws, "run --release").args(["--", "region"]);
    if quick {
        cmd = cmd.arg("--quick");
    }
    if let Some(filter) = filter {
        cmd = cmd.args(["--only", filter]);
    }
    cmd.args(whole(pages)).run()
}

/// Returns the files except `sample.pages.zst`, which consists of small parts of the others.
pub(crate) fn whole(files: &[PathBuf]) -> Vec<String> {
    let names = files.iter().map(|path| path.display().to_string());
    names.filter(|name| !name.ends_with("sample.pages.zst")).collect()
}

/// Writes the benchmark page from the JSON of a run of the contestants and, if given, of an aging
/// run.
pub(crate) fn report(ws: &Workspace, run: &Path, aging: Option<&Path>) -> Result<()> {
    let mut cmd = cargo(ws, "run --release").args(["--", "report", "--run"]);
    cmd = cmd.arg(run.display().to_string());
    if let Some(aging) = aging {
        cmd = cmd.arg("--aging").arg(aging.display().to_string());
    }
    cmd.run()
}

/// Makes only those checks of the crate that CI makes: format and lints. The sweep runs [`check`].
pub(crate) fn lint(ws: &Workspace) -> Result<()> {
    Cmd::line("cargo fmt --check --manifest-path").arg(MANIFEST).run()?;
    let clippy = cargo(ws, "clippy --all-targets").args(no_c::config("")?);
    clippy.args(["--", "-D", "warnings"]).run()
}

/// Checks the crate: format, lints, tests, a small run of every contestant, of the codecs and of
/// regions, and a short aging run.
pub(crate) fn check(ws: &Workspace) -> Result<()> {
    lint(ws)?;
    cargo(ws, "test").run()?;
    let smoke = ["--", "run", "--rounds", "1", "--threads", "2", "--most", SMOKE_PAGES];
    cargo(ws, "run").args(smoke).run()?;
    let smoke = ["--", "codec", "--rounds", "1", "--most", "100"];
    cargo(ws, "run").args(smoke).run()?;
    // The kernel's swap and cgroups are left to the tests and to the full run.
    let smoke = [
        "--",
        "region",
        "--quick",
        "--rounds",
        "1",
        "--operations",
        "2000",
        "--only",
        "move,guard",
    ];
    cargo(ws, "run").args(smoke).run()?;
    let smoke = ["--", "aging", "--operations", "20000", "--modes", "off,on-demand"];
    cargo(ws, "run").args(smoke).run()
}

pub(crate) fn cargo(ws: &Workspace, command: &str) -> Cmd {
    let line = format!("cargo {command} --manifest-path {MANIFEST}");
    Cmd::line(&line).env("CARGO_TARGET_DIR", ws.target_dir("peers"))
}
