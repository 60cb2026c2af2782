//! An axis: the pixel of each value, and the values that label the axis.

/// How values are spread along an axis.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scale {
    /// Equal differences between values take equal lengths on the axis.
    Linear,
    /// As `Linear`, but the axis starts at zero.
    FromZero,
    /// Equal ratios between values take equal lengths on the axis. Only positive values can be shown.
    Log,
}

/// Maps the values between `least` and `most` to the pixels between `from` and `to`.
#[derive(Clone, Copy, Debug)]
pub struct Axis {
    scale: Scale,
    least: f64,
    most: f64,
    from: i32,
    to: i32,
}

impl Axis {
    /// Makes an axis that lies between two pixels and has room for all of `values`. Ignores values that are
    /// not finite and, on a logarithmic axis, those that are not positive.
    ///
    /// ```
    /// use measure::chart::{Axis, Scale};
    ///
    /// let axis = Axis::over(Scale::FromZero, [2.0, 4.0].into_iter(), (0, 460));
    /// assert_eq!((axis.place(0.0), axis.place(2.0)), (0, 200));
    /// assert_eq!(axis.ticks(), [0.0, 1.0, 2.0, 3.0, 4.0]);
    /// ```
    pub fn over(scale: Scale, values: impl Iterator<Item = f64>, (from, to): (i32, i32)) -> Self {
        let fits = |v: &f64| v.is_finite() && (scale != Scale::Log || *v > 0.0);
        let (least, most) = values
            .filter(fits)
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(v), b.max(v)));
        let (least, most) = if least > most { (1.0, 2.0) } else { (least, most) };
        let (least, most) = match scale {
            Scale::Log => (least / 1.15, most * 1.15),
            Scale::FromZero => (0.0, if most > 0.0 { most * 1.15 } else { 1.0 }),
            Scale::Linear => {
                let room = if most > least { (most - least) * 0.06 } else { 0.5 };
                // If no value is negative, the margin does not reach below zero.
                ((least - room).max(least.min(0.0)), most + room)
            }
        };
        Axis { scale, least, most, from, to }
    }

    /// Returns the pixel of a value. For a value beyond the axis, returns the nearest end.
    pub fn place(&self, value: f64) -> i32 {
        let share = match self.scale {
            Scale::Linear | Scale::FromZero => (value - self.least) / (self.most - self.least),
            Scale::Log => (value / self.least).ln() / (self.most / self.least).ln(),
        };
        let share = if share.is_nan() { 0.0 } else { share.clamp(0.0, 1.0) };
        self.from + (share * f64::from(self.to - self.from)).round() as i32
    }

    /// Returns the round values on the axis, in ascending order. They are meant as labels.
    pub fn ticks(&self) -> Vec<f64> {
        match self.scale {
            Scale::Linear | Scale::FromZero => {
                let step = round_up((self.most - self.least) / 7.0);
                let first = (self.least / step).ceil() as i64;
                let last = (self.most / step).floor() as i64;
                (first..=last).map(|n| n as f64 * step).collect()
            }
            Scale::Log => {
                let first = self.least.log10().floor() as i32;
                let last = self.most.log10().ceil() as i32;
                let few: &[f64] = if last - first > 5 { &[1.0] } else { &[1.0, 2.0, 5.0] };
                (first..=last)
                    .flat_map(|power| few.iter().map(move |part| part * 10f64.powi(power)))
                    .filter(|v| (self.least..=self.most).contains(v))
                    .collect()
            }
        }
    }
}

/// Rounds a value up to 1, 2 or 5 times a power of ten.
fn round_up(value: f64) -> f64 {
    let power = 10f64.powf(value.log10().floor());
    let part = value / power;
    let parts = [1.0, 2.0, 5.0, 10.0];
    // The tolerance covers the rounding of the division.
    power * parts.into_iter().find(|p| part <= p + 1e-9).unwrap_or(10.0)
}

/// Formats a value with as few decimals as it needs, at most three.
pub fn brief(value: f64) -> String {
    let text = format!("{value:.3}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    text.to_owned()
}

/// Formats nanoseconds in a suitable unit, to three digits.
pub fn time(ns: f64) -> String {
    let brief = |value: f64| match value {
        v if v >= 100.0 => brief(v.round()),
        v if v >= 10.0 => brief((v * 10.0).round() / 10.0),
        v => brief((v * 100.0).round() / 100.0),
    };
    match ns {
        ns if ns < 1e3 => format!("{} ns", brief(ns)),
        ns if ns < 1e6 => format!("{} µs", brief(ns / 1e3)),
        ns => format!("{} ms", brief(ns / 1e6)),
    }
}

/// Formats a count, with k for thousands and M for millions.
pub fn count(value: f64) -> String {
    match value {
        v if v < 1e3 => brief(v),
        v if v < 1e6 => format!("{}k", brief(v / 1e3)),
        v => format!("{}M", brief(v / 1e6)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_lie_in_order_between_the_ends_and_equal_factors_are_equal_lengths() {
        let axis = Axis::over(Scale::Log, [100.0, 400.0, 25_600.0].into_iter(), (200, 800));
        let places: Vec<i32> =
            [100.0, 400.0, 1600.0, 6400.0, 25_600.0].map(|v| axis.place(v)).to_vec();
        assert!(places[0] > 200 && places[4] < 800, "{places:?}");
        let steps: Vec<i32> = places.windows(2).map(|w| w[1] - w[0]).collect();
        assert!(steps.iter().all(|s| (s - steps[0]).abs() <= 1 && *s > 0), "{steps:?}");
        assert_eq!(axis.ticks(), [100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10_000.0, 20_000.0]);
    }

    #[test]
    fn a_linear_axis_may_run_upwards_on_the_screen() {
        let axis = Axis::over(Scale::Linear, [1.0, 1.4].into_iter(), (500, 100));
        assert!(axis.place(1.0) > axis.place(1.4));
        let texts: Vec<String> = axis.ticks().into_iter().map(brief).collect();
        assert_eq!(texts, ["1", "1.1", "1.2", "1.3", "1.4"]);
    }

    #[test]
    fn an_axis_from_zero_begins_there() {
        let axis = Axis::over(Scale::FromZero, [2.0, 4.0].into_iter(), (0, 460));
        assert_eq!((axis.place(0.0), axis.place(2.0), axis.place(4.0)), (0, 200, 400));
        assert_eq!(axis.ticks(), [0.0, 1.0, 2.0, 3.0, 4.0]);
    }

    #[test]
    fn nothing_and_what_is_no_number_have_an_axis_too() {
        for values in [vec![], vec![f64::NAN], vec![0.0], vec![3.0, 3.0]] {
            for scale in [Scale::Linear, Scale::FromZero, Scale::Log] {
                let axis = Axis::over(scale, values.iter().copied(), (0, 100));
                assert!(axis.ticks().len() < 40);
                assert!((0..=100).contains(&axis.place(f64::NAN)));
                assert!((0..=100).contains(&axis.place(0.0)));
            }
        }
    }

    #[test]
    fn units_suit_their_values() {
        assert_eq!(time(500.0), "500 ns");
        assert_eq!(time(2500.0), "2.5 µs");
        assert_eq!(
            [time(785_112.0), time(20_330.0), time(1372.0)],
            ["785 µs", "20.3 µs", "1.37 µs"]
        );
        assert_eq!(time(3e6), "3 ms");
        assert_eq!(count(250_000.0), "250k");
        assert_eq!(count(1.5e6), "1.5M");
    }
}
