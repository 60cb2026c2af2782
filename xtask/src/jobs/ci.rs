//! Runs the steps in `STEPS`. Prints the time of each, and a summary line at the end.
//!
//! Many steps leave processors idle: a linker, a loom model and Miri use one. So neighbouring steps
//! of [`Place::In`] run two at a time. Each is a process of its own, and its output appears when it
//! ends. Two steps with the same target directory never run at the same time, since cargo would
//! make one wait for the other.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::cmd::Cmd;
use crate::error::{Error, NOT_RUN, Result};
use crate::folder;
use crate::jobs::{
    api, bench, clippy, compare, cross, docs, examples, features, fmt, fuzz, loom, lzo, miri, msrv,
    nbd, outside, peers, test, torture, tsan,
};
use crate::tidy;
use crate::workspace::Workspace;

/// How many steps run at the same time.
const LANES: usize = 2;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Continue after a step that fails, and fail at the end.
    #[arg(long)]
    keep_going: bool,
    /// Skip this step; may be given several times.
    #[arg(long, value_name = "STEP", value_parser = step_names())]
    skip: Vec<String>,
    /// Run only this step, as CI runs it.
    #[arg(long, value_name = "STEP", value_parser = step_names(), conflicts_with = "skip")]
    step: Option<String>,
}

/// What a step may run beside.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Place {
    /// Nothing. The step is over in a moment, or other programs would disturb it.
    Alone,
    /// A step with another target directory.
    In(&'static str),
}
use Place::{Alone, In};

type Step = (&'static str, Place, fn(&Workspace) -> Result<()>);

/// Cargo's default target directory.
const USUAL: Place = In("target");

const STEPS: &[Step] = &[
    ("fmt", Alone, |_| fmt::run()),
    ("tidy", Alone, tidy::run),
    // Several steps need the nightly toolchain. They must not all install it at the same time.
    ("nightly", Alone, |_| miri::ensure_nightly_source()),
    // The tests wait for threads and measure time.
    ("test", Alone, |_| test::run()),
    // Of the steps that run two at a time, the longest come first, so that both lanes end at about
    // the same time.
    ("clippy", USUAL, clippy::run),
    ("miri", In("miri"), miri::smoke),
    ("loom", In("loom"), |ws| loom::run(ws, &loom::Args::default())),
    ("tsan", In("tsan"), |ws| tsan::run(ws, &tsan::Args::default())),
    ("fuzz", In("fuzz"), |ws| fuzz::run(ws, &fuzz::Args::default())),
    ("compare", USUAL, |_| compare::run()),
    ("bench", USUAL, |ws| bench::run(ws, &bench::Args::smoke())),
    ("docs", USUAL, |_| docs::run()),
    ("examples", USUAL, examples::run),
    ("features", USUAL, |_| features::run()),
    ("lzo", USUAL, |_| lzo::smoke()),
    ("nbd", USUAL, |_| nbd::run()),
    ("msrv", In("msrv"), msrv::smoke),
    ("cross", In("cross"), cross::smoke),
    ("outside", In("publish"), outside::smoke),
    ("peers", In("peers"), peers::lint),
    ("api", In("api"), |ws| api::run(ws, &api::Args::default())),
    // How much the torture tries depends on the processors that it gets.
    ("torture", Alone, torture::smoke),
];

fn step_names() -> Vec<&'static str> {
    STEPS.iter().map(|&(name, ..)| name).collect()
}

pub(crate) fn run(ws: &Workspace, args: &Args) -> Result<()> {
    if let Some(name) = &args.step {
        let (.., job) = STEPS.iter().find(|(step, ..)| step == name).ok_or_else(|| {
            let known = step_names().into_iter().map(str::to_owned).collect();
            Error::UnknownCrate { job: "ci", krate: name.clone(), known }
        })?;
        return job(ws);
    }
    let chosen: Vec<Step> =
        STEPS.iter().copied().filter(|(name, ..)| !args.skip.iter().any(|s| s == name)).collect();
    let apart = Apart::prepare(PathBuf::from(ws.target_dir("ci")))?;
    let tally = run_steps(ws, &chosen, args.keep_going, |(name, ..)| apart.run(name));
    println!("{}", tally.summary());
    if tally.failed.is_empty() {
        Ok(())
    } else {
        Err(Error::Steps { failed: tally.failed.len(), total: tally.total })
    }
}

/// Runs steps as processes of their own.
struct Apart {
    /// A copy of this program. Some steps build xtask again, and meanwhile the original may be
    /// missing for a moment.
    program: String,
    /// The folder with a file for each step's output.
    outputs: PathBuf,
}

impl Apart {
    fn prepare(folder: PathBuf) -> Result<Self> {
        folder::renew(&folder)?;
        let program = folder.join("xtask");
        let failed = |source| Error::Read { path: program.clone(), source };
        std::env::current_exe().and_then(|this| fs::copy(this, &program)).map_err(failed)?;
        Ok(Self { program: program.display().to_string(), outputs: folder })
    }

    /// Runs a step. Returns its result and its output.
    fn run(&self, name: &str) -> (Result<()>, String) {
        let output = self.outputs.join(format!("{name}.log"));
        let step = Cmd::new(&self.program).args(["ci", "--step", name]);
        let result = File::create(&output)
            .map_err(|source| Error::Read { path: output.clone(), source })
            .and_then(|file| step.run_into(file));
        let said = read(&output);
        let result = match result {
            Err(Error::Failed { status, .. }) if status.code() == Some(NOT_RUN.into()) => {
                Err(Error::NotRun { why: "as the last line above says".to_owned() })
            }
            other => other,
        };
        (result, said)
    }
}

/// Returns the content of a file, with U+FFFD for what is not UTF-8. A missing file is empty.
fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

/// Runs `steps`. A step of [`Place::Alone`] runs in this process. Neighbouring other steps run two
/// at a time, each by a call of `apart`, which returns the step's result and output.
fn run_steps(
    ws: &Workspace,
    steps: &[Step],
    keep_going: bool,
    apart: impl Fn(&Step) -> (Result<()>, String) + Sync,
) -> Tally {
    let start = Instant::now();
    let mut tally = Tally { total: steps.len(), ..Tally::default() };
    for group in steps.chunk_by(|a, b| a.1 != Alone && b.1 != Alone) {
        if !tally.failed.is_empty() && !keep_going {
            break;
        }
        match group {
            [(name, Alone, job)] => {
                println!("\n== {name}");
                let step = Instant::now();
                let result = job(ws);
                tally.add(name, step.elapsed(), result);
            }
            _ => {
                let left = Mutex::new(Left { steps: group.to_vec(), running: Vec::new(), tally });
                let ended = Condvar::new();
                std::thread::scope(|scope| {
                    for _ in 0..LANES {
                        scope.spawn(|| run_lane(&left, &ended, keep_going, &apart));
                    }
                });
                tally = left.into_inner().unwrap_or_else(PoisonError::into_inner).tally;
            }
        }
    }
    tally.elapsed = start.elapsed();
    tally
}

/// The state that the lanes share.
struct Left {
    /// The steps that have not begun.
    steps: Vec<Step>,
    /// The places of the steps that are running.
    running: Vec<Place>,
    tally: Tally,
}

/// Takes and runs steps until none is left or, without `keep_going`, until one has failed. Always
/// takes the first step whose target directory is not in use.
fn run_lane(
    left: &Mutex<Left>,
    ended: &Condvar,
    keep_going: bool,
    apart: &impl Fn(&Step) -> (Result<()>, String),
) {
    let mut state = lock(left);
    loop {
        if state.steps.is_empty() || (!state.tally.failed.is_empty() && !keep_going) {
            return;
        }
        let free = |step: &Step| !state.running.contains(&step.1);
        let Some(next) = state.steps.iter().position(free) else {
            state = ended.wait(state).unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        let step = state.steps.remove(next);
        let (name, place, _) = step;
        state.running.push(place);
        println!("\n== {name}: begins; its output follows when it ends");
        drop(state);
        let start = Instant::now();
        let (result, output) = apart(&step);
        state = lock(left);
        // Under the lock, so that no line of the other lane comes between.
        println!("\n== {name}\n{}", output.trim_end());
        state.tally.add(name, start.elapsed(), result);
        state.running.retain(|other| *other != place);
        ended.notify_all();
    }
}

fn lock(left: &Mutex<Left>) -> MutexGuard<'_, Left> {
    left.lock().unwrap_or_else(PoisonError::into_inner)
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
    /// Prints how a step ended, and counts it.
    fn add(&mut self, name: &'static str, time: Duration, result: Result<()>) {
        let seconds = time.as_secs_f64();
        match result {
            Ok(()) => {
                println!("== {name}: passed in {seconds:.1} s");
                self.passed.push((name, time));
            }
            Err(error @ Error::NotRun { .. }) => {
                println!("== {name}: {error}");
                self.not_run.push(name);
            }
            Err(error) => {
                println!("== {name}: FAILED in {seconds:.1} s: {error}");
                self.failed.push(name);
            }
        }
    }

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
    use std::sync::Barrier;

    use super::*;

    /// Calls the steps' functions in this process, where `ci` would start processes.
    fn run_here(steps: &[Step], keep_going: bool) -> Tally {
        let ws = Workspace::open().unwrap();
        run_steps(&ws, steps, keep_going, |(.., job)| (job(&ws), String::new()))
    }

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
        for place in [Alone, USUAL] {
            let steps: &[Step] = &[
                ("a", place, |_| Err(Error::NotRun { why: "other nightly".to_owned() })),
                ("b", place, |_| Ok(())),
            ];
            let tally = run_here(steps, false);
            assert_eq!((tally.passed.len(), tally.failed.len()), (1, 0));
            assert_eq!(tally.not_run, ["a"]);
        }
    }

    #[test]
    fn a_failure_stops_the_run_unless_it_is_told_to_go_on() {
        for place in [Alone, USUAL] {
            let steps: &[Step] = &[
                ("a", place, |_| Ok(())),
                ("b", place, |_| Err(Error::NoLoomCrate)),
                ("c", place, |_| Ok(())),
                ("d", Alone, |_| Ok(())),
            ];
            let stopped = run_here(steps, false);
            assert_eq!((stopped.passed.len(), stopped.failed.as_slice()), (1, ["b"].as_slice()));
            let through = run_here(steps, true);
            assert_eq!((through.passed.len(), through.failed.as_slice()), (3, ["b"].as_slice()));
        }
    }

    #[test]
    fn neighbours_run_two_at_a_time_unless_they_share_a_directory() {
        let steps: &[Step] = &[
            ("a", USUAL, |_| Ok(())),
            ("b", USUAL, |_| Ok(())),
            ("c", In("loom"), |_| Ok(())),
            ("d", USUAL, |_| Ok(())),
        ];
        let (both, usual) = (Barrier::new(2), Mutex::new(()));
        let ws = Workspace::open().unwrap();
        let tally = run_steps(&ws, steps, false, |(name, place, _)| {
            let alone = (*place == USUAL).then(|| usual.try_lock().expect("one at a time"));
            // `c` waits for `a`, and `a` for `c`, so the test ends only if they run together.
            if ["a", "c"].contains(name) {
                both.wait();
            }
            drop(alone);
            (Ok(()), String::new())
        });
        assert_eq!(tally.passed.len(), 4);
    }

    #[test]
    fn a_step_alone_waits_for_those_before_it() {
        static BEFORE: Mutex<usize> = Mutex::new(0);
        fn count(_: &Workspace) -> Result<()> {
            *BEFORE.lock().unwrap() += 1;
            Ok(())
        }
        let steps: &[Step] = &[
            ("a", USUAL, count),
            ("b", In("loom"), count),
            ("c", Alone, |_| {
                assert_eq!(*BEFORE.lock().unwrap(), 2);
                Ok(())
            }),
            ("d", In("miri"), count),
        ];
        assert_eq!(run_here(steps, false).passed.len(), 4);
    }

    #[test]
    fn steps_have_names_of_their_own() {
        let mut names = step_names();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), STEPS.len());
    }
}
