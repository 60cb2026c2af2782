//! Tests the store against a model, with random backends, codecs, limits, faults and switches. In
//! CI, and unless `--seconds` says otherwise, this takes half a minute.
//!
//! `--breaks` tests the torture itself. Each patch in `torture/breaks` removes one fix from the
//! code. It is applied to a copy of the last commit, and the torture must find the fault.

use std::path::{Path, PathBuf};

use crate::cmd::Cmd;
use crate::error::{Error, Result};
use crate::workspace::Workspace;

/// How many seconds the torture runs in `ci`.
const CI_SECONDS: u64 = 30;

/// The folder with the patches.
const BREAKS: &str = "torture/breaks";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Run for this many seconds.
    #[arg(long, default_value_t = CI_SECONDS)]
    seconds: u64,
    /// The number of threads. They all use the same keys.
    #[arg(long, default_value_t = 4)]
    threads: usize,
    /// Seed every random choice with this number. Default: the time.
    #[arg(long)]
    seed: Option<u64>,
    /// Apply each patch in torture/breaks to a copy of the last commit, and fail unless every fault
    /// is found.
    #[arg(long)]
    breaks: bool,
    /// Further options for `zswap-torture`, after `--`; see its `--help`.
    #[arg(last = true)]
    rest: Vec<String>,
}

impl Default for Args {
    fn default() -> Self {
        Self { seconds: CI_SECONDS, threads: 4, seed: None, breaks: false, rest: Vec::new() }
    }
}

impl Args {
    /// Returns the arguments for a run of `seconds`.
    pub(crate) fn lasting(seconds: u64) -> Self {
        Self { seconds, ..Self::default() }
    }

    fn pass_to(&self, program: Cmd) -> Cmd {
        let mut torture = program
            .args(["--seconds", &self.seconds.to_string()])
            .args(["--threads", &self.threads.to_string()]);
        if let Some(seed) = self.seed {
            torture = torture.args(["--seed", &seed.to_string()]);
        }
        torture.args(self.rest.iter().map(String::as_str))
    }
}

/// Runs the torture as CI does: built in the test profile, which has debug assertions.
pub(crate) fn smoke(ws: &Workspace) -> Result<()> {
    let program = ws.build_for_tests()?.join("zswap-torture");
    Args::default().pass_to(Cmd::new(&shown(&program))).run()
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if args.breaks {
        return find_breaks(args);
    }
    args.pass_to(Cmd::line("cargo run --release -p zswap-torture --")).run()
}

/// A copy of the last commit, as a git worktree. It is removed on drop.
struct Copy(PathBuf);

impl Copy {
    fn make(at: PathBuf) -> Result<Self> {
        let made = Cmd::line("git worktree add --force --detach").arg(shown(&at)).arg("HEAD");
        made.run()?;
        Ok(Copy(at))
    }

    fn git(&self) -> Cmd {
        Cmd::new("git").arg("-C").arg(shown(&self.0))
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        let _ = Cmd::line("git worktree remove --force").arg(shown(&self.0)).run();
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn find_breaks(args: &Args) -> Result<()> {
    let breaks = std::path::absolute(BREAKS).map_err(|e| unreadable(Path::new(BREAKS), e))?;
    let target = std::path::absolute("target/torture-breaks");
    let target = target.map_err(|e| unreadable(Path::new("target"), e))?;
    let mut patches = Vec::new();
    for entry in std::fs::read_dir(&breaks).map_err(|e| unreadable(&breaks, e))? {
        patches.push(entry.map_err(|e| unreadable(&breaks, e))?.path());
    }
    patches.sort();
    if patches.is_empty() {
        return Err(Error::NothingRan { krate: "zswap-torture".to_owned(), what: "break" });
    }
    let copy = Copy::make(target.join("copy"))?;
    for patch in &patches {
        copy.git().args(["checkout", "--quiet", "."]).run()?;
        copy.git().arg("apply").arg(shown(patch)).run()?;
        let manifest = shown(&copy.0.join("Cargo.toml"));
        let run = Cmd::line("cargo run --release -p zswap-torture --manifest-path").arg(manifest);
        // Saves build time: there are many programs, and each runs only briefly.
        let run = run
            .env("CARGO_TARGET_DIR", shown(&target))
            .env("CARGO_PROFILE_RELEASE_LTO", "off")
            .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16");
        args.pass_to(run.args(["--", "--must-find"])).run()?;
    }
    println!("each of {} breaks was found", patches.len());
    Ok(())
}

fn unreadable(path: &Path, source: std::io::Error) -> Error {
    Error::Read { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_break_applies_to_the_tree() {
        let root = Workspace::open().unwrap().root().to_owned();
        let patches: Vec<PathBuf> =
            std::fs::read_dir(root.join(BREAKS)).unwrap().map(|e| e.unwrap().path()).collect();
        assert!(!patches.is_empty());
        for patch in patches {
            let args = ["-C", &shown(&root), "apply", "--check", &shown(&patch)];
            Cmd::new("git").args(args).run().unwrap();
        }
    }
}
