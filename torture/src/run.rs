//! A run: it plays rounds until time is up or something is found, and then adds up the results.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use compressors::AcompEngine;
use serde_json::{Value, json};
use zpool_base::sync::test_rng::Rng;

use crate::action::{Action, MOST_THREADS, Tally};
use crate::clock::Clock;
use crate::config::Config;
use crate::finding::{Finding, Findings, watch_panics};
use crate::round::{IDLE, Round, Run};
use crate::rules::Rule;

/// A run of at least this length must have performed every kind of action and overlapped it with another.
pub const COVERS_FROM: Duration = Duration::from_secs(30);
/// How long a thread may stay in one call.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// Configurations to draw before giving up on finding one with the requested names.
const MOST_DRAWS: usize = 10_000;

/// The options of a run.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long to run.
    pub length: Duration,
    /// The number of threads.
    pub threads: usize,
    /// The seed of all randomness.
    pub seed: u64,
    /// The first round; each round has its own seed.
    pub from_round: u64,
    /// The most keys in a round.
    pub keys: usize,
    /// Names that a configuration must contain.
    pub only: Vec<String>,
    /// Actions to leave out.
    pub skip: Vec<Action>,
}

/// The result of a run.
#[derive(Debug)]
pub struct Report {
    /// The finding, with its round and configuration.
    pub finding: Option<(Finding, u64, String)>,
    /// Rounds played.
    pub rounds: u64,
    /// Operations judged.
    pub judged: u64,
    /// How long the run took.
    pub elapsed: Duration,
    /// Each action's runs and overlaps.
    pub actions: Vec<(Action, u64, u64)>,
    /// Refusals by rule.
    pub refusals: Vec<(Rule, u64)>,
    /// What the run did not cover, if that makes it inconclusive.
    pub uncovered: Option<String>,
}

/// Runs rounds until time is up or something is found. `watch` gets the run before it starts.
///
/// # Errors
/// Returns, in words, why the run could not start or could not make a round.
pub fn run(options: &Options, watch: impl Fn(&Arc<Run>)) -> Result<Report, String> {
    if !(1..=MOST_THREADS).contains(&options.threads) {
        return Err(format!("{} threads: give 1 to {MOST_THREADS}", options.threads));
    }
    if !(1..=4096).contains(&options.keys) {
        return Err(format!("{} keys: give 1 to 4096", options.keys));
    }
    watch_panics();
    let engine = AcompEngine::new(2, 16).map_err(|error| format!("no engine: {error}"))?;
    let run = Arc::new(Run {
        clock: Arc::new(Clock::default()),
        tally: Arc::new(Tally::default()),
        findings: Arc::new(Findings::default()),
        refusals: std::array::from_fn(|_| AtomicU64::new(0)),
        engine: Arc::new(engine),
        doing: (0..options.threads).map(|_| AtomicU64::new(IDLE)).collect(),
        judged: AtomicU64::new(0),
    });
    watch(&run);
    let began = Instant::now();
    let until = began + options.length;
    let mut rounds = 0;
    let mut finding = None;
    while Instant::now() < until {
        let number = options.from_round + rounds;
        let config = draw(options, number)?;
        let shown = config.to_string();
        Round::new(&run, config, options.threads)?.play(until);
        rounds += 1;
        if let Some(first) = run.findings.first() {
            finding = Some((first, number, shown));
            break;
        }
    }
    let of = |action: Action| {
        let (ran, overlapped) = run.tally.of(action);
        (action, ran, overlapped)
    };
    let actions: Vec<_> = Action::ALL.into_iter().map(of).collect();
    let refusals = Rule::ALL.into_iter().zip(&run.refusals);
    let refusals = refusals.map(|(rule, n)| (rule, n.load(Ordering::SeqCst))).collect();
    let expected = options.length >= COVERS_FROM && options.only.is_empty() && finding.is_none();
    let uncovered = if expected { uncovered(&actions, &options.skip) } else { None };
    let judged = run.judged.load(Ordering::SeqCst);
    Ok(Report { finding, rounds, judged, elapsed: began.elapsed(), actions, refusals, uncovered })
}

fn draw(options: &Options, round: u64) -> Result<Config, String> {
    let mut rng = Rng::new(options.seed ^ round.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let mut draws = (0..MOST_DRAWS).map(|_| Config::draw(rng.next(), options.keys, &options.skip));
    let found = draws.find(|config| config.has(&options.only));
    found.ok_or_else(|| format!("no configuration contains {}", options.only.join(" and ")))
}

/// Names the actions that a whole run did not perform or that overlapped nothing. None if there are
/// no such actions.
fn uncovered(actions: &[(Action, u64, u64)], skip: &[Action]) -> Option<String> {
    let counts = |action: &Action| action.is_available() && !skip.contains(action);
    let missing = actions
        .iter()
        .filter(|(action, ran, overlapped)| counts(action) && (*ran == 0 || *overlapped == 0));
    let missing: Vec<String> = missing
        .map(|(action, ran, overlapped)| {
            format!("{} ran {ran} times and overlapped {overlapped}", action.name())
        })
        .collect();
    (!missing.is_empty()).then(|| missing.join("; "))
}

impl Report {
    /// Returns whether nothing was found and everything ran.
    pub fn is_good(&self) -> bool {
        self.finding.is_none() && self.uncovered.is_none()
    }

    /// Returns the report as JSON.
    pub fn to_json(&self, seed: u64) -> Value {
        let finding = self.finding.as_ref().map(|(finding, round, config)| {
            json!({"rule": finding.rule, "what": finding.what, "round": round, "config": config})
        });
        let actions: serde_json::Map<String, Value> = self
            .actions
            .iter()
            .map(|(action, ran, over)| {
                (action.name().to_owned(), json!({"ran": ran, "overlapped": over}))
            })
            .collect();
        let refusals: serde_json::Map<String, Value> =
            self.refusals.iter().map(|(rule, n)| (format!("{rule:?}"), json!(n))).collect();
        json!({
            "seed": seed,
            "seconds": self.elapsed.as_secs_f64(),
            "rounds": self.rounds,
            "operations": self.judged,
            "finding": finding,
            "uncovered": self.uncovered,
            "actions": actions,
            "refusals": refusals,
        })
    }

    /// Returns the report as text.
    pub fn to_text(&self, seed: u64) -> String {
        let mut text = format!(
            "torture: seed {seed}, {} rounds, {} operations on keys in {:.1} s\n",
            self.rounds,
            self.judged,
            self.elapsed.as_secs_f64()
        );
        for (action, ran, overlapped) in &self.actions {
            let note = if action.is_available() { "" } else { "  (not available here)" };
            let name = action.name();
            let _ = writeln!(text, "  {name:<27} ran {ran:>9}  overlapped {overlapped:>9}{note}");
        }
        let refused = self.refusals.iter().filter(|(_, n)| *n > 0);
        let refused: Vec<String> = refused.map(|(rule, n)| format!("{rule:?} {n}")).collect();
        let none = if refused.is_empty() { "none" } else { "" };
        let _ = writeln!(text, "refusals that a rule allows: {}{none}", refused.join(", "));
        if let Some(uncovered) = &self.uncovered {
            let _ = writeln!(text, "NOT COVERED: {uncovered}");
        }
        if let Some((finding, round, config)) = &self.finding {
            let _ = writeln!(
                text,
                "FOUND after {:.1} s: {}\n{}\nconfiguration: {config}\nagain: --seed {seed} \
                 --from-round {round}",
                self.elapsed.as_secs_f64(),
                finding.rule,
                finding.what
            );
        }
        text
    }
}

impl Run {
    /// Describes what each thread is doing, for a run that hangs.
    pub fn what_threads_do(&self) -> String {
        let mut text = String::new();
        for (me, doing) in self.doing.iter().enumerate() {
            let word = doing.load(Ordering::SeqCst);
            if word == IDLE {
                let _ = writeln!(text, "thread {me}: nothing");
                continue;
            }
            let name = Action::ALL.get((word >> 56) as usize).map_or("?", |action| action.name());
            let since = word & ((1 << 56) - 1);
            let _ = writeln!(text, "thread {me}: {name}, since stamp {since}");
        }
        let _ = write!(text, "the last stamp is {}", self.clock.last());
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_action_that_never_ran_or_met_nothing_is_named() {
        let all = Action::ALL.map(|action| (action, 5, 5));
        assert_eq!(uncovered(&all, &[]), None);
        let mut some = all;
        some[Action::Take as usize].2 = 0;
        some[Action::Shrink as usize].1 = 0;
        let text = uncovered(&some, &[]).unwrap();
        assert!(
            text.contains("take ran 5 times and overlapped 0") && text.contains("shrink ran 0")
        );
        assert_eq!(uncovered(&some, &[Action::Take, Action::Shrink]), None);
    }
}
