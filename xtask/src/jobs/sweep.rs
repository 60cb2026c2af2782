//! Runs every search for unsoundness at full length, and the whole of each check of which CI does
//! only a part. A sweep takes hours, so it can be stopped and resumed.
//!
//! A ledger records which steps have passed for the commit that is checked out, and the next sweep
//! skips them. For another commit all steps run again. In a tree with uncommitted changes all steps
//! run, and none is recorded. If a step fails, the others still run.

use std::time::Instant;

use crate::cmd::Cmd;
use crate::error::{Error, Result};
use crate::jobs::{
    asan, caches, cross, deny, fuzz, loom, lzo, miri, msrv, outside, peers, region, remote,
    torture, tsan,
};
use crate::ledger::Ledger;
use crate::sanitizer;
use crate::workspace::Workspace;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Run each fuzz target for this many seconds.
    #[arg(long, default_value_t = 900)]
    fuzz_seconds: u64,
    /// Run only the steps with TEXT in their name; may be given several times.
    #[arg(long = "step", value_name = "TEXT")]
    steps: Vec<String>,
    /// Also run the steps that have already passed for this commit.
    #[arg(long)]
    again: bool,
}

struct Step<'a> {
    name: String,
    run: Box<dyn Fn() -> Result<()> + 'a>,
}

impl<'a> Step<'a> {
    fn new(name: String, run: impl Fn() -> Result<()> + 'a) -> Self {
        Self { name, run: Box::new(run) }
    }
}

/// The outcome of a step, and how many seconds it took when it ran.
#[derive(Debug, PartialEq)]
enum Outcome {
    PassedBefore(u64),
    Passed(u64),
    Failed(u64, String),
    /// It could not run here. It is neither passed nor failed.
    NotRun(String),
}

pub(crate) fn run(ws: &Workspace, args: &Args) -> Result<()> {
    let mut steps = steps(ws, args.fuzz_seconds);
    steps.retain(|s| args.steps.is_empty() || args.steps.iter().any(|t| s.name.contains(t)));
    if steps.is_empty() {
        return Err(Error::NothingRan { krate: "the sweep".to_owned(), what: "step" });
    }
    let mut ledger = Ledger::open(ws.target_dir("sweep.json"));
    let outcomes = sweep(&mut ledger, &steps, args.again, commit)?;
    println!("\n{}", table(&outcomes));
    match outcomes.iter().filter(|(_, o)| matches!(o, Outcome::Failed(..))).count() {
        0 => Ok(()),
        failed => Err(Error::Steps { failed, total: outcomes.len() }),
    }
}

/// Returns the steps: the searches at full length, and the whole of each check of which CI does
/// only a part. The steps are small, since stopping the sweep loses the current one. Miri is a
/// single large step, because it runs several crates at the same time.
fn steps(ws: &Workspace, fuzz_seconds: u64) -> Vec<Step<'_>> {
    let loom = loom::crates(ws).map(move |krate| {
        let args = || loom::Args { packages: vec![krate.to_owned()], ..loom::Args::default() };
        Step::new(format!("loom {krate}"), move || loom::run(ws, &args()))
    });
    let miri = Step::new("miri".to_owned(), move || miri::run(ws, &miri::Args::default()));
    let tsan = sanitizer::WHOLE.iter().map(move |(krate, _)| {
        let args = || tsan::Args { all: true, packages: vec![(*krate).to_owned()] };
        Step::new(format!("tsan {krate}"), move || tsan::run(ws, &args()))
    });
    let asan = sanitizer::WHOLE.iter().map(move |(krate, _)| {
        let args = || asan::Args { packages: vec![(*krate).to_owned()] };
        Step::new(format!("asan {krate}"), move || asan::run(ws, &args()))
    });
    let fuzz = fuzz::TARGETS.iter().map(move |target| {
        let targets = || vec![(*target).to_owned()];
        Step::new(format!("fuzz {target}, {fuzz_seconds} s"), move || {
            fuzz::run(ws, &fuzz::Args { targets: targets(), seconds: fuzz_seconds, resume: true })
        })
    });
    let pairs = || msrv::run(&msrv::Args { pairs: true });
    let servers = || remote::Args { install: true, bench: false };
    let whole: [Step<'_>; 9] = [
        Step::new("pairs of features".to_owned(), pairs),
        Step::new("cross".to_owned(), cross::run),
        Step::new("lzo".to_owned(), lzo::run),
        Step::new("outside".to_owned(), move || outside::run(ws)),
        Step::new("deny".to_owned(), move || deny::check(ws)),
        Step::new("advisories".to_owned(), move || deny::advisories(ws)),
        Step::new("peers".to_owned(), move || peers::check(ws)),
        Step::new("caches".to_owned(), move || caches::lint(ws)),
        Step::new("remote".to_owned(), move || remote::run(ws, &servers())),
    ];
    let torture =
        Step::new("torture, 900 s".to_owned(), || torture::run(&torture::Args::lasting(900)));
    let region = Step::new("region, 600 s".to_owned(), || region::run(&region::Args::lasting(600)));
    loom.chain(whole).chain([miri, torture, region]).chain(tsan).chain(asan).chain(fuzz).collect()
}

/// Returns the commit that is checked out; `None` if there are uncommitted changes.
fn commit() -> Result<Option<String>> {
    if !Cmd::line("git status --porcelain").quiet()?.is_empty() {
        return Ok(None);
    }
    Ok(Some(Cmd::line("git rev-parse HEAD").quiet()?.trim().to_owned()))
}

/// Runs the steps that have not passed yet for the checked-out commit, or all steps if `again` is
/// set. Returns the name and the outcome of every step. `commit` is the function `commit` above;
/// tests pass another one.
fn sweep(
    ledger: &mut Ledger,
    steps: &[Step<'_>],
    again: bool,
    commit: impl Fn() -> Result<Option<String>>,
) -> Result<Vec<(String, Outcome)>> {
    let mut outcomes = Vec::new();
    for Step { name, run } in steps {
        let before = commit()?;
        let passed = before.as_deref().and_then(|commit| ledger.seconds(name, commit));
        if let (Some(seconds), false) = (passed, again) {
            println!("\n== {name}: passed before, for this commit");
            outcomes.push((name.clone(), Outcome::PassedBefore(seconds)));
            continue;
        }
        println!("\n== {name}");
        let start = Instant::now();
        let result = run();
        let seconds = start.elapsed().as_secs();
        // If the tree changed while the step ran, the step may not have tested this commit.
        let after = commit()?;
        let outcome = match (result, before) {
            (Ok(()), Some(commit)) if after.as_ref() == Some(&commit) => {
                ledger.set(name, &commit, seconds)?;
                Outcome::Passed(seconds)
            }
            (Ok(()), _) => Outcome::Passed(seconds),
            (Err(error @ Error::NotRun { .. }), _) => {
                println!("== {name}: {error}");
                Outcome::NotRun(error.to_string())
            }
            (Err(error), _) => {
                ledger.forget(name)?;
                println!("== {name}: FAILED: {error}");
                Outcome::Failed(seconds, error.to_string())
            }
        };
        outcomes.push((name.clone(), outcome));
    }
    Ok(outcomes)
}

fn table(outcomes: &[(String, Outcome)]) -> String {
    let width = outcomes.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    let line = |(name, outcome): &(String, Outcome)| match outcome {
        Outcome::PassedBefore(seconds) => format!("{name:width$} {seconds:5} s  passed before\n"),
        Outcome::Passed(seconds) => format!("{name:width$} {seconds:5} s  passed\n"),
        Outcome::Failed(seconds, why) => format!("{name:width$} {seconds:5} s  FAILED: {why}\n"),
        Outcome::NotRun(why) => format!("{name:width$}     - s  {why}\n"),
    };
    outcomes.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    /// A sweep of three steps: the directory of its ledger, the names of the steps that ran, and
    /// whether the second step passes.
    struct Scene {
        folder: std::path::PathBuf,
        ran: RefCell<Vec<&'static str>>,
        second_passes: Cell<bool>,
    }

    impl Scene {
        fn new(test: &str) -> Self {
            let name = format!("xtask-sweep-{}-{test}", std::process::id());
            let folder = std::env::temp_dir().join(name);
            Self { folder, ran: RefCell::default(), second_passes: Cell::new(true) }
        }

        /// Opens the ledger as a new process would, and sweeps. Returns the names of the steps that
        /// ran, and the outcomes.
        fn sweep(
            &self,
            again: bool,
            commit: impl Fn() -> Result<Option<String>>,
        ) -> (Vec<&'static str>, Vec<(String, Outcome)>) {
            let step = |name: &'static str| {
                Step::new(name.to_owned(), move || {
                    self.ran.borrow_mut().push(name);
                    let fails = name == "second" && !self.second_passes.get();
                    if fails { Err(Error::NoLoomCrate) } else { Ok(()) }
                })
            };
            let mut ledger = Ledger::open(self.folder.join("sweep.json"));
            let steps = [step("first"), step("second"), step("third")];
            let outcomes = sweep(&mut ledger, &steps, again, commit).unwrap();
            (self.ran.take(), outcomes)
        }
    }

    impl Drop for Scene {
        fn drop(&mut self) {
            // The directory does not exist if the scene recorded nothing.
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }

    fn at(commit: &str) -> Result<Option<String>> {
        Ok(Some(commit.to_owned()))
    }

    #[test]
    fn what_passed_for_the_commit_is_left_out_and_a_failure_is_not() {
        let scene = Scene::new("commit");
        scene.second_passes.set(false);
        let (ran, outcomes) = scene.sweep(false, || at("one"));
        assert_eq!(ran, ["first", "second", "third"], "a failure stops nothing");
        assert!(matches!(outcomes[1].1, Outcome::Failed(..)));
        scene.second_passes.set(true);
        let (ran, outcomes) = scene.sweep(false, || at("one"));
        assert_eq!(ran, ["second"]);
        assert!(matches!(outcomes[0].1, Outcome::PassedBefore(_)));
        assert!(matches!(outcomes[1].1, Outcome::Passed(_)));
        assert!(scene.sweep(false, || at("one")).0.is_empty());
        assert_eq!(scene.sweep(true, || at("one")).0.len(), 3);
    }

    #[test]
    fn another_commit_starts_anew() {
        let scene = Scene::new("anew");
        scene.sweep(false, || at("one"));
        assert_eq!(scene.sweep(false, || at("two")).0.len(), 3);
    }

    #[test]
    fn a_failure_takes_back_that_it_passed() {
        let scene = Scene::new("back");
        scene.sweep(false, || at("one"));
        scene.second_passes.set(false);
        scene.sweep(true, || at("one"));
        assert_eq!(scene.sweep(false, || at("one")).0, ["second"]);
    }

    #[test]
    fn a_changed_tree_is_not_remembered() {
        let scene = Scene::new("changed");
        scene.sweep(false, || Ok(None));
        assert_eq!(scene.sweep(false, || at("one")).0.len(), 3);
        assert_eq!(scene.sweep(false, || Ok(None)).0.len(), 3);
    }

    #[test]
    fn a_tree_that_changes_during_a_step_is_not_remembered_for_it() {
        let scene = Scene::new("during");
        // The tree counts as changed while exactly two steps have run: when the second step ends
        // and the third begins.
        let commit = || {
            let changed = scene.ran.borrow().len() == 2;
            if changed { Ok(None) } else { at("one") }
        };
        scene.sweep(false, commit);
        // The third step began with a changed tree, so it was not recorded, either.
        assert_eq!(scene.sweep(false, || at("one")).0, ["second", "third"]);
    }

    #[test]
    fn a_step_that_cannot_run_is_not_remembered() {
        let scene = Scene::new("not-run");
        let mut ledger = Ledger::open(scene.folder.join("sweep.json"));
        let why = || Err(Error::NotRun { why: "no network".to_owned() });
        let steps = [Step::new("first".to_owned(), why)];
        let outcomes = sweep(&mut ledger, &steps, false, || at("one")).unwrap();
        assert_eq!(outcomes[0].1, Outcome::NotRun("not run: no network".to_owned()));
        assert_eq!(ledger.seconds("first", "one"), None);
    }

    #[test]
    fn the_table_has_a_line_for_each_step() {
        let outcomes = [
            ("miri".to_owned(), Outcome::PassedBefore(300)),
            ("fuzz zram_ops, 900 s".to_owned(), Outcome::Failed(61, "why".to_owned())),
            ("advisories".to_owned(), Outcome::NotRun("not run: no network".to_owned())),
        ];
        assert_eq!(
            table(&outcomes),
            "miri                   300 s  passed before\n\
             fuzz zram_ops, 900 s    61 s  FAILED: why\n\
             advisories               - s  not run: no network\n"
        );
    }

    #[test]
    fn the_steps_cover_every_job_and_have_names_of_their_own() {
        let ws = Workspace::open().unwrap();
        let steps = steps(&ws, 900);
        let names: std::collections::BTreeSet<_> = steps.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names.len(), steps.len());
        for part in
            ["loom zsmalloc", "miri", "tsan zswap-cli", "asan zswap-compressors", "lzo", "deny"]
        {
            assert!(names.contains(part), "{part} of {names:?}");
        }
        for target in fuzz::TARGETS {
            assert!(names.contains(format!("fuzz {target}, 900 s").as_str()), "{target}");
        }
    }
}
