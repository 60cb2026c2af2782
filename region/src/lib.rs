//! Ordinary memory that is compressed when cold. A program takes a region, uses it as memory, and holds two to three times
//! more than its budget: without root, a swap device or a kernel setting, also in containers.
//!
//! ```
//! use zswap_region::Region;
//!
//! // SAFETY: this program keeps the rules of the table on this page.
//! let built = unsafe { Region::builder().capacity(64 << 20).budget(16 << 20).build() };
//! let mut region = match built {
//!     Ok(region) => region,
//!     Err(why) => return eprintln!("{why}"), // an old kernel, for instance
//! };
//! for (n, page) in region.as_mut_slice().chunks_mut(4096).enumerate() {
//!     page[..8].copy_from_slice(&n.to_le_bytes()); // 64 MiB in 16 MiB
//! }
//! let sum: usize = region.as_slice().chunks(4096).map(|page| usize::from(page[0])).sum();
//! assert_eq!(sum, 64 * 255 * 128);
//! let stats = region.stats();
//! assert!(stats.memory_bytes <= 16 << 20 && stats.cold_bytes > 40 << 20);
//! ```
//!
//! A page that was not touched for a while is compressed into a store of `zswap-core`. A touch brings it back: the system
//! raises a signal on the touching thread, whose handler decompresses the page and returns. So the region has everything
//! that a store has: any backend and compressor, limits, and a device or a remote service below.
//!
//! Pages have 4096 bytes, or up to 64 KiB ([`RegionBuilder::unit`]): they compress better, and neighbours come along.
//!
//! Linux only. On x86-64 a region knows reads from writes, and keeps the compressed copy of pages that are only read.
//!
//! # What a program may do
//! `build` is `unsafe`: the program promises what this table asks for.
//!
//! | a program may | |
//! |---|---|
//! | read and write the memory from any thread, with any instruction | a touch of an evicted page takes some microseconds longer, or as long as the device takes |
//! | pass it to any call of these crates: as a page to store, load, compress, write to a disk | the fault is served inside the call |
//! | pass **pinned** memory to system calls ([`Region::pin`], [`Region::read_from`], [`Region::write_to`]) | |
//! | fork, call `close_range`, exec | a child that touches the region is killed by SIGSEGV; it never sees zeros |
//! | have handlers of SIGBUS and SIGSEGV, installed before or after | before: they get every signal that is not a region's. After: if they pass on what they do not know |
//! | run threads on small stacks, and with alternate signal stacks that hold a signal's frame and 4 KiB more | the handler works on a stack of the region |
//!
//! | a program must not | otherwise |
//! |---|---|
//! | pass memory that is not pinned to a system call that copies | EFAULT if a page is evicted, or is written and was only read since it came back (`mlock`: ENOMEM). A stream keeps its data; what the kernel has taken before it copies is lost: a datagram, an event, an exit status. A buffer that begins in a resident page is read short |
//! | pass memory that is not pinned to one that keeps the pages (`O_DIRECT`, `io_uring`, RDMA), or drop the pin before that ends | with `Move` the kernel's pages stay. With [`BackendKind::Guard`] they are evicted nevertheless: what a device writes then is lost |
//! | keep locks of the C library, thread stacks, alternate signal stacks, or the global allocator in it | EFAULT inside the library, or the system kills the process |
//! | make it mergeable (KSM) | the advice is taken back when the region is built; later advice loses writes to clean pages |
//! | call `mlockall(MCL_CURRENT)` after it was built, with [`BackendKind::Guard`] | all of the capacity is allocated; the process aborts at the next eviction |
//! | block SIGBUS (with [`BackendKind::Guard`]: SIGSEGV) in a thread that touches the region | the system kills the process. `build` finds threads that do so already |
//! | install a handler of these signals that does not pass them on | it gets the region's faults |
//! | unmap, remap or protect the memory, or lock it (`mlock`) | undefined; with `Move`, locked pages are never evicted. Advice that drops pages (`MADV_DONTNEED`) makes them zero or does nothing |
//! | touch the memory in the handler of an asynchronous signal that may interrupt the allocator or a call of these crates | deadlock |
//! | touch the memory in an allocator, a codec, a backend, a device or a callback that any region's store calls | deadlock, or the system kills the process |
//! | touch the memory after the region is dropped | SIGSEGV, or somebody else's memory |
//! | write the memory while [`Region::as_slice`] or a [`Pinned`]'s slice is borrowed, and so on | as with all memory: undefined |
//!
//! If a page cannot be had, there is nobody to return an error to. Then the handler writes one line to standard error that
//! says why, and aborts the process: the store cannot read a page (a device failed), the system has no memory, or the
//! limits are too small for what the region holds ([`OnFull`]).
//!
//! # What the system must have
//! | | kernel | may be missing because |
//! |---|---|---|
//! | [`BackendKind::Move`] | Linux 6.8 (`UFFDIO_MOVE`) | a seccomp filter forbids `userfaultfd`, as Docker's default one does, or `unshare` in a thread; `SELinux`; no `CONFIG_USERFAULTFD`. The sysctl `vm.unprivileged_userfaultfd` may be 0 |
//! | [`BackendKind::Guard`] | Linux 6.15 (`MADV_GUARD_INSTALL` on files; 6.13 has it for anonymous memory only) | |
//!
//! On `AArch64`, `Move` needs Linux 6.10, and clean pages are not kept. Where the host swaps, `UFFDIO_MOVE` before Linux 6.16 has
//! faults with swapped pages. With `vm.overcommit_memory=2` the whole capacity counts as committed.
//!
//! Pages of 4096 bytes. Below both, `build` returns [`BuildError::Unsupported`], which names the calls that were refused.
//!
//! # Limits
//! [`budget`](RegionBuilder::budget) bounds everything, [`resident_bytes`](RegionBuilder::resident_bytes) bounds pages
//! that are not compressed. Both can be changed at any time; [`Region::stats`] shows both.
//!
//! A region whose content does not compress below its budget runs out of room: then it needs a swap device
//! ([`RegionBuilder::store`]), a larger budget, or [`OnFull::Exceed`].
//!
//! # What is cold
//! A clock's hand takes pages in the order of their addresses, 16 at a time, into the *limbo*, a queue of pages that are
//! out of the program's reach and not compressed yet. A touch there brings a page back at once, and lets the hand pass it
//! for longer and longer. What nobody touches until its turn comes is compressed.
//!
//! # Files
//!
//! | file | contents |
//! |---|---|
//! | `word.rs`, `table.rs`, `zeros.rs` | the state of a page in 32 bits; all changes of it, and waiting for one; memory that starts as zeros |
//! | `engine.rs` | a region's parts and the rules between them; making room |
//! | `fault.rs`, `evict.rs`, `discard.rs` | how pages become resident, cold, and nothing |
//! | `limbo.rs`, `room.rs` | pages between the two; how many may be resident |
//! | `clean.rs`, `streams.rs` | when copies of clean pages are kept; sequences of faults |
//! | `backend/` | how pages get out of reach (`mod.rs`): `userfault.rs` and `guard_pages.rs` |
//! | `uffd.rs`, `ioctl.rs`, `keeper.rs`, `sys.rs`, `signals.rs`, `abort.rs` | system calls |
//! | `handler.rs`, `registry.rs`, `served.rs`, `stage.rs`, `stack.rs` | the handler of signals; how it finds a region, and on which stack and with which buffers it works |
//! | `cold.rs` | the store below |
//! | `evictor.rs` | the background thread |
//! | `region.rs`, `range.rs`, `pinned.rs`, `builder.rs`, `error.rs` | what a program sees |
//! | `number.rs`, `counters.rs`, `histogram.rs`, `stats.rs` | figures |

#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        reason = "a failure in a test's helper is the test's own message"
    )
)]

#[cfg(not(target_os = "linux"))]
compile_error!("zswap-region needs Linux: a region rests on userfaultfd or on guard pages");

mod abort;
#[cfg(feature = "allocator")]
mod allocator;
mod backend;
mod clean;
mod cold;
mod counters;
mod discard;
mod engine;
mod error;
mod evict;
mod fault;
mod histogram;
mod ioctl;
mod limbo;
#[cfg(all(test, loom))]
mod loom_tests;
mod number;
mod room;
mod streams;
mod sync;
mod table;
mod word;

mod builder;
mod evictor;
mod handler;
mod keeper;
mod pinned;
mod range;
mod region;
mod registry;
mod served;
mod signals;
mod stack;
mod stage;
mod stats;
mod sys;
mod uffd;
mod zeros;

pub use backend::BackendKind;
pub use clean::CleanPages;
pub use engine::OnFull;
pub use error::{AdviceError, BuildError, Chosen, LimitError, PinError, RangeError, Trouble};
pub use histogram::Histogram;

#[cfg(feature = "allocator")]
pub use allocator::{PinnedBytes, RegionAllocator};
pub use zswap_core::{LoadError, PAGE_SIZE, StoreError, Zswap, ZswapBuilder, ZswapStats};
pub use {builder::RegionBuilder, pinned::Pinned, region::Region, stats::RegionStats};

/// Compiles the README's example as a doctest.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
