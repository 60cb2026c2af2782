//! The program as a user runs it: what it prints, where, and its exit status.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests: a failure there is the test's own message"
)]

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

const PAGE: usize = 4096;

fn zswap() -> Command {
    Command::new(env!("CARGO_BIN_EXE_zswap"))
}

/// Runs `zswap compare` with `args`.
fn compare<S: AsRef<std::ffi::OsStr>>(args: &[S]) -> Output {
    zswap().arg("compare").args(args).output().unwrap()
}

fn status(output: &Output) -> i32 {
    output.status.code().unwrap()
}

/// Parses the report of a run, which must have succeeded and written nothing to standard error.
fn report(output: &Output) -> Vec<Value> {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!((status(output), &*stderr), (0, ""));
    match serde_json::from_slice(&output.stdout).unwrap() {
        Value::Array(pairs) => pairs,
        other => panic!("no array: {other}"),
    }
}

/// A folder of one test, removed at its end.
struct Folder(PathBuf);

impl Folder {
    fn new(test: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(test);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn file(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.0.join(name);
        fs::write(&path, bytes).unwrap();
        path.into_os_string().into_string().unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn same_filled() -> Vec<u8> {
    b"8 bytes!".repeat(PAGE / 8)
}

fn text() -> Vec<u8> {
    let words = (0..).flat_map(|i| format!("page table entry {i}, ").into_bytes());
    words.take(PAGE).collect()
}

/// Returns bytes without a pattern (Marsaglia's xorshift64).
fn noise() -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(PAGE).collect()
}

fn count(pair: &Value, key: &str) -> u64 {
    pair[key].as_u64().unwrap_or_else(|| panic!("`{key}` in {pair}"))
}

#[test]
fn the_sample_goes_through_every_pair_and_every_key_is_there() {
    let pairs = report(&compare(&["--rounds", "1", "--json"]));
    let names: Vec<(&str, &str)> = pairs
        .iter()
        .map(|p| (p["zpool"].as_str().unwrap(), p["compressor"].as_str().unwrap()))
        .collect();
    for compressor in ["lz4", "lz4hc", "zstd", "deflate"] {
        assert!(names.contains(&("zbud", compressor)), "{names:?}");
    }
    assert!(!names.iter().any(|(_, compressor)| *compressor == "null"), "{names:?}");
    for pair in &pairs {
        assert_eq!(pair["verified"], true, "{pair}");
        let [pages, same, stored, rejected] =
            ["pages", "same_filled", "stored", "rejected"].map(|key| count(pair, key));
        assert_eq!((pages, pages), (520, same + stored + rejected));
        assert!(same > 0 && stored > 400, "{pair}");
        assert_eq!(count(pair, "original_bytes"), 520 * PAGE as u64);
        let compressed = count(pair, "compressed_bytes");
        assert!((300_000..1_200_000).contains(&compressed), "{compressed}");
        assert!(count(pair, "pool_bytes") >= compressed);
        assert!(count(pair, "metadata_bytes") > 0 && count(pair, "context_bytes") > 0);
        assert_eq!((count(pair, "threads"), count(pair, "rounds")), (1, 1));
        for key in ["store_ns", "store_grow_ns", "load_ns"] {
            let [mean, p50, p99] = ["mean", "p50", "p99"].map(|part| pair[key][part].as_f64());
            assert!(mean.unwrap() > 0.0, "{key} in {pair}");
            assert!(p50.unwrap() > 0.0 && p50 <= p99, "{key} in {pair}");
        }
        for key in ["codec_compress_ns", "codec_decompress_ns"] {
            assert!(pair[key].as_f64().unwrap() > 0.0, "{key} in {pair}");
        }
    }
}

#[test]
fn each_page_is_counted_as_what_it_is() {
    let folder = Folder::new("counted");
    let file = folder.file("pages", &[same_filled(), text(), noise()].concat());
    let args = ["--pages", &file, "--compressor", "lz4,zstd:level=-1", "--rounds", "2", "--json"];
    let pairs = report(&compare(&args));
    assert_eq!(pairs.len(), 2 * zpools());
    assert_eq!(pairs[1]["compressor"], "zstd:level=-1");
    for pair in &pairs {
        assert_eq!((count(pair, "pages"), count(pair, "same_filled")), (3, 1));
        assert_eq!(count(pair, "stored") + count(pair, "rejected"), 2);
        assert_eq!(count(pair, "incompressible") + count(pair, "rejected"), 1);
        let text_alone =
            count(pair, "compressed_bytes") - PAGE as u64 * count(pair, "incompressible");
        assert!((100..2000).contains(&text_alone), "{pair}");
        assert_eq!(pair["verified"], true);
        assert_eq!(pair["source"], "pages");
    }
}

/// Returns how many zpools are compared by default.
fn zpools() -> usize {
    let folder = Folder::new("zpools");
    let file = folder.file("pages", &text());
    report(&compare(&["--pages", &file, "--compressor", "lz4", "--rounds", "1", "--json"])).len()
}

#[test]
fn several_files_make_one_set_and_packed_ones_are_the_same_as_raw() {
    let folder = Folder::new("several");
    let (one, two) = ([text(), noise()].concat(), [same_filled(), text()].concat());
    let raw = folder.file("all", &[one.clone(), two.clone()].concat());
    let first = folder.file("one", &one);
    let second = folder.file("two.zst", &zstd::bulk::compress(&two, 3).unwrap());
    let rest = ["--zpool", "zbud", "--compressor", "lz4", "--rounds", "1", "--json"];
    let counted = |files: &[&str]| {
        let pairs = report(&compare(&[files, &rest].concat()));
        assert_eq!(pairs.len(), 1);
        ["pages", "same_filled", "stored", "rejected", "compressed_bytes", "pool_bytes"]
            .map(|key| count(&pairs[0], key))
    };
    let whole = counted(&["--pages", &raw]);
    assert_eq!(whole[..2], [4, 1]);
    assert_eq!(counted(&["--pages", &first, "--pages", &second]), whole);
    assert_eq!(counted(&["--pages", &first, &second]), whole);
}

#[test]
fn the_table_has_a_line_for_each_pair() {
    let folder = Folder::new("table");
    let file = folder.file("some.pages", &[same_filled(), text(), text()].concat());
    let output = compare(&["--pages", &file, "--compressor", "lz4,deflate", "--rounds", "1"]);
    assert_eq!((status(&output), output.stderr.len()), (0, 0));
    let table = String::from_utf8(output.stdout).unwrap();
    let first = table.lines().next().unwrap();
    assert!(
        first.starts_with("3 pages (0.0 MiB) of some.pages; 1 same-filled (33.3 %)"),
        "{first}"
    );
    for compressor in ["lz4", "deflate"] {
        let line = table.lines().find(|line| {
            let mut words = line.split_whitespace();
            (words.next(), words.next()) == (Some("zbud"), Some(compressor))
        });
        assert!(line.is_some_and(|line| line.ends_with(" yes")), "{table}");
    }
}

/// Runs a command line that must be refused as bad input. Returns the one line that it prints.
fn complaint(args: &[&str]) -> String {
    let output = compare(args);
    let stderr = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(status(&output), 2, "{args:?}: {stderr}");
    assert_eq!(output.stdout.len(), 0, "{args:?}");
    assert!(stderr.starts_with("zswap: ") && stderr.ends_with('\n'), "{args:?}: {stderr}");
    assert_eq!(stderr.lines().count(), 1, "{args:?}: {stderr}");
    stderr
}

#[test]
fn bad_input_is_one_line_that_says_what_to_do() {
    let folder = Folder::new("bad");
    let partial = folder.file("partial", &text()[1..]);
    let empty = folder.file("empty", &[]);
    let corrupt = folder.file("corrupt.zst", &text());
    let unnamed = folder.file("unnamed", &zstd::bulk::compress(&text(), 1).unwrap());
    let good = folder.file("good", &text());
    let missing = folder.0.join("not\nthere");
    for (args, says) in [
        (vec!["--pages", missing.to_str().unwrap()], "give --pages a file"),
        (vec!["--pages", folder.0.to_str().unwrap()], "give --pages a file"),
        (vec!["--pages", &partial], "cut or fill it to a multiple of 4096"),
        (vec!["--pages", &good, "--pages", &partial], "cut or fill it to a multiple of 4096"),
        (vec!["--pages", &empty], "at least one 4096-byte page"),
        (vec!["--pages", &corrupt], "zstd -t"),
        (vec!["--pages", &unnamed], "rename it to end in .zst"),
        (vec!["--pages"], "see `zswap compare --help`"),
        (vec!["--zpool", "zsmallox"], "give --zpool some of: "),
        (vec!["--zpool", "zbud,zsmallox"], "zsmallox"),
        (vec!["--zpool", ""], "write names"),
        (vec!["--compressor", "lz5"], "give --compressor some of: "),
        (vec!["--compressor", "lz4,,zstd"], "write names"),
        (vec!["--compressor", "level=3"], "name:key=value"),
        (vec!["--compressor", "zstd:level=99"], "a whole number from"),
        (vec!["--compressor", "zstd:levle=3"], "zstd takes: level"),
        (vec!["--rounds", "0"], "give 1 or more"),
        (vec!["--rounds", "two"], "see `zswap compare --help`"),
        (vec!["--threads", "0"], "give 1 or more"),
        (vec!["--threads", "5000"], "1024 or fewer"),
        (vec!["--color", "green"], "always"),
        (vec!["--sorted"], "see `zswap compare --help`"),
    ] {
        let line = complaint(&args);
        assert!(line.contains(says), "{args:?}: {line}");
    }
}

#[cfg(not(feature = "lzo"))]
#[test]
fn lzo_without_its_feature_names_the_feature() {
    let line = complaint(&["--compressor", "lzo"]);
    assert!(line.contains("--features lzo"), "{line}");
}

#[test]
fn names_are_checked_before_files_are_read() {
    let line = complaint(&["--zpool", "zsmallox", "--pages", "not there"]);
    assert!(line.contains("zsmallox"), "{line}");
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let folder = Folder::new("pipe");
    let file = folder.file("pages", &text());
    let mut child = zswap()
        .args(["compare", "--pages", &file, "--compressor", "lz4", "--rounds", "1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!((child.wait().unwrap().code(), &*stderr), (Some(0), ""));
}

#[test]
fn help_is_on_the_standard_output() {
    let output = compare(&["--help"]);
    let help = String::from_utf8(output.stdout.clone()).unwrap();
    assert_eq!((status(&output), output.stderr.len()), (0, 0));
    for word in [
        "--pages",
        "--pid",
        "--pages-max",
        "--save",
        "--zpool",
        "--compressor",
        "--rounds",
        "--threads",
        "--plot",
        "--color",
        "--json",
        "Exit status",
    ] {
        assert!(help.contains(word), "{word} not in {help}");
    }
    let alone = zswap().output().unwrap();
    assert_eq!((status(&alone), alone.stdout.len()), (2, 0));
}

#[test]
fn several_threads_are_measured_and_every_page_is_checked() {
    for threads in ["2", "7"] {
        let args = ["--compressor", "lz4,zstd", "--rounds", "2", "--threads", threads, "--json"];
        for pair in report(&compare(&args)) {
            assert_eq!(pair["threads"].to_string(), threads);
            assert_eq!(pair["verified"], true, "{pair}");
            assert_eq!(count(&pair, "pages"), 520);
            for key in ["store_ns", "store_grow_ns", "load_ns"] {
                assert!(pair[key]["per_second"].as_f64().unwrap() > 1.0, "{key} in {pair}");
            }
        }
    }
    // There are more threads than pages.
    let folder = Folder::new("threads");
    let file = folder.file("pages", &[text(), noise()].concat());
    let args = ["--pages", &file, "--compressor", "lz4", "--rounds", "1", "--threads", "9"];
    let output = compare(&args);
    let table = String::from_utf8(output.stdout.clone()).unwrap();
    assert_eq!((status(&output), output.stderr.len()), (0, 0));
    assert!(table.contains("9 threads share the pages") && table.contains("pages/s"), "{table}");
}

#[test]
fn the_report_ends_with_what_to_pick() {
    let args = ["--zpool", "zbud", "--compressor", "lz4,deflate", "--rounds", "2"];
    let output = compare(&args);
    let table = String::from_utf8(output.stdout).unwrap();
    let closing = table.split("\n\n").last().unwrap().replace('\n', " ");
    for words in ["For density: zbud/", "For speed: zbud/lz4, ", "For both: zbud/lz4, ", " % less"]
    {
        assert!(closing.contains(words), "{words} not in {closing}");
    }
    let mut args = args.to_vec();
    args.push("--json");
    let pairs = report(&compare(&args));
    let won = |question: &str| {
        let wins = |pair: &&Value| {
            let picked = pair["picked_for"].as_array().unwrap();
            picked.iter().any(|pick| pick["question"] == question)
        };
        let winners: Vec<_> = pairs.iter().filter(wins).collect();
        assert_eq!(winners.len(), 1, "{question}");
        winners[0]["compressor"].as_str().unwrap()
    };
    assert_eq!((won("speed"), won("both")), ("lz4", "lz4"));
    assert!(!won("density").is_empty());
}

#[test]
fn the_plot_has_a_point_and_a_label_for_each_pair() {
    let folder = Folder::new("plot");
    let plot = folder.file("plot.svg", b"an older one");
    let output = compare(&["--rounds", "1", "--plot", &plot]);
    assert_eq!((status(&output), output.stderr.len()), (0, 0));
    let svg = fs::read_to_string(&plot).unwrap();
    let pairs = report(&compare(&["--rounds", "1", "--json"]));
    assert_eq!(svg.matches("<circle").count(), pairs.len());
    for pair in &pairs {
        let label =
            format!("{}/{}", pair["zpool"].as_str().unwrap(), pair["compressor"].as_str().unwrap());
        assert!(svg.contains(&label), "{label}");
    }
    // The SVG is well-formed: every element is closed, and elements are nested.
    let mut open = Vec::new();
    for tag in svg.split('<').skip(1) {
        let (tag, _) = tag.split_once('>').unwrap();
        let name = tag.trim_start_matches('/').split_whitespace().next().unwrap();
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name));
        } else if !tag.ends_with('/') && !tag.starts_with(['?', '!']) {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "{open:?}");
    let line = complaint(&["--rounds", "1", "--plot", folder.0.to_str().unwrap()]);
    assert!(line.contains("--plot"), "{line}");
}

#[test]
fn a_pipe_gets_plain_text_unless_colours_are_asked_for() {
    let plain = compare(&["--compressor", "lz4", "--rounds", "1"]);
    assert!(!plain.stdout.contains(&0x1b) && plain.stderr.is_empty());
    let colored = compare(&["--compressor", "lz4", "--rounds", "1", "--color", "always"]);
    assert!(colored.stdout.contains(&0x1b) && colored.stderr.is_empty());
}

/// Runs the program on a terminal with this many columns. Returns what it prints.
#[cfg(target_os = "linux")]
fn on_a_terminal(columns: u16, args: &[&str], variables: &[(&str, &str)]) -> String {
    use std::fs::File;
    use std::os::fd::FromRawFd;

    let (mut ours, mut theirs) = (0, 0);
    let size = libc::winsize { ws_row: 50, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    let null = std::ptr::null_mut();
    // SAFETY: both ints and the size live through the call; name and settings may be null.
    let made = unsafe {
        libc::openpty(&mut ours, &mut theirs, null, std::ptr::null_mut(), &raw const size as *mut _)
    };
    assert_eq!(made, 0);
    // SAFETY: just opened, and owned by nobody else.
    let mut ours = unsafe { File::from_raw_fd(ours) };
    // SAFETY: as above.
    let theirs = unsafe { File::from_raw_fd(theirs) };
    let mut child = zswap()
        .arg("compare")
        .args(args)
        .env("TERM", "xterm")
        .env_remove("NO_COLOR")
        .envs(variables.iter().copied())
        .stdout(theirs.try_clone().unwrap())
        .stderr(theirs)
        .spawn()
        .unwrap();
    let reader = std::thread::spawn(move || {
        let mut seen = Vec::new();
        // Reading fails once the program has closed its end.
        let _ = ours.read_to_end(&mut seen);
        String::from_utf8_lossy(&seen).into_owned()
    });
    assert_eq!(child.wait().unwrap().code(), Some(0));
    reader.join().unwrap()
}

#[test]
fn a_store_with_a_device_tells_what_was_written_and_read() {
    let folder = Folder::new("device");
    let file = folder.0.join("backing").into_os_string().into_string().unwrap();
    // Pages that are only copied take 2 MiB, so half of them go to the device.
    let args = ["--zpool", "zsmalloc", "--compressor", "null,lz4", "--rounds", "1"];
    let args = [&args[..], &["--backing", &file, "--max-pool-mib", "1"]].concat();
    let text = compare(&args);
    assert_eq!(status(&text), 0, "{}", String::from_utf8_lossy(&text.stderr));
    let words = String::from_utf8_lossy(&text.stdout);
    let words = words.split_whitespace().collect::<Vec<_>>().join(" ");
    for part in ["every page equal", "were written to the file", "A load from the file took"] {
        assert!(words.contains(part), "{part} in {words}");
    }
    let pairs = report(&compare(&[&args[..], &["--json"]].concat()));
    let (first, other) = (&pairs[0], &pairs[1]);
    let number = |key: &str| first[key].as_u64().unwrap();
    let pages = number("written_back_pages");
    assert!(pages > 0 && number("device_bytes_written") >= pages * PAGE as u64, "{first}");
    assert!(number("device_bytes_read") >= PAGE as u64, "{first}");
    assert!((1.0..1.3).contains(&first["write_amplification"].as_f64().unwrap()), "{first}");
    for part in ["mean", "p50", "p99"] {
        assert!(first["device_load_ns"][part].as_f64().unwrap() > 0.0, "{first}");
        assert!(other["device_load_ns"][part].is_null(), "{other}");
    }
    assert!(first["device_fault"].is_null() && other["device_bytes_written"].is_null());
    assert!(!Path::new(&file).exists());
}

#[cfg(target_os = "linux")]
#[test]
fn a_terminal_sets_the_width_and_gets_colours_and_a_bar() {
    let args = ["--compressor", "lz4,zstd", "--rounds", "2", "--threads", "2"];
    for columns in [60, 80, 200] {
        let seen = on_a_terminal(columns, &args, &[]);
        assert!(seen.contains("\u{1b}[1m") && seen.contains("round 1 of 2"), "{seen}");
        // The bar redraws its own line; the report begins after the last redraw.
        let report = &seen[seen.rfind("520 pages").unwrap()..];
        let plain = without_colors(report);
        for line in plain.lines() {
            assert!(line.trim_end().chars().count() <= usize::from(columns), "{columns}: {line}");
        }
        // Column widths depend on the numbers, so the heads are compared word by word.
        let heads = plain.lines().find(|line| line.starts_with("zpool ")).unwrap();
        let growing = heads.split_whitespace().any(|head| head == "growing");
        assert_eq!(growing, columns == 200, "{plain}");
        assert!(plain.contains("ratio") && plain.contains("equal"));
    }
    let plain = on_a_terminal(200, &args, &[("NO_COLOR", "1")]);
    assert!(!plain[plain.rfind("520 pages").unwrap()..].contains('\u{1b}'), "{plain}");
}

/// Removes the escape sequences that set colours.
#[cfg(target_os = "linux")]
fn without_colors(text: &str) -> String {
    let mut parts = text.split("\u{1b}[");
    let first = parts.next().unwrap().to_owned();
    parts.fold(first, |text, part| text + part.split_once('m').map_or("", |(_, rest)| rest))
}

#[test]
fn a_remote_service_is_refused_with_the_command_that_installs_it() {
    for more in [vec![], vec!["--plain"]] {
        let mut args = vec!["--backing", "redis://localhost:6379/0", "--max-pool-mib", "1"];
        args.extend(more);
        let output = compare(&args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        let what = "cargo install --locked --force --path zswap-remote/cli";
        assert!(status(&output) == 2 && stderr.contains(what), "{stderr}");
    }
    let output = compare(&["--backing", "pages", "--max-pool-mib", "1", "--plain"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(status(&output) == 2 && stderr.contains("leave --plain out"), "{stderr}");
}
