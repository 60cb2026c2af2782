//! Runs the measurements and prints their tables.

use std::path::PathBuf;
use std::time::Duration;

use measure::Clock;

use crate::figures::Rounds;
use crate::objects::Objects;
use crate::overwrite::{self, Outcome};
use crate::place::Place;
use crate::{load, out, parts};

#[derive(clap::Parser)]
pub(crate) struct Args {
    /// Zstd-compressed files of raw 4096-byte pages. Default: the built-in sample.
    #[arg(long, num_args = 1..)]
    pages: Vec<PathBuf>,
    /// Compressors, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "linewords,lz4")]
    compressor: Vec<String>,
    /// Seconds for each measurement of each compressor and place.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// A folder on disk. Default: the system's folder for temporary files.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// `cargo bench` passes this.
    #[arg(long, hide = true)]
    bench: bool,
}

pub(crate) fn run(args: &Args) {
    let disk = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let time = Duration::from_secs_f64(args.seconds);
    let clock_ns = Clock::measure().cost;
    let folders = Place::folders(&disk);
    for spec in &args.compressor {
        let mut objects = Objects::load(&args.pages, spec);
        println!("\n## {spec}, {} pages of {}\n", objects.len(), objects.origin);
        let null = ("null device", out::measure(&mut objects, &Place::Nowhere, false, time));
        let sorted = out::measure(&mut objects, &Place::Nowhere, true, time);
        let mut outs: Vec<(&str, Rounds)> = folders
            .iter()
            .map(|place| (place.name(), out::measure(&mut objects, place, false, time)))
            .collect();
        let count = outs.len();
        outs.insert(0, null);
        outs.push(("null device, pages stored in the clock's order", sorted));
        bytes(&outs);
        speed(&outs[1..=count]);
        let loads: Vec<(Place, Rounds)> = folders
            .iter()
            .map(|place| (place.clone(), load::measure(&mut objects, place, time, clock_ns)))
            .collect();
        loaded(&loads);
        let steps: Vec<Rounds> =
            folders.iter().map(|place| parts::measure(&objects, place, time, clock_ns)).collect();
        // The first is the null device, which the steps do not have.
        parts_of_writing(&outs[1..], &steps);
        parts_of_loading(&loads, &steps);
        overwritten(&overwrite::measure(&objects));
    }
}

fn bytes(outs: &[(&str, Rounds)]) {
    println!("| device | runs | compressed bytes a page | device bytes a page | times |");
    println!("|:--|--:|--:|--:|--:|");
    for (place, rounds) in outs {
        println!(
            "| {} | {} | {:.1} | {:.1} | {:.3} |",
            place,
            rounds.count(),
            rounds.median("compressed bytes"),
            rounds.median("device bytes"),
            rounds.ratio("device bytes", "compressed bytes"),
        );
    }
    println!("\n| device | runs | decode, CPU ns | writing a page back, CPU ns | times a decode |");
    println!("|:--|--:|--:|--:|--:|");
    for (place, rounds) in outs {
        println!(
            "| {} | {} | {:.0} | {:.0} | {:.2} |",
            place,
            rounds.count(),
            rounds.median("decode"),
            rounds.median("cpu"),
            rounds.ratio("cpu", "decode"),
        );
    }
}

fn speed(outs: &[(&str, Rounds)]) {
    println!(
        "\n| device | runs | 1000 pages/s | one at a time | times | one at a time, and freed | times \
         | with a sync | one at a time | times |"
    );
    println!("|:--|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
    for (place, rounds) in outs {
        let thousands = |name| 1e6 / rounds.median(name);
        println!(
            "| {place} | {} | {:.0} | {:.0} | {:.2} | {:.0} | {:.2} | {:.0} | {:.0} | {:.2} |",
            rounds.count(),
            thousands("wall"),
            thousands("page wall"),
            rounds.ratio("page wall", "wall"),
            thousands("page wall, freed"),
            rounds.ratio("page wall, freed", "wall"),
            thousands("synced"),
            thousands("page synced"),
            rounds.ratio("page synced", "synced"),
        );
    }
}

fn loaded(loads: &[(Place, Rounds)]) {
    println!("\n| device | runs | load, ns | read 4096 bytes and decode, ns | times |");
    println!("|:--|--:|--:|--:|--:|");
    for (place, rounds) in loads {
        println!(
            "| {} | {} | {:.0} | {:.0} | {:.2} |",
            place.name(),
            rounds.count(),
            rounds.median("load"),
            rounds.median("read and decode"),
            rounds.ratio("load", "read and decode"),
        );
    }
}

fn parts_of_writing(outs: &[(&str, Rounds)], steps: &[Rounds]) {
    println!(
        "\n| CPU ns of writing a page back | read in the pool and copy | checksum and directory | device call \
         | table of segments | free in the pool | rest: clock, index, entries |"
    );
    println!("|:--|--:|--:|--:|--:|--:|--:|");
    for ((place, rounds), steps) in outs.iter().zip(steps) {
        let parts =
            ["copy", "seal", "write call", "install", "free"].map(|name| steps.median(name));
        let [copy, seal, call, install, free] = parts;
        let rest = rounds.median("cpu") - parts.iter().sum::<f64>();
        println!(
            "| {place} | {copy:.0} | {seal:.0} | {call:.0} | {install:.0} | {free:.0} | {rest:.0} |"
        );
    }
}

fn parts_of_loading(loads: &[(Place, Rounds)], steps: &[Rounds]) {
    println!("\n| ns of a load | device call | checksum | pin | decode | rest |");
    println!("|:--|--:|--:|--:|--:|--:|");
    for ((place, rounds), steps) in loads.iter().zip(steps) {
        let (read, pin) = (steps.median("read"), steps.median("pin"));
        let check = steps.median("open") - read - pin;
        let decode = rounds.median("decode");
        let rest = rounds.median("load") - steps.median("open") - decode;
        println!(
            "| {} | {read:.0} | {check:.0} | {pin:.0} | {decode:.0} | {rest:.0} |",
            place.name()
        );
    }
}

fn overwritten(outcome: &Outcome) {
    let Outcome { segments, pages, live_share, overwrites, refusals, most_segments, .. } = outcome;
    println!(
        "\n{pages} pages, {:.1} % of {segments} segments of 64 KiB; {overwrites} overwrites; {refusals} \
         refusals; at most {most_segments} segments in use.\n",
        live_share * 100.0
    );
    println!("| cleaning | bytes written for each new byte | times greedy | pages moved |");
    println!("|:--|--:|--:|--:|");
    let Outcome { store, greedy, batched, store_moved, greedy_moved, .. } = outcome;
    println!("| the store | {store:.3} | {:.3} | {store_moved} |", store / greedy);
    println!("| greedy | {greedy:.3} | 1 | {greedy_moved} |");
    println!(
        "| greedy, segments ended where the store ends them | {batched:.3} | {:.3} | – |",
        batched / greedy
    );
}
