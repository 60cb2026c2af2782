//! Rule `english`: comments and documents avoid certain phrases that make a reader parse a sentence
//! twice.

use super::Finding;
use super::source::Source;
use super::words::words;

/// The phrases that the rule refuses, each with what to write instead. They are matched as whole
/// words, in upper or lower case.
const TICS: &[(&str, &str)] = &[
    ("told", "\"reported\", \"shown\", or name who does it"),
    ("tells of", "\"describes\" or \"reports\""),
    ("so many", "the number, or \"that many\""),
    ("but for", "\"except\""),
    ("asked for by", "\"the name of\", or who asks"),
    ("of use by itself", "what it is used for"),
    ("none that is to be", "\"not eligible\", or the condition"),
    ("looks at", "\"checks\", \"reads\" or \"compares\""),
    ("wins", "\"gains\", \"saves\" or \"takes effect\""),
    ("won", "\"gained\", \"saved\" or \"freed\""),
    ("anew", "\"again\""),
];

pub(super) fn check(source: &Source) -> Vec<Finding> {
    let lines = (0..source.line_count()).map(|line| source.comment_line(line));
    findings(source.path(), lines)
}

/// Checks every line of a document.
pub(super) fn check_document(path: &str, text: &str) -> Vec<Finding> {
    findings(path, text.lines())
}

fn findings<'a>(path: &str, lines: impl Iterator<Item = &'a str>) -> Vec<Finding> {
    lines
        .enumerate()
        .filter_map(|(line, text)| {
            let (tic, instead) = tic_in(text)?;
            Some(Finding::new(path, line + 1, "english", format!("\"{tic}\": say {instead}")))
        })
        .collect()
}

fn tic_in(text: &str) -> Option<(&'static str, &'static str)> {
    let lower = text.to_lowercase();
    // "won't" is another word.
    let stands_in = |tic: &str| {
        words(&lower, tic).any(|at| !lower[at + tic.len()..].starts_with(['\'', '\u{2019}']))
    };
    TICS.iter().copied().find(|(tic, _)| stands_in(tic))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::NONE;

    fn lines(text: &str) -> Vec<usize> {
        let source = Source::new("zbud/src/a.rs", text.to_owned());
        check(&source).iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn each_tic_is_refused_in_comments_and_documents() {
        for (tic, _) in TICS {
            assert_eq!(lines(&format!("fn a() {{}}\n/// It is {tic} here.")), [2], "{tic}");
            assert_eq!(check_document("a.md", &format!("So\n{tic} ends.")).len(), 1, "{tic}");
        }
        assert_eq!(lines("// Told once."), [1], "at the beginning of a sentence, too");
    }

    #[test]
    fn code_strings_and_other_words_are_left_alone() {
        for good in ["let told = \"told\";", "// It won't.", "// Winsome, untold, renewed."] {
            assert_eq!(lines(good), NONE, "{good}");
        }
    }
}
