//! Runs the jobs in `STEPS` in turn, the quick ones first. Prints the time of each, and a summary
//! line at the end.

use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::jobs::{
    api, bench, clippy, compare, cross, docs, examples, features, fmt, fuzz, loom, lzo, miri, msrv,
    nbd, outside, peers, test, torture, tsan,
};
use crate::tidy;
use crate::workspace::Workspace;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Continue after a step that fails. The job then fails at the end.
    #[arg(long)]
    keep_going: bool,
    /// Skip this step; may be given several times.
    #[arg(long, value_name = "STEP", value_parser = step_names())]
    skip: Vec<String>,
}

type Step = (&'static str, fn(&Workspace) -> Result<()>);

const STEPS: &[Step] = &[
    ("fmt", |_| fmt::run()),
    ("tidy", tidy::run),
    ("clippy", clippy::run),
    ("docs", |_| docs::run()),
    ("api", |ws| api::run(ws, &api::Args::default())),
    ("test", |_| test::run()),
    ("compare", |_| compare::run()),
    ("examples", examples::run),
    ("features", |_| features::run()),
    ("lzo", |_| lzo::run()),
    ("nbd", |_| nbd::run()),
    ("msrv", |_| msrv::run(&msrv::Args::default())),
    ("cross", |_| cross::run()),
    ("outside", outside::run),
    ("peers", peers::lint),
    ("bench", |ws| bench::run(ws, &bench::Args::smoke())),
    ("loom", |ws| loom::run(ws, &loom::Args::default())),
    ("miri", miri::smoke),
    ("tsan", |ws| tsan::run(ws, &tsan::Args::default())),
    ("torture", torture::smoke),
    ("fuzz", |ws| fuzz::run(ws, &fuzz::Args::default())),
];

fn step_names() -> Vec<&'static str> {
    STEPS.iter().map(|&(name, _)| name).collect()
}

pub(crate) fn run(ws: &Workspace, args: &Args) -> Result<()> {
    let chosen: Vec<Step> =
        STEPS.iter().copied().filter(|(name, _)| !args.skip.iter().any(|s| s == name)).collect();
    let tally = run_steps(ws, &chosen, args.keep_going);
    println!("{}", tally.summary());
    if tally.failed.is_empty() {
        Ok(())
    } else {
        Err(Error::Steps { failed: tally.failed.len(), total: tally.total })
    }
}

fn run_steps(ws: &Workspace, steps: &[Step], keep_going: bool) -> Tally {
    let start = Instant::now();
    let mut tally = Tally { total: steps.len(), ..Tally::default() };
    for (name, job) in steps {
        println!("\n== {name}");
        let step = Instant::now();
        let result = job(ws);
        let seconds = step.elapsed().as_secs_f64();
        match result {
            Ok(()) => {
                println!("== {name}: passed in {seconds:.1} s");
                tally.passed.push((name, step.elapsed()));
            }
            Err(error @ Error::NotRun { .. }) => {
                println!("== {name}: {error}");
                tally.not_run.push(name);
            }
            Err(error) => {
                println!("== {name}: FAILED in {seconds:.1} s: {error}");
                tally.failed.push(name);
                if !keep_going {
                    break;
                }
            }
        }
    }
    tally.elapsed = start.elapsed();
    tally
}

#[derive(Debug, Default)]
struct Tally {
    total: usize,
    passed: Vec<(&'static str, Duration)>,
    failed: Vec<&'static str>,
    /// Steps that could not run here, because something that they need has another version.
    not_run: Vec<&'static str>,
    elapsed: Duration,
}

impl Tally {
    fn summary(&self) -> String {
        let times: Vec<_> = self
            .passed
            .iter()
            .map(|(name, t)| format!("{name} {:.0} s", t.as_secs_f64()))
            .collect();
        let mut line = format!(
            "\nci: {} of {} steps passed in {:.0} s ({})",
            self.passed.len(),
            self.total,
            self.elapsed.as_secs_f64(),
            times.join(", "),
        );
        if !self.failed.is_empty() {
            line.push_str(&format!("; failed: {}", self.failed.join(", ")));
        }
        if !self.not_run.is_empty() {
            line.push_str(&format!("; not run: {}", self.not_run.join(", ")));
        }
        let left = self.total - self.passed.len() - self.failed.len() - self.not_run.len();
        if left > 0 {
            line.push_str(&format!("; not reached: {left}"));
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_says_what_passed_failed_and_was_left() {
        let tally = Tally {
            total: 5,
            passed: vec![("fmt", Duration::from_secs(2)), ("tidy", Duration::from_secs(1))],
            failed: vec!["clippy"],
            not_run: vec!["api"],
            elapsed: Duration::from_secs(9),
        };
        assert_eq!(
            tally.summary().trim_start(),
            "ci: 2 of 5 steps passed in 9 s (fmt 2 s, tidy 1 s); failed: clippy; not run: api; \
             not reached: 1"
        );
    }

    #[test]
    fn a_step_that_cannot_run_here_is_neither_passed_nor_failed() {
        let steps: &[Step] =
            &[("a", |_| Err(Error::NotRun { why: "other nightly".to_owned() })), ("b", |_| Ok(()))];
        let tally = run_steps(&Workspace::open().unwrap(), steps, false);
        assert_eq!((tally.passed.len(), tally.failed.len()), (1, 0));
        assert_eq!(tally.not_run, ["a"]);
    }

    #[test]
    fn a_failure_stops_the_run_unless_it_is_told_to_go_on() {
        let steps: &[Step] =
            &[("a", |_| Ok(())), ("b", |_| Err(Error::NoLoomCrate)), ("c", |_| Ok(()))];
        let ws = Workspace::open().unwrap();
        let stopped = run_steps(&ws, steps, false);
        assert_eq!((stopped.passed.len(), stopped.failed.as_slice()), (1, ["b"].as_slice()));
        let through = run_steps(&ws, steps, true);
        assert_eq!((through.passed.len(), through.failed.as_slice()), (2, ["b"].as_slice()));
    }
}
