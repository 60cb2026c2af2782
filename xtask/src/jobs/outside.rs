//! The library crates as somebody outside the workspace gets them: packaged, unpacked, and used by
//! a crate that knows nothing else.
//!
//! `cargo package` takes only what a package would hold, so a file that is missing there is missed
//! here. The crate that uses them is kept in `xtask/outside` and copied out of the workspace. Beside it,
//! `xtask/outside/faults` has the faults that are known and not mended yet; that they compile is checked.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::cmd::Cmd;
use crate::error::{Error, Result};
use crate::folder;
use crate::workspace::{Workspace, is_library, text};

/// What every package has to bring along.
const FILES: &[&str] = &["Cargo.toml", "README.md", "LICENSE-MIT", "LICENSE-APACHE", "src/lib.rs"];
/// What its manifest has to say.
const FIELDS: &[&str] = &["description", "license", "rust_version", "readme"];

pub(crate) fn run(ws: &Workspace) -> Result<()> {
    let libraries: Vec<&Value> = ws.packages().filter(|p| is_library(p)).collect();
    for package in &libraries {
        check_metadata(package)?;
    }
    let target = ws.target_dir("outside");
    let names = libraries.iter().flat_map(|p| ["-p", text(&p["name"])]);
    // Built below, out of reach of the workspace; here it would be built from within.
    Cmd::line("cargo package --no-verify --allow-dirty --target-dir")
        .arg(&target)
        .args(names)
        .run()?;

    let user = Path::new(&target).join("user");
    // With what was built of older packages: their files all bear the same date.
    folder::renew(&user)?;
    let packages = user.join("packages");
    folder::renew(&packages)?;
    for package in &libraries {
        unpack(Path::new(&target), package, &packages)?;
    }
    copy(&ws.root().join("xtask/outside"), &user)?;
    // Outside, nothing is inherited: neither lints nor profiles nor the lock file.
    for features in [&[][..], &["--features", "defaults"]] {
        let manifest = user.join("Cargo.toml");
        let ran = Cmd::line("cargo run --quiet --manifest-path")
            .arg(manifest.display().to_string())
            .args(features.iter().copied())
            .env("CARGO_TARGET_DIR", user.join("target").display().to_string())
            .run_and_read()?;
        if !ran.contains("pages came back equal") {
            return Err(Error::NothingRan { krate: "outside".to_owned(), what: "store" });
        }
    }
    // Compiled, so that they follow the code; whoever mends one of them runs it.
    Cmd::line("cargo check --quiet --manifest-path xtask/outside/faults/Cargo.toml")
        .env("CARGO_TARGET_DIR", Path::new(&target).join("faults").display().to_string())
        .run()
}

fn check_metadata(package: &Value) -> Result<()> {
    match FIELDS.iter().find(|field| text(&package[**field]).is_empty()) {
        None => Ok(()),
        Some(field) => Err(Error::PackageField {
            krate: text(&package["name"]).to_owned(),
            field: field.replace('_', "-"),
        }),
    }
}

fn unpack(target: &Path, package: &Value, packages: &Path) -> Result<()> {
    let name = format!("{}-{}", text(&package["name"]), text(&package["version"]));
    let archive = target.join("package").join(format!("{name}.crate"));
    Cmd::line("tar -xzf")
        .arg(archive.display().to_string())
        .arg("-C")
        .arg(packages.display().to_string())
        .run()?;
    match FILES.iter().find(|file| !packages.join(&name).join(file).is_file()) {
        None => Ok(()),
        Some(file) => Err(Error::PackageFile {
            krate: text(&package["name"]).to_owned(),
            file: (*file).to_owned(),
        }),
    }
}

/// Copies the files of a crate, not what was built of it.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_that_does_not_say_what_it_is_is_told() {
        let mut package = serde_json::json!({
            "name": "z", "description": "d", "license": "MIT", "rust_version": "1.85",
            "readme": "README.md",
        });
        assert!(check_metadata(&package).is_ok());
        package["rust_version"] = Value::Null;
        let error = check_metadata(&package).unwrap_err().to_string();
        assert!(error.contains("z ") && error.contains("rust-version"), "{error}");
    }

    #[test]
    fn every_library_has_its_line_in_the_crate_outside() {
        let ws = Workspace::open().unwrap();
        let manifest = fs::read_to_string(ws.root().join("xtask/outside/Cargo.toml")).unwrap();
        for package in ws.packages().filter(|p| is_library(p)) {
            let (name, version) = (text(&package["name"]), text(&package["version"]));
            let patch = format!("{name} = {{ path = \"packages/{name}-{version}\" }}");
            assert!(manifest.contains(&patch), "no line `{patch}`");
        }
    }
}
