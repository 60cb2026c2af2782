//! Type-checks every combination of each crate's features.
//!
//! A feature that compiles only beside another one is found here, before a user does. `lzo` is left
//! out unless it is asked for: it needs cmake.

use serde_json::Value;

use crate::cmd::Cmd;
use crate::error::{Error, Result};
use crate::workspace::{Workspace, list, text};

/// The one that needs more than a C compiler.
const LZO: &str = "lzo";
/// One that no other feature's code asks about: checked alone and beside all others, not beside each
/// set of them.
const APART: &str = "metrics";

#[derive(Debug, Default, clap::Args)]
pub(crate) struct Args {
    /// Also the combinations with `lzo`, which needs cmake.
    #[arg(long)]
    lzo: bool,
}

pub(crate) fn run(ws: &Workspace, args: &Args) -> Result<()> {
    check(ws, args, &[])
}

/// Checks them with the compiler that `toolchain` (`+1.85.0`, say) chooses; the usual one if it is empty.
pub(crate) fn check(ws: &Workspace, args: &Args, toolchain: &[String]) -> Result<()> {
    let mut checked = 0;
    for package in ws.packages() {
        let name = text(&package["name"]);
        let all = features(package, args.lzo);
        let sets = if passes_on(package) { one_by_one(&all) } else { subsets(&all) };
        for features in sets {
            let mut check = Cmd::new("cargo").args(toolchain.iter().cloned()).args([
                "check",
                "--quiet",
                "--no-default-features",
                "-p",
                name,
            ]);
            if !features.is_empty() {
                check = check.arg("--features").arg(features.join(","));
            }
            check.run()?;
            checked += 1;
        }
    }
    println!("powerset: {checked} combinations of features");
    // One for each crate is no combination.
    if checked <= ws.packages().count() {
        return Err(Error::NothingRan { krate: "powerset".to_owned(), what: "feature" });
    }
    Ok(())
}

/// The features of a package, without the one that is made of others.
fn features(package: &Value, lzo: bool) -> Vec<String> {
    let all = package["features"].as_object().into_iter().flatten();
    all.map(|(name, _)| name.clone())
        .filter(|name| name != "default" && (lzo || name != LZO))
        .collect()
}

/// Whether every feature of a package only switches on other packages' features: its own code then
/// has nothing to say about them.
fn passes_on(package: &Value) -> bool {
    let all = package["features"].as_object().into_iter().flatten();
    let mut own = all.filter(|(name, _)| *name != "default");
    own.all(|(_, needs)| list(needs).all(|need| text(need).contains('/')))
}

/// None, each alone, and all.
fn one_by_one(features: &[String]) -> Vec<Vec<&str>> {
    let all: Vec<&str> = features.iter().map(String::as_str).collect();
    let alone = all.iter().map(|feature| vec![*feature]);
    let mut sets: Vec<Vec<&str>> = [vec![]].into_iter().chain(alone).collect();
    if all.len() > 1 {
        sets.push(all);
    }
    sets
}

/// All subsets, the empty one first; those with [`APART`] last.
fn subsets(features: &[String]) -> Vec<Vec<&str>> {
    let all: Vec<&str> = features.iter().map(String::as_str).collect();
    let others: Vec<&str> = all.iter().copied().filter(|feature| *feature != APART).collect();
    let mut subsets: Vec<Vec<&str>> = (0..1usize << others.len())
        .map(|bits| {
            let chosen = others.iter().enumerate().filter(|(i, _)| bits >> i & 1 == 1);
            chosen.map(|(_, feature)| *feature).collect()
        })
        .collect();
    if others.len() < all.len() {
        subsets.extend([vec![APART], all]);
    }
    subsets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_comes_once() {
        let package = serde_json::json!({
            "features": {"a": [], "b": ["a"], "default": ["a"], "lzo": []},
        });
        let features = features(&package, false);
        assert_eq!(features, ["a", "b"]);
        assert_eq!(subsets(&features), [vec![], vec!["a"], vec!["b"], vec!["a", "b"]]);
        let apart = ["a", APART].map(str::to_owned);
        assert_eq!(subsets(&apart), [vec![], vec!["a"], vec![APART], vec!["a", APART]]);
        assert_eq!(super::features(&package, true).len(), 3);
        assert!(!passes_on(&package));
        let package =
            serde_json::json!({"features": {"a": ["x/a"], "b": ["y/b"], "default": ["a"]}});
        assert!(passes_on(&package));
        assert_eq!(one_by_one(&features), [vec![], vec!["a"], vec!["b"], vec!["a", "b"]]);
    }
}
