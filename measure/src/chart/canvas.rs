//! The canvas of every picture: a background with a title, on which text, lines and marks are drawn.

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::axis::Axis;
use super::hue::{self, FAINT, GRID, GROUND, Hue, INK};
use crate::error::{Error, Result};

/// Width of every picture in pixels.
pub const WIDTH: i32 = 960;
/// Empty pixels at the edges.
pub const MARGIN: i32 = 16;
/// Height of text in pixels.
pub const FONT: i32 = 16;
/// Height of the title in pixels.
const TITLE_FONT: i32 = 22;
/// Height of the text about the method in pixels.
const SMALL_FONT: i32 = 14;
/// Pixels from the centre of a mark to its edge.
pub const RADIUS: i32 = 4;

/// The drawing library's errors.
type Failure = Box<dyn std::error::Error>;
/// The result of drawing on a canvas.
pub type Painted = std::result::Result<(), Failure>;

/// The shape of a mark.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mark {
    /// A filled circle.
    Dot,
    /// A circle filled with the background.
    Ring,
    /// A square standing on its corner.
    Diamond,
    /// A square.
    Square,
    /// A vertical line.
    Bar,
}

/// Where a text is drawn, relative to a position.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// The text ends at the position.
    Left,
    /// The text starts at the position.
    Right,
    /// The text is centred on the position.
    Middle,
}

/// The surface of a picture. Coordinates are pixels from the upper left corner.
pub struct Canvas<'a> {
    area: DrawingArea<SVGBackend<'a>, Shift>,
}

/// Draws a picture `height` pixels high. It consists of the title, `method` below the title, and below [`top`]
/// whatever `paint` draws. Returns the SVG.
///
/// # Errors
///
/// [`Error::Draw`] if `paint` or the drawing library fails.
///
/// ```
/// use measure::chart::{INK, Mark, Side, picture, top};
///
/// let svg = picture(200, "A picture", "Drawn in a test.", |canvas| {
///     let y = top("Drawn in a test.") + 20;
///     canvas.mark(Mark::Dot, (50, y), INK)?;
///     canvas.text("a dot", (60, y), Side::Right, INK)
/// })?;
/// assert!(svg.starts_with("<svg") && svg.contains("a dot"));
/// # Ok::<(), measure::Error>(())
/// ```
pub fn picture(
    height: i32,
    title: &str,
    method: &str,
    paint: impl FnOnce(&Canvas<'_>) -> Painted,
) -> Result<String> {
    let mut svg = String::new();
    let painted = {
        let size = (WIDTH.unsigned_abs(), height.unsigned_abs());
        let canvas = Canvas { area: SVGBackend::with_string(&mut svg, size).into_drawing_area() };
        canvas.whole(title, method, paint)
    };
    painted.map_err(|error| Error::Draw { reason: error.to_string() })?;
    let end =
        svg.find('>').ok_or_else(|| Error::Draw { reason: "the SVG has no element".to_owned() })?;
    let head = format!("<title>{}</title><style>{}</style>", escaped(title), hue::style());
    svg.insert_str(end + 1, &head);
    if !svg.ends_with('\n') {
        svg.push('\n');
    }
    Ok(svg)
}

/// Returns the first row of pixels below the title and this text about the method.
pub fn top(method: &str) -> i32 {
    let lines = i32::try_from(wrapped(method).len()).unwrap_or(i32::MAX / 100);
    MARGIN + TITLE_FONT + 8 + lines * (SMALL_FONT + 4) + 8
}

impl std::fmt::Debug for Canvas<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Canvas").finish_non_exhaustive()
    }
}

impl Canvas<'_> {
    fn whole(&self, title: &str, method: &str, paint: impl FnOnce(&Self) -> Painted) -> Painted {
        self.area.fill(&GROUND.light)?;
        self.words(title, (MARGIN, MARGIN + TITLE_FONT / 2), Side::Right, TITLE_FONT, INK)?;
        for (n, line) in (0..).zip(wrapped(method)) {
            let y = MARGIN + TITLE_FONT + 8 + n * (SMALL_FONT + 4) + SMALL_FONT / 2;
            self.words(&line, (MARGIN, y), Side::Right, SMALL_FONT, FAINT)?;
        }
        paint(self)?;
        self.area.present()?;
        Ok(())
    }

    /// Draws a text to the left or right of a position, or centred on it.
    ///
    /// # Errors
    ///
    /// The drawing library's error.
    pub fn text(&self, text: &str, at: (i32, i32), side: Side, hue: Hue) -> Painted {
        self.words(text, at, side, FONT, hue)
    }

    fn words(&self, text: &str, at: (i32, i32), side: Side, size: i32, hue: Hue) -> Painted {
        let anchor = match side {
            Side::Left => HPos::Right,
            Side::Right => HPos::Left,
            Side::Middle => HPos::Center,
        };
        let style = ("sans-serif", size).into_font().color(&hue.light);
        let style = style.pos(Pos::new(anchor, VPos::Center));
        self.area.draw(&Text::new(text.to_owned(), at, style))?;
        Ok(())
    }

    /// Draws a line through these points, `width` pixels wide.
    ///
    /// # Errors
    ///
    /// The drawing library's error.
    pub fn line(&self, points: Vec<(i32, i32)>, hue: Hue, width: u32) -> Painted {
        self.area.draw(&PathElement::new(points, hue.light.stroke_width(width)))?;
        Ok(())
    }

    /// Draws a mark centred on a position.
    ///
    /// # Errors
    ///
    /// The drawing library's error.
    pub fn mark(&self, mark: Mark, (x, y): (i32, i32), hue: Hue) -> Painted {
        let filled = hue.light.filled();
        let r = RADIUS;
        match mark {
            Mark::Dot => self.area.draw(&Circle::new((x, y), r, filled))?,
            Mark::Ring => {
                self.area.draw(&Circle::new((x, y), r, GROUND.light.filled()))?;
                self.area.draw(&Circle::new((x, y), r, hue.light.stroke_width(2)))?;
            }
            Mark::Diamond => {
                let corners = vec![(x - r - 1, y), (x, y - r - 1), (x + r + 1, y), (x, y + r + 1)];
                self.area.draw(&Polygon::new(corners, filled))?;
            }
            Mark::Square => {
                let corners = [(x - r + 1, y - r + 1), (x + r - 1, y + r - 1)];
                self.area.draw(&Rectangle::new(corners, filled))?;
            }
            Mark::Bar => self.line(vec![(x, y - r - 1), (x, y + r + 1)], hue, 2)?,
        }
        Ok(())
    }

    /// Draws vertical lines from `top` to `bottom` at the axis's round values, each with its value below it.
    ///
    /// # Errors
    ///
    /// The drawing library's error.
    pub fn grid_across(
        &self,
        axis: &Axis,
        (top, bottom): (i32, i32),
        told: fn(f64) -> String,
    ) -> Painted {
        for tick in axis.ticks() {
            let x = axis.place(tick);
            self.line(vec![(x, top), (x, bottom)], GRID, 1)?;
            self.text(&told(tick), (x, bottom + 12), Side::Middle, INK)?;
        }
        Ok(())
    }

    /// Draws horizontal lines from `left` to `right` at the axis's round values, each with its
    /// value on the left.
    ///
    /// # Errors
    ///
    /// The drawing library's error.
    pub fn grid_up(
        &self,
        axis: &Axis,
        (left, right): (i32, i32),
        told: fn(f64) -> String,
    ) -> Painted {
        for tick in axis.ticks() {
            let y = axis.place(tick);
            self.line(vec![(left, y), (right, y)], GRID, 1)?;
            self.text(&told(tick), (left - 6, y), Side::Left, INK)?;
        }
        Ok(())
    }

    /// Draws a legend for marks and colours, in one line at the height `y`.
    ///
    /// # Errors
    ///
    /// The drawing library's error.
    pub fn key(&self, marks: &[(Mark, String)], hues: &[(String, Hue)], y: i32) -> Painted {
        let mut x = MARGIN + RADIUS;
        let entries = marks.iter().map(|(mark, text)| (Some(*mark), text, INK));
        for (mark, text, hue) in entries.chain(hues.iter().map(|(text, hue)| (None, text, *hue))) {
            match mark {
                Some(mark) => self.mark(mark, (x, y), hue)?,
                None => self.line(vec![(x - RADIUS, y), (x + RADIUS + 2, y)], hue, 4)?,
            }
            self.text(text, (x + RADIUS + 6, y), Side::Right, hue)?;
            x += width(text) + 4 * RADIUS + 12;
        }
        Ok(())
    }
}

/// Estimates the width of a text in pixels, generously: no font is available to measure the text.
pub fn width(text: &str) -> i32 {
    i32::try_from(text.chars().count()).unwrap_or(i32::MAX / 100) * FONT * 9 / 20
}

/// Breaks a text into lines no wider than the picture.
fn wrapped(text: &str) -> Vec<String> {
    let most = ((WIDTH - 2 * MARGIN) * 20 / (SMALL_FONT * 9)) as usize;
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        let room = lines.last().map_or(0, |line| most.saturating_sub(line.chars().count()));
        match lines.last_mut() {
            Some(line) if word.chars().count() < room => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_xml_with_both_themes_and_what_comes_from_outside_is_escaped() {
        let svg = picture(200, "<a & b>", "\"c\" < d", |canvas| {
            for mark in [Mark::Dot, Mark::Ring, Mark::Diamond, Mark::Square, Mark::Bar] {
                canvas.mark(mark, (50, 50), INK)?;
            }
            canvas.text("</svg>", (10, 100), Side::Right, FAINT)
        })
        .unwrap();
        let document = roxmltree::Document::parse(&svg).unwrap();
        let texts = |tag: &str| -> Vec<String> {
            let with = document
                .descendants()
                .filter(|node| node.has_tag_name(("http://www.w3.org/2000/svg", tag)));
            with.filter_map(|node| node.text()).map(|text| text.trim().to_owned()).collect()
        };
        assert_eq!(texts("title"), ["<a & b>"]);
        assert_eq!(texts("text"), ["<a & b>", "\"c\" < d", "</svg>"]);
        assert!(texts("style")[0].contains("prefers-color-scheme: dark"));
        // The dark theme replaces every colour that is used.
        let style = &texts("style")[0];
        for node in document.descendants() {
            for attribute in ["fill", "stroke"] {
                let value = node.attribute(attribute).unwrap_or("none");
                let known = style.contains(&format!("[{attribute}=\"{value}\"]"));
                assert!(value == "none" || known, "{attribute} {value}");
            }
        }
    }

    #[test]
    fn long_lines_are_wrapped_and_lose_no_word() {
        let text = "word ".repeat(100);
        let lines = wrapped(&text);
        assert!(lines.len() > 2 && lines.iter().all(|line| line.len() < 160), "{lines:?}");
        assert_eq!(lines.join(" "), text.trim());
        assert!(top(&text) > top("word") && top("word") > top(""));
    }
}
