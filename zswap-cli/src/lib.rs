//! The program `zswap` as a function, for packages that add services to `--backing`: `zswap-remote/cli` is one.
//!
//! ```no_run
//! use zswap_cli::{Backing, Service};
//! use zswap_core::device::MemorySwapDevice;
//!
//! fn main() -> std::process::ExitCode {
//!     let memory = Service {
//!         scheme: "memory",
//!         open: |_url, pages| Ok(Backing::new(MemorySwapDevice::new(pages))),
//!     };
//!     zswap_cli::main(&[memory])
//! }
//! ```
//!
//! The program shows what compressed memory would do for real pages. `zswap nbd` serves a compressed disk. `zswap
//! compare` exits with 0 if every page came back equal or help was requested, with 1 if a pair of zpool and
//! compressor did not keep its pages, and with 2 if nothing could be measured. If it exits with 2, one line on
//! standard error says why and what to do. It is no error if the reader of the output goes away.

mod args;
mod backing;
mod compare;
mod contest;
mod error;
mod look;
mod memory;
mod nbd;
mod plot;
mod process;
mod progress;
mod report;
mod trial;
mod verdict;

use std::io::{self, Write};
use std::process::ExitCode;

pub use crate::backing::{Backing, Service};

use crate::args::{Usage, Verb};

/// Exit status if a pair did not keep its pages.
const UNVERIFIED: u8 = 1;
/// Exit status for wrong arguments or bad input, or if the command failed: no report could be made, or
/// the disk could not be served.
const FAILED: u8 = 2;

/// Runs the program with the arguments of this process. `services` are what `--backing` knows besides files.
///
/// # Blocking
/// Blocks until the program's work is done. `zswap nbd` ends with SIGTERM or SIGINT.
pub fn main(services: &[Service]) -> ExitCode {
    match args::parse(std::env::args_os()) {
        Ok(Verb::Compare(args)) => match compare::run(&args, services) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::from(UNVERIFIED),
            Err(error) => complain(&error.to_string()),
        },
        Ok(Verb::Nbd(args)) => match nbd::run(&args, services) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => complain(&error.to_string()),
        },
        Err(Usage::Help(help)) => {
            // If help cannot be written, there is nobody to report that to.
            let _ = help.print();
            ExitCode::from(u8::try_from(help.exit_code()).unwrap_or(FAILED))
        }
        Err(Usage::Wrong(line)) => complain(&line),
    }
}

/// Writes one line to standard error and returns the exit status for a failure.
fn complain(message: &str) -> ExitCode {
    let _ = writeln!(io::stderr(), "zswap: {}", error::one_line(message));
    ExitCode::from(FAILED)
}
