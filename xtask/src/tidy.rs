//! The house rules that a machine can check, one file per rule.
//!
//! Most rules are functions that take a file, or the output of `cargo metadata`, and return
//! findings. The rules check the files that git tracks, and new files that git does not ignore.

mod arrows;
mod attributes;
mod circles;
mod comments;
mod documents;
mod english;
mod heads;
mod licences;
mod loom_only;
mod machine_paths;
mod orderings;
mod readmes;
mod source;
mod spdx;
mod words;

use std::collections::BTreeSet;

use crate::cmd::Cmd;
use crate::error::{Error, Result};
use crate::workspace::Workspace;
use source::Source;

/// One place that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    path: String,
    /// The line's number, from 1.
    line: usize,
    rule: &'static str,
    fix: String,
}

impl Finding {
    fn new(path: &str, line: usize, rule: &'static str, fix: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, rule, fix: fix.into() }
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}: {}: {}", self.path, self.line, self.rule, self.fix)
    }
}

const SOURCE_RULES: &[fn(&Source) -> Vec<Finding>] = &[
    heads::check,
    arrows::check_source,
    orderings::check,
    loom_only::check,
    comments::check,
    english::check,
];

pub(crate) fn run(ws: &Workspace) -> Result<()> {
    let files = project_files()?;
    let mut findings = Vec::new();
    for (path, text) in &files {
        findings.extend(machine_paths::check(path, text));
        if path.ends_with(".toml") {
            findings.extend(comments::check_toml(path, text));
        }
    }
    let is_document = |path: &str| path.ends_with(".md");
    let documents: Vec<_> = files.iter().filter(|(path, _)| is_document(path)).cloned().collect();
    let sources = rust_sources(files);
    findings.extend(documents::check(&documents, &sources));
    findings.extend(readmes::check(&documents, &sources));
    findings.extend(documents.iter().flat_map(|(path, text)| english::check_document(path, text)));
    for source in &sources {
        findings.extend(SOURCE_RULES.iter().flat_map(|rule| rule(source)));
    }
    findings.extend(circles::check(&sources));
    findings.extend(arrows::check_manifests(ws.metadata(), ws.root()));
    findings.extend(licences::check(ws)?);
    findings.sort();
    findings.dedup();
    for finding in &findings {
        println!("{finding}");
    }
    if findings.is_empty() {
        println!("tidy: {} Rust files, no finding", sources.len());
        Ok(())
    } else {
        Err(Error::Findings { job: "tidy", findings: findings.len() })
    }
}

/// Returns the path and the text of every file that git tracks, and of every new file that git does
/// not ignore. Skips files that are not UTF-8, and tracked files that have been deleted.
fn project_files() -> Result<Vec<(String, String)>> {
    let listed = Cmd::line("git ls-files -co --exclude-standard -z").capture()?;
    let mut files = Vec::new();
    for path in listed.split('\0').filter(|p| !p.is_empty()) {
        match std::fs::read_to_string(path) {
            Ok(text) => files.push((path.to_owned(), text)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) if e.kind() == std::io::ErrorKind::InvalidData => {}
            Err(source) => return Err(Error::Read { path: path.into(), source }),
        }
    }
    Ok(files)
}

/// Returns the Rust files of `files`. If a file declares a module as `#[cfg(test)] mod name;`, the
/// files of that module and of all modules below it are marked as test code.
fn rust_sources(files: Vec<(String, String)>) -> Vec<Source> {
    let mut sources: Vec<Source> = files
        .into_iter()
        .filter(|(path, _)| path.ends_with(".rs"))
        .map(|(path, text)| Source::new(&path, text))
        .collect();
    let test_stems: BTreeSet<String> =
        sources.iter().flat_map(|s| s.test_module_stems().to_vec()).collect();
    for source in &mut sources {
        if test_stems.iter().any(|stem| belongs_to(source.path(), stem)) {
            source.mark_as_test();
        }
    }
    sources
}

/// Returns whether `path` is the file of the module at `stem`, or of a module below it. The stem
/// `a/b` stands for `a/b.rs` and `a/b/mod.rs`.
fn belongs_to(path: &str, stem: &str) -> bool {
    path.strip_prefix(stem).is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
}

/// No lines. The tests of the rules compare findings with it.
#[cfg(test)]
const NONE: [usize; 0] = [];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_reads_as_compilers_print_them() {
        let finding = Finding::new("zbud/src/lib.rs", 3, "head", "add a head");
        assert_eq!(finding.to_string(), "zbud/src/lib.rs:3: head: add a head");
    }

    #[test]
    fn a_module_declared_under_test_is_test_code_with_all_below_it() {
        let files = [
            ("a/src/lib.rs", "//! x\n#[cfg(test)]\nmod tests;\nmod other;\n"),
            ("a/src/tests.rs", "//! x\n"),
            ("a/src/tests/deep.rs", "//! x\n"),
            ("a/src/other.rs", "//! x\n"),
            ("a/src/tests_not.rs", "//! x\n"),
        ];
        let sources = rust_sources(
            files.iter().map(|&(p, t)| (p.to_owned(), t.to_owned())).collect::<Vec<_>>(),
        );
        let test: Vec<_> = sources.iter().filter(|s| s.is_test_line(0)).map(Source::path).collect();
        assert_eq!(test, ["a/src/tests.rs", "a/src/tests/deep.rs"]);
    }
}
