//! Rule `document`: every Rust file that a document names exists. Every test and model that
//! docs/locking.md and docs/obligations.md name exists, too. docs/locking.md names every loom
//! model.
//!
//! A name is a word in backquotes. The name of a test is in lower case and has at least two
//! underscores. `..._end` stands for any name with that ending. A name with a `*` stands for
//! several names and is not checked.

use std::collections::BTreeSet;

use super::Finding;
use super::source::Source;

/// The document that lists the loom models. For each model it says what the model fails without.
const MODELS: &str = "docs/locking.md";
/// The documents in which every word with two underscores is a function's name. In other documents
/// such a word may also be a statistic.
const OF_TESTS: &[&str] = &[MODELS, "docs/obligations.md"];

/// The functions and files that exist.
struct Known<'a> {
    functions: BTreeSet<&'a str>,
    files: Vec<&'a str>,
}

impl Known<'_> {
    fn has(&self, name: &str) -> bool {
        if let Some(end) = name.strip_prefix("...") {
            return self.functions.iter().any(|function| function.ends_with(end));
        }
        if name.ends_with(".rs") {
            let is = |path: &&str| path.strip_suffix(name).is_some_and(is_whole);
            return self.files.iter().any(is);
        }
        self.functions.contains(name)
    }
}

/// Returns whether `before`, the part of a path before a name, is empty or ends with `/`.
fn is_whole(before: &str) -> bool {
    before.is_empty() || before.ends_with('/')
}

/// Checks documents, given as paths and texts, against the project's sources.
pub(super) fn check(documents: &[(String, String)], sources: &[Source]) -> Vec<Finding> {
    let known = Known {
        functions: sources.iter().flat_map(functions).collect(),
        files: sources.iter().map(Source::path).collect(),
    };
    let mut found = Vec::new();
    for (path, text) in documents {
        for (line, text) in text.lines().enumerate() {
            let of_tests = OF_TESTS.contains(&path.as_str());
            let names = names(text).filter(|name| of_tests || name.ends_with(".rs"));
            for name in names.filter(|name| !known.has(name)) {
                let fix = format!("`{name}` does not exist: name an existing one");
                found.push(Finding::new(path, line + 1, "document", fix));
            }
        }
    }
    let Some((_, locking)) = documents.iter().find(|(path, _)| path == MODELS) else {
        return found;
    };
    let named: Vec<&str> = locking.lines().flat_map(names).collect();
    for source in sources.iter().filter(|source| source.top_dir() != "xtask") {
        for model in functions(source).filter(|name| name.starts_with("loom_")) {
            let is_it = |name: &&str| match name.strip_prefix("...") {
                Some(end) => model.ends_with(end),
                None => *name == model,
            };
            if !named.iter().any(is_it) {
                let fix = format!("say in {MODELS} what `{model}` fails without");
                found.push(Finding::new(source.path(), 1, "document", fix));
            }
        }
    }
    found
}

/// Returns the names of the functions that a file declares.
fn functions(source: &Source) -> impl Iterator<Item = &str> {
    source.words("fn").filter_map(|at| {
        let rest = source.code()[at + 2..].trim_start();
        let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
        (end > 0).then_some(&rest[..end])
    })
}

/// Returns the words in backquotes in a line that name a Rust file, a test or another function.
fn names(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2).filter(|name| {
        let word = name.strip_prefix("...").unwrap_or(name);
        let small = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        let file = word.strip_suffix(".rs").is_some_and(|stem| {
            !stem.is_empty() && stem.chars().all(|c| small(c) || c == '/' || c == '-')
        });
        let shortened = word.len() < name.len();
        let underscores = word.matches('_').count();
        let function = word.chars().all(small) && (underscores >= 2 || shortened);
        file || function
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::NONE;

    fn lines_in(path: &str, document: &str) -> Vec<usize> {
        let code = "#[test]\nfn loom_a_b() {}\nfn c_d_e<T>() {}\n// fn f_g_h() {}\n";
        let sources = [Source::new("zbud/src/pool.rs", code.to_owned())];
        let documents = [(path.to_owned(), document.to_owned())];
        check(&documents, &sources).iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn names_that_are_not_there_are_found() {
        let bad = "`c_d_f`\n\n`loom_a`_b and `loom_a_c`\n`f_g_h`\n`..._z`\n`ool.rs`\n`src/word.rs`";
        assert_eq!(lines_in("docs/obligations.md", bad), [1, 3, 4, 5, 6, 7]);
        assert_eq!(lines_in("README.md", bad), [6, 7], "files only");
        let good = "`c_d_e` and `loom_a_b`, `..._b`\n`pool.rs`, `zbud/src/pool.rs`\n`loom_*`, \
                    `a_b`, `Page::kref`, `no such`, c_d_f";
        assert_eq!(lines_in("docs/obligations.md", good), NONE);
    }

    #[test]
    fn a_model_that_is_in_no_document_is_found() {
        let models = "fn loom_a_b() {}\nfn loom_a_c() {}\nfn loom_other() {}\n";
        let sources = [
            Source::new("zbud/src/loom_tests.rs", models.to_owned()),
            Source::new("xtask/src/a.rs", "fn loom_is_ours() {}\n".to_owned()),
        ];
        let documents = [(MODELS.to_owned(), "| `loom_a_b`, `..._c` | x |\n".to_owned())];
        let found = check(&documents, &sources);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].fix.contains("`loom_other`"), "{found:?}");
    }
}
