//! Runs the tests of crates under one of the compiler's sanitizers.
//!
//! The standard library and the C code of the codecs are also built with the sanitizer. zstd's
//! assembler routines are replaced by their C equivalents, since a sanitizer does not see into
//! assembler code. Either GCC or Clang may compile the C code: the object files of both work with
//! the sanitizer's runtime that comes with rustc. rustix makes its system calls through libc, where
//! the sanitizer sees them. If the thread sanitizer missed a `munmap`, it would report a race when
//! the address is mapped again.
//!
//! Tests that cannot run under a sanitizer are excluded by name, one by one. Doc examples are not
//! run.

use serde_json::Value;

use crate::cmd::Cmd;
use crate::error::{Error, Result};
use crate::jobs::miri;
use crate::libtest;
use crate::workspace::{Workspace, integration_tests, list, text};

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The name of a crate, and the cargo arguments that select the features for its tests.
pub(crate) type Crate = (&'static str, &'static str);

/// Every crate of the workspace except xtask, C code included.
pub(crate) const WHOLE: &[Crate] = &[
    ("zpool-base", ""),
    ("zpool-pages", ""),
    ("zpool-api", ""),
    ("zpool-conformance", ""),
    ("zpool-buddies", ""),
    ("zbud", ""),
    ("z3fold", ""),
    ("zsmalloc", ""),
    ("zswap-lz4-block", ""),
    ("linewords", ""),
    ("zswap-compressors", ""),
    ("zpage", ""),
    ("zswap-core", "--features metrics"),
    ("zswap-region", ""),
    ("zswap-cache", ""),
    ("zram", ""),
    ("zram-nbd", ""),
    ("zswap-measure", ""),
    ("zswap-cli", ""),
    ("zswap-torture", ""),
];

/// Integration tests that run under no sanitizer. Each is a program.
const PROGRAMS_LEFT_OUT: &[&str] = &[
    // It replaces `malloc`, and so does the sanitizer.
    "no_alloc",
    // It compares the process's resident set with the store's figures. The resident set would
    // include the sanitizer's own memory.
    "resident_set",
    // They raise SIGSEGV and SIGBUS on purpose, and handle them on stacks that the sanitizer does
    // not know.
    "allocator",
    "confined",
    "controls",
    "faults_of_memory",
    "holds_more",
    "in_handler",
    "inside_calls",
    "life_cycle",
    "rescued",
    "stress",
    "system_calls",
];

/// Tests that run under no sanitizer. A test is left out if its path contains one of these.
const TESTS_LEFT_OUT: &[&str] = &[
    // It needs pages that the system cannot take back. The sanitizer's `mlock` does nothing.
    "mmap::tests::locked::",
    "locked_memory_costs_the_pages_that_are_touched",
    // It limits the address space. The sanitizer's shadow memory needs terabytes of it.
    "no_address_space_is_an_error",
    // These sample another process. That process is a test program, so it has the sanitizer's
    // shadow memory, too: terabytes of mappings, whose page map takes minutes to hours to read.
    "a_large_process_is_sampled",
    "a_stopped_target_stays_stopped",
    "a_target_goes_on_when_zswap_is_killed",
    "the_heap_is_in_the_sample",
];

#[derive(Debug)]
pub(crate) struct Sanitizer {
    pub(crate) job: &'static str,
    /// The sanitizer's name, as in `-Zsanitizer=`.
    pub(crate) name: &'static str,
    /// An environment variable with options for the sanitizer's runtime, and its value.
    pub(crate) options: Option<(&'static str, &'static str)>,
}

impl Sanitizer {
    /// Tests those of `crates` that are in `asked`, or all if `asked` is empty. Returns an error if
    /// a name in `asked` is unknown, or if a crate runs no test.
    pub(crate) fn run(&self, ws: &Workspace, crates: &[Crate], asked: &[String]) -> Result<()> {
        let names: Vec<&str> = crates.iter().map(|&(name, _)| name).collect();
        let wanted = libtest::choose(self.job, &names, asked)?;
        miri::ensure_nightly_source()?;
        for (krate, features) in crates.iter().filter(|(name, _)| wanted.contains(name)) {
            let package = ws.packages().find(|p| text(&p["name"]) == *krate);
            let mut cmd = Cmd::line("cargo +nightly test -Zbuild-std --target")
                .args([TARGET, "-p", krate])
                .args(features.split_whitespace())
                .args(package.map(|p| programs(p, features)).unwrap_or_default())
                .arg("--")
                .args(TESTS_LEFT_OUT.iter().flat_map(|name| ["--skip", name]))
                .env("RUSTFLAGS", self.rust_flags())
                .env("CFLAGS_x86_64_unknown_linux_gnu", self.c_flags())
                .env("CARGO_TARGET_DIR", ws.target_dir(self.job));
            if let Some((variable, value)) = self.options {
                cmd = cmd.env(variable, value);
            }
            let output = cmd.run_and_read()?;
            if libtest::passed(&output) == 0 {
                return Err(Error::NothingRan { krate: (*krate).to_owned(), what: "test" });
            }
        }
        Ok(())
    }

    fn rust_flags(&self) -> String {
        format!("-Zsanitizer={} --cfg rustix_use_libc", self.name)
    }

    fn c_flags(&self) -> String {
        // zstd's build merges all constants, even local ones. With GCC, the sanitizer then takes a
        // merged constant for a local variable that has gone out of scope.
        format!("-fsanitize={} -fno-merge-all-constants -DZSTD_DISABLE_ASM", self.name)
    }
}

/// Returns the cargo arguments that select a package's test programs: its unit tests, and every
/// integration test that is not left out and needs only the features in `features`.
fn programs(package: &Value, features: &str) -> Vec<String> {
    let has = |feature: &str| features.split([' ', ',']).any(|given| given == feature);
    let mut args = Vec::new();
    for target in list(&package["targets"]) {
        match text(&target["kind"][0]) {
            "lib" => args.push("--lib".to_owned()),
            "bin" => args.push("--bins".to_owned()),
            _ => {}
        }
    }
    let tests = integration_tests(package, has).filter(|name| !PROGRAMS_LEFT_OUT.contains(name));
    args.extend(tests.flat_map(|name| ["--test".to_owned(), name.to_owned()]));
    args
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_test_programs_run_but_those_left_out_by_name() {
        let package = serde_json::json!({
            "targets": [
                {"name": "zswap-compressors", "kind": ["lib"]},
                {"name": "zswap", "kind": ["bin"]},
                {"name": "no_alloc", "kind": ["test"]},
                {"name": "hostile", "kind": ["test"]},
                {"name": "metrics", "kind": ["test"], "required-features": ["metrics"]},
                {"name": "pages", "kind": ["bench"]},
                {"name": "build-script-build", "kind": ["custom-build"]},
            ],
        });
        let usual = ["--lib", "--bins", "--test", "hostile"];
        assert_eq!(programs(&package, "--no-default-features"), usual);
        let with_feature = programs(&package, "--features lz4,metrics");
        assert_eq!(with_feature, [&usual[..], &["--test", "metrics"]].concat());
    }

    #[test]
    fn the_whole_is_every_crate_but_the_task_runner() {
        let ws = Workspace::open().unwrap();
        let mut members: Vec<&str> = ws.packages().map(|p| text(&p["name"])).collect();
        members.retain(|&name| name != "xtask");
        members.sort_unstable();
        let mut whole: Vec<&str> = WHOLE.iter().map(|&(name, _)| name).collect();
        whole.sort_unstable();
        assert_eq!(whole, members);
    }
}
