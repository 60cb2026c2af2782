//! Every backend, codec, limit, device fault, switch, background thread, batch and checksum setting of
//! the page store, combined at random, with all threads on the same keys, against a model.
//!
//! | file | idea |
//! |---|---|
//! | `run.rs`, `round.rs` | rounds until the time is over; one store, played with and then checked |
//! | `config.rs` | what a round is made of, drawn from a seed |
//! | `driver.rs` | what one thread does |
//! | `model.rs` | which versions each load may have seen |
//! | `rules.rs` | which refusals are allowed, and why |
//! | `action.rs` | how often each action ran, and overlapped another on the same key |
//! | `page.rs`, `clock.rs` | pages that say what they are; the order of events |
//! | `device.rs`, `codec.rs`, `guards.rs` | a device that fails, codecs that pause, objects that are read |
//! | `panics.rs` | panics of codecs and backends that were ordered |
//! | `fork.rs`, `finding.rs` | a child that drops the store; what was found |

pub mod action;
pub mod background;
pub mod clock;
pub mod codec;
pub mod config;
pub mod device;
pub mod driver;
pub mod finding;
pub mod fork;
pub mod guards;
pub mod model;
pub mod page;
pub mod panics;
pub mod play;
pub mod round;
pub mod rules;
pub mod run;
