//! Draws a chart with one row for each contestant. The marks of a row lie along a logarithmic axis.

use measure::chart::{self, Axis, FONT, Hue, MARGIN, Mark, Scale, Side, WIDTH};

use crate::error::Result;

const ROW: i32 = 22;

/// The row of one contestant.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    pub(super) label: String,
    pub(super) hue: Hue,
    /// The value of each mark; `None` if it was not measured.
    pub(super) values: Vec<Option<f64>>,
    /// The text at the right end of the row.
    pub(super) note: String,
}

pub(super) struct Rows<'a> {
    pub(super) title: &'a str,
    pub(super) method: &'a str,
    pub(super) marks: Vec<(Mark, String)>,
    pub(super) hues: Vec<(String, Hue)>,
    pub(super) told: fn(f64) -> String,
    pub(super) rows: Vec<Row>,
}

impl Rows<'_> {
    pub(super) fn draw(&self) -> Result<String> {
        let key = chart::top(self.method) + FONT / 2;
        let first = key + 2 * FONT + 22;
        let bottom = first + ROW * i32::try_from(self.rows.len().max(1)).unwrap_or(i32::MAX / 100);
        let widest = |text: fn(&Row) -> &str| {
            self.rows.iter().map(|row| chart::width(text(row))).max().unwrap_or(0)
        };
        let left = MARGIN + widest(|row| &row.label) + 10;
        let right = WIDTH - MARGIN - widest(|row| &row.note) - 10;
        let values = self.rows.iter().flat_map(|row| row.values.iter().flatten().copied());
        let axis = Axis::over(Scale::Log, values, (left, right));
        Ok(chart::picture(bottom + 8 + FONT + MARGIN, self.title, self.method, |canvas| {
            canvas.key(&self.marks, &[], key)?;
            canvas.key(&[], &self.hues, key + FONT + 6)?;
            canvas.grid_across(&axis, (first, bottom), self.told)?;
            for (row, n) in self.rows.iter().zip(0..) {
                let y = first + ROW * n + ROW / 2;
                canvas.text(&row.label, (left - 8, y), Side::Left, row.hue)?;
                canvas.text(&row.note, (WIDTH - MARGIN, y), Side::Left, row.hue)?;
                let places: Vec<Option<(i32, i32)>> =
                    row.values.iter().map(|value| Some((axis.place((*value)?), y))).collect();
                let ends = places.iter().flatten();
                if let (Some(&from), Some(&to)) =
                    (ends.clone().min_by_key(|p| p.0), ends.max_by_key(|p| p.0))
                {
                    canvas.line(vec![from, to], row.hue, 1)?;
                }
                for ((mark, _), place) in self.marks.iter().zip(places) {
                    if let Some(place) = place {
                        canvas.mark(*mark, place, row.hue)?;
                    }
                }
            }
            Ok(())
        })?)
    }
}
