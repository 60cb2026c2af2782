//! Writes a page from a run and an aging run: the figures in which a rival does better, tables,
//! pictures.
//!
//! Generated text is between marker lines. The rest of the page is kept. Nothing is written unless
//! every part could be generated.

mod aging;
mod churn;
mod density;
mod latency;
mod markers;
mod rows;
mod scaling;
mod tables;
mod theme;

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use measure::Figures;

use self::aging::Mode;
use self::markers::Part;
use crate::error::{Error, Result};
use crate::record::Record;

/// The page to begin with. It has the handwritten parts, and the generated parts are empty.
const FRESH: &str = include_str!("report/benchmarks.md");

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The JSON file that `run --json` wrote.
    #[arg(long, value_name = "FILE")]
    run: PathBuf,
    /// The file that `aging --json` wrote on the same machine. Without this option, the page says
    /// that aging was not run.
    #[arg(long, value_name = "FILE")]
    aging: Option<PathBuf>,
    /// The page. It is created if it does not exist. The pictures go into a folder beside it, named
    /// like the page without its extension.
    #[arg(long, value_name = "FILE", default_value = "docs/benchmarks.md")]
    page: PathBuf,
}

/// A picture's file name and its content.
type Picture = (&'static str, String);

pub(crate) fn run(args: &Args) -> Result<()> {
    let records = read_run(&args.run)?;
    let modes = args.aging.as_deref().map(aging::read).transpose()?;
    let old = match fs::read_to_string(&args.page) {
        Err(error) if error.kind() == ErrorKind::NotFound => FRESH.to_owned(),
        read => read.map_err(|source| failed("cannot read", &args.page, source))?,
    };
    let folder = args.page.with_extension("");
    let beside = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let (parts, pictures) = made(&records, modes.as_deref(), &beside)?;
    let page = markers::fill(&args.page.display().to_string(), &old, &parts)?;
    fs::create_dir_all(&folder).map_err(|source| failed("cannot make", &folder, source))?;
    for (name, svg) in &pictures {
        write(&folder.join(name), svg)?;
    }
    if modes.is_none() {
        // The page does not show this picture any more.
        let old = folder.join(CHURN);
        match fs::remove_file(&old) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(failed("cannot remove", &old, error));
            }
            _ => {}
        }
    }
    write(&args.page, &page)?;
    println!("{}, {} pictures in {}", args.page.display(), pictures.len(), folder.display());
    Ok(())
}

const CHURN: &str = "churn.svg";

fn read_run(path: &Path) -> Result<Vec<Record>> {
    let text = fs::read_to_string(path).map_err(|source| failed("cannot read", path, source))?;
    let shown = path.display().to_string();
    let records: Vec<Record> =
        serde_json::from_str(&text).map_err(|reason| Error::Run { path: shown.clone(), reason })?;
    if records.is_empty() { Err(Error::EmptyRun { path: shown }) } else { Ok(records) }
}

fn write(path: &Path, text: &str) -> Result<()> {
    measure::replace(path, text.as_bytes()).map_err(|source| failed("cannot write", path, source))
}

fn failed(what: &'static str, path: &Path, reason: io::Error) -> Error {
    Error::System { what, path: path.display().to_string(), reason }
}

/// Returns a sentence about the machine, the pages and the rounds of the run.
fn method(records: &[Record]) -> String {
    let Some(first) = records.first() else { return String::new() };
    let machine = &first.machine;
    let rounds = records.iter().map(|r| r.figures.rounds).max().unwrap_or_default();
    let huge = match machine.transparent_hugepage.split(['[', ']']).nth(1) {
        Some(held) => format!(", transparent huge pages: {held}"),
        None => String::new(),
    };
    format!(
        "{}, {} processors, {} MiB, Linux {}{huge}. Pages: {}; same-filled pages left out; {}.",
        machine.processor,
        machine.processors,
        machine.memory_mib,
        machine.kernel,
        first.origin,
        if rounds == 1 { "one round".to_owned() } else { format!("medians of {rounds} rounds") },
    )
}

/// Returns all generated parts and the pictures. The parts link to the pictures in the folder
/// `beside`.
fn made(
    records: &[Record],
    modes: Option<&[Mode]>,
    beside: &str,
) -> Result<(Vec<Part>, Vec<Picture>)> {
    let here = method(records);
    let figures: Vec<Figures> = records.iter().map(|record| record.figures.clone()).collect();
    let figures = figures.as_slice();
    let threads = tables::threads(figures);
    let least = threads.first().copied().unwrap_or(1);
    let few: Vec<&Figures> = figures.iter().filter(|f| f.threads == least).collect();
    let plural = if least == 1 { "" } else { "s" };
    let shown = |name: &str, alt: &str| format!("![{alt}]({beside}/{name})\n");

    let told = format!(
        "{least} thread{plural}, each operation timed by itself, pages in random order, every page \
         stored over an older one; the figures of requests of 128 KiB are per page."
    );
    let each = format!("{told} {here}");
    let latency = [
        ("latency-store.svg", latency::draw(&few, "Time of a store", &each, |f| f.store)?),
        ("latency-load.svg", latency::draw(&few, "Time of a load", &each, |f| f.load)?),
    ];
    let against = format!(
        "Resident memory right after the first filling, metadata counted; loads by {least} \
         thread{plural} in random order. {here}"
    );
    let scatter = density::draw(&few, "Density against load cost", &against)?;
    let together = format!(
        "Pages a second of all threads together, each thread on its own processor with an \
         equal share of the pages; on the right, the most threads against the fewest. {here}"
    );
    let rates = |title, part| scaling::draw(figures, &threads, title, &together, part);
    let scaling = [
        ("scaling-store.svg", rates("Stores a second over threads", |f| f.store)?),
        ("scaling-load.svg", rates("Loads a second over threads", |f| f.load)?),
    ];

    let mut parts: Vec<Part> = vec![
        ("losses", format!("{here}\n\n{}", tables::of_losses(figures))),
        ("tables", tables::of_figures(figures, &here)),
        (
            "latency",
            format!(
                "{each}\n\n{}\n{}",
                shown(latency[0].0, "how long a store takes, for each contestant"),
                shown(latency[1].0, "how long a load takes, for each contestant")
            ),
        ),
        (
            "density",
            format!("{against}\n\n{}", shown("density.svg", "density against the time of a load")),
        ),
        (
            "scaling",
            format!(
                "{together}\n\n{}\n{}",
                shown(scaling[0].0, "stores a second for each thread count"),
                shown(scaling[1].0, "loads a second for each thread count")
            ),
        ),
    ];
    let mut pictures: Vec<Picture> = latency.into_iter().chain(scaling).collect();
    pictures.push(("density.svg", scatter));
    match modes {
        Some(modes) => {
            let machine = here.split(". ").next().unwrap_or_default();
            let churned = format!(
                "One store, whose pages are read, overwritten, freed and stored again while their \
                 sizes drift; pool bytes and compressed bytes are the store's own statistics, \
                 metadata left out. {machine}."
            );
            let svg = churn::draw(modes, "Fragmentation over churn", &churned)?;
            pictures.push((CHURN, svg));
            let table = tables::of_aging(modes);
            let picture = shown(CHURN, "bytes of the pool for each compressed byte over churn");
            parts.push(("churn", format!("{churned}\n\n{table}\n{picture}")));
        }
        None => parts.push(("churn", "Not run for this report.\n".to_owned())),
    }
    Ok((parts, pictures))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contestants::Entry;
    use crate::record::tests::{figures, record};

    const NAMES: [&str; 5] = [
        "codec/lz4",
        "zswap-core/zsmalloc/lz4",
        "zram/zsmalloc/lz4",
        "map-jemalloc/liblz4",
        "kernel-zram-4k/lz4",
    ];

    fn a_run() -> Vec<Record> {
        let with = |threads: usize| {
            let one = move |(n, name): (usize, &&str)| {
                let f = figures(name, threads, 500.0 - 77.0 * n as f64, 100_000 + 999 * n);
                let mut record = record(f);
                record.machine.processor = "Some <Processor> & Co".into();
                record.machine.kernel = "6.1.0".into();
                record
            };
            NAMES.iter().enumerate().map(one).collect::<Vec<_>>()
        };
        [with(1), with(4)].concat()
    }

    #[test]
    fn the_fresh_page_has_every_marker_once() {
        let (parts, _) = made(&a_run(), None, "benchmarks").unwrap();
        let page = markers::fill("fresh", FRESH, &parts).unwrap();
        let losing = page.find("| figure (less is better)").unwrap();
        let (table, picture) = (page.find("### 1 thread").unwrap(), page.find("![").unwrap());
        assert!(losing < table && table < picture, "what loses comes first, pictures last");
        let emptied: Vec<Part> = parts.iter().map(|part| (part.0, String::new())).collect();
        assert_eq!(markers::fill("back", &page, &emptied).unwrap(), FRESH);
    }

    #[test]
    fn pictures_are_xml_and_name_every_contestant_that_they_are_of() {
        let (_, pictures) = made(&a_run(), None, "benchmarks").unwrap();
        assert_eq!(pictures.len(), 5);
        for (name, svg) in pictures {
            let document = roxmltree::Document::parse(&svg).unwrap();
            let nodes = document.descendants().filter(|node| node.is_text());
            let texts: Vec<&str> = nodes.filter_map(|node| node.text()).map(str::trim).collect();
            for contestant in NAMES {
                assert!(texts.contains(&contestant), "{name} lacks {contestant}: {texts:?}");
            }
            // The description of the method may be broken into lines anywhere.
            let said = texts.join(" ").split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(said.contains("Some <Processor> & Co") && said.contains("6.1.0"), "{said}");
        }
    }

    #[test]
    fn a_page_is_made_and_what_was_written_into_it_survives_the_next() {
        let home = std::env::temp_dir().join(format!("system-report-{}", std::process::id()));
        fs::create_dir_all(&home).unwrap();
        let args = Args {
            run: home.join("run.json"),
            aging: Some(home.join("aging.jsonl")),
            page: home.join("docs.md"),
        };
        fs::write(&args.run, serde_json::to_string(&a_run()).unwrap()).unwrap();
        fs::write(home.join("aging.jsonl"), aging::tests::LINES).unwrap();
        run(&args).unwrap();
        let made = fs::read_to_string(&args.page).unwrap();
        assert!(made.contains("](docs/churn.svg)") && made.contains("| off | 2000 | 1.0 | 12 |"));
        let churn = fs::read_to_string(home.join("docs/churn.svg")).unwrap();
        for line in ["off: 1.300", "background: 1.020"] {
            assert!(churn.contains(line), "{line}");
        }

        let mine = made.replace("## Where the time goes\n", "## Where the time goes\n\nMine.\n");
        assert_ne!(mine, made);
        fs::write(&args.page, &mine).unwrap();
        run(&Args { aging: None, ..args_like(&args) }).unwrap();
        let again = fs::read_to_string(&args.page).unwrap();
        assert!(again.contains("Mine.") && again.contains("Not run for this report."));
        assert!(!home.join("docs/churn.svg").exists() && home.join("docs/density.svg").exists());

        fs::write(&args.page, mine.replace("<!-- end: losses -->\n", "")).unwrap();
        assert!(matches!(run(&args), Err(Error::Marker { .. })));
        fs::write(&args.run, "[]").unwrap();
        assert!(matches!(run(&args), Err(Error::EmptyRun { .. })));
        assert_eq!(fs::read_dir(&home).unwrap().count(), 4, "something was left behind");
        fs::remove_dir_all(&home).unwrap();
    }

    fn args_like(args: &Args) -> Args {
        Args { run: args.run.clone(), aging: args.aging.clone(), page: args.page.clone() }
    }

    #[test]
    fn every_contestant_has_the_colour_of_its_kind() {
        let all: Vec<String> =
            NAMES.iter().map(|name| Entry::find(name).unwrap().parts().contestant).collect();
        assert_eq!(theme::key(all.iter().map(String::as_str)).len(), NAMES.len());
    }
}
