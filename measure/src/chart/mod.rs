//! Pictures of figures, as SVG: a canvas with title and axes for custom drawings, and a [`Scatter`] plot.
//!
//! Every picture has its own background, light or dark as its reader prefers, so that it is legible
//! on any page. Text from outside is escaped.

mod axis;
mod canvas;
mod hue;
mod labels;
mod scatter;

pub use axis::{Axis, Scale, brief, count, time};
pub use canvas::{Canvas, FONT, MARGIN, Mark, Painted, RADIUS, Side, WIDTH, picture, top, width};
pub use hue::{BLUE, FAINT, GREEN, Hue, INK, ORANGE, PURPLE};
pub use scatter::{Point, Ruler, Scatter};
