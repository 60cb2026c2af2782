//! Trials that show whether the known faults still exist. Run one with `cargo run --release --
//! NAME`, or all with `cargo run --release -- all`.
//!
//! Each trial prints one line, which says whether the fault is still there and what was seen. After
//! a fault is fixed, its trial becomes a test of the crate and leaves this list.
//!
//! Faults that only the binary shows have no trial. They are:
//!
//! - `zswap compare --pid` of threads, of processes and files whose names are not UTF-8, of a
//!   process with terabytes mapped, and inside a nested memory cgroup.
//! - `compare --pages F --plot F`, an unwritable plot, and options that are ignored beside
//!   `--pages`.
//! - The server's summary, its URI, SIGHUP, and how often it wakes up.

mod disk;
mod pages;
mod server;
mod writeback;

use std::process::ExitCode;

/// The result of a trial.
pub struct Seen {
    /// Whether the fault occurred.
    fault: bool,
    what: String,
}

impl Seen {
    fn new(fault: bool, what: impl Into<String>) -> Self {
        Seen { fault, what: what.into() }
    }
}

type Trial = (&'static str, fn() -> Seen);

const TRIALS: &[Trial] = &[
    ("server-at-emfile", server::ends_without_descriptors),
    ("trickled-handshake", server::trickled_handshakes_keep_others_out),
    ("hoarded-requests", server::announced_writes_hold_memory),
    ("corrupt-device", writeback::a_device_is_believed),
    ("no-promotion", writeback::a_hot_page_stays_on_the_device),
    ("overwrite-at-limit", disk::an_overwrite_at_the_limit_is_refused),
    ("chunks-stay", disk::memory_of_discarded_slots_stays),
    ("empty-disk", disk::an_empty_disk_takes_memory),
    ("total-above-max", disk::the_total_is_above_the_maximum),
    ("disk-after-fork", disk::a_child_waits_for_ever),
    ("recompress-by-spec", disk::recompression_is_not_found_by_its_spec),
    ("recompress-in-vain", disk::recompression_wins_no_memory),
];

fn main() -> ExitCode {
    let Some(asked) = std::env::args().nth(1) else {
        let names: Vec<&str> = TRIALS.iter().map(|(name, _)| *name).collect();
        eprintln!("faults: name one of {}, or `all`", names.join(", "));
        return ExitCode::from(2);
    };
    let chosen: Vec<&Trial> =
        TRIALS.iter().filter(|(name, _)| asked == "all" || *name == asked).collect();
    if chosen.is_empty() {
        eprintln!("faults: there is no `{asked}`; run without an argument to list all names");
        return ExitCode::from(2);
    }
    for (name, run) in chosen {
        let Seen { fault, what } = run();
        println!("{name}: {}: {what}", if fault { "still there" } else { "gone" });
    }
    ExitCode::SUCCESS
}
