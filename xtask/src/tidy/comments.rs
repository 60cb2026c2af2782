//! Rule `comment`: comments explain the code, not its history or the work on it.

use super::Finding;
use super::source::Source;
use super::words::words;

/// The phrases that the rule refuses. They are matched as whole words, in upper or lower case.
const PHRASES: &[&str] =
    &["as requested", "this session", "previously", "no longer", "fixme", "xxx", "todo"];

const FIX: &str = "explain the code, not its history or what is left to do";

pub(super) fn check(source: &Source) -> Vec<Finding> {
    (0..source.line_count())
        .filter_map(|line| finding(source.path(), line, source.comment_line(line)))
        .collect()
}

/// Checks the `#` comments of a TOML file.
pub(super) fn check_toml(path: &str, text: &str) -> Vec<Finding> {
    text.lines()
        .enumerate()
        .filter_map(|(line, text)| finding(path, line, text.split_once('#')?.1))
        .collect()
}

fn finding(path: &str, line: usize, comment: &str) -> Option<Finding> {
    let phrase = speaks_of_work(comment)?;
    Some(Finding::new(path, line + 1, "comment", format!("\"{phrase}\": {FIX}")))
}

fn speaks_of_work(comment: &str) -> Option<&'static str> {
    let lower = comment.to_lowercase();
    let phrase = PHRASES.iter().find(|phrase| words(&lower, phrase).next().is_some());
    phrase.copied().or_else(|| {
        words(&lower, "issue")
            .any(|at| {
                let rest = lower[at + "issue".len()..].trim_start();
                rest.strip_prefix('#').unwrap_or(rest).starts_with(|c: char| c.is_ascii_digit())
            })
            .then_some("issue ...")
    })
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
    fn comments_do_not_speak_of_the_work() {
        for bad in [
            "// See issue 12.",
            "// See Issue #12.",
            "/// Done as requested.",
            "//! Written in this session.",
            "a(); // Previously b.",
            "/* It is no longer c. */",
            "// FIXME: d",
            "// XXX",
            "// Todo: e",
        ] {
            assert_eq!(lines(bad), [1], "{bad}");
        }
    }

    #[test]
    fn plain_reasons_and_code_are_left_alone() {
        for good in [
            "// The issue is the order of the two stores.",
            "// A tissue 12 sample, not a method that todos would show.",
            "let a = \"issue 12, FIXME\";",
            "let todo = previously;",
        ] {
            assert_eq!(lines(good), NONE, "{good}");
        }
    }

    #[test]
    fn manifests_are_read_too() {
        assert_eq!(check_toml("Cargo.toml", "[a]\nb = 1 # FIXME\n").len(), 1);
        assert_eq!(check_toml("Cargo.toml", "fixme = 1 # A reason.\n").len(), 0);
    }
}
