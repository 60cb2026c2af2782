//! Figures by name over rounds, and their medians.

use std::time::{Duration, Instant};

/// The rounds of one measurement.
#[derive(Debug, Default)]
pub(crate) struct Rounds {
    names: Vec<&'static str>,
    /// For each name its value in each round.
    values: Vec<Vec<f64>>,
}

impl Rounds {
    /// Calls `round` with its number until `time` is over, at least three times after a first one that does not
    /// count. Each round returns the same names.
    pub(crate) fn run(
        time: Duration,
        mut round: impl FnMut(usize) -> Vec<(&'static str, f64)>,
    ) -> Self {
        let mut rounds = Rounds::default();
        round(0);
        let begun = Instant::now();
        while rounds.count() < 3 || begun.elapsed() < time {
            for (name, value) in round(rounds.count() + 1) {
                match rounds.names.iter().position(|known| *known == name) {
                    Some(at) => rounds.values[at].push(value),
                    None => {
                        rounds.names.push(name);
                        rounds.values.push(vec![value]);
                    }
                }
            }
        }
        rounds
    }

    pub(crate) fn count(&self) -> usize {
        self.values.first().map_or(0, Vec::len)
    }

    fn of(&self, name: &str) -> &[f64] {
        let at = self.names.iter().position(|known| *known == name);
        at.map_or(&[], |at| &self.values[at])
    }

    /// Returns the median of the rounds' values; not a number if there are none.
    pub(crate) fn median(&self, name: &str) -> f64 {
        measure::median(self.of(name).to_vec()).unwrap_or(f64::NAN)
    }

    /// Returns the median of the rounds' quotients: both values of a quotient are of the same round.
    pub(crate) fn ratio(&self, over: &str, under: &str) -> f64 {
        let pairs = self.of(over).iter().zip(self.of(under));
        measure::median(pairs.map(|(over, under)| over / under).collect()).unwrap_or(f64::NAN)
    }
}
