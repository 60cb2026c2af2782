//! A region as the handler of faults sees it: it serves a fault on the thread that touched a page.

use core::ffi::c_void;
use core::fmt;
use std::time::Instant;

use crate::abort::die;
use crate::backend::BackendKind;
use crate::engine::{Buffers, Engine};
use crate::fault::Access;
use crate::histogram::Times;
use crate::stack::call_on;
use crate::stage::{Stage, Stages};
use crate::streams::WINDOW;
use zpool_base::fork::Maker;

/// A region, its stages, and the times of its faults.
pub(crate) struct Served {
    pub(crate) engine: Engine,
    pub(crate) stages: Stages,
    pub(crate) times: Times,
    pub(crate) kind: BackendKind,
    maker: Maker,
}

impl fmt::Debug for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Served").field("kind", &self.kind).finish_non_exhaustive()
    }
}

struct Call<'a> {
    engine: &'a Engine,
    /// The bytes of buffers that this fault is the first to use.
    more: usize,
    page: usize,
    access: Access,
    buffers: Buffers<'a>,
}

impl Served {
    pub(crate) fn new(engine: Engine, stages: Stages, kind: BackendKind) -> Served {
        Served { engine, stages, times: Times::new(), kind, maker: Maker::here() }
    }

    pub(crate) fn len(&self) -> usize {
        self.engine.table.pages() * self.engine.backend.unit()
    }

    /// Returns whether an address lies in the region. False in a child after `fork`, which does not have its memory.
    pub(crate) fn contains(&self, address: usize) -> bool {
        let start = self.engine.backend.base() as usize;
        self.maker.is_here() && address.wrapping_sub(start) < self.len()
    }

    /// Returns whether a touch of an evicted page raises this signal.
    pub(crate) fn raises(&self, signal: libc::c_int) -> bool {
        match self.kind {
            BackendKind::Move => signal == libc::SIGBUS,
            BackendKind::Guard => signal == libc::SIGSEGV,
        }
    }

    /// Takes a stage, and counts it.
    pub(crate) fn stage(&self) -> Stage<'_> {
        let stage = self.stages.take();
        self.engine.count_staging(stage.newly_counted());
        stage
    }

    /// Makes the page at an address of the region accessible. Called by the handler of the signal; aborts the process if
    /// that is not possible.
    pub(crate) fn serve(&self, address: usize, access: Access) {
        let begun = Instant::now();
        // What the interrupted call of ours holds is not this thread's business meanwhile.
        let interrupted = zpool_base::lockdep::interrupted();
        // Not `stage`: the stack here may be small.
        let mut stage = self.stages.take();
        let more = stage.newly_counted();
        let top = stage.stack_top();
        let page = (address - self.engine.backend.base() as usize) / self.engine.backend.unit();
        let buffers = stage.buffers(WINDOW);
        let mut call = Call { engine: &self.engine, more, page, access, buffers };
        // SAFETY: the stack is the stage's, which this thread has until the call has returned; it is 256 KiB. `fault`
        // gets a `Call`, and does not unwind: it is `extern "C"`.
        unsafe { call_on(top, fault, (&raw mut call).cast()) };
        drop(stage);
        drop(interrupted);
        self.times.add(begun.elapsed().as_nanos() as u64);
    }
}

extern "C" fn fault(call: *mut c_void) {
    // SAFETY: `serve` passes a `Call` that it does not touch meanwhile.
    let call = unsafe { &mut *call.cast::<Call<'_>>() };
    call.engine.count_staging(call.more);
    if let Err(trouble) = call.engine.fault(call.page, call.access, &mut call.buffers) {
        die(format_args!("{trouble}"));
    }
}
