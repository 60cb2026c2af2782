//! Finds the attributes in code whose comments and literals are blanked out. Says of an attribute
//! whether it requires `test`, and to which item it belongs.

use std::ops::Range;

use super::words::is_ident;

/// An attribute: `#[...]` or `#![...]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Attribute {
    /// The range from the hash to just after the closing bracket.
    pub(super) span: Range<usize>,
    /// Whether it is written `#![...]`.
    pub(super) inner: bool,
}

impl Attribute {
    /// Returns the text between the brackets.
    pub(super) fn body<'a>(&self, code: &'a str) -> &'a str {
        let text = &code[self.span.clone()];
        text.split_once('[').map_or("", |(_, body)| body.trim_end_matches(']')).trim()
    }

    /// Returns whether this is `#[test]`, or a `cfg` that only a test build satisfies.
    pub(super) fn is_test_only(&self, code: &str) -> bool {
        let body = self.body(code);
        body == "test"
            || arguments(body, "cfg").is_some_and(|predicate| requires(predicate, "test"))
    }
}

/// Returns every attribute in the code, in order.
pub(super) fn find(code: &str) -> Vec<Attribute> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(hash) = code[at..].find('#').map(|i| at + i) {
        let rest = code[hash + 1..].trim_start();
        let inner = rest.starts_with('!');
        let rest = rest.strip_prefix('!').unwrap_or(rest).trim_start();
        if rest.starts_with('[') {
            let open = code.len() - rest.len();
            let end = matching(code, open);
            found.push(Attribute { span: hash..end, inner });
            at = end;
        } else {
            at = hash + 1;
        }
    }
    found
}

/// Returns the offset just after the bracket that closes the one at `open`; the length of the code
/// if no bracket closes it.
pub(super) fn matching(code: &str, open: usize) -> usize {
    let mut depth = 0_usize;
    for (at, c) in code[open..].char_indices() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return open + at + 1;
                }
            }
            _ => {}
        }
    }
    code.len()
}

const ITEM_WORDS: &[&str] = &[
    "mod",
    "fn",
    "pub",
    "unsafe",
    "impl",
    "struct",
    "enum",
    "union",
    "use",
    "const",
    "static",
    "type",
    "trait",
    "extern",
    "async",
    "macro_rules",
    "let",
];

/// Returns the range of the item, field or statement to which an attribute belongs. `from` is the
/// end of that attribute.
pub(super) fn item_after(code: &str, from: usize) -> Range<usize> {
    let mut start = from + blanks(&code[from..]);
    while code[start..].starts_with('#') {
        let end = find(&code[start..]).first().map_or(code.len(), |a| start + a.span.end);
        start = end + blanks(&code[end..]);
    }
    let first = code[start..].split(|c: char| !is_ident(c)).next();
    let is_item = first.is_some_and(|word| ITEM_WORDS.contains(&word));
    let mut at = start;
    while let Some(c) = code[at..].chars().next() {
        match c {
            // The range ends with the braces. In a `use` list or an initialiser a semicolon
            // follows, which the range leaves out.
            '{' => return start..matching(code, at),
            '(' | '[' => at = matching(code, at),
            ';' => return start..at + 1,
            ',' if !is_item => return start..at + 1,
            '}' | ')' | ']' => return start..at,
            _ => at += c.len_utf8(),
        }
    }
    start..code.len()
}

fn blanks(text: &str) -> usize {
    text.len() - text.trim_start().len()
}

/// If `text` is `name(...)`, returns what is between the brackets; otherwise `None`.
pub(super) fn arguments<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let rest = text.trim().strip_prefix(name)?.trim_start();
    rest.strip_prefix('(')?.strip_suffix(')')
}

/// Returns whether a `cfg` predicate can be true only if `flag` is set.
pub(super) fn requires(predicate: &str, flag: &str) -> bool {
    let predicate = predicate.trim();
    if predicate == flag {
        return true;
    }
    let holds = |part: &str| requires(part, flag);
    if let Some(inside) = arguments(predicate, "all") {
        parts(inside).any(holds)
    } else if let Some(inside) = arguments(predicate, "any") {
        parts(inside).next().is_some() && parts(inside).all(holds)
    } else {
        false
    }
}

/// Splits a list at its commas, except commas inside brackets. Skips empty parts.
fn parts(list: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_usize;
    list.split(move |c| {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    })
    .map(str::trim)
    .filter(|part| !part.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_over_lines_and_nested_brackets() {
        let code = "#![a]\n#[b(c[1],\n d)]\nfn e() { let f = g#h; }\n";
        let found = find(code);
        let bodies: Vec<_> = found.iter().map(|a| (a.body(code), a.inner)).collect();
        assert_eq!(bodies, [("a", true), ("b(c[1],\n d)", false)]);
    }

    #[test]
    fn predicates_are_evaluated() {
        assert!(requires("all(unix, any(test, all(test, loom)))", "test"));
        assert!(!requires("any(test, unix)", "test"));
        assert!(!requires("any()", "test"));
        assert!(!requires("not(test)", "test"));
    }

    #[test]
    fn items_end_where_they_end() {
        for (code, item) in [
            ("#[x] fn a(b: [u8; 2]) -> C { d } e", "fn a(b: [u8; 2]) -> C { d }"),
            ("#[x] #[y] mod a; b", "mod a;"),
            ("#[x] a: B, c: D", "a: B,"),
            ("#[x] a: B }", "a: B "),
            ("#[x] fn a<B, C>() {} d", "fn a<B, C>() {}"),
        ] {
            let end = find(code)[0].span.end;
            assert_eq!(&code[item_after(code, end)], item);
        }
    }
}
