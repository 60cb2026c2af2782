//! Rule `safety`: `unsafe {` and `unsafe impl` stand under a `// SAFETY:` comment; a
//! `pub unsafe fn` and an `unsafe trait` have a `# Safety` section in their documentation.
//!
//! The comment stands directly above the statement that holds the block, with attributes
//! between at most, or on the line of the block before it.

use super::Finding;
use super::source::Source;
use super::words::words;

/// A statement longer than this wants its comment nearer to the block.
const STATEMENT_LINES: usize = 8;

pub(super) fn check(source: &Source) -> Vec<Finding> {
    let mut found = Vec::new();
    for at in source.words("unsafe") {
        let line = source.line_at(at);
        let rest = source.code_from(at + "unsafe".len());
        let fix = if rest.starts_with('{') || starts_with_word(rest, "impl") {
            if has_safety_comment(source, line) {
                continue;
            }
            "write a `// SAFETY:` comment directly above that names the invariant and its keeper"
        } else if starts_with_word(rest, "trait") || is_public_fn(source, line, rest) {
            if has_safety_section(source, line) {
                continue;
            }
            "add a `# Safety` section to the documentation that says what the other side owes"
        } else {
            continue;
        };
        found.push(Finding::new(source.path(), line + 1, "safety", fix));
    }
    found
}

fn starts_with_word(code: &str, word: &str) -> bool {
    words(code, word).next() == Some(0)
}

fn is_public_fn(source: &Source, line: usize, after_unsafe: &str) -> bool {
    let head = after_unsafe.split(['(', '{', ';']).next().unwrap_or_default();
    let before = source.code_line(line).split("unsafe").next().unwrap_or_default();
    words(head, "fn").next().is_some() && words(before, "pub").next().is_some()
}

fn has_safety_comment(source: &Source, line: usize) -> bool {
    if source.comment_line(line).contains("SAFETY:") {
        return true;
    }
    let mut above = line;
    for _ in 0..STATEMENT_LINES {
        let Some(next) = above.checked_sub(1) else { return false };
        above = next;
        if source.is_comment_line(above) {
            let block = (0..=above).rev().take_while(|&l| source.is_comment_line(l));
            return block.into_iter().any(|l| source.comment_line(l).contains("SAFETY:"));
        }
        let code = source.code_line(above).trim();
        let ends_another = code.is_empty() || code.ends_with([';', '{', '}']);
        if ends_another && !source.is_attribute_line(above) {
            return false;
        }
    }
    false
}

fn has_safety_section(source: &Source, line: usize) -> bool {
    (0..line)
        .rev()
        .take_while(|&l| source.is_comment_line(l) || source.is_attribute_line(l))
        .any(|l| source.is_doc_line(l) && source.comment_line(l).contains("# Safety"))
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
    fn a_block_stands_under_its_comment() {
        for good in [
            "// SAFETY: x.\nunsafe { a() }",
            "// SAFETY: x\n// goes on.\nlet a = unsafe { b() };",
            "// SAFETY: x.\nlet a =\n    b(c,\n    unsafe { d() });",
            "// SAFETY: x.\n#[expect(y, reason = \"z\")]\nunsafe impl A for B {}",
            "/* SAFETY: x. */ unsafe { a() }",
        ] {
            assert_eq!(lines(good), NONE, "{good}");
        }
        for (bad, line) in [
            ("unsafe { a() }", 1),
            ("// Says nothing of it.\nunsafe { a() }", 2),
            ("// SAFETY: of the one above.\na();\nunsafe { b() }", 3),
            ("// SAFETY: of the one above.\nunsafe { a() }\nunsafe\n{ b() }", 3),
            ("// SAFETY: far.\n\nunsafe impl A for B {}", 3),
            ("let a = \"SAFETY:\"; unsafe { b() }", 1),
        ] {
            assert_eq!(lines(bad), [line], "{bad}");
        }
    }

    #[test]
    fn an_unsafe_interface_says_what_it_asks() {
        let doc = "/// A.\n///\n/// # Safety\n///\n/// B.\n";
        for item in
            ["pub unsafe fn a() {}", "unsafe trait A {}", "pub(crate) const unsafe fn a() {}"]
        {
            assert_eq!(lines(&format!("{doc}#[inline]\n{item}")), NONE, "{item}");
            assert_eq!(lines(&format!("/// A.\n{item}")), [2], "{item}");
        }
    }

    #[test]
    fn other_uses_of_the_word_are_left_alone() {
        assert_eq!(lines("#[unsafe(no_mangle)]\nunsafe fn a() {}\n// unsafe { }\n"), NONE);
    }
}
