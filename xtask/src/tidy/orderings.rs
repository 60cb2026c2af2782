//! Rule `ordering`: for each atomic ordering weaker than `SeqCst`, a comment says what it pairs
//! with.
//!
//! The comment must be a plain one, not documentation, and in the same function: on the same line,
//! within the statement, or within the four lines above the statement. Consecutive lines with weak
//! orderings count as one place, so that a list of counters needs one comment. One reason may hold
//! for the rest of a function, for example because a lock is held. Then a comment with the words
//! "here and below" is enough for all of it.

use std::ops::Range;

use super::Finding;
use super::source::Source;
use super::words::words;

const WEAK: &[&str] = &["Relaxed", "Acquire", "Release", "AcqRel"];
const REACH: usize = 4;
const COVERS_REST: &str = "here and below";

pub(super) fn check(source: &Source) -> Vec<Finding> {
    let imports: Vec<Range<usize>> = imports(source.code()).collect();
    let bare: Vec<&str> = imported(source.code(), &imports);
    let mut weak = vec![false; source.line_count()];
    for name in WEAK {
        for at in source.words(name) {
            let before = source.code()[..at].trim_end();
            let is_ordering =
                before.ends_with("Ordering::") || (!before.ends_with("::") && bare.contains(name));
            let is_import = imports.iter().any(|import| import.contains(&at));
            if is_ordering && !is_import && !source.is_test_at(at) {
                weak[source.line_at(at)] = true;
            }
        }
    }
    let unexplained = (0..weak.len()).filter(|&l| weak[l] && !is_explained(source, &weak, l));
    let fix = "say in a comment just above what this ordering pairs with, or why none is needed";
    unexplained.map(|line| Finding::new(source.path(), line + 1, "ordering", fix)).collect()
}

/// Returns the byte range of every `use` statement.
fn imports(code: &str) -> impl Iterator<Item = Range<usize>> {
    words(code, "use").map(|at| at..code[at..].find(';').map_or(code.len(), |end| at + end))
}

/// Returns the weak orderings that the `use` statements import, so that code can name them without
/// `Ordering::`.
fn imported(code: &str, imports: &[Range<usize>]) -> Vec<&'static str> {
    let mut names = Vec::new();
    for import in imports {
        let Some((_, list)) = code[import.clone()].split_once("Ordering::") else { continue };
        let all = list.trim_start().starts_with('*');
        names.extend(WEAK.iter().filter(|name| all || words(list, name).next().is_some()));
    }
    names
}

fn is_explained(source: &Source, weak: &[bool], line: usize) -> bool {
    let plain = |l: usize| !source.comment_line(l).is_empty() && !source.is_doc_line(l);
    let indent = |l: usize| {
        let code = source.code_line(l);
        code.len() - code.trim_start().len()
    };
    // Find the first line of the statement, or of the consecutive lines with weak orderings.
    let mut first = line;
    while !plain(first) && first > 0 && (weak[first - 1] || continues(source, first - 1)) {
        first -= 1;
    }
    if plain(first) {
        return true;
    }
    let mut near = true;
    for (distance, above) in (0..first).rev().enumerate() {
        let code = source.code_line(above);
        // A comment that follows code on its line belongs to that code.
        if plain(above) && code.trim().is_empty() {
            let covers = near && distance < REACH;
            if covers || source.comment_line(above).to_lowercase().contains(COVERS_REST) {
                return true;
            }
        }
        near &= !(code.trim_start().starts_with('}') && indent(above) < indent(line));
        if words(code, "fn").next().is_some() {
            return false;
        }
    }
    false
}

/// Returns whether the statement on this line continues on the next one.
fn continues(source: &Source, line: usize) -> bool {
    let code = source.code_line(line).trim();
    let ends = code.is_empty() || code.ends_with([';', '{', '}']);
    source.is_comment_line(line) || (!ends && words(code, "fn").next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::NONE;

    fn lines(text: &str) -> Vec<usize> {
        let source = Source::new("zbud/src/a.rs", text.to_owned());
        check(&source).iter().map(|f| f.line).collect()
    }

    #[test]
    fn a_weak_ordering_needs_a_plain_comment_near_by() {
        for good in [
            "a.load(Ordering::SeqCst);",
            "a.load(Ordering::Relaxed); // A count: no order needed.",
            "// Pairs with b.\na.load(Ordering::Acquire);",
            "// Pairs with b.\na.compare_exchange(\n    x,\n    y,\n    Ordering::AcqRel,\n    Ordering::Relaxed,\n);",
            "// Counts.\na.load(Ordering::Relaxed);\nb.load(Ordering::Relaxed);\nc.load(Ordering::Relaxed);\n\
             d.load(Ordering::Relaxed);\ne.load(Ordering::Relaxed);\nf.load(Ordering::Relaxed);",
            "match cmp::Ordering::Less { _ => State::Release }",
        ] {
            assert_eq!(lines(good), NONE, "{good}");
        }
        for (bad, at) in [
            ("a.load(Ordering::Relaxed);", 1),
            ("a.load(atomic::Ordering::AcqRel);", 1),
            ("/// Documentation is not it.\nfn b() {\n    a.load(Ordering::Acquire);\n}", 3),
            ("// Too far.\na();\nb();\nc();\nd();\ne.load(Ordering::Acquire);", 6),
            ("a(); // About a.\nb.load(Ordering::Acquire);", 2),
            ("use std::sync::atomic::Ordering;\na.load(Ordering::Acquire);", 2),
        ] {
            assert_eq!(lines(bad), [at], "{bad}");
        }
    }

    #[test]
    fn a_comment_in_another_function_does_not_count() {
        let bad = "impl A {\n    fn a() {\n        // Pairs with b.\n        c();\n    }\n    fn d() {\n        e.load(Ordering::Acquire);\n    }\n}";
        assert_eq!(lines(bad), [7]);
    }

    #[test]
    fn imported_names_count_and_imports_do_not() {
        let head =
            "use std::sync::atomic::{\n    AtomicU64,\n    Ordering::{Acquire, SeqCst},\n};\n";
        assert_eq!(lines(&format!("{head}a.load(Acquire);\nState::Acquire;\nRelease;")), [5]);
        assert_eq!(lines("use std::sync::atomic::Ordering::Relaxed;\n\nlet x = 1;\n"), NONE);
        assert_eq!(lines("use std::sync::atomic::Ordering::*;\n\na.load(Relaxed);\n"), [3]);
    }

    #[test]
    fn a_comment_above_the_function_does_not_count() {
        let body = "fn a() {\n    b.load(Ordering::Acquire);\n}";
        assert_eq!(lines(&format!("// Pairs with b.\n{body}")), [3]);
        assert_eq!(lines("// Of a.\nfn a() {}\nfn b() { c.load(Ordering::Acquire) }"), [3]);
    }

    #[test]
    fn a_statement_is_one_place_however_long() {
        let statement = "    let a = b\n        || c\n            .compare_exchange(\n                \
                         d,\n                e,\n                Ordering::Relaxed,\n            \
                         )\n            .is_ok();\n";
        assert_eq!(lines(&format!("fn f() {{\n    // Pairs with b.\n{statement}}}")), NONE);
        assert_eq!(lines(&format!("fn f() {{\n{statement}}}")), [7]);
    }

    #[test]
    fn one_reason_may_cover_the_rest_of_a_function() {
        let body =
            "    a();\n    if b {\n        c();\n    }\n    d();\n    e.load(Ordering::Relaxed);\n";
        let reason = "    // Relaxed, here and below: under the lock.\n";
        assert_eq!(lines(&format!("fn f() {{\n{reason}{body}}}")), NONE);
        assert_eq!(lines(&format!("fn f() {{\n    // Relaxed.\n{body}}}")), [8]);
        assert_eq!(lines(&format!("fn f() {{\n{reason}}}\nfn g() {{\n{body}}}")), [10]);
    }

    #[test]
    fn tests_are_exempt() {
        assert_eq!(
            lines("#[cfg(test)]\nmod tests {\n    fn a() { b.load(Ordering::Relaxed); }\n}"),
            NONE
        );
    }
}
