//! Splits a Rust file just far enough for the rules: into code, comments, and the parts that are
//! compiled for tests only.
//!
//! This is a light lexer, not a parser. Besides the text itself, a `Source` keeps two copies of it.
//! `code` has blanks in place of comments, and `comments` has blanks in place of code. Both have
//! blanks inside string and character literals. Both are as long as the text and break at the same
//! lines, so an offset or a line number means the same place in all three.

use std::ops::Range;

use super::attributes::{self, Attribute};
use super::words::{is_ident, words};

/// One Rust file.
#[derive(Debug)]
pub(super) struct Source {
    path: String,
    text: String,
    code: String,
    comments: String,
    line_starts: Vec<usize>,
    attributes: Vec<Attribute>,
    test_spans: Vec<Range<usize>>,
    test_module_stems: Vec<String>,
    all_test: bool,
}

impl Source {
    /// Splits a file. `path` is relative to the workspace root and uses `/` on every system.
    pub(super) fn new(path: &str, text: String) -> Self {
        let (code, comments) = split(&text);
        let line_starts =
            std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        let attributes = attributes::find(&code);
        let mut source = Self {
            path: path.to_owned(),
            all_test: in_test_directory(path),
            text,
            code,
            comments,
            line_starts,
            attributes,
            test_spans: Vec::new(),
            test_module_stems: Vec::new(),
        };
        source.find_tests();
        source
    }

    fn find_tests(&mut self) {
        for attribute in &self.attributes {
            if !attribute.is_test_only(&self.code) {
                continue;
            }
            if attribute.inner {
                // Of the inner attributes, only those before the first brace apply to the whole
                // file.
                self.all_test |= !self.code[..attribute.span.start].contains('{');
                continue;
            }
            let item = attributes::item_after(&self.code, attribute.span.end);
            if let Some(name) = out_of_line_module(&self.code[item.clone()]) {
                self.test_module_stems.push(module_stem(&self.path, name));
            }
            self.test_spans.push(attribute.span.start..item.end);
        }
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Returns the first part of the path. It is the folder of a crate, which may contain further
    /// crates.
    pub(super) fn top_dir(&self) -> &str {
        self.path.split('/').next().unwrap_or_default()
    }

    /// Returns the directory of the file's crate; empty if the file is in none of a crate's usual
    /// folders.
    pub(super) fn crate_dir(&self) -> &str {
        let folders = ["/src/", "/tests/", "/benches/", "/examples/"];
        let ends = folders.iter().filter_map(|folder| self.path.find(folder));
        self.path.get(..ends.min().unwrap_or(0)).unwrap_or_default()
    }

    /// Returns the text with everything except code blanked.
    pub(super) fn code(&self) -> &str {
        &self.code
    }

    /// Returns the modules that this file declares for tests only and that are in other files. Each
    /// is given as a path without `.rs`.
    pub(super) fn test_module_stems(&self) -> &[String] {
        &self.test_module_stems
    }

    /// Marks the whole file as test code.
    pub(super) fn mark_as_test(&mut self) {
        self.all_test = true;
    }

    /// Returns the number of lines. Line numbers in the rules begin at 0, and in reports at 1.
    pub(super) fn line_count(&self) -> usize {
        self.line_starts.len()
    }

    /// Returns the number of the line that contains a byte offset.
    pub(super) fn line_at(&self, offset: usize) -> usize {
        self.line_starts.partition_point(|&start| start <= offset) - 1
    }

    fn line_of<'a>(&self, whole: &'a str, line: usize) -> &'a str {
        let start = self.line_starts[line];
        let end = self.line_starts.get(line + 1).copied().unwrap_or(whole.len());
        whole[start..end].trim_end()
    }

    pub(super) fn raw_line(&self, line: usize) -> &str {
        self.line_of(&self.text, line)
    }

    pub(super) fn code_line(&self, line: usize) -> &str {
        self.line_of(&self.code, line)
    }

    /// Returns the comment on a line, without the blanks before it. Returns an empty string if the
    /// line has no comment.
    pub(super) fn comment_line(&self, line: usize) -> &str {
        self.line_of(&self.comments, line).trim_start()
    }

    /// Returns whether a line has a comment and no code.
    pub(super) fn is_comment_line(&self, line: usize) -> bool {
        self.code_line(line).trim().is_empty() && !self.comment_line(line).is_empty()
    }

    /// Returns whether the comment on a line is documentation.
    pub(super) fn is_doc_line(&self, line: usize) -> bool {
        let comment = self.comment_line(line);
        ["///", "//!", "/**", "/*!"].iter().any(|mark| comment.starts_with(mark))
            && !comment.starts_with("////")
    }

    /// Returns whether the first code on a line belongs to an attribute.
    pub(super) fn is_attribute_line(&self, line: usize) -> bool {
        let code = self.code_line(line);
        let first = self.line_starts[line] + (code.len() - code.trim_start().len());
        !code.trim().is_empty() && self.attributes.iter().any(|a| a.span.contains(&first))
    }

    /// Returns whether an offset is in code that is compiled for tests only.
    pub(super) fn is_test_at(&self, offset: usize) -> bool {
        self.all_test || self.test_spans.iter().any(|span| span.contains(&offset))
    }

    /// Returns whether the first byte of a line is in code that is compiled for tests only.
    #[cfg(test)]
    pub(super) fn is_test_line(&self, line: usize) -> bool {
        self.is_test_at(self.line_starts[line])
    }

    /// Returns the offsets at which the code contains `word` as a whole identifier.
    pub(super) fn words<'a>(&'a self, word: &'a str) -> impl Iterator<Item = usize> + 'a {
        words(&self.code, word)
    }

    /// Returns the code from an offset to the end of the file, without leading blanks.
    pub(super) fn code_from(&self, offset: usize) -> &str {
        self.code[offset..].trim_start()
    }
}

fn in_test_directory(path: &str) -> bool {
    path.split('/').rev().skip(1).any(|dir| matches!(dir, "tests" | "benches"))
}

/// If the item is `mod name;`, with any visibility, returns the name; otherwise `None`.
fn out_of_line_module(item: &str) -> Option<&str> {
    let at = words(item, "mod").next()?;
    let name = item[at + 3..].trim().strip_suffix(';')?.trim();
    name.chars().all(is_ident).then_some(name)
}

/// Returns the path, without `.rs`, of the module `name` that the file at `path` declares as `mod
/// name;`.
fn module_stem(path: &str, name: &str) -> String {
    let (dir, file) = path.rsplit_once('/').unwrap_or(("", path));
    match file {
        "lib.rs" | "main.rs" | "mod.rs" => format!("{dir}/{name}"),
        _ => format!("{}/{name}", path.trim_end_matches(".rs")),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Code,
    Comment,
    /// The inside of a string or character literal. It is neither code nor comment.
    Literal,
}

/// Returns two copies of the text: one with everything except code blanked, and one with everything
/// except comments blanked.
fn split(text: &str) -> (String, String) {
    let classes = classify(text);
    let keep = |class| {
        let mut out = String::with_capacity(text.len());
        for (at, c) in text.char_indices() {
            if c == '\n' || classes[at] == class {
                out.push(c);
            } else {
                out.extend(std::iter::repeat_n(' ', c.len_utf8()));
            }
        }
        out
    };
    (keep(Class::Code), keep(Class::Comment))
}

/// Returns the class of every byte. All bytes of a character have the same class.
fn classify(text: &str) -> Vec<Class> {
    let bytes = text.as_bytes();
    let mut classes = vec![Class::Code; bytes.len()];
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let (class, range) = if rest.starts_with(b"//") {
            let len = rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len());
            (Class::Comment, at..at + len)
        } else if rest.starts_with(b"/*") {
            (Class::Comment, at..at + block_comment_len(rest))
        } else if let Some(hashes) = raw_string_hashes(bytes, at) {
            let open = at + raw_prefix_len(rest) + hashes + 1;
            (Class::Literal, open..open + raw_body_len(&bytes[open..], hashes))
        } else if rest[0] == b'"' {
            (Class::Literal, at + 1..at + 1 + quoted_len(&rest[1..], b'"'))
        } else if let Some(len) = char_literal_len(&text[at..]) {
            (Class::Literal, at + 1..at + 1 + len)
        } else {
            at += 1;
            continue;
        };
        classes[range.clone()].fill(class);
        // A literal's closing quote is code, and must not be read as an opening one.
        at = range.end + usize::from(class == Class::Literal);
    }
    classes
}

fn block_comment_len(rest: &[u8]) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                break;
            }
        } else {
            at += 1;
        }
    }
    at.min(rest.len())
}

/// Returns the length of the prefix `r`, `br` or `cr` of a raw string. `rest` must begin with one.
fn raw_prefix_len(rest: &[u8]) -> usize {
    if rest[0] == b'r' { 1 } else { 2 }
}

/// If a raw string begins at `at`, returns how many hashes its quotes have; otherwise `None`.
fn raw_string_hashes(bytes: &[u8], at: usize) -> Option<usize> {
    let rest = &bytes[at..];
    let starts = rest[0] == b'r' || rest.starts_with(b"br") || rest.starts_with(b"cr");
    let inside_word = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    if !starts || inside_word {
        return None;
    }
    let after = &rest[raw_prefix_len(rest)..];
    let hashes = after.iter().take_while(|&&b| b == b'#').count();
    (after.get(hashes) == Some(&b'"')).then_some(hashes)
}

/// Returns how long `body`, the text after a raw string's opening quote, is up to the closing
/// quote.
fn raw_body_len(body: &[u8], hashes: usize) -> usize {
    let mut close = vec![b'"'];
    close.resize(hashes + 1, b'#');
    body.windows(close.len()).position(|w| w == close).unwrap_or(body.len())
}

/// Returns how long `body` is up to the first `quote` that is not escaped.
fn quoted_len(body: &[u8], quote: u8) -> usize {
    let mut at = 0;
    while at < body.len() && body[at] != quote {
        at += if body[at] == b'\\' { 2 } else { 1 };
    }
    at.min(body.len())
}

/// Returns the length of a character literal without its quotes. Returns `None` if `rest` does not
/// begin with such a literal; it may begin with a lifetime.
fn char_literal_len(rest: &str) -> Option<usize> {
    let inside = rest.strip_prefix('\'')?;
    let first = inside.chars().next()?;
    if first == '\\' {
        return Some(quoted_len(inside.as_bytes(), b'\''));
    }
    inside[first.len_utf8()..].starts_with('\'').then_some(first.len_utf8())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source::new("zbud/src/lib.rs", text.to_owned())
    }

    #[test]
    fn comments_strings_and_code_are_told_apart() {
        let s = source("let a = \"// no\"; // yes \"x\nlet b = 1; /* c /* d */ e */ let f;\n");
        assert_eq!(s.code_line(0).trim_end(), "let a = \"     \";");
        assert_eq!(s.comment_line(0), "// yes \"x");
        assert_eq!(s.comment_line(1).trim_end(), "/* c /* d */ e */");
        assert!(s.code_line(1).ends_with("let f;"));
    }

    #[test]
    fn raw_strings_escapes_and_lifetimes_do_not_lose_the_thread() {
        for text in [
            r####"let a = r#"x " y"#; end"####,
            r####"let a = br##"x "# y"##; end"####,
            r#"let a = "x \" y \\"; end"#,
            r"let a = '\''; end",
            r"let a = '\u{1F600}'; end",
            "let a = '\"'; end",
            "let a = 'é'; end",
            "fn a<'a>(x: &'a str) -> &'static u8 {} end",
            r#"let bar"x" ; end"#,
            "let a = b'\\\\'; end",
            "let r#type = 1; end",
        ] {
            let s = source(text);
            assert!(s.code().ends_with("; end") || s.code().ends_with("{} end"), "{text}");
            assert_eq!(s.code().len(), text.len());
            assert_eq!(s.comment_line(0), "", "{text}");
        }
    }

    #[test]
    fn unfinished_text_is_taken_as_it_is() {
        for text in ["\"abc", "/* abc", "r#\"abc", "'", "'\\", "\"\\", "#[cfg(test)] mod x {", "#["]
        {
            assert_eq!(source(text).code().len(), text.len(), "{text}");
        }
    }

    #[test]
    fn test_code_ends_with_its_braces() {
        let s = source(
            "fn a() {}\n#[cfg(test)]\n#[allow(x)]\nmod tests {\n    fn b() { \"}\"; }\n}\nfn c() {}\n",
        );
        let test: Vec<_> = (0..s.line_count()).filter(|&l| s.is_test_line(l)).collect();
        assert_eq!(test, [1, 2, 3, 4, 5]);
    }

    #[test]
    fn only_what_needs_test_is_test_code() {
        for (cfg, expect) in [
            ("test", true),
            ("all(test, loom)", true),
            ("all(loom, any(test, test))", true),
            ("any(test, feature = \"conformance\")", false),
            ("not(test)", false),
            ("feature = \"test\"", false),
        ] {
            let s = source(&format!("#[cfg({cfg})]\nfn a() {{\n}}\nfn b() {{}}\n"));
            assert_eq!(s.is_test_line(1), expect, "{cfg}");
            assert!(!s.is_test_line(3), "{cfg}");
        }
    }

    #[test]
    fn a_gated_field_or_statement_is_test_code_alone() {
        let s = source("struct A {\n    #[cfg(test)]\n    b: u8,\n    c: u8,\n}\nfn d() {}\n");
        let test: Vec<_> = (0..s.line_count()).filter(|&l| s.is_test_at(l_end(&s, l))).collect();
        assert_eq!(test, [1, 2]);
        let s = source("fn d(x: [u8; 4]) {\n#[cfg(test)]\nuse a::{b, c};\nlet e = 1;\n}\n");
        assert!(s.is_test_at(l_end(&s, 2)) && !s.is_test_at(l_end(&s, 3)));
    }

    /// Returns the offset of the first code on a line.
    fn l_end(s: &Source, line: usize) -> usize {
        let code = s.code_line(line);
        s.line_starts[line] + code.len() - code.trim_start().len()
    }

    #[test]
    fn an_inner_attribute_at_the_head_speaks_for_the_file() {
        assert!(source("//! x\n#![cfg(all(test, loom))]\nfn a() {}\n").is_test_line(2));
        assert!(!source("//! x\n#![cfg(loom)]\nfn a() {}\n").is_test_line(2));
    }

    #[test]
    fn tests_and_benches_are_test_code() {
        for (path, expect) in [
            ("zbud/tests/a.rs", true),
            ("zbud/benches/a/b.rs", true),
            ("zbud/src/tests.rs", false),
            ("zbud/src/a.rs", false),
        ] {
            assert_eq!(Source::new(path, "fn a() {}".to_owned()).is_test_line(0), expect, "{path}");
        }
    }

    #[test]
    fn test_modules_in_other_files_are_named() {
        let text = "#[cfg(test)]\npub(crate) mod tests;\n#[cfg(test)]\nmod inline {}\nmod x;\n";
        let s = Source::new("zbud/src/page.rs", text.to_owned());
        assert_eq!(s.test_module_stems(), ["zbud/src/page/tests"]);
        let s = Source::new("zbud/src/lib.rs", text.to_owned());
        assert_eq!(s.test_module_stems(), ["zbud/src/tests"]);
    }

    #[test]
    fn words_are_whole() {
        let s = source("unsafe_x unsafe xunsafe // unsafe\n\"unsafe\" unsafe{");
        assert_eq!(s.words("unsafe").count(), 2);
    }
}
