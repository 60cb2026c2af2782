//! Rule `reason`: an `allow` or `expect` attribute says why, in its `reason`.

use super::Finding;
use super::attributes::calls;
use super::source::Source;
use super::words::words;

pub(super) fn check(source: &Source) -> Vec<Finding> {
    let mut found = Vec::new();
    for attribute in source.attributes() {
        let code = &source.code()[attribute.span.clone()];
        for name in ["allow", "expect"] {
            for (at, arguments) in calls(code, name) {
                let has_reason = words(arguments, "reason")
                    .any(|r| arguments[r + "reason".len()..].trim_start().starts_with('='));
                if !has_reason {
                    let line = source.line_at(attribute.span.start + at) + 1;
                    let fix = format!("add `reason = \"...\"` to this `{name}`, or drop it");
                    found.push(Finding::new(source.path(), line, "reason", fix));
                }
            }
        }
    }
    found
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
    fn every_exemption_has_a_reason() {
        assert_eq!(
            lines("#![allow(a, reason = \"b\")]\n#[expect(\n    c,\n    reason = \"d\"\n)]"),
            NONE
        );
        assert_eq!(lines("#![allow(a)]"), [1]);
        assert_eq!(lines("#[expect(a, b)]"), [1]);
        assert_eq!(lines("fn x() {}\n#[cfg_attr(test, allow(a), expect(b, reason = \"c\"))]"), [2]);
        assert_eq!(lines("#[allow(reason_is_a_lint)]"), [1]);
        assert_eq!(lines("#[allow(a)] // reason = \"in a comment\""), [1]);
    }

    #[test]
    fn calls_outside_attributes_are_not_exemptions() {
        assert_eq!(lines("fn a() { b.expect(\"c\"); allow(d); }"), NONE);
    }
}
