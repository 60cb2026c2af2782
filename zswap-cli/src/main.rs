//! The binary `zswap`: the program of the library beside it, with files as its only backing.

use std::process::ExitCode;

fn main() -> ExitCode {
    zswap_cli::main(&[])
}
