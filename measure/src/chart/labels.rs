//! Placement of the labels of a scatter plot: as near to their points as they fit without overlapping.

/// A rectangle in pixels, including its edges.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Area {
    /// The leftmost column.
    pub(super) left: i32,
    /// The rightmost column.
    pub(super) right: i32,
    /// The highest row, which has the smallest number.
    pub(super) top: i32,
    /// The lowest row.
    pub(super) bottom: i32,
}

impl Area {
    fn inside(self, frame: Area) -> bool {
        self.left >= frame.left
            && self.right <= frame.right
            && self.top >= frame.top
            && self.bottom <= frame.bottom
    }

    /// Returns the number of pixels that two areas share.
    fn shared(self, other: Area) -> i64 {
        let length = |a: i32, b: i32| i64::from((b - a + 1).max(0));
        length(self.left.max(other.left), self.right.min(other.right))
            * length(self.top.max(other.top), self.bottom.min(other.bottom))
    }
}

/// Sizes of points and labels as drawn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Drawn {
    /// Pixels from the centre of a point to its edge.
    pub(super) radius: i32,
    /// Height of a label in pixels.
    pub(super) height: i32,
}

/// Places the labels of points and returns their areas. `widths` are the labels' widths in pixels, in
/// the order of the points. Each label goes as near to its point as possible: inside the frame, and
/// without covering points or earlier labels. If that is impossible, it goes where it covers the least.
pub(super) fn place_labels(
    points: &[(i32, i32)],
    widths: &[i32],
    drawn: Drawn,
    frame: Area,
) -> Vec<Area> {
    let Drawn { radius, height } = drawn;
    let dot = |&(x, y): &(i32, i32)| Area {
        left: x - radius,
        right: x + radius,
        top: y - radius,
        bottom: y + radius,
    };
    let mut taken: Vec<Area> = points.iter().map(dot).collect();
    let mut areas = Vec::with_capacity(points.len());
    for (&(x, y), &width) in points.iter().zip(widths) {
        let beside = |step: i32| {
            // A label that is further up or down is also further aside, so that the line to it is visible.
            let gap = radius + 4 + step.abs() * 3;
            let top = y - height / 2 + step * (height + 2);
            [(x + gap, top), (x - gap - width, top)]
        };
        let steps = (0..24).flat_map(|n: i32| [n, -n]);
        let best = steps
            .flat_map(beside)
            .map(|(left, top)| Area { left, right: left + width, top, bottom: top + height })
            .min_by_key(|area| {
                let covered: i64 = taken.iter().map(|other| area.shared(*other)).sum();
                (!area.inside(frame), covered)
            })
            .unwrap_or(frame);
        taken.push(best);
        areas.push(best);
    }
    areas
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_keep_clear_of_each_other_and_stay_inside() {
        let frame = Area { left: 60, right: 900, top: 40, bottom: 540 };
        let drawn = Drawn { radius: 5, height: 15 };
        let points =
            [(100, 100), (104, 102), (108, 98), (890, 500), (62, 538), (300, 42), (300, 50)];
        let areas = place_labels(&points, &[190; 7], drawn, frame);
        assert_eq!(areas.len(), points.len());
        for (i, area) in areas.iter().enumerate() {
            assert!(area.inside(frame), "{area:?}");
            for other in &areas[i + 1..] {
                assert_eq!(area.shared(*other), 0, "{area:?} and {other:?}");
            }
        }
    }
}
