//! Density against load cost, a point for each pair, as an SVG.
//!
//! The ground is white whatever page the picture stands on, so it is as legible on a dark one. The
//! file is replaced in one step: whoever looks sees the old picture or the new one.

use std::path::Path;

use measure::labels::{Area, Drawn, place_labels};
use measure::replace;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::error::{Error, Result, one_line};
use crate::figures::Figures;

const WIDTH: u32 = 960;
const HEIGHT: u32 = 600;
const FONT: i32 = 15;
const RADIUS: i32 = 5;
const INK: RGBColor = RGBColor(34, 34, 34);
const GRID: RGBColor = RGBColor(221, 221, 221);
/// A hue for each zpool, told apart in print and by the colour-blind (Okabe and Ito's).
const HUES: [RGBColor; 4] =
    [RGBColor(0, 114, 178), RGBColor(213, 94, 0), RGBColor(0, 158, 115), RGBColor(204, 121, 167)];

/// One pair's place in the picture.
#[derive(Clone, PartialEq, Debug)]
struct Point {
    label: String,
    zpool: usize,
    /// Microseconds of a load.
    load: f64,
    /// Page bytes for each byte of memory.
    ratio: f64,
}

/// Writes the picture to `path`, over what is there. Returns the pairs left out of it, which have
/// no load that was timed or did not keep their pages.
pub(crate) fn write(path: &Path, title: &str, figures: &[Figures]) -> Result<usize> {
    let points = points(figures);
    let svg = draw(title, &points)?;
    replace(path, svg.as_bytes())
        .map_err(|source| Error::Plot { path: path.to_owned(), source })?;
    Ok(figures.len() - points.len())
}

fn points(figures: &[Figures]) -> Vec<Point> {
    let mut zpools: Vec<&str> = Vec::new();
    let mut points = Vec::new();
    for f in figures.iter().filter(|f| f.verified()) {
        let (Some(load), Some(ratio)) = (f.load, f.memory.ratio()) else { continue };
        let known = zpools.iter().position(|zpool| *zpool == f.zpool);
        let zpool = known.unwrap_or_else(|| {
            zpools.push(&f.zpool);
            zpools.len() - 1
        });
        let label = one_line(&format!("{}/{}", f.zpool, f.compressor));
        points.push(Point { label, zpool, load: load.mean / 1000.0, ratio });
    }
    points
}

fn draw(title: &str, points: &[Point]) -> Result<String> {
    let mut svg = String::new();
    draw_into(&mut svg, title, points)
        .map_err(|error| Error::Draw { reason: error.to_string() })?;
    Ok(svg)
}

/// What drawing can fail with.
type Failure = Box<dyn std::error::Error>;

fn draw_into(svg: &mut String, title: &str, points: &[Point]) -> std::result::Result<(), Failure> {
    let most = |part: fn(&Point) -> f64| points.iter().map(part).fold(0.0, f64::max);
    let (right, top) = (ceiling(most(|p| p.load)), ceiling(most(|p| p.ratio)));
    let root = SVGBackend::with_string(svg, (WIDTH, HEIGHT)).into_drawing_area();
    root.fill(&WHITE)?;
    let font = ("sans-serif", FONT).into_font().color(&INK);
    let mut chart = ChartBuilder::on(&root)
        .caption(one_line(title), ("sans-serif", FONT + 4).into_font().color(&INK))
        .margin(16)
        .x_label_area_size(48)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..right, 0.0..top)?;
    chart
        .configure_mesh()
        .x_desc("load, µs (less is faster)")
        .y_desc("page bytes per byte of memory, all counted (more is denser)")
        .axis_style(INK)
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .label_style(font.clone())
        .axis_desc_style(font.clone())
        .draw()?;
    let places: Vec<(i32, i32)> =
        points.iter().map(|p| chart.backend_coord(&(p.load, p.ratio))).collect();
    let (x_range, y_range) = chart.plotting_area().get_pixel_range();
    let frame =
        Area { left: x_range.start, right: x_range.end, top: y_range.start, bottom: y_range.end };
    // No font is at hand to measure with: a generous guess.
    let width = |p: &Point| p.label.chars().count() as i32 * FONT * 6 / 10;
    let widths: Vec<i32> = points.iter().map(width).collect();
    let drawn = Drawn { radius: RADIUS, height: FONT };
    let areas = place_labels(&places, &widths, drawn, frame);
    for ((point, place), area) in points.iter().zip(&places).zip(areas) {
        let hue = HUES[point.zpool % HUES.len()];
        root.draw(&Circle::new(*place, RADIUS, hue.filled()))?;
        let style = ("sans-serif", FONT).into_font().color(&hue);
        // The end that is near the point is where it was put; the other is a guess.
        let (near, x) = match area.left > place.0 {
            true => (HPos::Left, area.left),
            false => (HPos::Right, area.right),
        };
        let style = style.pos(Pos::new(near, VPos::Top));
        root.draw(&Text::new(point.label.clone(), (x, area.top), style))?;
    }
    root.present()?;
    Ok(())
}

/// The end of an axis that shows `most` with some room above.
fn ceiling(most: f64) -> f64 {
    if most > 0.0 && most.is_finite() { most * 1.15 } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::report::examples;

    fn point(label: &str, load: f64, ratio: f64) -> Point {
        Point { label: label.into(), zpool: 0, load, ratio }
    }

    #[test]
    fn every_verified_pair_has_its_point_where_its_figures_are() {
        let points = points(&examples::figures());
        let [good, _] = examples::figures();
        assert_eq!(
            points,
            [Point {
                load: 2.31,
                ratio: good.memory.ratio().unwrap(),
                ..point("zbud/lz4", 0.0, 0.0)
            }]
        );
        let svg = draw("a title", &points).unwrap();
        assert_eq!(svg.matches("<circle").count(), 1);
        assert!(svg.contains("zbud/lz4") && svg.contains("a title") && svg.contains("µs"));
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{svg}");
    }

    #[test]
    fn text_from_outside_is_escaped() {
        let svg = draw("<a & b>", &[point("z/\"<c>\"&", 1.0, 2.0)]).unwrap();
        assert!(svg.contains("&lt;a &amp; b&gt;") && svg.contains("&lt;c&gt;"), "{svg}");
        assert!(!svg.contains("<a") && !svg.contains("<c>"));
    }

    #[test]
    fn no_figures_make_an_empty_picture() {
        for points in [vec![], vec![point("z", 0.0, 0.0)], vec![point("z", f64::INFINITY, 1.0)]] {
            assert!(draw("nothing", &points).is_ok(), "{points:?}");
        }
    }

    #[test]
    fn the_old_picture_stays_until_the_new_one_is_whole() {
        let folder = std::env::temp_dir().join(format!("zswap-plot-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("plot.svg");
        for title in ["first", "second"] {
            assert_eq!(write(&path, title, &examples::figures()).unwrap(), 1);
            assert!(fs::read_to_string(&path).unwrap().contains(title));
        }
        assert!(write(&folder.join("no folder/plot.svg"), "t", &[]).is_err());
        assert!(write(&folder, "t", &[]).is_err());
        #[cfg(unix)]
        {
            let link = folder.join("link.svg");
            std::os::unix::fs::symlink("plot.svg", &link).unwrap();
            write(&link, "through a link", &[]).unwrap();
            assert!(fs::read_to_string(&path).unwrap().contains("through a link"));
            assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
            fs::remove_file(&link).unwrap();
            assert!(write(Path::new("/dev/null"), "t", &[]).is_err());
        }
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "something was left behind");
        fs::remove_dir_all(&folder).unwrap();
    }
}
