//! Publishes our packages one by one, each after those that it depends on. They go to an index on
//! disk and nowhere else.
//!
//! Inside the workspace, cargo finds our packages by path, whatever their manifests say. Here each
//! package is packed, and then compiled against the packages that were published before it. So
//! these faults show up as they would on crates.io: a dependency under a name that belongs to
//! somebody else, a missing version, and a dependency on a package that is not published yet.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{Error, Result};
use crate::index::Index;
use crate::workspace::{Workspace, list, text};
use crate::{folder, no_c};

/// The files that every package must contain.
const FILES: &[&str] = &["Cargo.toml", "README.md", "LICENSE-MIT", "LICENSE-APACHE"];
/// The fields that every package's manifest must have, named as in `cargo metadata`.
const FIELDS: &[&str] = &["description", "license", "rust_version", "readme", "documentation"];

pub(crate) fn run(ws: &Workspace) -> Result<()> {
    publish_all(ws).map(drop)
}

/// Publishes all our packages that are meant to be published. Returns the index that contains them.
pub(crate) fn publish_all(ws: &Workspace) -> Result<Index> {
    let packages: Vec<&Value> = ws.packages().collect();
    let findings: Vec<String> = packages.iter().flat_map(|p| findings(p, &packages)).collect();
    for finding in &findings {
        println!("{finding}");
    }
    if !findings.is_empty() {
        return Err(Error::Findings { job: "publish", findings: findings.len() });
    }
    let folder = PathBuf::from(ws.target_dir("publish"));
    // This also removes older builds of the packages. Cargo would take them for the new ones, since
    // the version is the same.
    folder::renew(&folder)?;
    let index = Index::of_third_parties(&folder.join("index"))?;
    let without_c = no_c::config("")?;
    for package in in_order(&packages) {
        let archive = pack(&index, package, &folder)?;
        let unpacked = index.publish(&archive)?;
        check_files(package, &unpacked)?;
        stand_alone(&unpacked)?;
        index
            .cargo("check")
            .args(["--quiet", "--manifest-path"])
            .arg(unpacked.join("Cargo.toml").display().to_string())
            .args(without_c.iter().cloned())
            .env("CARGO_TARGET_DIR", folder.join("target").display().to_string())
            .run()?;
    }
    Ok(index)
}

fn is_published(package: &Value) -> bool {
    package["publish"].is_null()
}

/// Returns the packages that are to be published. Each comes after the packages that it depends on.
/// Dependencies of its tests do not count.
fn in_order<'a>(packages: &[&'a Value]) -> Vec<&'a Value> {
    let mut left: Vec<&Value> = packages.iter().copied().filter(|p| is_published(p)).collect();
    let mut ordered = Vec::new();
    while !left.is_empty() {
        let waiting: BTreeSet<&str> = left.iter().map(|p| text(&p["name"])).collect();
        let is_next =
            |p: &&Value| !ours(p).any(|d| !is_dev(d) && waiting.contains(text(&d["name"])));
        let (next, later): (Vec<&Value>, Vec<&Value>) = left.iter().partition(|p| is_next(p));
        if next.is_empty() {
            // The rest depend on each other in a circle. Cargo will report what the first of them
            // lacks.
            ordered.extend(later);
            break;
        }
        ordered.extend(next);
        left = later;
    }
    ordered
}

/// Returns a package's dependencies on packages of this workspace.
fn ours(package: &Value) -> impl Iterator<Item = &Value> {
    list(&package["dependencies"]).filter(|dependency| dependency["path"].is_string())
}

fn is_dev(dependency: &Value) -> bool {
    dependency["kind"] == "dev"
}

/// Returns what is wrong with a package's manifest: missing fields that this project requires, and
/// dependencies that would keep the package from being published or its users from building it.
fn findings(package: &Value, packages: &[&Value]) -> Vec<String> {
    if !is_published(package) {
        return Vec::new();
    }
    let name = text(&package["name"]);
    let missing = FIELDS.iter().filter(|field| text(&package[**field]).is_empty());
    let mut found: Vec<String> = missing
        .map(|field| format!("{name}: add `{}` to its Cargo.toml", field.replace('_', "-")))
        .collect();
    for dependency in ours(package) {
        let on = text(&dependency["name"]);
        let published = packages.iter().any(|p| p["name"] == on && is_published(p));
        let has_version = dependency["req"] != "*";
        match (is_dev(dependency), has_version) {
            (true, true) => {
                found.push(format!("{name}: give its dev-dependency {on} a path and no version"));
            }
            (false, _) if !published => {
                found.push(format!("{name}: it depends on {on}, which is not published"));
            }
            (false, false) => found.push(format!("{name}: give its dependency {on} a version")),
            _ => {}
        }
    }
    found
}

fn pack(index: &Index, package: &Value, folder: &Path) -> Result<PathBuf> {
    let name = text(&package["name"]);
    let (packed, said) = index
        .cargo("package")
        .args(["--no-verify", "--allow-dirty", "--package", name, "--target-dir"])
        .arg(folder.display().to_string())
        .verdict()?;
    if !packed || said.lines().any(|line| line.starts_with("warning")) {
        return Err(Error::NotPublished { krate: name.to_owned(), said });
    }
    let archive = format!("{name}-{}.crate", text(&package["version"]));
    Ok(folder.join("package").join(archive))
}

fn check_files(package: &Value, unpacked: &Path) -> Result<()> {
    match FILES.iter().find(|file| !unpacked.join(file).is_file()) {
        None => Ok(()),
        Some(file) => Err(Error::PackageFile {
            krate: text(&package["name"]).to_owned(),
            file: (*file).to_owned(),
        }),
    }
}

/// Makes an unpacked package a workspace by itself. Otherwise cargo would take it for a member of
/// the workspace around it.
fn stand_alone(unpacked: &Path) -> Result<()> {
    let path = unpacked.join("Cargo.toml");
    let manifest = folder::read(&path)?;
    folder::write(&path, &format!("{manifest}\n[workspace]\n"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn package(name: &str, dependencies: &Value) -> Value {
        json!({
            "name": name, "description": "d", "license": "MIT", "rust_version": "1.85",
            "readme": "README.md", "documentation": "there", "dependencies": dependencies,
        })
    }

    fn on(name: &str, req: &str, kind: &Value) -> Value {
        json!({ "name": name, "req": req, "kind": kind, "path": "/there" })
    }

    #[test]
    fn a_package_comes_after_those_it_depends_on_and_tests_do_not_count() {
        let low = package("low", &json!([on("high", "*", &json!("dev"))]));
        let middle = package("middle", &json!([on("low", "^1", &json!("build"))]));
        let high = package("high", &json!([on("middle", "^1", &json!(null))]));
        let mut task = package("task", &json!([]));
        task["publish"] = json!([]);
        let order = in_order(&[&high, &task, &middle, &low]);
        let names: Vec<&str> = order.iter().map(|p| text(&p["name"])).collect();
        assert_eq!(names, ["low", "middle", "high"]);
    }

    #[test]
    fn what_keeps_a_package_from_being_published_is_found_in_its_manifest() {
        let low = package("low", &json!([]));
        let mut task = package("task", &json!([]));
        task["publish"] = json!([]);
        let of = |dependency: Value| {
            let high = package("high", &json!([dependency]));
            findings(&high, &[&low, &task, &high]).join("\n")
        };
        assert_eq!(of(on("low", "^1", &json!(null))), "");
        assert_eq!(of(on("task", "*", &json!("dev"))), "");
        assert!(of(on("low", "*", &json!(null))).contains("a version"));
        assert!(of(on("low", "^1", &json!("dev"))).contains("no version"));
        assert!(of(on("task", "^1", &json!(null))).contains("not published"));
    }

    #[test]
    fn a_package_that_does_not_say_what_it_is_is_told() {
        let mut low = package("low", &json!([]));
        low["rust_version"] = Value::Null;
        assert_eq!(findings(&low, &[&low]), ["low: add `rust-version` to its Cargo.toml"]);
    }
}
