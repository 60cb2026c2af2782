//! How a report looks. On a terminal, it fits the width, and has colours if the terminal has them.
//! Elsewhere it is plain, with tables of any width and paragraphs of 120 columns.

use std::io::IsTerminal;

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};

/// The value of `--color`.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Color {
    /// Colours on a terminal that has them, unless `NO_COLOR` is set
    #[default]
    Auto,
    /// Always colours
    Always,
    /// Plain text
    Never,
}

/// What the output can show.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Look {
    /// Columns of the terminal. `None` if there is no terminal, or if it does not know its width.
    pub(crate) width: Option<usize>,
    pub(crate) color: bool,
}

/// Columns of a paragraph if no terminal sets them.
const READABLE: usize = 120;

/// The role of a piece of text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    Head,
    Best,
    Bad,
}

impl Look {
    /// Unlimited lines and no colours.
    #[cfg(test)]
    pub(crate) const PLAIN: Look = Look { width: None, color: false };

    /// Returns the look of standard output, given the value of `--color`.
    pub(crate) fn of_stdout(color: Color) -> Self {
        let out = std::io::stdout();
        let color = match color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => AutoStream::choice(&out) != ColorChoice::Never,
        };
        let width = out
            .is_terminal()
            .then(|| terminal_size::terminal_size_of(&out))
            .flatten()
            .map(|(width, _)| usize::from(width.0));
        // A terminal that does not know its width reports 0.
        Look { width: width.filter(|width| *width > 0), color }
    }

    /// Colours `text` by its role.
    pub(crate) fn paint(self, role: Role, text: &str) -> String {
        if !self.color || text.trim().is_empty() {
            return text.to_owned();
        }
        let style = match role {
            Role::Head => Style::new().bold(),
            Role::Best => AnsiColor::Green.on_default().bold(),
            Role::Bad => AnsiColor::Red.on_default().bold(),
        };
        format!("{style}{text}{style:#}")
    }

    /// Wraps a paragraph to the width of the terminal, or else to a readable width. Ends with a newline.
    pub(crate) fn paragraph(self, text: &str) -> String {
        let mut filled = textwrap::fill(text, self.width.unwrap_or(READABLE));
        filled.push('\n');
        filled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paragraphs_fit_the_terminal_and_a_readers_eye_in_a_pipe() {
        let text = "some words that are more than twenty columns";
        let narrow = Look { width: Some(20), color: false }.paragraph(text);
        assert!(narrow.lines().all(|line| line.len() <= 20), "{narrow}");
        assert_eq!(narrow.split_whitespace().collect::<Vec<_>>().join(" "), text);
        assert_eq!(Look::PLAIN.paragraph(text), format!("{text}\n"));
        let long = Look::PLAIN.paragraph(&text.repeat(20));
        assert!(long.lines().count() > 7 && long.lines().all(|line| line.len() <= READABLE));
    }

    #[test]
    fn colours_are_there_only_if_wanted() {
        let look = Look { color: true, ..Look::PLAIN };
        assert_eq!(look.paint(Role::Bad, "NO"), "\u{1b}[1m\u{1b}[31mNO\u{1b}[0m");
        assert_eq!(look.paint(Role::Bad, "  "), "  ");
        assert_eq!(Look::PLAIN.paint(Role::Bad, "NO"), "NO");
    }
}
