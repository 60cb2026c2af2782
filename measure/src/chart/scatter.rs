//! A scatter plot: points between two axes, with labels that do not overlap.

use super::axis::{Axis, Scale};
use super::canvas::{self, FONT, MARGIN, Mark, Painted, RADIUS, Side, WIDTH};
use super::hue::{FAINT, Hue, INK};
use super::labels::{Area, Drawn, place_labels};
use crate::error::Result;

/// One point.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// The text beside the point.
    pub label: String,
    /// The colour of the point and its label.
    pub hue: Hue,
    /// The point's values on the horizontal and on the vertical axis.
    pub at: (f64, f64),
}

/// An axis of a scatter plot.
#[derive(Clone, Copy, Debug)]
pub struct Ruler<'a> {
    /// How values are spread along the axis.
    pub scale: Scale,
    /// What the axis shows, in words.
    pub caption: &'a str,
    /// Formats a round value as text.
    pub told: fn(f64) -> String,
}

/// A scatter plot.
#[derive(Clone, Debug)]
pub struct Scatter<'a> {
    /// The heading.
    pub title: &'a str,
    /// How the values were measured. This text is below the title, and is wrapped if necessary.
    pub method: &'a str,
    /// What the colours mean.
    pub hues: Vec<(String, Hue)>,
    /// The horizontal axis, at the bottom.
    pub across: Ruler<'a>,
    /// The vertical axis, on the left.
    pub up: Ruler<'a>,
    /// Height of the vertical axis in pixels.
    pub height: i32,
    /// The points.
    pub points: Vec<Point>,
}

impl Scatter<'_> {
    /// Draws the picture as an SVG.
    ///
    /// # Errors
    ///
    /// [`Error::Draw`](crate::Error::Draw) if the drawing library fails.
    pub fn draw(&self) -> Result<String> {
        let key = canvas::top(self.method) + FONT / 2;
        let frame = Area {
            left: MARGIN + 56,
            right: WIDTH - MARGIN,
            top: key + 40,
            bottom: key + 40 + self.height,
        };
        let all = |part: fn(&Point) -> f64| self.points.iter().map(part);
        let across = Axis::over(self.across.scale, all(|p| p.at.0), (frame.left, frame.right));
        let up = Axis::over(self.up.scale, all(|p| p.at.1), (frame.bottom, frame.top));
        canvas::picture(frame.bottom + 48, self.title, self.method, |canvas| {
            canvas.key(&[], &self.hues, key)?;
            canvas.text(self.up.caption, (MARGIN, frame.top - 16), Side::Right, INK)?;
            let below = (WIDTH - MARGIN, frame.bottom + 32);
            canvas.text(self.across.caption, below, Side::Left, INK)?;
            canvas.grid_across(&across, (frame.top, frame.bottom), self.across.told)?;
            canvas.grid_up(&up, (frame.left, frame.right), self.up.told)?;
            let places: Vec<(i32, i32)> =
                self.points.iter().map(|p| (across.place(p.at.0), up.place(p.at.1))).collect();
            self.mark(canvas, &places, frame)
        })
    }

    /// Draws marks and labels of the points, which are at `places`.
    fn mark(&self, canvas: &canvas::Canvas<'_>, places: &[(i32, i32)], frame: Area) -> Painted {
        let widths: Vec<i32> = self.points.iter().map(|p| canvas::width(&p.label)).collect();
        let drawn = Drawn { radius: RADIUS, height: FONT };
        let areas = place_labels(places, &widths, drawn, frame);
        for ((point, &(x, y)), area) in self.points.iter().zip(places).zip(areas) {
            let height = (area.top + area.bottom) / 2;
            // The label's end near the point is exact. The other end depends on the estimated width.
            let (near, side) = match area.left > x {
                true => (area.left, Side::Right),
                false => (area.right, Side::Left),
            };
            // Draw a line to a label that had to be moved away.
            if (height - y).abs() > FONT {
                canvas.line(vec![(x, y), (near, height)], FAINT, 1)?;
            }
            canvas.mark(Mark::Dot, (x, y), point.hue)?;
            canvas.text(&point.label, (near, height), side, point.hue)?;
        }
        Ok(())
    }
}
