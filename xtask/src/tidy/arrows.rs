//! Rule `arrow`: of the workspace's crates, each crate depends only on those that the table in
//! `allowed` lists for it, even in tests and build scripts. Its tests may also use what
//! `allowed_in_tests` lists. zpage, zswap-core and zram use backends through a trait. They name
//! concrete backends in one file only, zpage's `src/builtin.rs`.

use std::path::Path;

use serde_json::Value;

use super::Finding;
use super::source::Source;
use super::words::words;
use crate::workspace::{list, text};

const BACKENDS: &[&str] = &["zbud", "z3fold", "zsmalloc"];

/// The crates that use backends through a trait only.
const CONSUMERS: &[&str] = &["zswap-core/zpage", "zswap-core", "zram", "zcache"];

/// The only file of those crates that may name a concrete backend: it registers the built-in ones.
const BUILTIN: &str = "zswap-core/zpage/src/builtin.rs";

/// Returns the crates of the workspace on which the crate `from` may depend. Returns `None` if the
/// table does not list `from`.
fn allowed(from: &str) -> Option<&'static [&'static str]> {
    const ZPAGE: &[&str] = &[
        "zpool-base",
        "zpool-api",
        "zpool-pages",
        "zswap-compressors",
        "zbud",
        "z3fold",
        "zsmalloc",
    ];
    const CONSUMER: &[&str] =
        &["zpool-base", "zpool-api", "zpool-pages", "zswap-compressors", "zpage"];
    const TOP: &[&str] = &[
        "zpool-base",
        "zpool-api",
        "zpool-pages",
        "zswap-lz4-block",
        "zswap-compressors",
        "zbud",
        "z3fold",
        "zsmalloc",
        "zpage",
        "zswap-core",
        "zram",
        "zram-nbd",
        "zswap-cache",
        "zswap-measure",
    ];
    match from {
        "zpool-base" | "zswap-lz4-block" => Some(&[]),
        "linewords" => Some(&["zswap-lz4-block"]),
        "zpool-api" => Some(&["zpool-base"]),
        "zswap-compressors" => Some(&["zpool-base", "zswap-lz4-block", "linewords"]),
        "zpool-pages" => Some(&["zpool-base", "zpool-api"]),
        "zpool-buddies" | "zpool-conformance" => Some(&["zpool-base", "zpool-api", "zpool-pages"]),
        "zsmalloc" => Some(&["zpool-base", "zpool-api", "zpool-pages", "zpool-conformance"]),
        "zbud" | "z3fold" => {
            Some(&["zpool-base", "zpool-api", "zpool-pages", "zpool-buddies", "zpool-conformance"])
        }
        "zpage" => Some(ZPAGE),
        "zswap-core" | "zram" => Some(CONSUMER),
        "zswap-region" => Some(&["zpool-base", "zswap-core"]),
        "zswap-cache" => Some(CONSUMER),
        "zram-nbd" => Some(&["zswap-compressors", "zram"]),
        "zswap-measure" => Some(&["zpool-api", "zswap-compressors", "zswap-core"]),
        "zswap-cli" | "zswap-torture" | "fuzz" | "xtask" => Some(TOP),
        _ => None,
    }
}

/// Returns the crates of the workspace on which only the tests of the crate `from` may depend.
fn allowed_in_tests(from: &str) -> &'static [&'static str] {
    match from {
        // It has the source of random numbers for tests.
        "zswap-lz4-block" | "linewords" => &["zpool-base"],
        // Its tests pass memory of a region to the other crates.
        "zswap-region" => &["zram", "zswap-compressors"],
        _ => &[],
    }
}

/// Checks the dependencies of each package in `metadata`, the output of `cargo metadata --no-deps`.
pub(super) fn check_manifests(metadata: &Value, root: &Path) -> Vec<Finding> {
    let packages: Vec<&Value> = list(&metadata["packages"]).collect();
    let members: Vec<&str> = packages.iter().map(|p| text(&p["name"])).collect();
    let mut found = Vec::new();
    for package in packages {
        let name = text(&package["name"]);
        let manifest = Path::new(text(&package["manifest_path"]));
        let shown = manifest.strip_prefix(root).unwrap_or(manifest).display().to_string();
        let Some(below) = allowed(name) else {
            let fix = format!("give `{name}` its place in the table of allowed dependencies");
            found.push(Finding::new(&shown, 1, "arrow", fix));
            continue;
        };
        let lines = std::fs::read_to_string(manifest).unwrap_or_default();
        for dependency in list(&package["dependencies"]) {
            let to = text(&dependency["name"]);
            let is_for_tests = text(&dependency["kind"]) == "dev";
            let may = below.contains(&to) || is_for_tests && allowed_in_tests(name).contains(&to);
            if members.contains(&to) && !may {
                let fix = format!("`{name}` must not depend on `{to}`: arrows point down only");
                found.push(Finding::new(&shown, line_of(&lines, to), "arrow", fix));
            }
        }
    }
    found
}

/// Returns the number of the first line that begins with the dependency's name, counted from 1.
/// Returns 1 if there is no such line.
fn line_of(manifest: &str, dependency: &str) -> usize {
    manifest.lines().position(|l| words(l, dependency).next() == Some(0)).map_or(1, |line| line + 1)
}

/// Checks that the file names no concrete backend in an import or a path. Only files under `src` of
/// the crates in `CONSUMERS` are checked, and no test code.
pub(super) fn check_source(source: &Source) -> Vec<Finding> {
    let krate = source.crate_dir();
    let file = source.path().strip_prefix(krate).unwrap_or_default().trim_start_matches('/');
    if !CONSUMERS.contains(&krate) || source.path() == BUILTIN || !file.starts_with("src/") {
        return Vec::new();
    }
    let mut found = Vec::new();
    for backend in BACKENDS {
        for at in source.words(backend) {
            let is_path = source.code_from(at + backend.len()).starts_with("::");
            let is_import = words(source.code_line(source.line_at(at)), "use").next().is_some();
            if (is_path || is_import) && !source.is_test_at(at) {
                let fix = format!("name `{backend}` in {BUILTIN} only; here use `dyn Zpool`");
                found.push(Finding::new(source.path(), source.line_at(at) + 1, "arrow", fix));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::NONE;
    use serde_json::json;

    fn manifests(from: &str, to: &str, kind: Value) -> usize {
        let metadata = json!({"packages": [
            {"name": from, "manifest_path": "/p/x/Cargo.toml",
             "dependencies": [{"name": to, "kind": kind}, {"name": "thiserror", "kind": null}]},
            {"name": to, "manifest_path": "/p/y/Cargo.toml", "dependencies": []},
        ]});
        let found = check_manifests(&metadata, Path::new("/p"));
        assert!(found.iter().all(|f| f.path == "x/Cargo.toml"), "{found:?}");
        found.len()
    }

    #[test]
    fn arrows_point_down() {
        for (from, to) in [
            ("zbud", "zpool-api"),
            ("zpage", "zbud"),
            ("zswap-compressors", "zswap-lz4-block"),
            ("zswap-core", "zpage"),
            ("zswap-core", "zswap-compressors"),
            ("zram", "zpage"),
            ("zswap-cli", "zswap-core"),
            ("zswap-measure", "zswap-core"),
        ] {
            assert_eq!(manifests(from, to, Value::Null), 0, "{from} -> {to}");
        }
        for (from, to) in [
            ("zpool-api", "zbud"),
            ("zbud", "zswap-compressors"),
            ("zswap-core", "zswap-lz4-block"),
            ("zbud", "zsmalloc"),
            ("zswap-compressors", "zpool-api"),
            ("zswap-core", "zram"),
            ("zram", "zswap-core"),
            ("zpage", "zswap-core"),
            ("zswap-core", "zbud"),
            ("zswap-core", "zswap-measure"),
            ("zswap-cli", "xtask"),
        ] {
            assert_eq!(manifests(from, to, Value::Null), 1, "{from} -> {to}");
            assert_eq!(manifests(from, to, json!("dev")), 1, "{from} -> {to} in tests");
        }
    }

    #[test]
    fn tests_may_use_the_random_numbers() {
        for from in ["zswap-lz4-block", "linewords"] {
            assert_eq!(manifests(from, "zpool-base", json!("dev")), 0, "{from}");
            assert_eq!(manifests(from, "zpool-base", Value::Null), 1, "{from}");
            assert_eq!(manifests(from, "zpool-base", json!("build")), 1, "{from}");
            assert_eq!(manifests(from, "zpool-api", json!("dev")), 1, "{from}");
        }
    }

    #[test]
    fn a_crate_without_a_place_is_a_finding() {
        assert_eq!(manifests("newcomer", "zbud", Value::Null), 1);
    }

    #[test]
    fn a_dependency_is_found_in_its_manifest() {
        assert_eq!(line_of("[dependencies]\nzbud-x = 1\nzbud.workspace = true\n", "zbud.w"), 1);
        assert_eq!(line_of("[dependencies]\nlibc = 1\nzbud.workspace = true\n", "zbud"), 3);
    }

    #[test]
    fn a_backend_is_named_in_one_file() {
        let lines_in = |path: &str, text: &str| -> Vec<usize> {
            check_source(&Source::new(path, text.to_owned())).iter().map(|f| f.line).collect()
        };
        let text =
            "/// As zbud::Zbud.\nfn a() { zbud::Zbud::new(); }\nuse zbud as b;\nlet zbud = 1;\n";
        assert_eq!(lines_in("zswap-core/src/store.rs", text), [2, 3]);
        assert_eq!(lines_in("zswap-core/src/builtin.rs", text), [2, 3]);
        assert_eq!(lines_in("zswap-core/zpage/src/segments/table.rs", text), [2, 3]);
        assert_eq!(lines_in("zswap-core/zpage/src/builtin.rs", text), NONE);
        assert_eq!(lines_in("zswap-core/tests/a.rs", text), NONE);
        assert_eq!(lines_in("zswap-cli/src/a.rs", text), NONE);
        let test = "#[cfg(test)]\nmod tests { use zbud::Zbud; }\n";
        assert_eq!(lines_in("zswap-core/src/store.rs", test), NONE);
    }
}
