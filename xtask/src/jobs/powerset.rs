//! Type-checks every combination of each crate's features.
//!
//! A feature that compiles only beside another one is found here, before a user does. `lzo` is left
//! out unless it is asked for: it needs cmake.

use serde_json::Value;

use crate::cmd::Cmd;
use crate::error::{Error, Result};
use crate::workspace::{Workspace, text};

/// The one that needs more than a C compiler.
const LZO: &str = "lzo";

#[derive(Debug, Default, clap::Args)]
pub(crate) struct Args {
    /// Also the combinations with `lzo`, which needs cmake.
    #[arg(long)]
    lzo: bool,
}

pub(crate) fn run(ws: &Workspace, args: &Args) -> Result<()> {
    let mut checked = 0;
    for package in ws.packages() {
        let name = text(&package["name"]);
        for features in subsets(&features(package, args.lzo)) {
            let mut check = Cmd::line("cargo check --quiet --no-default-features -p").arg(name);
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

/// All subsets, the empty one first.
fn subsets(features: &[String]) -> impl Iterator<Item = Vec<&str>> {
    (0..1usize << features.len()).map(|bits| {
        let chosen = features.iter().enumerate().filter(move |(i, _)| bits >> i & 1 == 1);
        chosen.map(|(_, feature)| feature.as_str()).collect()
    })
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
        let subsets: Vec<_> = subsets(&features).collect();
        assert_eq!(subsets, [vec![], vec!["a"], vec!["b"], vec!["a", "b"]]);
        assert_eq!(super::features(&package, true).len(), 3);
    }
}
