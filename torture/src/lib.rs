//! The torture test of the page store. It combines every backend, codec, limit, device fault, switch,
//! background thread, batch and checksum setting at random. All threads use the same keys, and a
//! model judges what they saw.
//!
//! | file | idea |
//! |---|---|
//! | `run.rs`, `round.rs`, `play.rs` | rounds until time is up; one store, used and then checked |
//! | `config.rs` | the configuration of a round, drawn from a seed |
//! | `driver.rs` | what one thread does |
//! | `model.rs` | which versions each load may have seen |
//! | `rules.rs` | which refusals are allowed, and why |
//! | `action.rs` | how often each action ran, and how often it overlapped others |
//! | `page.rs`, `clock.rs` | self-describing pages; the order of events |
//! | `device.rs`, `page_device.rs` | a device that fails and checks how it is used; one of pages below it |
//! | `codec.rs`, `guards.rs` | codecs that pause, objects that are read |
//! | `panics.rs` | ordered panics of codecs and backends |
//! | `background.rs` | the store's background threads |
//! | `fork.rs`, `finding.rs` | a child that drops the store; findings |

pub mod action;
pub mod background;
pub mod clock;
pub mod codec;
pub mod config;
pub mod device;
pub mod driver;
pub mod finding;
pub mod fork;
pub mod fullness;
pub mod guards;
pub mod model;
pub mod page;
pub mod page_device;
pub mod panics;
pub mod play;
pub mod round;
pub mod rules;
pub mod run;
