//! Checks the crate `zswap-remote` and the program in `zswap-remote/cli`: lints, documentation, and
//! tests on real servers, which the tests start themselves.
//!
//! They are not members of the workspace, because OpenDAL needs a newer Rust and several hundred
//! packages. A test whose server is not installed prints a line that says so, and passes. The job
//! counts these lines. It then counts as not run, after everything else has passed.

use std::path::Path;

use crate::apt;
use crate::cmd::Cmd;
use crate::error::{Error, Result};
use crate::libtest;
use crate::workspace::Workspace;

const MANIFEST: &str = "zswap-remote/Cargo.toml";
/// With this a test begins the line that says why it did not run.
const NOT_RUN: &str = "NOT RUN:";
/// The S3 server of the tests, as pip installs it.
const MOTO: &str = "moto[s3,server]==5.2.5";

#[derive(Debug, Default, clap::Args)]
pub(crate) struct Args {
    /// Install the servers that the tests start: redis-server by apt-get, and moto by pip, in a
    /// folder under the target directory.
    #[arg(long)]
    pub(crate) install: bool,
    /// Measure instead of testing: a load of a page from Redis as a multiple of one GETRANGE.
    #[arg(long)]
    pub(crate) bench: bool,
}

pub(crate) fn run(ws: &Workspace, args: &Args) -> Result<()> {
    let moto = format!("{}/bin/moto_server", ws.target_dir("remote-moto"));
    if args.install {
        install(ws, &moto)?;
    }
    if args.bench {
        return cargo(ws, "bench").args(["--features", "redis", "--bench", "remote"]).run();
    }
    Cmd::line("cargo fmt --check --all --manifest-path").arg(MANIFEST).run()?;
    let clippy = cargo(ws, "clippy").args(["--workspace", "--all-targets", "--all-features"]);
    clippy.args(["--", "-D", "warnings"]).run()?;
    let bare = cargo(ws, "clippy").args(["--package", "zswap-remote", "--no-default-features"]);
    bare.args(["--", "-D", "warnings"]).run()?;
    let docs = cargo(ws, "doc").args(["--workspace", "--no-deps", "--all-features"]);
    docs.env("RUSTDOCFLAGS", "-D warnings").run()?;
    let mut tests = cargo(ws, "test").args(["--workspace", "--all-features"]);
    if Path::new(&moto).exists() {
        tests = tests.env("ZSWAP_REMOTE_MOTO", &moto);
    }
    let output = tests.args(["--", "--nocapture"]).run_and_read()?;
    if libtest::passed(&output) == 0 {
        return Err(Error::NothingRan { krate: "zswap-remote".to_owned(), what: "test" });
    }
    match not_run(&output) {
        0 => Ok(()),
        tests => Err(Error::NotRun {
            why: format!(
                "{tests} tests of zswap-remote had no server, as shown above; run `cargo xtask remote \
                 --install`"
            ),
        }),
    }
}

/// Returns how many tests say that they did not run.
fn not_run(output: &str) -> usize {
    output.lines().filter(|line| line.contains(NOT_RUN)).count()
}

fn install(ws: &Workspace, moto: &str) -> Result<()> {
    apt::ensure("redis-server", &["redis-server --version"], "redis-server")?;
    if Cmd::new(moto).arg("--help").succeeds() {
        return Ok(());
    }
    let python = "python3 -m ensurepip --version";
    apt::ensure("Python with venv", &[python], "python3 python3-venv")?;
    let folder = ws.target_dir("remote-moto");
    Cmd::line("python3 -m venv").arg(folder.as_str()).run()?;
    Cmd::new(&format!("{folder}/bin/pip")).args(["install", "--quiet", MOTO]).run()
}

fn cargo(ws: &Workspace, command: &str) -> Cmd {
    let line = format!("cargo {command} --locked --manifest-path {MANIFEST}");
    Cmd::line(&line).env("CARGO_TARGET_DIR", ws.target_dir("remote"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_without_a_server_are_counted() {
        let output = "test a ... NOT RUN: redis-server is not installed\nok\n\
            test b ... ok\nNOT RUN: moto_server is not installed\n";
        assert_eq!(not_run(output), 2);
        assert_eq!(not_run("test not_run ... ok\n"), 0);
    }
}
