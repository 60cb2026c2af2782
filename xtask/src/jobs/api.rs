//! Compares the public API of the library crates with its committed description in `docs/api`.
//!
//! The rustdoc of the nightly toolchain describes each crate as JSON, and `xtask/api` turns that
//! into text. The text lacks derived trait implementations, and items that a crate hides from its
//! documentation.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::cmd::Cmd;
use crate::error::{Error, Result};
use crate::workspace::{Workspace, is_library, list, text};
use crate::{folder, no_c};

/// The folder with the committed texts. It has one file for each package.
const TEXTS: &str = "docs/api";
/// This library has no text. It switches on features of other libraries, and if cargo builds it
/// together with these, they have those features in their texts.
const WITH_FEATURES: &str = "zswap-cli";
const BLESS: &str = "cargo xtask api --bless";

#[derive(Debug, Default, clap::Args)]
pub(crate) struct Args {
    /// Write the files in docs/api instead of comparing them.
    #[arg(long)]
    bless: bool,
}

pub(crate) fn run(ws: &Workspace, args: &Args) -> Result<()> {
    ensure_nightly()?;
    let is_described =
        |package: &&Value| is_library(package) && text(&package["name"]) != WITH_FEATURES;
    let libraries: Vec<&Value> = ws.packages().filter(is_described).collect();
    let target = PathBuf::from(ws.target_dir("api"));
    describe(&libraries, &target)?;
    let reader = build_reader(&target)?;
    let format = Cmd::new(&reader).arg("--format").quiet()?;
    let texts = if args.bless { PathBuf::from(TEXTS) } else { target.join("text") };
    let mut rendered = Vec::new();
    for package in &libraries {
        let json = target.join("doc").join(format!("{}.json", library_name(package)));
        check_format(&json, format.trim())?;
        let items = Cmd::new(&reader).arg(json.display().to_string()).quiet()?;
        if items.is_empty() {
            let krate = text(&package["name"]).to_owned();
            return Err(Error::NothingRan { krate, what: "public item" });
        }
        rendered.push((format!("{}.txt", text(&package["name"])), head(package) + &items));
    }
    folder::renew(&texts)?;
    for (name, content) in rendered {
        folder::write(&texts.join(name), &content)?;
    }
    if args.bless {
        return Ok(());
    }
    let diff = Cmd::line("git diff --no-index --exit-code --").arg(TEXTS);
    match diff.arg(texts.display().to_string()).run() {
        Err(Error::Failed { .. }) => Err(Error::ApiDiffers { texts: TEXTS, accept: BLESS }),
        other => other,
    }
}

fn ensure_nightly() -> Result<()> {
    if Cmd::line("rustc +nightly --version").succeeds() {
        return Ok(());
    }
    let fix = "rustup toolchain install nightly --profile minimal";
    let failed =
        |_| Error::Missing { what: "the nightly toolchain".to_owned(), fix: fix.to_owned() };
    Cmd::line(fix).run().map_err(failed)
}

/// Makes rustdoc write a JSON file for each package to the folder `doc` in `target`.
fn describe(libraries: &[&Value], target: &Path) -> Result<()> {
    Cmd::line("cargo +nightly")
        .args(no_c::config("+nightly")?)
        .args(["doc", "--no-deps", "--target-dir"])
        .arg(target.display().to_string())
        .args(libraries.iter().flat_map(|package| ["-p", text(&package["name"])]))
        .env("RUSTDOCFLAGS", "-Zunstable-options --output-format=json --cap-lints=allow")
        .run()
}

/// Builds `xtask/api`, the program that turns the JSON into text. Returns the program's path.
fn build_reader(target: &Path) -> Result<String> {
    let target = target.join("reader");
    Cmd::line("cargo build --quiet --locked --manifest-path xtask/api/Cargo.toml --target-dir")
        .arg(target.display().to_string())
        .run()?;
    Ok(target.join("debug/api").display().to_string())
}

fn library_name(package: &Value) -> &str {
    let libraries = |target: &&Value| list(&target["kind"]).any(|kind| kind == "lib");
    list(&package["targets"])
        .find(libraries)
        .map(|target| text(&target["name"]))
        .unwrap_or_default()
}

/// Checks that the JSON file has the format `reads`, the one that `xtask/api` can read.
fn check_format(json: &Path, reads: &str) -> Result<()> {
    let content = folder::read(json)?;
    let failed = |source| Error::Json { command: "rustdoc +nightly".to_owned(), source };
    let value: Value = serde_json::from_str(&content).map_err(failed)?;
    let writes = value["format_version"].to_string();
    if writes == reads {
        return Ok(());
    }
    Err(Error::NotRun {
        why: format!(
            "the installed nightly's rustdoc writes JSON of format {writes}, and `public-api` in \
             xtask/api/Cargo.toml reads {reads}; take the version of it that reads {writes}, or the \
             nightly that writes {reads}"
        ),
    })
}

/// Returns the first lines of a package's text: the name and the features.
fn head(package: &Value) -> String {
    let name = text(&package["name"]);
    let default: Vec<&str> = list(&package["features"]["default"]).map(text).collect();
    let features = match default.as_slice() {
        [] => "without features".to_owned(),
        names => format!("with its default features ({})", names.join(", ")),
    };
    format!("# The public API of {name} {features}, written by `{BLESS}`.\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_of_another_format_counts_as_not_run() {
        let file = tempfile::NamedTempFile::new().unwrap();
        folder::write(file.path(), r#"{"root": 0, "format_version": 57}"#).unwrap();
        assert!(check_format(file.path(), "57").is_ok());
        let error = check_format(file.path(), "61").unwrap_err();
        assert!(matches!(error, Error::NotRun { .. }), "{error}");
        let sentence = error.to_string();
        assert!(sentence.contains("format 57") && sentence.contains("reads 61"), "{sentence}");
    }

    #[test]
    fn the_head_says_which_features_are_on() {
        let mut package = serde_json::json!({ "name": "z", "features": { "lzo": [] } });
        assert!(head(&package).contains("z without features"));
        package["features"]["default"] = serde_json::json!(["zbud", "lz4"]);
        assert!(head(&package).contains("z with its default features (zbud, lz4)"));
    }

    #[test]
    fn every_text_belongs_to_a_library_and_every_library_has_one() {
        let ws = Workspace::open().unwrap();
        let mut wanted: Vec<String> =
            ws.packages().filter(|p| is_library(p)).map(|p| text(&p["name"]).to_owned()).collect();
        wanted.retain(|name| name != WITH_FEATURES);
        wanted.sort();
        let entries = std::fs::read_dir(ws.root().join(TEXTS)).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut found: Vec<String> =
            names.map(|name| name.trim_end_matches(".txt").to_owned()).collect();
        found.sort();
        assert_eq!(found, wanted);
    }
}
