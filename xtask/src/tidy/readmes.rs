//! Rule `readme`: every library has a README. Its first example is the first example of the crate's
//! front page, which is tested there as a doctest.

use super::Finding;
use super::source::Source;

const FENCE: &str = "```";

pub(super) fn check(documents: &[(String, String)], sources: &[Source]) -> Vec<Finding> {
    let published = |source: &&Source| {
        source.path().ends_with("/src/lib.rs")
            && !["xtask", "fuzz", "torture"].contains(&source.top_dir())
    };
    sources.iter().filter(published).filter_map(|source| finding(documents, source)).collect()
}

fn finding(documents: &[(String, String)], source: &Source) -> Option<Finding> {
    let path = format!("{}/README.md", source.crate_dir());
    let Some((_, text)) = documents.iter().find(|(document, _)| *document == path) else {
        return Some(Finding::new(
            &path,
            1,
            "readme",
            "write one: the crate's purpose, an example, and links",
        ));
    };
    let wanted = example_of(source);
    let (at, shown) = shown_in(text);
    (shown != wanted).then(|| {
        let fix = format!(
            "show the first example of {} word for word, without its hidden lines",
            source.path()
        );
        Finding::new(&path, at, "readme", fix)
    })
}

/// Returns the first example of the crate's front page, without its hidden lines.
fn example_of(source: &Source) -> Vec<String> {
    let lines = (0..source.line_count()).map(|line| source.raw_line(line));
    // A fence that depends on a feature is written as an attribute. Then a second fence follows
    // directly.
    let after =
        lines.skip_while(|line| !line.contains(FENCE)).skip_while(|line| line.contains(FENCE));
    let inside = after.take_while(|line| line.starts_with("//!") && !line.contains(FENCE));
    let code = inside.map(|line| line.trim_start_matches("//!"));
    let code = code.map(|line| line.strip_prefix(' ').unwrap_or(line).to_owned());
    trimmed(code.filter(|line| line != "#" && !line.starts_with("# ")).collect())
}

/// Returns the number of the line on which a README's first example begins, and the example.
fn shown_in(text: &str) -> (usize, Vec<String>) {
    let at = text.lines().position(|line| line.starts_with(FENCE)).unwrap_or(0);
    let inside = text.lines().skip(at + 1).take_while(|line| !line.starts_with(FENCE));
    (at + 1, trimmed(inside.map(str::to_owned).collect()))
}

/// Removes empty lines at the beginning and the end.
fn trimmed(mut lines: Vec<String>) -> Vec<String> {
    let first = lines.iter().position(|line| !line.is_empty()).unwrap_or(lines.len());
    lines.drain(..first);
    while lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(readme: &[(&str, &str)], lib: &str) -> usize {
        let documents: Vec<_> =
            readme.iter().map(|(p, t)| ((*p).to_owned(), (*t).to_owned())).collect();
        check(&documents, &[Source::new("a/src/lib.rs", lib.to_owned())]).len()
    }

    #[test]
    fn the_first_example_is_compared_without_hidden_lines() {
        let lib = "//! A.\n//! ```\n//! # hidden\n//! let a = 1;\n//!\n//! # Ok(())\n//! ```\n";
        assert_eq!(found(&[("a/README.md", "# a\n```rust\nlet a = 1;\n```\n")], lib), 0);
        assert_eq!(found(&[("a/README.md", "# a\n```rust\nlet a = 2;\n```\n")], lib), 1);
        assert_eq!(found(&[("b/README.md", "# a\n")], lib), 1, "no README");
    }

    #[test]
    fn a_fence_may_be_an_attribute() {
        let lib = "#![cfg_attr(a, doc = \"```\")]\n#![cfg_attr(not(a), doc = \"```ignore\")]\n\
                   //! b();\n//! ```\n";
        assert_eq!(found(&[("a/README.md", "```rust\nb();\n```\n")], lib), 0);
    }
}
