//! Every fuzz target for a while, from the committed seeds and whatever was found before.
//!
//! The corpus that grows from run to run is `fuzz/corpus`, which is not committed. A finding fails
//! the job and is told with the command that runs it again.

use crate::cmd::Cmd;
use crate::error::{Error, Result};
use crate::jobs::miri;
use crate::libtest;
use crate::workspace::Workspace;

const TARGETS: &[&str] = &["zpool_ops", "decompress", "zswap_ops", "zram_ops", "nbd_stream"];
/// What `ci` gives each target.
const CI_SECONDS: u32 = 20;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only this target; may be given several times.
    #[arg(short, long = "target", value_name = "TARGET")]
    targets: Vec<String>,
    /// Seconds for each target.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

impl Default for Args {
    fn default() -> Self {
        Self { targets: Vec::new(), seconds: CI_SECONDS }
    }
}

pub(crate) fn run(ws: &Workspace, args: &Args) -> Result<()> {
    let wanted = libtest::choose("fuzz", TARGETS, &args.targets)?;
    ensure_cargo_fuzz()?;
    miri::ensure_nightly_source()?;
    for target in wanted {
        let corpus = ws.root().join("fuzz/corpus").join(target);
        std::fs::create_dir_all(&corpus)
            .map_err(|source| Error::Read { path: corpus.clone(), source })?;
        // libFuzzer writes to standard error. What it finds it also tells how to run again.
        let line = format!(
            "exec cargo +nightly fuzz run {target} fuzz/corpus/{target} fuzz/seeds/{target} -- \
             -print_final_stats=1 -rss_limit_mb=4096 -max_total_time={} 2>&1",
            args.seconds
        );
        let output = Cmd::new("sh").args(["-c", &line]).run_and_read()?;
        match executions(&output) {
            Some(runs) if runs > 0 => println!("fuzz: {target}: {runs} executions, no finding"),
            _ => return Err(Error::NothingRan { krate: target.to_owned(), what: "input" }),
        }
    }
    Ok(())
}

/// libFuzzer's own count.
fn executions(output: &str) -> Option<u64> {
    let line = output.lines().find(|l| l.starts_with("stat::number_of_executed_units:"))?;
    line.rsplit(' ').next()?.parse().ok()
}

fn ensure_cargo_fuzz() -> Result<()> {
    if Cmd::line("cargo fuzz --version").succeeds() {
        return Ok(());
    }
    let fix = "cargo install cargo-fuzz --locked";
    let missing = |_| Error::Missing { what: "cargo-fuzz".to_owned(), fix: fix.to_owned() };
    Cmd::line(fix).run().map_err(missing)
}

#[cfg(test)]
mod tests {
    use super::executions;

    #[test]
    fn executions_are_libfuzzers_count() {
        let output = "#12 DONE\nstat::number_of_executed_units: 4711\nstat::peak_rss_mb: 37\n";
        assert_eq!(executions(output), Some(4711));
        assert_eq!(executions("no such line"), None);
    }
}
