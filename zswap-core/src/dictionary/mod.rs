//! Dictionaries that are trained from the store's own pages and used for as long as they pay.
//!
//! # One round
//! The sampler draws pages that are stored in the shared area. Once it has enough, the thread takes them and stops
//! sampling, so that stores cost nothing between rounds. It compresses the samples with the codec in use and without a
//! dictionary. If their ratio is as at the last round, nothing changes. Otherwise it trains a dictionary and keeps what
//! costs the least memory: the codec in use, the new dictionary, or none.
//!
//! # Rollout
//! A dictionary is part of a compressor, so a new one is a switch to another compressor ([`crate::switch`]): new pages
//! go into a new pool, older ones stay readable in theirs, and the thread migrates them. A pool goes with its last
//! page. Its codec, and so its dictionary, stays while a segment of the device has pages of it.
//!
//! # Architecture invariants
//! * A dictionary's memory is counted for as long as a pool or a segment keeps it, and is freed with the last of them.
//! * At most [`policy::DictionaryPolicy::most_dictionaries`] are alive. While as many are, no other one is trained. So
//!   dictionaries use up neither the places of pools nor a segment's places of codecs.
//! * The thread never replaces a compressor that the program has chosen: it switches only from the codec that it has
//!   judged, and leaves one that is not zstd alone.

pub(crate) mod known;
pub(crate) mod policy;
pub(crate) mod sampling;
pub(crate) mod thread;
