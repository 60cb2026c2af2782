//! Attributes in blanked code: where they are, whether they require `test`, and the item that
//! follows one.

use std::ops::Range;

use super::words::is_ident;

/// `#[...]` or `#![...]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Attribute {
    /// From the hash to past the closing bracket.
    pub(super) span: Range<usize>,
    /// Written `#![...]`.
    pub(super) inner: bool,
}

impl Attribute {
    /// The text between the brackets.
    pub(super) fn body<'a>(&self, code: &'a str) -> &'a str {
        let text = &code[self.span.clone()];
        text.split_once('[').map_or("", |(_, body)| body.trim_end_matches(']')).trim()
    }

    /// Whether this is `#[test]`, or a `cfg` that only a test build satisfies.
    pub(super) fn is_test_only(&self, code: &str) -> bool {
        let body = self.body(code);
        body == "test"
            || arguments(body, "cfg").is_some_and(|predicate| requires(predicate, "test"))
    }
}

/// Finds every attribute of the code, in order.
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

/// Returns the offset past the bracket that closes the one at `open`; the end of the code if none does.
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

/// Returns the range of the item, field or statement that an attribute ending at `from` belongs to.
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
            // The braces end the range. In a `use` list or an initialiser a semicolon follows
            // them; the range lacks only that.
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

/// Returns the arguments of `name(...)` if that is the whole `text`, else `None`.
pub(super) fn arguments<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let rest = text.trim().strip_prefix(name)?.trim_start();
    rest.strip_prefix('(')?.strip_suffix(')')
}

/// Whether a `cfg` predicate can hold only where `flag` is set.
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

/// Splits a list at its own commas, not at those within brackets.
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
