//! Density against load cost: a point for each contestant that keeps pages.

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
        let labels: Vec<&str> = points.iter().map(|p| p.label.as_str()).collect();
        for ((point, &(x, y)), area) in
            points.iter().zip(&places).zip(labelled(&places, &labels, frame))
        {
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

/// Pixels, edges included.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Area {
    left: i32,
    right: i32,
    top: i32,
    bottom: i32,
}

impl Area {
    fn inside(self, frame: Area) -> bool {
        self.left >= frame.left
            && self.right <= frame.right
            && self.top >= frame.top
            && self.bottom <= frame.bottom
    }

    /// Pixels that two areas share.
    fn shared(self, other: Area) -> i64 {
        let length = |a: i32, b: i32| i64::from((b - a + 1).max(0));
        length(self.left.max(other.left), self.right.min(other.right))
            * length(self.top.max(other.top), self.bottom.min(other.bottom))
    }
}

/// Where each label goes: as near to its point as it is clear of the points, of the other labels
/// and of the frame's edges, else where it covers least.
fn labelled(places: &[(i32, i32)], labels: &[&str], frame: Area) -> Vec<Area> {
    let dot = |&(x, y): &(i32, i32)| Area {
        left: x - RADIUS,
        right: x + RADIUS,
        top: y - RADIUS,
        bottom: y + RADIUS,
    };
    let mut taken: Vec<Area> = places.iter().map(dot).collect();
    let mut areas = Vec::with_capacity(places.len());
    for (&(x, y), label) in places.iter().zip(labels) {
        let width = canvas::width(label);
        let beside = |step: i32| {
            // The further up or down, the further aside, so that the line to it can be seen.
            let gap = RADIUS + 4 + step.abs() * 3;
            let top = y - FONT / 2 + step * (FONT + 2);
            [(x + gap, top), (x - gap - width, top)]
        };
        let steps = (0..24).flat_map(|n: i32| [n, -n]);
        let best = steps
            .flat_map(beside)
            .map(|(left, top)| Area { left, right: left + width, top, bottom: top + FONT })
            .min_by_key(|area| {
                let covered: i64 = taken.iter().map(|other| area.shared(*other)).sum();
                (!area.inside(frame), covered)
            })
            .unwrap_or(frame);
        taken.push(best);
        areas.push(best);
    }
    areas
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

    #[test]
    fn labels_keep_clear_of_each_other_and_stay_inside() {
        let frame = Area { left: 60, right: 940, top: 40, bottom: 640 };
        let places =
            [(100, 100), (104, 102), (108, 98), (890, 600), (62, 630), (300, 42), (300, 50)];
        let areas = labelled(&places, &["zswap-core/zsmalloc/lz4hc"; 7], frame);
        for (i, area) in areas.iter().enumerate() {
            assert!(area.inside(frame), "{area:?}");
            for other in &areas[i + 1..] {
                assert_eq!(area.shared(*other), 0, "{area:?} and {other:?}");
            }
        }
    }
}
