//! Draws a chart of density against the time of a load, with a point for each contestant that keeps
//! pages.

use measure::Figures;
use measure::chart::{self, Point, Ruler, Scale, Scatter};

use super::tables::density;
use super::theme;
use crate::error::Result;

const PLOT_HEIGHT: i32 = 620;

/// Returns a point for each contestant: the mean nanoseconds of a load, and the page bytes per byte
/// of memory. Contestants without one of the two figures are left out.
fn points(figures: &[&Figures]) -> Vec<Point> {
    let point = |f: &&Figures| {
        let load = f.load.map(|n| n.mean).filter(|ns| *ns > 0.0)?;
        Some(Point {
            label: f.name.to_string(),
            hue: theme::of_contestant(&f.name.contestant),
            at: (load, density(f)?),
        })
    };
    figures.iter().filter_map(point).collect()
}

pub(super) fn draw(figures: &[&Figures], title: &str, method: &str) -> Result<String> {
    let points = points(figures);
    let scatter = Scatter {
        title,
        method,
        hues: theme::key(points.iter().map(|p| p.label.as_str())),
        across: Ruler {
            scale: Scale::Log,
            caption: "a load, mean: less is faster",
            told: chart::time,
        },
        up: Ruler {
            scale: Scale::Linear,
            caption: "page bytes for each resident byte: more is denser",
            told: chart::brief,
        },
        height: PLOT_HEIGHT,
        points,
    };
    Ok(scatter.draw()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::figures;

    #[test]
    fn a_point_is_where_the_figures_are_and_who_keeps_nothing_has_none() {
        let mut bare = figures("codec/lz4", 1, 100.0, 1);
        bare.memory.resident_bytes = None;
        let store = figures("zswap-core/zsmalloc/lz4", 1, 400.0, 131_072);
        let points = points(&[&bare, &store]);
        assert_eq!(points.len(), 1);
        assert_eq!(points[0].label, "zswap-core/zsmalloc/lz4");
        assert_eq!(points[0].at, (150.0, 2.0));
    }
}
