//! The colours of the pictures, each for light pages and for dark ones.
//!
//! A picture is drawn in the light ones, on a ground of its own, and holds a style that puts each
//! dark one in the place of its light one for whoever prefers that. It is legible either way.

use std::fmt::Write;

use plotters::style::RGBColor;

/// A colour, and what takes its place on a dark ground.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Hue {
    pub(super) light: RGBColor,
    dark: RGBColor,
}

const fn hue(light: (u8, u8, u8), dark: (u8, u8, u8)) -> Hue {
    Hue { light: RGBColor(light.0, light.1, light.2), dark: RGBColor(dark.0, dark.1, dark.2) }
}

pub(super) const GROUND: Hue = hue((255, 255, 255), (21, 25, 31));
pub(super) const INK: Hue = hue((34, 34, 34), (230, 230, 230));
pub(super) const FAINT: Hue = hue((90, 90, 90), (168, 173, 181));
pub(super) const GRID: Hue = hue((221, 221, 221), (58, 63, 70));

const BLUE: Hue = hue((0, 97, 158), (93, 184, 240));
const GREEN: Hue = hue((0, 117, 88), (62, 214, 168));
const ORANGE: Hue = hue((176, 76, 0), (255, 145, 71));
const PURPLE: Hue = hue((152, 56, 118), (233, 163, 203));

/// Those that words and marks have.
const ON_GROUND: [Hue; 6] = [INK, FAINT, BLUE, GREEN, ORANGE, PURPLE];

/// What a contestant is, by colour: its name's beginning, how it is told, its colour.
const FAMILIES: [(&str, &str, Hue); 5] = [
    ("codec", "codec alone", FAINT),
    ("zswap-core", "this project's store", BLUE),
    ("zram", "this project's disk", GREEN),
    ("map-", "map of boxed blocks", ORANGE),
    ("kernel-", "running kernel", PURPLE),
];

/// The colour of a contestant.
pub(super) fn of_contestant(contestant: &str) -> Hue {
    let family = FAMILIES.iter().find(|(start, ..)| contestant.starts_with(start));
    family.map_or(INK, |&(.., hue)| hue)
}

/// What the colours of these contestants mean.
pub(super) fn key<'a>(contestants: impl Iterator<Item = &'a str> + Clone) -> Vec<(String, Hue)> {
    FAMILIES
        .iter()
        .filter(|(start, ..)| contestants.clone().any(|name| name.starts_with(start)))
        .map(|&(_, told, hue)| (told.to_owned(), hue))
        .collect()
}

/// Colours for `n` lines that are no contestants.
pub(super) fn nth(n: usize) -> Hue {
    [ORANGE, GREEN, BLUE, PURPLE][n % 4]
}

/// The style that a picture holds.
pub(super) fn style() -> String {
    let mut css = String::from("@media (prefers-color-scheme: dark) {");
    for hue in ON_GROUND.into_iter().chain([GROUND, GRID]) {
        let (light, dark) = (code(hue.light), code(hue.dark));
        // Writing to a string does not fail.
        let _ = write!(
            css,
            " [fill=\"{light}\"] {{ fill: {dark}; }} [stroke=\"{light}\"] {{ stroke: {dark}; }}"
        );
    }
    css.push_str(" }");
    css
}

/// As the drawing library writes it.
fn code(RGBColor(red, green, blue): RGBColor) -> String {
    format!("#{red:02X}{green:02X}{blue:02X}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The contrast of two colours as the Web Content Accessibility Guidelines reckon it.
    fn contrast(a: RGBColor, b: RGBColor) -> f64 {
        let luminance = |RGBColor(red, green, blue): RGBColor| {
            let part = |value: u8| {
                let value = f64::from(value) / 255.0;
                if value <= 0.04045 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
            };
            0.2126 * part(red) + 0.7152 * part(green) + 0.0722 * part(blue)
        };
        let (a, b) = (luminance(a), luminance(b));
        (a.max(b) + 0.05) / (a.min(b) + 0.05)
    }

    #[test]
    fn words_can_be_read_on_both_grounds() {
        for hue in ON_GROUND {
            assert!(contrast(hue.light, GROUND.light) >= 4.5, "{hue:?}");
            assert!(contrast(hue.dark, GROUND.dark) >= 4.5, "{hue:?}");
        }
        for colour in FAMILIES.iter().map(|f| f.2).chain((0..4).map(nth)) {
            assert!(ON_GROUND.contains(&colour));
        }
    }

    #[test]
    fn no_two_colours_are_one_in_the_light() {
        let all: Vec<Hue> = ON_GROUND.into_iter().chain([GROUND, GRID]).collect();
        for (i, hue) in all.iter().enumerate() {
            assert!(all[i + 1..].iter().all(|other| other.light != hue.light), "{hue:?}");
        }
    }
}
