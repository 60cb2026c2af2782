//! Pictures of figures, as SVG: a canvas with a title and axes for whatever is drawn by hand, and a
//! [`Scatter`].
//!
//! Every picture has a ground of its own, light or dark as its reader prefers, so that it is as legible
//! on a page of either kind. Text from outside is escaped.

mod axis;
mod canvas;
mod hue;
mod labels;
mod scatter;

pub use axis::{Axis, Scale, brief, count, time};
pub use canvas::{Canvas, FONT, MARGIN, Mark, Painted, RADIUS, Side, WIDTH, picture, top, width};
pub use hue::{BLUE, FAINT, GREEN, Hue, INK, ORANGE, PURPLE};
pub use scatter::{Point, Ruler, Scatter};
