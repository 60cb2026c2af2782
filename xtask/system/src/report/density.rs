//! Density against load cost: a point for each contestant that keeps pages.

use measure::labels::{Area, Drawn, place_labels};

use super::axis::{self, Axis, Scale};
use super::canvas::{self, FONT, MARGIN, Mark, RADIUS, Side, WIDTH};
use super::tables::density;
use super::theme::{self, FAINT, Hue, INK};
use crate::error::Result;
use crate::figures::Figures;

const PLOT_HEIGHT: i32 = 620;

/// One contestant's place.
#[derive(Clone, Debug, PartialEq)]
struct Point {
    label: String,
    hue: Hue,
    /// Nanoseconds of a load, the mean.
    load: f64,
    /// Page bytes for each byte of memory.
    density: f64,
}

fn points(figures: &[&Figures]) -> Vec<Point> {
    let point = |f: &&Figures| {
        Some(Point {
            label: f.name(),
            hue: theme::of_contestant(&f.contestant),
            load: f.load_ns.map(|n| n.mean).filter(|ns| *ns > 0.0)?,
            density: density(f)?,
        })
    };
    figures.iter().filter_map(point).collect()
}

pub(super) fn draw(figures: &[&Figures], title: &str, method: &str) -> Result<String> {
    let points = points(figures);
    let key = canvas::top(method) + FONT / 2;
    let frame = Area {
        left: MARGIN + 56,
        right: WIDTH - MARGIN,
        top: key + 40,
        bottom: key + 40 + PLOT_HEIGHT,
    };
    let across = Axis::over(Scale::Log, points.iter().map(|p| p.load), (frame.left, frame.right));
    let up = Axis::over(Scale::Linear, points.iter().map(|p| p.density), (frame.bottom, frame.top));
    canvas::picture(frame.bottom + 48, title, method, |canvas| {
        let hues = theme::key(points.iter().map(|p| p.label.as_str()));
        canvas.key(&[], &hues, key)?;
        let above = "page bytes for each resident byte: more is denser";
        canvas.text(above, (MARGIN, frame.top - 16), Side::Right, INK)?;
        let below = "a load, mean: less is faster";
        canvas.text(below, (WIDTH - MARGIN, frame.bottom + 32), Side::Left, INK)?;
        canvas.grid_across(&across, (frame.top, frame.bottom), axis::time)?;
        canvas.grid_up(&up, (frame.left, frame.right), axis::brief)?;
        let places: Vec<(i32, i32)> =
            points.iter().map(|p| (across.place(p.load), up.place(p.density))).collect();
        let widths: Vec<i32> = points.iter().map(|p| canvas::width(&p.label)).collect();
        let drawn = Drawn { radius: RADIUS, height: FONT };
        let areas = place_labels(&places, &widths, drawn, frame);
        for ((point, &(x, y)), area) in points.iter().zip(&places).zip(areas) {
            let height = (area.top + area.bottom) / 2;
            let (near, side) = match area.left > x {
                true => (area.left, Side::Right),
                false => (area.right, Side::Left),
            };
            // To the label that had to go elsewhere.
            if (height - y).abs() > FONT {
                canvas.line(vec![(x, y), (near, height)], FAINT, 1)?;
            }
            canvas.mark(Mark::Dot, (x, y), point.hue)?;
            canvas.text(&point.label, (near, height), side, point.hue)?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::tests::figures;

    #[test]
    fn a_point_is_where_the_figures_are_and_who_keeps_nothing_has_none() {
        let mut bare = figures("codec/lz4", 1, 100.0, 1);
        bare.resident_bytes = None;
        let store = figures("zswap-core/zsmalloc/lz4", 1, 400.0, 131_072);
        let points = points(&[&bare, &store]);
        assert_eq!(points.len(), 1);
        assert_eq!(points[0].label, "zswap-core/zsmalloc/lz4");
        assert_eq!((points[0].load, points[0].density), (150.0, 2.0));
    }
}
