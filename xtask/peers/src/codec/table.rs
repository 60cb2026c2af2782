//! Prints the rows as text.

use std::fmt::Write;

use super::row::{Row, Spread};

pub(super) fn render(rows: &[Row], rounds: usize) -> String {
    let mut text = format!(
        "{rounds} rounds; thread CPU time; times faster than liblz4 within a round: median [quartiles]\n"
    );
    let width = rows.iter().map(|row| row.codec.len()).max().unwrap_or(0).max(8);
    let mut file = "";
    for row in rows {
        if row.file != file {
            file = &row.file;
            line(&mut text, format_args!("-- {file}, {} pages", row.pages));
            line(
                &mut text,
                format_args!(
                    "{:width$} {:>8} {:>8} {:>9} {:>22} {:>9} {:>22}",
                    "codec", "bytes", "x", "comp. ns", "x faster", "dec. ns", "x faster"
                ),
            );
        }
        line(
            &mut text,
            format_args!(
                "{:width$} {:>8.1} {:>8.3} {:>9.0} {:>22} {:>9.0} {:>22}",
                row.codec,
                row.bytes,
                row.bytes_over_liblz4,
                row.compress_ns,
                told(row.compress_faster),
                row.decompress_ns,
                told(row.decompress_faster)
            ),
        );
    }
    text
}

fn told(Spread { median, lower, upper }: Spread) -> String {
    format!("{median:.3} [{lower:.3} {upper:.3}]")
}

fn line(text: &mut String, what: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    let _ = writeln!(text, "{what}");
}
