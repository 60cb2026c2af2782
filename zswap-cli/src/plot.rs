//! A plot of density against load cost, with one point per pair, as an SVG.
//!
//! The file is replaced atomically: a reader sees the old picture or the new one.

use std::path::Path;

use measure::chart::{self, BLUE, GREEN, ORANGE, PURPLE, Point, Ruler, Scale, Scatter};
use measure::{Figures, replace};

use crate::contest;
use crate::error::{Error, Result, one_line};

/// Height of the vertical axis in pixels.
const HEIGHT: i32 = 480;
/// The hues of the zpools, one each. They repeat if there are more zpools.
const HUES: [chart::Hue; 4] = [BLUE, ORANGE, GREEN, PURPLE];

/// Writes the picture to `path`, replacing the file. Returns how many pairs were left out because
/// no load was timed or they did not keep their pages.
pub(crate) fn write(path: &Path, title: &str, figures: &[Figures]) -> Result<usize> {
    let points = points(figures);
    let left_out = figures.len() - points.len();
    let svg = draw(title, points)?;
    replace(path, svg.as_bytes())
        .map_err(|reason| Error::Plot { path: path.to_owned(), reason })?;
    Ok(left_out)
}

/// Returns a point for each pair that kept its pages and has figures: microseconds per load, and
/// page bytes per byte of memory.
fn points(figures: &[Figures]) -> Vec<Point> {
    let mut zpools: Vec<&str> = Vec::new();
    let mut points = Vec::new();
    for f in figures.iter().filter(|f| f.verified()) {
        let (Some(load), Some(ratio)) = (f.load, f.ratio()) else { continue };
        let name = contest::zpool(f);
        let known = zpools.iter().position(|zpool| *zpool == name);
        let zpool = known.unwrap_or_else(|| {
            zpools.push(name);
            zpools.len() - 1
        });
        let label = one_line(&format!("{name}/{}", f.name.compressor));
        points.push(Point {
            label,
            hue: HUES[zpool % HUES.len()],
            at: (load.mean / 1000.0, ratio),
        });
    }
    points
}

fn draw(title: &str, points: Vec<Point>) -> Result<String> {
    let scatter = Scatter {
        title: &one_line(title),
        method: "",
        hues: Vec::new(),
        across: Ruler {
            scale: Scale::FromZero,
            caption: "load, µs (less is faster)",
            told: chart::brief,
        },
        up: Ruler {
            scale: Scale::FromZero,
            caption: "page bytes per byte of memory, all counted (more is denser)",
            told: chart::brief,
        },
        height: HEIGHT,
        points,
    };
    scatter.draw().map_err(|error| Error::Draw { reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::report::examples;

    fn point(label: &str, load: f64, ratio: f64) -> Point {
        Point { label: label.into(), hue: BLUE, at: (load, ratio) }
    }

    #[test]
    fn every_verified_pair_has_its_point_where_its_figures_are() {
        let points = points(&examples::figures());
        let [good, _] = examples::figures();
        assert_eq!(points, [point("zbud/lz4", 2.31, good.ratio().unwrap())]);
        let svg = draw("a title", points).unwrap();
        assert_eq!(svg.matches("<circle").count(), 1);
        assert!(svg.contains("zbud/lz4") && svg.contains("a title") && svg.contains("µs"));
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{svg}");
    }

    #[test]
    fn text_from_outside_is_escaped() {
        let svg = draw("<a & b>", vec![point("z/\"<c>\"&", 1.0, 2.0)]).unwrap();
        assert!(svg.contains("&lt;a &amp; b&gt;") && svg.contains("&lt;c&gt;"), "{svg}");
        assert!(!svg.contains("<a") && !svg.contains("<c>"));
    }

    #[test]
    fn no_figures_make_an_empty_picture() {
        for points in [vec![], vec![point("z", 0.0, 0.0)], vec![point("z", f64::INFINITY, 1.0)]] {
            assert!(draw("nothing", points.clone()).is_ok(), "{points:?}");
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
