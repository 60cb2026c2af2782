//! Evaluates the licence expressions of packages against the list of licences that the project
//! accepts.
//!
//! `OR` and brackets work as in SPDX, and the older `/` means `OR`. `AND` binds tighter than `OR`.
//! A licence with an exception is accepted only if the list has it with that exception.

const ALLOWED: &[&str] = &[
    "MIT",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "Zlib",
    "ISC",
    "Unicode-3.0",
    "Unlicense",
    "CC0-1.0",
    "BSL-1.0",
    "0BSD",
    "MIT-0",
];

/// Returns whether the licences in `ALLOWED` satisfy `expression`. Returns false if the expression
/// is malformed.
pub(super) fn is_allowed(expression: &str) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let tokens: Vec<&str> = spaced.split_whitespace().collect();
    let mut parser = Parser { tokens: &tokens };
    parser.any() == Some(true) && parser.tokens.is_empty()
}

struct Parser<'a> {
    tokens: &'a [&'a str],
}

impl<'a> Parser<'a> {
    fn take(&mut self) -> Option<&'a str> {
        let (first, rest) = self.tokens.split_first()?;
        self.tokens = rest;
        Some(first)
    }

    fn accept(&mut self, word: &str) -> bool {
        let found = self.tokens.first() == Some(&word);
        if found {
            self.tokens = &self.tokens[1..];
        }
        found
    }

    fn any(&mut self) -> Option<bool> {
        let mut value = self.all()?;
        while self.accept("OR") {
            value |= self.all()?;
        }
        Some(value)
    }

    fn all(&mut self) -> Option<bool> {
        let mut value = self.one()?;
        while self.accept("AND") {
            value &= self.one()?;
        }
        Some(value)
    }

    fn one(&mut self) -> Option<bool> {
        if self.accept("(") {
            let value = self.any()?;
            return self.accept(")").then_some(value);
        }
        let mut name = self.take()?.to_owned();
        if self.accept("WITH") {
            name = format!("{name} WITH {}", self.take()?);
        }
        Some(ALLOWED.contains(&name.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissive_expressions_are_met() {
        for good in [
            "MIT",
            "MIT OR Apache-2.0",
            "MIT/Apache-2.0",
            "Unlicense OR GPL-2.0",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception OR Apache-2.0 OR MIT",
            "GPL-3.0 AND MIT OR Zlib",
        ] {
            assert!(is_allowed(good), "{good}");
        }
    }

    #[test]
    fn copyleft_and_malformed_expressions_are_not() {
        for bad in [
            "GPL-2.0",
            "LGPL-2.1-or-later",
            "MIT AND GPL-2.0",
            "(MIT OR Apache-2.0) AND MPL-2.0",
            "GPL-2.0 WITH Classpath-exception-2.0",
            "MIT WITH GPL-2.0",
            "",
            "MIT OR",
            "(MIT",
            "MIT)",
            "MIT Apache-2.0",
        ] {
            assert!(!is_allowed(bad), "{bad}");
        }
    }
}
