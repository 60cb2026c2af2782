//! Which pair to pick, and by how much it beats the next one.
//!
//! There are three questions. Each has a figure; the pair with the least figure is picked:
//! * density: the memory per page, with everything counted;
//! * speed: the mean times of a store and a load, added;
//! * both: the product of the two. A pair that needs half the memory may take twice the time.
//!
//! Pairs that did not keep their pages do not take part. Pairs without times take part only in
//! density. A difference in speed or both is clear if the winner's figure in its slowest rounds is less
//! than the next pair's figure in its fastest rounds. Memory is measured only once, so a difference in
//! density is clear if it is at least half a percent, or two percent with several threads.

use measure::{Figures, Timing};

/// The winner of one question.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Pick {
    /// Its index among the pairs.
    pub(crate) winner: usize,
    pub(crate) next: Option<Next>,
}

/// The second-best pair.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Next {
    pub(crate) pair: usize,
    /// By how many percent the winner's figure is less than this pair's.
    pub(crate) margin: f64,
    /// Whether the difference is clear (see the module); `None` for speed and both after a single
    /// round.
    pub(crate) clear: Option<bool>,
}

/// The answers; `None` where no pair has a figure.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) density: Option<Pick>,
    pub(crate) speed: Option<Pick>,
    pub(crate) both: Option<Pick>,
}

/// The least difference in memory that is clear, in percent.
const HALF_A_PERCENT: f64 = 0.5;
/// The least difference in memory that is clear with several threads, in percent. With several threads,
/// chance decides where objects lie: repeated fillings of a small set differed by up to this much.
const TWO_PERCENT: f64 = 2.0;

/// A pair's figure with the least and the greatest value over its rounds.
#[derive(Clone, Copy)]
struct Entrant {
    pair: usize,
    value: f64,
    range: (f64, f64),
}

impl Verdict {
    pub(crate) fn of(figures: &[Figures], rounds: u32, threads: usize) -> Self {
        let mut density = Vec::new();
        let mut speed = Vec::new();
        let mut both = Vec::new();
        for (pair, f) in figures.iter().enumerate().filter(|(_, f)| f.verified()) {
            let memory = f.ratio().filter(|ratio| *ratio > 0.0).map(f64::recip);
            if let Some(value) = memory {
                density.push(Entrant { pair, value, range: (value, value) });
            }
            let Some((value, range)) = time(f) else { continue };
            speed.push(Entrant { pair, value, range });
            if let Some(memory) = memory {
                let range = (memory * range.0, memory * range.1);
                both.push(Entrant { pair, value: memory * value, range });
            }
        }
        let apart =
            |winner: Entrant, next: Entrant| (rounds > 1).then_some(winner.range.1 < next.range.0);
        let tells = if threads > 1 { TWO_PERCENT } else { HALF_A_PERCENT };
        Verdict {
            density: pick(density, |_, _, margin| Some(margin >= tells)),
            speed: pick(speed, |winner, next, _| apart(winner, next)),
            both: pick(both, |winner, next, _| apart(winner, next)),
        }
    }

    /// Returns each question with its answer.
    pub(crate) fn answers(&self) -> [(&'static str, Option<&Pick>); 3] {
        [
            ("density", self.density.as_ref()),
            ("speed", self.speed.as_ref()),
            ("both", self.both.as_ref()),
        ]
    }
}

/// Returns the mean nanoseconds of a store and a load together, and their least and greatest value
/// over the rounds. `None` if stores or loads were not timed.
pub(crate) fn time(figures: &Figures) -> Option<(f64, (f64, f64))> {
    let (store, load) = figures.store.zip(figures.load)?;
    let sum = |part: fn(Timing) -> f64| part(store) + part(load);
    let range = (sum(|t| t.mean_least), sum(|t| t.mean_most));
    Some((sum(|t| t.mean), range)).filter(|(time, _)| *time > 0.0)
}

/// Picks the entrant with the least value, and the next one. Among equals, picks the earlier one.
/// Returns `None` if no entrant has a finite value.
fn pick(
    mut entrants: Vec<Entrant>,
    clear: impl Fn(Entrant, Entrant, f64) -> Option<bool>,
) -> Option<Pick> {
    entrants.retain(|entrant| entrant.value.is_finite());
    entrants.sort_by(|a, b| a.value.total_cmp(&b.value));
    let winner = *entrants.first()?;
    let next = entrants.get(1).map(|&next| {
        let margin = (1.0 - winner.value / next.value) * 100.0;
        Next { pair: next.pair, margin, clear: clear(winner, next, margin) }
    });
    Some(Pick { winner: winner.pair, next })
}

#[cfg(test)]
mod tests {
    use super::*;
    use measure::{Memory, Name, PoolUse, Summary, Turn};

    /// Makes a pair with this many bytes of pool for 10 pages. `means` has one time per round: the mean
    /// of the round's stores, and also of its loads.
    fn pair(pool_bytes: usize, means: &[f64], fault: Option<&str>) -> Figures {
        let pool = PoolUse { pages: 10, pool_bytes, ..PoolUse::default() };
        let memory = Memory { pool: Some(pool), ..Memory::default() };
        let fault = fault.map(str::to_owned);
        let turn = || Turn { pages: 10, memory, fault: fault.clone(), ..Turn::default() };
        let mut turns: Vec<Turn> = means
            .iter()
            .map(|&mean| {
                let s = Some(Summary { mean, p50: mean, p99: mean, p999: mean, per_second: 1.0 });
                Turn { store: s, load: s, ..turn() }
            })
            .collect();
        if turns.is_empty() {
            turns.push(turn());
        }
        Figures::over(Name::default(), 1, &turns)
    }

    fn next(pick: &Option<Pick>) -> (usize, Next) {
        let pick = pick.clone().unwrap();
        (pick.winner, pick.next.unwrap())
    }

    #[test]
    fn each_question_has_its_own_winner_and_margin() {
        let figures = [
            pair(10_000, &[400.0, 410.0, 390.0], None),
            pair(20_000, &[100.0, 110.0, 90.0], None),
            pair(11_000, &[200.0, 210.0, 190.0], None),
        ];
        let verdict = Verdict::of(&figures, 3, 1);
        let (winner, second) = next(&verdict.density);
        assert_eq!((winner, second.pair, second.clear), (0, 2, Some(true)));
        assert!((second.margin - 100.0 / 11.0).abs() < 1e-9, "{}", second.margin);
        let (winner, second) = next(&verdict.speed);
        assert_eq!((winner, second.pair, second.clear), (1, 2, Some(true)));
        assert_eq!(second.margin, 50.0);
        // The products are 20000 x 100 and 11000 x 200, and the rounds overlap.
        let (winner, second) = next(&verdict.both);
        assert_eq!((winner, second.pair, second.clear), (1, 2, Some(false)));
        assert!((second.margin - 100.0 / 11.0).abs() < 1e-9, "{}", second.margin);
    }

    #[test]
    fn what_the_rounds_do_not_tell_apart_is_not_clear() {
        let figures = [pair(10_000, &[100.0, 130.0], None), pair(10_020, &[120.0, 140.0], None)];
        let verdict = Verdict::of(&figures, 2, 1);
        assert_eq!(next(&verdict.density).1.clear, Some(false), "0.2 % of memory");
        assert_eq!(next(&verdict.speed).1.clear, Some(false));
        let denser = [pair(10_000, &[100.0], None), pair(10_100, &[100.0], None)];
        assert_eq!(next(&Verdict::of(&denser, 2, 1).density).1.clear, Some(true));
        assert_eq!(next(&Verdict::of(&denser, 2, 2).density).1.clear, Some(false));
        let one_round = Verdict::of(&figures, 1, 1);
        assert_eq!((next(&one_round.speed).1.clear, next(&one_round.both).1.clear), (None, None));
    }

    #[test]
    fn of_equals_the_first_wins_by_nothing() {
        let figures = [pair(10_000, &[100.0], None), pair(10_000, &[100.0], None)];
        let verdict = Verdict::of(&figures, 5, 1);
        for pick in [&verdict.density, &verdict.speed, &verdict.both] {
            let (winner, second) = next(pick);
            assert_eq!(
                (winner, second.pair, second.margin, second.clear),
                (0, 1, 0.0, Some(false))
            );
        }
    }

    #[test]
    fn pairs_without_figures_or_with_a_fault_are_not_asked() {
        let figures = [
            pair(1, &[1.0], Some("page 3 came back changed")),
            pair(0, &[50.0], None),
            pair(10_000, &[], None),
            pair(20_000, &[0.0], None),
        ];
        let verdict = Verdict::of(&figures, 3, 1);
        assert_eq!(next(&verdict.density).0, 2);
        assert_eq!(verdict.speed, Some(Pick { winner: 1, next: None }));
        assert_eq!(verdict.both, None);
        assert_eq!(Verdict::of(&figures[..1], 3, 1), Verdict::default());
        assert_eq!(Verdict::of(&[], 3, 1), Verdict::default());
    }
}
