//! The command line: verbs, options, and the rule for lists of names.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::builder::Styles;
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};

use crate::error::{Error, Result};
use crate::look::Color;

/// Compressed memory for userspace: tries out stores of compressed pages on real memory.
#[derive(Parser, Debug)]
#[command(name = "zswap", version, styles = Styles::plain())]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Verb {
    Compare(Compare),
    Nbd(Nbd),
}

/// Serve a compressed disk over NBD, the network block device protocol, until SIGTERM or SIGINT.
///
/// The disk starts empty, and its contents are gone at the end. Anybody who can connect can read
/// and write all of it. So --listen takes only loopback addresses, which no other machine can reach,
/// unless --any-address is given.
///
/// Exit status: 0 if a signal ended the server, 2 if it could not serve.
#[derive(clap::Args, Debug)]
pub(crate) struct Nbd {
    /// Size of the disk: bytes, or with K, M, G or T; a multiple of 4096
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) size: u64,

    /// Bytes that are compressed at a time: 4K, 8K, 16K, 32K or 64K. More is denser, and slower for small requests
    #[arg(long, value_name = "SIZE", value_parser = unit, default_value = "4K")]
    pub(crate) unit: usize,

    /// Zpool that holds the pages
    #[arg(long, value_name = "NAME", default_value = "zsmalloc")]
    pub(crate) zpool: String,

    /// Compressor, with optional parameters: zstd:level=3
    #[arg(long, value_name = "SPEC", default_value = compressors::default_compressor().name)]
    pub(crate) compressor: String,

    /// Memory limit: bytes, or with K, M, G or T. At the limit, writes fail with "no space left"
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) mem_limit: Option<u64>,

    /// Address and port to listen on; port 0 chooses a free one
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:10809")]
    pub(crate) listen: SocketAddr,

    /// Listen on a Unix socket at PATH instead. Only its owner can use it; PATH must not exist
    #[arg(long, value_name = "PATH", conflicts_with = "listen")]
    pub(crate) unix: Option<PathBuf>,

    /// Allow an address for --listen that other machines can reach
    #[arg(long)]
    pub(crate) any_address: bool,

    /// Write pages that were not used for a while (--idle) to BACKING, to save memory: a file, which must be new or
    /// empty and is deleted at the end, or a remote service: `redis://host:port/database`, `s3://bucket/prefix`.
    /// Secrets of a service come from the environment
    #[arg(long, value_name = "BACKING")]
    pub(crate) backing: Option<PathBuf>,

    /// Seconds after which a page counts as not used: at least this, at most twice as many
    #[arg(long, value_name = "SECONDS", default_value_t = 60, requires = "backing",
          value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) idle: u32,

    /// Do not encrypt the pages that go to a remote service
    #[arg(long, requires = "backing")]
    pub(crate) plain: bool,
}

/// Parses a number of bytes: `4096`, `64K`, `1G`. The letters stand for powers of 1024.
fn size(text: &str) -> std::result::Result<u64, String> {
    let (digits, shift) = match text.char_indices().last() {
        Some((at, 'k' | 'K')) => (&text[..at], 10),
        Some((at, 'm' | 'M')) => (&text[..at], 20),
        Some((at, 'g' | 'G')) => (&text[..at], 30),
        Some((at, 't' | 'T')) => (&text[..at], 40),
        _ => (text, 0),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| "give a number of bytes, or a number with K, M, G or T".to_owned())?;
    number.checked_mul(1 << shift).ok_or_else(|| "give less than 2^64 bytes".to_owned())
}

/// Parses a unit: `4K` to `64K`.
fn unit(text: &str) -> std::result::Result<usize, String> {
    let bytes = usize::try_from(size(text)?).unwrap_or(usize::MAX);
    zswap_core::check_unit(bytes).map_err(|error| error.to_string())
}

/// Store pages in every zpool with every compressor, read them back, and compare.
///
/// In every round and for each pair, all pages are stored, stored again in random order, loaded in
/// random order, and checked byte for byte. The bare codec is timed on the same pages, for
/// comparison. Times are medians over the rounds, with each thread on its own processor and the
/// cost of reading the clock subtracted; same-filled pages are not timed. Memory is read after the
/// first filling.
///
/// Exit status: 0 if every page came back equal, 1 if not, 2 if nothing could be measured.
#[derive(clap::Args, Debug)]
pub(crate) struct Compare {
    /// Raw 4096-byte pages, or a .zst of them; several files make one set. Default: a small sample
    /// of real memory that is built into this program
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub(crate) pages: Vec<PathBuf>,

    /// Sample the memory of the running process PID instead of a file: its resident private pages,
    /// without its stacks and its initial environment. The process is stopped while its pages are
    /// copied, and its memory is only read. Linux only
    #[arg(long, value_name = "PID", conflicts_with = "pages")]
    pub(crate) pid: Option<i32>,

    /// The most pages to sample, 16 or more. They are taken in runs of 16 pages, spread evenly (20480
    /// pages are 80 MiB)
    #[arg(long, value_name = "N", default_value_t = 20480, requires = "pid",
          value_parser = at_least_a_run)]
    pub(crate) pages_max: usize,

    /// Keep the sample for later runs with --pages. It is memory, so it contains whatever secrets
    /// the process holds. The file must not exist; only its owner can read it
    #[arg(long, value_name = "FILE.zst", requires = "pid")]
    pub(crate) save: Option<PathBuf>,

    /// Zpools, comma-separated. Default: all that are built in
    #[arg(long, value_name = "LIST")]
    pub(crate) zpool: Vec<String>,

    /// Compressors, comma-separated, with optional parameters: lz4,zstd:level=1. A part of the form
    /// key=value belongs to the compressor before it. Default: all that are built in, except null, which copies
    #[arg(long, value_name = "LIST")]
    pub(crate) compressor: Vec<String>,

    /// Bytes that are compressed at a time, comma-separated: 4K,8K,16K,32K,64K. Each pair is measured with each. Pages at
    /// the end of the set that fill no unit of the largest are left out. Bare codecs are timed for 4K alone
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = unit, default_value = "4K",
          conflicts_with_all = ["switch", "backing"])]
    pub(crate) unit: Vec<usize>,

    /// Number of rounds
    #[arg(long, value_name = "N", default_value_t = 9)]
    pub(crate) rounds: u32,

    /// Number of threads, at most 1024. They use one store, and each works on a share of the pages, on
    /// its own processor if there are enough
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) threads: usize,

    /// Draw density against load cost as an SVG; replaces FILE.svg
    #[arg(long, value_name = "FILE.svg")]
    pub(crate) plot: Option<PathBuf>,

    /// Also switch backend and compressor among all the pairs every 10 ms while the threads store
    /// and load, and report what that costs
    #[arg(long, conflicts_with = "json")]
    pub(crate) switch: bool,

    /// Also fill a store of the first pair. Its pool is limited to N MiB, and it writes the rest back
    /// to BACKING; report what was written and read, and how long a load from there takes. A file is
    /// created for its owner alone and deleted afterwards; an existing file must be empty, and is
    /// emptied again. A remote service is given by its URL: `redis://host:port/database`,
    /// `s3://bucket/prefix`. Its secrets come from the environment
    #[arg(long, value_name = "BACKING", requires = "max_pool_mib")]
    pub(crate) backing: Option<PathBuf>,

    /// Do not encrypt the pages that go to a remote service
    #[arg(long, requires = "backing")]
    pub(crate) plain: bool,

    /// Limit of the pool in the store of --backing, in MiB
    #[arg(long, value_name = "N", requires = "backing")]
    pub(crate) max_pool_mib: Option<u32>,

    /// When to use colours
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub(crate) color: Color,

    /// Print one JSON array, with one object per pair, instead of the table
    #[arg(long)]
    pub(crate) json: bool,
}

/// Parses the value of `--pages-max`.
fn at_least_a_run(text: &str) -> std::result::Result<usize, String> {
    match text.parse() {
        Ok(pages) if pages >= 16 => Ok(pages),
        Ok(_) => Err("a run has 16 pages; give 16 or more".to_owned()),
        Err(error) => Err(format!("{error}; give a whole number of pages, 16 or more")),
    }
}

/// Why there is no verb to run.
#[derive(Debug)]
pub(crate) enum Usage {
    /// Help or version, which clap prints.
    Help(clap::Error),
    /// What is wrong with the command line, in one line.
    Wrong(String),
}

/// Parses the command line; `args` starts with the program's name.
pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> std::result::Result<Verb, Usage> {
    let args: Vec<OsString> = args.into_iter().collect();
    Cli::try_parse_from(&args).map(|cli| cli.verb).map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => Usage::Help(error),
        _ => Usage::Wrong(in_one_line(&error.to_string(), verb_of(&args))),
    })
}

/// Returns the verb of a command line that did not parse, if there is one.
fn verb_of(args: &[OsString]) -> Option<&str> {
    let verb = args.get(1)?.to_str()?;
    Cli::command().find_subcommand(verb).map(|_| verb)
}

/// Joins the lines of clap's message to one, without the usage, and adds how to get help with the verb.
fn in_one_line(message: &str, verb: Option<&str>) -> String {
    let lines = message
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"))
        .filter(|line| !line.is_empty());
    let sense = lines.collect::<Vec<_>>().join("; ");
    let sense = sense.strip_prefix("error: ").unwrap_or(&sense);
    match verb {
        Some(verb) => format!("{sense}; see `zswap {verb} --help`"),
        None => format!("{sense}; see `zswap --help`"),
    }
}

impl Compare {
    /// Returns the zpools given, in order and without duplicates. The list is empty if the option is
    /// absent. Fails on an empty name.
    pub(crate) fn zpools(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for list in &self.zpool {
            for name in list.split(',').map(str::trim) {
                if name.is_empty() {
                    return Err(Error::EmptyName { option: "--zpool", list: list.clone() });
                }
                push_once(&mut names, name.to_owned());
            }
        }
        Ok(names)
    }

    /// Returns the compressors given, in order and without duplicates. The list is empty if the option
    /// is absent. Fails on an empty name and on a parameter without a compressor.
    pub(crate) fn compressors(&self) -> Result<Vec<String>> {
        let mut specs = Vec::new();
        for list in &self.compressor {
            for spec in split_specs(list)? {
                push_once(&mut specs, spec);
            }
        }
        Ok(specs)
    }
}

fn push_once(names: &mut Vec<String>, name: String) {
    if !names.contains(&name) {
        names.push(name);
    }
}

/// Splits a list of specs at its commas, but keeps `key=value` with the spec before it.
fn split_specs(list: &str) -> Result<Vec<String>> {
    let mut specs: Vec<String> = Vec::new();
    for part in list.split(',').map(str::trim) {
        if part.is_empty() {
            return Err(Error::EmptyName { option: "--compressor", list: list.to_owned() });
        }
        if !is_parameter(part) {
            specs.push(part.to_owned());
        } else if let Some(spec) = specs.last_mut() {
            spec.push(',');
            spec.push_str(part);
        } else {
            return Err(Error::LoneParameter { list: list.to_owned(), parameter: part.to_owned() });
        }
    }
    Ok(specs)
}

/// Returns whether `part` is `key=value`, rather than `name` or `name:key=value`.
fn is_parameter(part: &str) -> bool {
    part.split_once('=').is_some_and(|(key, _)| !key.contains(':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    fn compare(line: &str) -> Compare {
        let Verb::Compare(compare) = parse(words(line)).unwrap() else { panic!("{line}") };
        compare
    }

    #[test]
    fn the_definition_is_sound() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn without_options_the_sample_and_all_pairs_are_meant() {
        let args = compare("zswap compare");
        assert!(args.pages.is_empty() && !args.json);
        assert_eq!(args.rounds, 9);
        assert_eq!((args.zpools().unwrap(), args.compressors().unwrap()), (vec![], vec![]));
    }

    #[test]
    fn options_repeat_and_lists_join() {
        let args = compare(
            "zswap compare --pages a b --pages c --zpool zbud,own --zpool zbud \
             --compressor lz4,zstd:level=1,page=8192,deflate --compressor lz4 --rounds 3 --json",
        );
        assert_eq!(args.pages, ["a", "b", "c"].map(PathBuf::from));
        assert_eq!(args.zpools().unwrap(), ["zbud", "own"]);
        assert_eq!(args.compressors().unwrap(), ["lz4", "zstd:level=1,page=8192", "deflate"]);
        assert_eq!((args.rounds, args.json), (3, true));
    }

    #[test]
    fn a_parameter_goes_with_the_compressor_before_it() {
        assert_eq!(split_specs("a:k=v,l=w:x, b").unwrap(), ["a:k=v,l=w:x", "b"]);
        assert!(matches!(split_specs("k=v,a"), Err(Error::LoneParameter { .. })));
    }

    #[test]
    fn empty_names_are_refused() {
        for line in ["--zpool=", "--zpool=a,,b", "--compressor=", "--compressor=a,"] {
            let args = compare(&format!("zswap compare {line}"));
            let error = args.zpools().and(args.compressors()).unwrap_err();
            assert!(matches!(error, Error::EmptyName { .. }), "{line}: {error}");
        }
    }

    #[test]
    fn a_wrong_command_line_is_told_in_one_line() {
        for (line, what) in [
            ("zswap compare --rounds many", "many"),
            ("zswap compare --round 3", "--round"),
            ("zswap compare stray", "stray"),
            ("zswap compare --pages", "--pages"),
            ("zswap compare --pid 1 --pages a", "--pid"),
            ("zswap compare --pid 1 --pages-max 15", "16 or more"),
            ("zswap compare --pid 1 --pages-max x", "16 or more"),
            ("zswap compare --pages-max 16", "--pid"),
            ("zswap compare --save a.zst", "--pid"),
            ("zswap compare --pid one", "one"),
            ("zswap nbd", "--size"),
            ("zswap nbd --size many", "many"),
            ("zswap compares", "compares"),
        ] {
            match parse(words(line)) {
                Err(Usage::Wrong(text)) => {
                    assert!(text.contains(what), "{text}");
                    assert!(!text.contains('\n') && !text.starts_with("error"), "{text}");
                    let verb = match line.split(' ').nth(1) {
                        Some(verb @ ("compare" | "nbd")) => format!("{verb} "),
                        _ => String::new(),
                    };
                    assert!(text.ends_with(&format!("see `zswap {verb}--help`")), "{text}");
                }
                other => panic!("{line}: {other:?}"),
            }
        }
    }

    #[test]
    fn help_and_version_are_not_errors() {
        for line in ["zswap --help", "zswap compare --help", "zswap --version", "zswap"] {
            assert!(matches!(parse(words(line)), Err(Usage::Help(_))), "{line}");
        }
    }

    #[test]
    fn sizes_are_bytes_or_have_a_letter() {
        let sizes = ["0", "4096", "64k", "64K", "3m", "1G", "2T"].map(|text| size(text).unwrap());
        assert_eq!(sizes, [0, 4096, 65536, 65536, 3 << 20, 1 << 30, 2 << 40]);
        for wrong in ["", "G", "-1", "1.5G", "1GB", "x", "99999999999T", "é"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }
}
