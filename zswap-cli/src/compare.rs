//! The verb `compare`: measures every pair over one set of pages, round by round.
//!
//! In each round every pair has a turn. A turn measures the store and the bare codec, one right
//! after the other. The order of the pairs rotates from round to round, and the order of store and
//! codec alternates. So drift on the machine affects all of them alike.

use std::io::{self, Write};

use measure::{Figures, Lanes, PageSet};

use crate::args::Compare;
use crate::backing::{self, Service};
use crate::contest::{self, Pair, Stock};
use crate::error::{Error, Result};
use crate::look::Look;
use crate::memory;
use crate::plot;
use crate::process::{self, Facts, Sample};
use crate::progress::Progress;
use crate::report::{self, Heading};
use crate::trial::{self, Backing, Outcome, Place};
use crate::verdict::Verdict;
use zswap_core::PAGE_SIZE;

/// The most threads that a run may have: more than anyone needs, and few enough for any system.
const MOST_THREADS: usize = 1024;

/// Runs `zswap compare`. Returns whether every page came back equal.
pub(crate) fn run(args: &Compare, services: &[Service]) -> Result<bool> {
    if args.rounds == 0 {
        return Err(Error::NoRounds);
    }
    if args.threads > MOST_THREADS {
        return Err(Error::TooManyThreads { threads: args.threads, most: MOST_THREADS });
    }
    if args.threads == 0 {
        return Err(measure::Error::NoThreads.into());
    }
    let stock = Stock::builtin();
    let mut pairs = pairs(args, &stock)?;
    let (set, sampled) = page_set(args)?;
    let set = whole_units(set, args);
    let mut place = place(args, services, set.pages().len())?;
    let mut lanes = Lanes::new(args.threads, set.pages().len())?;

    let count = pairs.len();
    let progress = Progress::new(count * args.rounds as usize);
    for round in 0..args.rounds as usize {
        for turn in 0..count {
            let pair = &mut pairs[(round + turn) % count];
            progress.begin(format!("round {} of {}: {}", round + 1, args.rounds, pair.name()));
            pair.turn(&stock, &set, &mut lanes, round as u64)?;
            progress.end();
        }
    }
    drop(progress);

    let heading = Heading {
        pages: set.pages().len(),
        same_filled: set.same_filled(),
        origin: set.origin().to_owned(),
        sampled,
        threads: args.threads,
        rounds: args.rounds,
        clock_ns: lanes.clock().cost,
    };
    let figures: Vec<Figures> =
        pairs.into_iter().map(|pair| pair.into_figures(args.threads)).collect();
    let named: Vec<(String, String)> =
        figures.iter().map(|f| (contest::zpool(f).to_owned(), f.name.compressor.clone())).collect();
    if let Some(path) = &args.plot {
        plot::write(path, &format!("{} ({} pages)", heading.origin, heading.pages), &figures)?;
    }
    let form = if args.json { Form::Json } else { Form::Table(Look::of_stdout(args.color)) };
    let out = &mut io::stdout().lock();
    let mut verified = true;
    match form {
        // One array holds everything, so the trial comes before the report.
        Form::Json => {
            let backing = trial(args, place.take(), &set, &named, heading.clock_ns)?;
            verified &= backing.as_ref().is_none_or(|backing| backing.fault.is_none());
            verified &= finish(&heading, &figures, form, backing.as_ref(), out)?;
        }
        Form::Table(look) => {
            verified &= finish(&heading, &figures, form, None, out)?;
            for outcome in trials(args, place.take(), &set, &named, heading.clock_ns)? {
                write_report(out, &format!("\n{}", look.paragraph(&outcome.text)))?;
                verified &= outcome.verified;
            }
        }
    }
    Ok(verified)
}

/// Runs the trials that were requested in addition to the comparison.
fn trials(
    args: &Compare,
    place: Option<Place>,
    set: &PageSet,
    pairs: &[(String, String)],
    clock_ns: f64,
) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    if args.switch {
        outcomes.push(trial::switch(set, pairs, args.threads)?);
    }
    outcomes.extend(trial(args, place, set, pairs, clock_ns)?.map(|backing| backing.outcome()));
    Ok(outcomes)
}

/// Returns where `--backing` writes, if it was given. Opens a service, so that a wrong URL is refused before anything is
/// measured.
fn place(args: &Compare, services: &[Service], pages: usize) -> Result<Option<Place>> {
    let Some(given) = &args.backing else { return Ok(None) };
    let Some((url, scheme)) = backing::url(given) else {
        return if args.plain {
            Err(Error::PlainFile)
        } else {
            Ok(Some(Place::File(given.clone())))
        };
    };
    let service = backing::service(scheme, services)?;
    #[cfg(not(feature = "encrypt"))]
    if !args.plain {
        return Err(Error::NoEncryption);
    }
    let device = service.device(url, pages as u64)?;
    Ok(Some(Place::Service { device, encrypt: !args.plain }))
}

/// Runs the trial of `--backing` with the first pair, if it was requested.
fn trial(
    args: &Compare,
    place: Option<Place>,
    set: &PageSet,
    pairs: &[(String, String)],
    clock_ns: f64,
) -> Result<Option<Backing>> {
    let (Some(place), Some(mib)) = (place, args.max_pool_mib) else { return Ok(None) };
    trial::backing(set, &pairs[0], place, mib as usize * 1048576, clock_ns).map(Some)
}

/// Returns the pages to measure and, for a sample, its facts.
fn page_set(args: &Compare) -> Result<(PageSet, Option<Facts>)> {
    let limit = memory::set_limit();
    let Some(pid) = args.pid else {
        return Ok((PageSet::load(&args.pages, limit)?, None));
    };
    let Sample { pages, facts } = process::sample(pid, args.pages_max, limit)?;
    if let Some(path) = &args.save {
        process::save(path, &pages)?;
        // A failure to write this warning is ignored: the report does not depend on it.
        let _ = writeln!(
            io::stderr(),
            "zswap: {path:?} contains memory of {}, including any secrets in it; only you can read it; \
             delete it when you no longer need it",
            facts.process()
        );
    }
    Ok((PageSet::new(pages, facts.process()), Some(facts)))
}

/// The form of the report.
#[derive(Clone, Copy, Debug)]
enum Form {
    Json,
    Table(Look),
}

/// Writes the report. Only the JSON contains `backing`. Returns whether every page of the comparison came
/// back equal.
fn finish(
    heading: &Heading,
    figures: &[Figures],
    form: Form,
    backing: Option<&Backing>,
    out: &mut impl Write,
) -> Result<bool> {
    let verdict = Verdict::of(figures, heading.rounds, heading.threads);
    let text = match form {
        Form::Json => report::json::render(heading, figures, &verdict, backing),
        Form::Table(look) => report::table::render(heading, figures, &verdict, look),
    };
    write_report(out, &text)?;
    Ok(figures.iter().all(Figures::verified))
}

/// Leaves out pages at the end of the set that fill no unit of the largest that was asked for.
fn whole_units(set: PageSet, args: &Compare) -> PageSet {
    let largest = args.unit.iter().max().map_or(1, |unit| unit / PAGE_SIZE);
    let pages = set.pages().len() / largest * largest;
    if pages == set.pages().len() || pages == 0 {
        return set;
    }
    let origin = format!("{}, its first {pages} pages", set.origin());
    PageSet::new(set.pages()[..pages].iter().copied().collect(), origin)
}

/// Makes all requested pairs and checks each name, before any page is read.
fn pairs(args: &Compare, stock: &Stock) -> Result<Vec<Pair>> {
    let or_all = |asked: Vec<String>, all: Vec<String>| if asked.is_empty() { all } else { asked };
    let zpools = or_all(args.zpools()?, stock.zpool_names());
    let compressors = or_all(args.compressors()?, stock.compressor_names());
    for zpool in &zpools {
        stock.check_zpool(zpool)?;
    }
    let mut pairs = Vec::with_capacity(zpools.len() * compressors.len());
    for zpool in &zpools {
        for compressor in &compressors {
            for unit in &args.unit {
                pairs.push(Pair::new(stock, zpool, compressor, *unit)?);
            }
        }
    }
    Ok(pairs)
}

/// Writes the report. Succeeds even if the report's reader has gone away.
fn write_report(out: &mut impl Write, text: &str) -> Result<()> {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Error::Report(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::examples;

    struct Fails(io::ErrorKind);

    impl Write for Fails {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn one_pair_that_failed_makes_the_run_fail_after_its_report() {
        let (heading, figures) = (examples::heading(), examples::figures());
        for form in [Form::Table(Look::PLAIN), Form::Json] {
            let mut out = Vec::new();
            assert!(!finish(&heading, &figures, form, None, &mut out).unwrap());
            let report = String::from_utf8(out).unwrap();
            assert!(report.contains("own:k=v"), "{report}");
            assert_eq!(report.starts_with('['), matches!(form, Form::Json));
            assert!(finish(&heading, &figures[..1], form, None, &mut Vec::new()).unwrap());
        }
    }

    #[test]
    fn a_reader_that_went_away_is_no_error_and_a_full_disk_is() {
        assert!(write_report(&mut Fails(io::ErrorKind::BrokenPipe), "x").is_ok());
        let full = write_report(&mut Fails(io::ErrorKind::StorageFull), "x");
        assert!(matches!(full, Err(Error::Report(_))));
        let mut out = Vec::new();
        write_report(&mut out, "table\n").unwrap();
        assert_eq!(out, b"table\n");
    }
}
