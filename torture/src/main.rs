//! The program: runs, prints the report, and exits with 1 if it found a fault or did not cover
//! every action. With `--must-find`, exits with 1 if it found nothing.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program run for its output")]

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use clap::Parser;
use zswap_torture::action::Action;
use zswap_torture::round::{IDLE, Run};
use zswap_torture::run::{Options, PATIENCE, Report, run};

/// Every backend, codec, limit, fault and switch of the page store at random, against a model.
#[derive(Debug, Parser)]
struct Cli {
    /// How long to run, in seconds.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Threads that share all keys.
    #[arg(long, default_value_t = 4)]
    threads: usize,
    /// Seed of all randomness. Default: the time.
    #[arg(long)]
    seed: Option<u64>,
    /// Start with this round, to reach a finding sooner.
    #[arg(long, default_value_t = 0)]
    from_round: u64,
    /// The most keys in a round; 4096 or fewer.
    #[arg(long, default_value_t = 4096)]
    keys: usize,
    /// Only configurations that contain this name, such as `zbud`, `checksums` or `device=file`;
    /// may be repeated.
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Leave out this action; may be repeated.
    #[arg(long, value_name = "ACTION", value_parser = action)]
    skip: Vec<Action>,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
    /// Succeed only if something is found: for a store that is broken on purpose.
    #[arg(long)]
    must_find: bool,
}

fn action(name: &str) -> Result<Action, String> {
    Action::named(name).ok_or_else(|| {
        let names: Vec<&str> = Action::ALL.into_iter().map(Action::name).collect();
        format!("no action has this name; give one of {}", names.join(", "))
    })
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let seed = cli.seed.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(1, |since| since.as_secs())
    });
    let options = Options {
        length: Duration::from_secs(cli.seconds),
        threads: cli.threads,
        seed,
        from_round: cli.from_round,
        keys: cli.keys,
        only: cli.only,
        skip: cli.skip,
    };
    eprintln!("torture: seed {seed}, {} threads, {} s", options.threads, cli.seconds);
    let must_find = cli.must_find;
    match run(&options, |run| watch(run, must_find)) {
        Ok(report) if cli.json => {
            println!("{:#}", report.to_json(seed));
            exit_code(&report, must_find)
        }
        Ok(report) => {
            print!("{}", report.to_text(seed));
            exit_code(&report, must_find)
        }
        Err(error) => {
            eprintln!("torture: {error}");
            ExitCode::FAILURE
        }
    }
}

fn exit_code(report: &Report, must_find: bool) -> ExitCode {
    let good = if must_find { report.finding.is_some() } else { report.is_good() };
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Watches the threads. If one does not return from a call, aborts the process, or ends it with
/// success if a finding is expected.
#[expect(
    clippy::exit,
    reason = "a thread that hangs cannot be joined, so only the process can end"
)]
fn watch(run: &Arc<Run>, must_find: bool) {
    let run = Arc::downgrade(run);
    std::thread::spawn(move || {
        let mut last: Vec<(u64, Instant)> = Vec::new();
        while let Some(run) = run.upgrade() {
            last.resize(run.doing.len(), (IDLE, Instant::now()));
            for (doing, last) in run.doing.iter().zip(&mut last) {
                let now = doing.load(Ordering::SeqCst);
                if now == IDLE || now != last.0 {
                    *last = (now, Instant::now());
                }
            }
            if last.iter().any(|(_, since)| since.elapsed() > PATIENCE) {
                eprintln!("torture: FOUND: a thread is at the same call for {PATIENCE:?}");
                eprintln!("{}", run.what_threads_do());
                if must_find {
                    std::process::exit(0);
                }
                std::process::abort();
            }
            drop(run);
            std::thread::sleep(Duration::from_millis(500));
        }
    });
}
