//! What writing pages back costs, and loading them: bytes, processor time, speed, and where the time goes.
//!
//! Each figure stands beside what it is compared with, measured in the same run in turns: a bare decode of the same
//! pages, the way of writing back that writes one page at a time, a plain read of 4096 bytes, greedy cleaning.
//! `cargo xtask bench --writeback` runs it on the corpus.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a bench: what it cannot set up it cannot measure, and what it prints is its purpose"
)]

// Files are read and written at an offset, which is Unix's.
#[cfg(not(unix))]
fn main() {
    println!("not run: this bench reads and writes files as only Unix does");
}

#[cfg(unix)]
mod cpu;
#[cfg(unix)]
mod figures;
#[cfg(unix)]
mod greedy;
#[cfg(unix)]
mod load;
#[cfg(unix)]
mod objects;
#[cfg(unix)]
mod out;
#[cfg(unix)]
mod overwrite;
#[cfg(unix)]
mod parts;
#[cfg(unix)]
mod place;
#[cfg(unix)]
mod tables;

#[cfg(unix)]
fn main() {
    tables::run(&clap::Parser::parse());
}
