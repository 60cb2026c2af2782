//! The colours of the pictures, each with a variant for light and for dark pages.
//!
//! A picture is drawn in the light colours on its own background. It contains a style that replaces
//! each colour with its dark variant for readers who prefer a dark theme.

use std::fmt::Write;

use plotters::style::RGBColor;

/// A colour and its replacement on a dark background.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hue {
    pub(super) light: RGBColor,
    dark: RGBColor,
}

const fn hue(light: (u8, u8, u8), dark: (u8, u8, u8)) -> Hue {
    Hue { light: RGBColor(light.0, light.1, light.2), dark: RGBColor(dark.0, dark.1, dark.2) }
}

pub(super) const GROUND: Hue = hue((255, 255, 255), (21, 25, 31));
pub(super) const GRID: Hue = hue((221, 221, 221), (58, 63, 70));
/// The colour of text.
pub const INK: Hue = hue((34, 34, 34), (230, 230, 230));
/// The colour of less important text and lines.
pub const FAINT: Hue = hue((90, 90, 90), (168, 173, 181));

// The next four colours are Okabe and Ito's, which can be distinguished in print and by colour-blind people. They
// are darkened until text in them is legible.

/// Okabe and Ito's blue.
pub const BLUE: Hue = hue((0, 97, 158), (93, 184, 240));
/// Okabe and Ito's bluish green.
pub const GREEN: Hue = hue((0, 117, 88), (62, 214, 168));
/// Okabe and Ito's vermillion.
pub const ORANGE: Hue = hue((176, 76, 0), (255, 145, 71));
/// Okabe and Ito's reddish purple.
pub const PURPLE: Hue = hue((152, 56, 118), (233, 163, 203));

/// The colours of text and marks.
const ON_GROUND: [Hue; 6] = [INK, FAINT, BLUE, GREEN, ORANGE, PURPLE];

/// Returns the style element of a picture.
pub(super) fn style() -> String {
    let mut css = String::from("@media (prefers-color-scheme: dark) {");
    for hue in ON_GROUND.into_iter().chain([GROUND, GRID]) {
        let (light, dark) = (code(hue.light), code(hue.dark));
        // Writing to a string cannot fail.
        let _ = write!(
            css,
            " [fill=\"{light}\"] {{ fill: {dark}; }} [stroke=\"{light}\"] {{ stroke: {dark}; }}"
        );
    }
    css.push_str(" }");
    css
}

/// Writes a colour as the drawing library does: `#RRGGBB`.
fn code(RGBColor(red, green, blue): RGBColor) -> String {
    format!("#{red:02X}{green:02X}{blue:02X}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the contrast ratio of two colours, as the Web Content Accessibility Guidelines define it.
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
    }

    #[test]
    fn no_two_colours_are_one_in_the_light() {
        let all: Vec<Hue> = ON_GROUND.into_iter().chain([GROUND, GRID]).collect();
        for (i, hue) in all.iter().enumerate() {
            assert!(all[i + 1..].iter().all(|other| other.light != hue.light), "{hue:?}");
        }
    }
}
