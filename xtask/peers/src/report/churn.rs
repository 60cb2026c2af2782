//! Draws a chart of fragmentation during an aging run: the pool bytes per compressed byte, with one
//! line for each mode of compaction.

use measure::chart::{self, Axis, FONT, INK, MARGIN, Scale, Side, WIDTH};

use super::aging::Mode;
use super::theme;
use crate::error::Result;

const PLOT_HEIGHT: i32 = 420;

pub(super) fn draw(modes: &[Mode], title: &str, method: &str) -> Result<String> {
    let head = chart::top(method) + FONT;
    let (top, bottom) = (head + 20, head + 20 + PLOT_HEIGHT);
    let told = |mode: &Mode| {
        let last = mode.samples.last().map_or(f64::NAN, |s| s.pool_per_compressed);
        format!("{}: {last:.3}", mode.name)
    };
    let widest = modes.iter().map(|mode| chart::width(&told(mode))).max().unwrap_or(0);
    let (left, right) = (MARGIN + 56, WIDTH - MARGIN - widest - 10);
    let all = || modes.iter().flat_map(|mode| &mode.samples);
    let across = Axis::over(Scale::Linear, all().map(|s| s.operations as f64), (left, right));
    // The axis begins at 1, a pool without waste.
    let densities = all().map(|s| s.pool_per_compressed).chain([1.0]);
    let up = Axis::over(Scale::Linear, densities, (bottom, top));
    // Where lines end close together, their labels are stacked.
    let mut ends: Vec<(usize, i32)> = modes
        .iter()
        .map(|mode| mode.samples.last().map_or(bottom, |s| up.place(s.pool_per_compressed)))
        .enumerate()
        .collect();
    ends.sort_by_key(|end| end.1);
    for i in 1..ends.len() {
        ends[i].1 = ends[i].1.max(ends[i - 1].1 + FONT + 2);
    }
    Ok(chart::picture(bottom + 48, title, method, |canvas| {
        let above = "bytes of the pool for each compressed byte: less is denser";
        canvas.text(above, (MARGIN, head), Side::Right, INK)?;
        canvas.text("operations", (right, bottom + 32), Side::Left, INK)?;
        canvas.grid_across(&across, (top, bottom), chart::count)?;
        canvas.grid_up(&up, (left, right), chart::brief)?;
        for (n, mode) in modes.iter().enumerate() {
            let place = |s: &super::aging::Sample| {
                (across.place(s.operations as f64), up.place(s.pool_per_compressed))
            };
            canvas.line(mode.samples.iter().map(place).collect(), theme::nth(n), 2)?;
        }
        for (n, y) in ends {
            if let Some(mode) = modes.get(n) {
                canvas.text(&told(mode), (right + 8, y), Side::Right, theme::nth(n))?;
            }
        }
        Ok(())
    })?)
}
