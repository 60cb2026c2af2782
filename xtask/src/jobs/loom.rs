//! Runs every loom model of each crate that depends on loom. A model is a unit test, or an
//! integration test named `loom_*`.
//!
//! The path of each unit test that is a model contains `loom`, and the filter `loom` selects these
//! tests. Other unit tests cannot run, because loom's types work only inside a model. The job fails
//! if a crate runs no model at all. So a renamed module does not go unnoticed.

use serde_json::Value;

use crate::cmd::Cmd;
use crate::error::{Error, Result};
use crate::libtest;
use crate::workspace::{Workspace, integration_tests, list, text};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The most preemptions in one execution of a model, that is, switches away from a thread that
    /// could go on (`LOOM_MAX_PREEMPTIONS`).
    #[arg(long, default_value_t = 3)]
    pub(crate) preemptions: usize,
    /// Run only this crate's models; may be given several times.
    #[arg(short, long = "package", value_name = "CRATE")]
    pub(crate) packages: Vec<String>,
}

impl Default for Args {
    fn default() -> Self {
        Self { preemptions: 3, packages: Vec::new() }
    }
}

/// Returns the names of the crates that have models.
pub(crate) fn crates(ws: &Workspace) -> impl Iterator<Item = &str> {
    ws.packages().filter(|p| depends_on_loom(p)).map(|p| text(&p["name"]))
}

pub(crate) fn run(ws: &Workspace, args: &Args) -> Result<()> {
    let packages: Vec<_> = ws.packages().filter(|p| depends_on_loom(p)).collect();
    if packages.is_empty() {
        return Err(Error::NoLoomCrate);
    }
    let names: Vec<&str> = packages.iter().map(|p| text(&p["name"])).collect();
    let wanted = libtest::choose("loom", &names, &args.packages)?;
    for package in packages.iter().filter(|p| wanted.contains(&text(&p["name"]))) {
        let name = text(&package["name"]);
        let unit = cargo_test(ws, args, name).args(["--lib", "loom"]).run_and_read()?;
        let mut models = libtest::passed(&unit);
        for test in loom_tests(package) {
            let run = cargo_test(ws, args, name).args(["--test", test]).run_and_read()?;
            models += libtest::passed(&run);
        }
        if models == 0 {
            return Err(Error::NothingRan { krate: name.to_owned(), what: "loom model" });
        }
        println!("loom: {name}: models explored: {models}");
    }
    Ok(())
}

/// The dependencies that run in every step of a model. The others, above all the regular
/// expressions with which loom filters its log, are compiled without optimisation. That takes a
/// fraction of the time.
const HOT: &[&str] = &["generator", "loom", "scoped-tls", "tracing", "tracing-core"];

fn cargo_test(ws: &Workspace, args: &Args, package: &str) -> Cmd {
    let hot = HOT.iter().map(|name| format!("profile.release.package.{name}.opt-level=3"));
    let levels = hot.chain([r#"profile.release.package."*".opt-level=0"#.to_owned()]);
    let cmd = Cmd::line("cargo test --release -p")
        .arg(package)
        .args(levels.flat_map(|level| ["--config".to_owned(), level]))
        .env("RUSTFLAGS", "--cfg loom")
        // Optimised, but with debug assertions, so that a model fails if one does not hold.
        .env("CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS", "true")
        // Optimising across crates takes longer than it saves in the models.
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")
        .env("LOOM_MAX_PREEMPTIONS", args.preemptions.to_string())
        // The models of whole stores take up to 1100 steps where loom allows 1000.
        .env("LOOM_MAX_BRANCHES", "2000")
        .env("CARGO_TARGET_DIR", ws.target_dir("loom"));
    // The models need no codec. Without codecs, no C library has to be built again.
    if ["zswap-core", "zpage", "zswap-region"].contains(&package) {
        cmd.args(["--no-default-features", "--features", "zbud"])
    } else {
        cmd
    }
}

fn depends_on_loom(package: &Value) -> bool {
    list(&package["dependencies"]).any(|d| d["name"] == "loom")
}

/// Returns the names of a package's integration tests that are loom models.
fn loom_tests(package: &Value) -> impl Iterator<Item = &str> {
    integration_tests(package, |_| true).filter(|name| name.starts_with("loom_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_found_by_dependency_and_name() {
        let package = serde_json::json!({
            "dependencies": [{"name": "loom"}],
            "targets": [
                {"name": "zbud", "kind": ["lib"]},
                {"name": "loom_free", "kind": ["test"]},
                {"name": "conformance", "kind": ["test"]},
            ],
        });
        assert!(depends_on_loom(&package));
        assert_eq!(loom_tests(&package).collect::<Vec<_>>(), ["loom_free"]);
    }
}
