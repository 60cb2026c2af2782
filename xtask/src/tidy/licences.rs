//! Rule `licence`: without the `lzo` feature, no copyleft code is built or linked.
//!
//! The rule checks every package that the workspace uses as a normal or build dependency, on any
//! system. It checks them once with the default features, and once with all features that do not
//! switch `lzo` on. Each package must have a licence from the list in `spdx.rs`. lzo-sys must be an
//! optional dependency wherever it is named, and no default feature may switch it on. Packages that
//! only tests use are not distributed, so they are not checked.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{Finding, spdx};
use crate::error::Result;
use crate::workspace::{Workspace, list, metadata, text};

/// This package is under the GPL-2.0.
const COPYLEFT: &str = "lzo-sys";

pub(super) fn check(ws: &Workspace) -> Result<Vec<Finding>> {
    let mut found = declared(ws.metadata());
    found.extend(resolved(&metadata(&[])?, "the default features"));
    let features = features_without_copyleft(ws.metadata()).join(",");
    found.extend(resolved(&metadata(&["--features", &features])?, "every feature but lzo"));
    Ok(found)
}

/// Checks that the workspace's manifests declare lzo-sys as optional, and that no default feature
/// switches it on.
fn declared(metadata: &Value) -> Vec<Finding> {
    let tainted = tainted_features(metadata);
    let mut found = Vec::new();
    for package in list(&metadata["packages"]) {
        let name = text(&package["name"]);
        let path = format!("{name}/Cargo.toml");
        for dependency in list(&package["dependencies"]) {
            let dev = dependency["kind"] == "dev";
            if dependency["name"] == COPYLEFT && (dev || dependency["optional"] != true) {
                let fix =
                    format!("make {COPYLEFT} an optional dependency behind the `lzo` feature");
                found.push(Finding::new(&path, 1, "licence", fix));
            }
        }
        if tainted.contains(&(name.to_owned(), "default".to_owned())) {
            let fix = format!("keep `lzo`, and so {COPYLEFT}, out of the default features");
            found.push(Finding::new(&path, 1, "licence", fix));
        }
    }
    found
}

/// Checks the licences of all packages that the workspace's packages use, directly or through
/// others. `metadata` is resolved with certain features; `features` names them in the findings.
fn resolved(metadata: &Value, features: &str) -> Vec<Finding> {
    let packages: BTreeMap<&str, &Value> =
        list(&metadata["packages"]).map(|p| (text(&p["id"]), p)).collect();
    let nodes: BTreeMap<&str, &Value> =
        list(&metadata["resolve"]["nodes"]).map(|n| (text(&n["id"]), n)).collect();
    let mut open: Vec<&str> = list(&metadata["workspace_members"]).map(text).collect();
    let mut seen: BTreeSet<&str> = open.iter().copied().collect();
    let mut found = Vec::new();
    while let Some(id) = open.pop() {
        let Some(package) = packages.get(id) else { continue };
        let name = text(&package["name"]);
        if name == COPYLEFT {
            let fix = format!("{COPYLEFT} is reached with {features}; only `lzo` may bring it in");
            found.push(Finding::new("Cargo.lock", 1, "licence", fix));
            continue;
        }
        let licence = text(&package["license"]);
        if !spdx::is_allowed(licence) {
            let version = text(&package["version"]);
            let fix = format!(
                "`{name}` {version} has the licence \"{licence}\", which is not on the list; \
                 take another crate (found with {features})"
            );
            found.push(Finding::new("Cargo.lock", 1, "licence", fix));
        }
        for dependency in nodes.get(id).into_iter().flat_map(|n| list(&n["deps"])) {
            let shipped = list(&dependency["dep_kinds"]).any(|k| k["kind"] != "dev");
            let to = text(&dependency["pkg"]);
            if shipped && seen.insert(to) {
                open.push(to);
            }
        }
    }
    found
}

/// Returns all features of the workspace's packages that do not switch lzo-sys on, written
/// `package/feature`.
fn features_without_copyleft(metadata: &Value) -> Vec<String> {
    let tainted = tainted_features(metadata);
    features(metadata)
        .filter(|(package, feature, _)| {
            !tainted.contains(&((*package).to_owned(), (*feature).to_owned()))
        })
        .map(|(package, feature, _)| format!("{package}/{feature}"))
        .collect()
}

/// Returns the features of the workspace's packages that switch lzo-sys on, directly or through
/// other features.
fn tainted_features(metadata: &Value) -> BTreeSet<(String, String)> {
    let mut tainted = BTreeSet::new();
    loop {
        let before = tainted.len();
        for (package, feature, enables) in features(metadata) {
            let hit = list(enables).map(text).any(|enabled| {
                let (other, name) = match enabled.split_once('/') {
                    Some((other, name)) => {
                        (package_of(metadata, package, other.trim_end_matches('?')), name)
                    }
                    None => (package, enabled),
                };
                enabled.trim_start_matches("dep:") == COPYLEFT
                    || other == COPYLEFT
                    || tainted.contains(&(other.to_owned(), name.to_owned()))
            });
            if hit {
                tainted.insert((package.to_owned(), feature.to_owned()));
            }
        }
        if tainted.len() == before {
            return tainted;
        }
    }
}

/// Returns the real name of a dependency that `package` declares under the name `dependency`.
fn package_of<'a>(metadata: &'a Value, package: &str, dependency: &'a str) -> &'a str {
    let of = list(&metadata["packages"]).filter(|p| p["name"] == package);
    let renamed = of.flat_map(|p| list(&p["dependencies"])).find(|d| d["rename"] == dependency);
    renamed.map_or(dependency, |d| text(&d["name"]))
}

/// Returns every feature of every package of the workspace: the package, the feature and the list
/// of what it enables.
fn features(metadata: &Value) -> impl Iterator<Item = (&str, &str, &Value)> {
    list(&metadata["packages"]).flat_map(|package| {
        let name = text(&package["name"]);
        let table = package["features"].as_object().into_iter().flatten();
        table.map(move |(feature, enables)| (name, feature.as_str(), enables))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn members(default: &Value, optional: bool) -> Value {
        json!({"packages": [
            {"name": "zswap-compressors",
             "features": {"default": default, "lz4": ["dep:lz4-sys"], "lzo": ["dep:lzo-sys"]},
             "dependencies": [{"name": "lzo-sys", "optional": optional, "kind": null}]},
            {"name": "zswap-core",
             "features": {"default": ["zbud"], "zbud": [], "lzo": ["compressors/lzo"]},
             "dependencies": [{"name": "zswap-compressors", "rename": "compressors",
                               "optional": false, "kind": null}]},
        ]})
    }

    #[test]
    fn lzo_sys_is_optional_and_in_no_default() {
        assert_eq!(declared(&members(&json!(["lz4"]), true)), []);
        assert_eq!(declared(&members(&json!(["lz4"]), false)).len(), 1);
        assert_eq!(declared(&members(&json!(["lz4", "lzo"]), true)).len(), 1);
    }

    #[test]
    fn all_features_but_lzo_are_found_through_other_crates() {
        let features = features_without_copyleft(&members(&json!(["lz4"]), true));
        assert_eq!(
            features,
            [
                "zswap-compressors/default",
                "zswap-compressors/lz4",
                "zswap-core/default",
                "zswap-core/zbud"
            ]
        );
    }

    fn resolution(licence: &str, kind: Value, name: &str) -> Value {
        json!({
            "packages": [
                {"id": "a", "name": "zbud", "version": "1.0.0", "license": "MIT OR Apache-2.0"},
                {"id": "b", "name": name, "version": "2.0.0", "license": licence},
            ],
            "workspace_members": ["a"],
            "resolve": {"nodes": [
                {"id": "a", "deps": [{"pkg": "b", "dep_kinds": [{"kind": kind}]}]},
                {"id": "b", "deps": []},
            ]},
        })
    }

    #[test]
    fn a_reached_package_has_an_allowed_licence() {
        assert_eq!(resolved(&resolution("MIT", Value::Null, "other"), "x"), []);
        assert_eq!(resolved(&resolution("GPL-2.0", Value::Null, "other"), "x").len(), 1);
        assert_eq!(resolved(&resolution("GPL-2.0", json!("build"), "other"), "x").len(), 1);
        assert_eq!(resolved(&resolution("GPL-2.0", json!("dev"), "other"), "x"), []);
        assert_eq!(resolved(&resolution("", Value::Null, "other"), "x").len(), 1);
    }

    #[test]
    fn lzo_sys_must_not_be_reached() {
        assert_eq!(resolved(&resolution("MIT", Value::Null, "lzo-sys"), "x").len(), 1);
    }
}
