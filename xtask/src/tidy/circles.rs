//! Rule `circle`: two files of a crate do not use each other, neither directly nor through other
//! files.
//!
//! A file uses another one if its code contains a path that begins with `crate`, `super` or `self`
//! and leads into the other one. If the path leads to a re-export (`pub use`), the file uses the
//! module that the name comes from. The re-export itself does not count as a use. Test code may use
//! anything.

use std::collections::{BTreeMap, BTreeSet};

use super::Finding;
use super::source::Source;
use super::words::is_ident;

/// A module's path in its crate, such as `["index", "node"]`. The path of the root is empty.
type Module = Vec<String>;

/// The paths in one file's code.
struct File<'a> {
    source: &'a Source,
    /// The paths that the code names, each with the number of the line on which the path begins.
    used: Vec<(Vec<String>, usize)>,
    /// The names that the file re-exports, each with the path that the name stands for.
    passed_on: BTreeMap<String, Vec<String>>,
}

pub(super) fn check(sources: &[Source]) -> Vec<Finding> {
    let mut crates: BTreeMap<&str, BTreeMap<Module, File<'_>>> = BTreeMap::new();
    for source in sources.iter().filter(|source| !source.is_test_at(0)) {
        if let Some(module) = module_of(source) {
            let file = read(source, &module);
            crates.entry(source.crate_dir()).or_default().insert(module, file);
        }
    }
    crates.values().flat_map(circles_in).collect()
}

/// Returns the module of a file under `src`; `None` for other files and for files under `src/bin`.
fn module_of(source: &Source) -> Option<Module> {
    let file = source.path().strip_prefix(source.crate_dir())?.strip_prefix("/src/")?;
    let mut parts: Module = file.strip_suffix(".rs")?.split('/').map(str::to_owned).collect();
    if parts.first().is_some_and(|first| first == "bin") {
        return None;
    }
    if parts.last().is_some_and(|last| ["lib", "main", "mod"].contains(&last.as_str())) {
        parts.pop();
    }
    Some(parts)
}

fn read<'a>(source: &'a Source, module: &[String]) -> File<'a> {
    let mut file = File { source, used: Vec::new(), passed_on: BTreeMap::new() };
    let code = source.code();
    for start in ["crate", "super", "self"] {
        for at in source.words(start) {
            // In `super::super::a` only the first `super` begins the path.
            let within = code[..at].trim_end().ends_with("::");
            if within
                || source.is_test_at(at)
                || !source.code_from(at + start.len()).starts_with("::")
            {
                continue;
            }
            let passed_on = is_passed_on(code, at);
            for tree in tree(&code[at..]) {
                let Some(path) = absolute(&tree.path, module) else { continue };
                if passed_on {
                    file.passed_on.insert(tree.name, path);
                } else {
                    file.used.push((path, source.line_at(at) + 1));
                }
            }
        }
    }
    // The path of `pub use node::Node;` begins with a module below this one.
    for at in source.words("use").filter(|at| !source.is_test_at(*at)) {
        let path = source.code_from(at + "use".len());
        let begins = path.split(|c: char| !is_ident(c)).next().unwrap_or_default();
        if is_passed_on(code, at + "use".len()) && !["crate", "super", "self"].contains(&begins) {
            for tree in tree(path) {
                let whole = module.iter().cloned().chain(tree.path).collect();
                file.passed_on.insert(tree.name, whole);
            }
        }
    }
    file
}

/// Returns whether the path at offset `at` belongs to a `pub use`.
fn is_passed_on(code: &str, at: usize) -> bool {
    let statement = code[..at].rsplit([';', '}', '{', ']']).next().unwrap_or_default().trim();
    statement.starts_with("pub") && statement.ends_with("use")
}

/// One path of a use tree, and the name that it imports.
struct Leaf {
    path: Vec<String>,
    name: String,
}

/// Returns the paths of the use tree at the beginning of `code`.
fn tree(code: &str) -> Vec<Leaf> {
    let mut leaves = Vec::new();
    branch(code, &[], &mut leaves);
    leaves
}

/// Appends the paths of the use tree at the beginning of `code` to `leaves`. Each path is prefixed
/// with `before`. Returns the rest of the code, after the tree.
fn branch<'a>(mut code: &'a str, before: &[String], leaves: &mut Vec<Leaf>) -> &'a str {
    let mut path = before.to_vec();
    loop {
        code = code.trim_start();
        if let Some(inner) = code.strip_prefix('{') {
            code = inner;
            while !code.trim_start().starts_with('}') && !code.trim_start().is_empty() {
                code = branch(code, &path, leaves).trim_start();
                code = code.strip_prefix(',').unwrap_or(code);
            }
            return code.trim_start().strip_prefix('}').unwrap_or(code);
        }
        let len = code.find(|c| !is_ident(c)).unwrap_or(code.len());
        // The next character is `*` or one that no path contains. The path ends here.
        let (word, rest) = if len == 0 && !code.is_empty() {
            code.split_at(code.chars().next().map_or(0, char::len_utf8))
        } else {
            code.split_at(len)
        };
        path.push(word.to_owned());
        code = rest;
        match code.trim_start().strip_prefix("::") {
            Some(rest) => code = rest,
            None => break,
        }
    }
    let mut name = path.last().cloned().unwrap_or_default();
    if name == "self" {
        path.pop();
        name = path.last().cloned().unwrap_or_default();
    }
    if let Some(renamed) = code.trim_start().strip_prefix("as ") {
        let renamed = renamed.trim_start();
        let len = renamed.find(|c| !is_ident(c)).unwrap_or(renamed.len());
        name = renamed[..len].to_owned();
        code = &renamed[len..];
    }
    leaves.push(Leaf { path, name });
    code
}

/// Resolves a path that the code of `module` names, and returns the path from the crate's root.
/// Returns `None` if a `super` leads above the root.
fn absolute(path: &[String], module: &[String]) -> Option<Vec<String>> {
    let mut at = module.to_vec();
    let mut rest = path;
    match path.first()?.as_str() {
        "crate" => (at, rest) = (Vec::new(), &path[1..]),
        "self" => rest = &path[1..],
        _ => {}
    }
    while rest.first().is_some_and(|first| first == "super") {
        at.pop()?;
        rest = &rest[1..];
    }
    at.extend_from_slice(rest);
    Some(at)
}

/// Follows a path through re-exports, and returns the module that defines the item. If a module
/// below the root re-exports the item from another crate, returns that module. Returns `None` if
/// the crate's root does so, or if the path leads through eight re-exports or more.
fn target(files: &BTreeMap<Module, File<'_>>, path: &[String]) -> Option<Module> {
    let mut path = path.to_vec();
    // Each turn follows one re-export. Real names pass through a few at most.
    for _ in 0..8 {
        let depth = (0..=path.len()).rev().find(|depth| files.contains_key(&path[..*depth]))?;
        let Some(name) = path.get(depth) else { return Some(path) };
        match files[&path[..depth]].passed_on.get(name) {
            Some(from) if *from != path => path.clone_from(from),
            _ => {
                path.truncate(depth);
                return Some(path);
            }
        }
        // A path whose first part is no module of this crate leads to another crate.
        let begins = path.first()?;
        if depth == 0 && !files.keys().any(|module| module.first() == Some(begins)) {
            return None;
        }
    }
    None
}

fn circles_in(files: &BTreeMap<Module, File<'_>>) -> Vec<Finding> {
    let mut uses: BTreeMap<&Module, BTreeMap<Module, usize>> = BTreeMap::new();
    for (module, file) in files {
        let to = uses.entry(module).or_default();
        for (path, line) in &file.used {
            if let Some(target) = target(files, path).filter(|target| target != module) {
                to.entry(target).or_insert(*line);
            }
        }
    }
    let reaches: BTreeMap<&Module, BTreeSet<Module>> =
        files.keys().map(|module| (module, reached(&uses, module))).collect();
    let mut found = Vec::new();
    for (module, file) in files {
        for (to, line) in &uses[module] {
            if reaches[to].contains(module) {
                let other = files[to].source.path();
                let fix =
                    format!("it uses {other}, which leads back here; remove one of the two uses");
                found.push(Finding::new(file.source.path(), *line, "circle", fix));
            }
        }
    }
    found
}

/// Returns all modules that the module `from` uses, directly or through others.
fn reached(uses: &BTreeMap<&Module, BTreeMap<Module, usize>>, from: &Module) -> BTreeSet<Module> {
    let mut reached = BTreeSet::new();
    let mut todo = vec![from.clone()];
    while let Some(module) = todo.pop() {
        for to in uses.get(&module).into_iter().flat_map(BTreeMap::keys) {
            if reached.insert(to.clone()) {
                todo.push(to.clone());
            }
        }
    }
    reached
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[(&str, &str)]) -> Vec<(String, usize)> {
        let sources: Vec<Source> =
            files.iter().map(|(path, text)| Source::new(path, (*text).to_owned())).collect();
        check(&sources).into_iter().map(|finding| (finding.path, finding.line)).collect()
    }

    #[test]
    fn two_files_that_use_each_other_are_found_where_they_do() {
        let files = [
            ("a/src/lib.rs", "mod one;\nmod two;\n"),
            ("a/src/one.rs", "\nuse crate::two::{self, Two};\n"),
            ("a/src/two.rs", "fn two() { super::one::one() }\n"),
        ];
        assert_eq!(found(&files), [("a/src/one.rs".into(), 2), ("a/src/two.rs".into(), 1)]);
        assert!(found(&files[..2]).is_empty());
    }

    #[test]
    fn a_circle_of_three_is_one_and_a_chain_is_none() {
        let files = [
            ("a/src/lib.rs", ""),
            ("a/src/b.rs", "use crate::c::{d::D, C};"),
            ("a/src/c.rs", ""),
            ("a/src/c/d.rs", "use crate::e;"),
            ("a/src/e.rs", "use crate::b::{B, \n};"),
        ];
        assert_eq!(found(&files).len(), 3);
        assert!(found(&files[..4]).is_empty());
    }

    #[test]
    fn a_name_that_is_passed_on_leads_to_where_it_is_from() {
        let files = [
            ("a/src/lib.rs", "pub use store::Zswap;\npub use other::{Page, PAGE_SIZE as SIZE};\n"),
            ("a/src/store.rs", "use crate::{Page, SIZE, word};"),
            ("a/src/switch.rs", "use crate::Zswap;"),
            ("a/src/word.rs", "use crate::switch;"),
        ];
        assert_eq!(found(&files).len(), 3, "store, word, switch");
        assert!(found(&files[..3]).is_empty(), "the root only re-exports");
    }

    #[test]
    fn what_a_folder_has_itself_is_a_file_of_its_own() {
        let files = [
            ("a/src/index/mod.rs", "mod node;\nuse self::node::Node;\npub struct Key;"),
            ("a/src/index/node.rs", "use super::Key;"),
        ];
        assert_eq!(found(&files).len(), 2);
        let other = [files[0], ("a/src/index/node.rs", "use super::super::x;")];
        assert!(found(&other).is_empty());
    }

    #[test]
    fn tests_may_use_anything_and_other_crates_are_not_looked_at() {
        let files = [
            ("a/src/one.rs", "use crate::two;"),
            ("a/src/two.rs", "#[cfg(test)]\nmod tests { use crate::one; }"),
            ("b/src/one.rs", "use crate::two;"),
            ("b/tests/two.rs", "use crate::one;"),
            ("c/src/two.rs", "use crate::one;"),
        ];
        assert!(found(&files).is_empty());
    }
}
