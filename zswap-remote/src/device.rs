//! The device: its calls, which hand a request to the device's own threads and wait for the answer.

use core::fmt;
use core::time::Duration;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Instant;

use opendal::{Buffer, Operator};
use zpage::device::{DeviceError, Geometry, RangeRead, SwapDevice};
use zpool_base::fork::Leaked;

use crate::fault;
use crate::name::StoreName;
use crate::state::Shared;
use crate::stats::RemoteStats;
use crate::threads::{Threads, Unanswered};

/// The pause before the second attempt to write. It doubles with each further one.
const FIRST_BACKOFF: Duration = Duration::from_millis(50);

/// Keeps each segment as an object of a service.
///
/// Made by [`RemoteBuilder::build`](crate::RemoteBuilder::build). `Send` and `Sync`.
///
/// # What fails, and how
/// * A write that fails or is late returns [`DeviceError::Io`], and the store keeps the pages in memory. A full
///   service is [`StorageFull`](io::ErrorKind::StorageFull), if the service says so; a late one
///   [`TimedOut`](io::ErrorKind::TimedOut). When the service has not answered two writes in a row, further writes fail
///   with [`NotConnected`](io::ErrorKind::NotConnected) at once, for a while.
/// * A read of what the service does not hold, or holds only a part of, returns [`DeviceError::Missing`]. A service that
///   cannot be reached is [`DeviceError::Io`]; a later read may succeed.
/// * Bytes that the service changed are found by the store, with its checksum or its cipher.
///
/// # Names
/// All objects have names that begin with [`name`](Self::name), which is random, and a slash. Each attempt to write a
/// segment has a name of its own. So a write that arrives after its time-out, or a delete that arrives late, changes
/// nothing that is in use.
///
/// # Deletes
/// `discard` puts the object into a queue and returns. The device deletes what is in the queue in the background and
/// retries what fails. Dropping the device deletes all its objects, as far as that succeeds within
/// [`drop_deadline`](crate::RemoteBuilder::drop_deadline): the store's key is gone then, or the store is, so nobody can
/// use them. [`Remote::purge`](crate::Remote::purge) removes what is left.
///
/// # Durability
/// A write is over when the service has acknowledged it, so `flush` has nothing to wait for. What the service does to
/// keep an acknowledged write is the service's setting.
///
/// # Blocking
/// `read` and `write_segment` block up to [`deadline`](crate::RemoteBuilder::deadline), and so does a batch of reads if the
/// service is silent; as many at a time as [`requests`](crate::RemoteBuilder::requests). All threads may call, also
/// those of a tokio runtime, which then do nothing else meanwhile. `drop` blocks up to `drop_deadline`.
///
/// # After `fork`
/// In a child each call fails with [`DeviceError::Forked`], and dropping the device does nothing.
pub struct RemoteSwapDevice {
    inner: Leaked<Inner>,
    geometry: Geometry,
    service: String,
    name: StoreName,
}

/// What only the process that made the device may use.
pub(crate) struct Inner {
    pub(crate) shared: Arc<Shared>,
    pub(crate) threads: Threads,
    pub(crate) reads: Operator,
    pub(crate) writes: Operator,
    pub(crate) limits: Limits,
    /// Receives a message when everything is deleted after the device was closed.
    pub(crate) closed: Closed,
}

/// The receiver is used by `drop` only. The mutex lets threads share what contains it.
pub(crate) type Closed = std::sync::Mutex<Receiver<()>>;

/// The times and numbers that bound a call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// The most requests at a time.
    pub(crate) requests: usize,
    pub(crate) deadline: Duration,
    pub(crate) retries: u32,
    pub(crate) longest_pause: Duration,
    pub(crate) drop_deadline: Duration,
}

fn failed(operation: &'static str, segment: u64, kind: io::ErrorKind) -> DeviceError {
    DeviceError::Io { operation, segment, kind, code: None }
}

impl RemoteSwapDevice {
    pub(crate) fn new(inner: Inner, geometry: Geometry, service: String) -> Self {
        let name = inner.shared.name;
        RemoteSwapDevice { inner: Leaked::new(inner), geometry, service, name }
    }

    /// Returns the name with which the names of all objects of this device begin. It is random. A program that may be
    /// killed can record it, and pass it to [`Remote::purge`](crate::Remote::purge) when it starts again.
    pub fn name(&self) -> StoreName {
        self.name
    }

    /// Returns the figures of the device; all zero in a child after `fork`. Never waits for the service.
    pub fn stats(&self) -> RemoteStats {
        self.here().map_or_else(|_| RemoteStats::default(), |inner| inner.shared.stats())
    }

    fn here(&self) -> Result<&Inner, DeviceError> {
        if self.inner.is_here() { Ok(&self.inner) } else { Err(DeviceError::Forked) }
    }
}

impl Inner {
    fn write(&self, segment: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        let begun = Instant::now();
        let older = {
            let mut state = self.shared.state();
            if !state.health.may_try(begun) {
                state.counts.paused_writes += 1;
                return Err(failed("write", segment, io::ErrorKind::NotConnected));
            }
            if !state.table.reserve() {
                return Err(DeviceError::OutOfMemory);
            }
            state.table.remove(segment)
        };
        if let Some(older) = older {
            self.shared.doom(older, false);
        }
        // A request that is late outlives this call, so it cannot borrow the bytes.
        let mut copy = Vec::new();
        copy.try_reserve_exact(bytes.len()).map_err(|_| DeviceError::OutOfMemory)?;
        copy.extend_from_slice(bytes);
        let copy = Buffer::from(copy);
        let mut backoff = FIRST_BACKOFF;
        let mut attempts = 0;
        loop {
            // A failed attempt may yet be performed, and on some services in parts. So no attempt uses the name of
            // another one.
            let object = self.shared.state().table.attempt(segment);
            let (writes, name) = (self.writes.clone(), self.shared.name.object(object));
            let copy = copy.clone();
            let left = self.limits.deadline.saturating_sub(begun.elapsed());
            let write = async move { writes.write(&name, copy).await.map(drop) };
            let (error, said, unanswered) = match self.threads.call(left, write) {
                Ok(Ok(())) => {
                    let mut state = self.shared.state();
                    // Written segments are at most 256 KiB long.
                    state.table.insert(object, bytes.len() as u32);
                    state.health.answered();
                    state.counts.writes += 1;
                    return Ok(());
                }
                Ok(Err(error)) => (
                    fault::write(segment, &error),
                    fault::shown(&error, &self.shared.secrets),
                    fault::is_unanswered(&error),
                ),
                Err(Unanswered::Late) => (
                    failed("write", segment, io::ErrorKind::TimedOut),
                    "no answer before the deadline".to_owned(),
                    true,
                ),
                Err(Unanswered::Panicked) => (
                    DeviceError::Panicked { operation: "write", segment },
                    "the service's client panicked".to_owned(),
                    false,
                ),
            };
            // A service that answered that it refuses will not perform the write later.
            self.shared.doom(object, unanswered || matches!(error, DeviceError::Panicked { .. }));
            let over = begun.elapsed() + backoff >= self.limits.deadline;
            {
                let mut state = self.shared.state();
                state.counts.failed_attempts += 1;
                state.failed("write", &said);
                if !unanswered || attempts == self.limits.retries || over {
                    if unanswered {
                        state.health.unanswered(begun, Instant::now(), self.limits.longest_pause);
                    } else {
                        state.health.answered();
                    }
                    return Err(error);
                }
            }
            attempts += 1;
            std::thread::sleep(backoff);
            backoff *= 2;
        }
    }

    fn read(&self, segment: u64, offset: usize, bytes: &mut [u8]) -> Result<(), DeviceError> {
        let Some(request) = self.range(segment, offset, bytes.len())? else { return Ok(()) };
        let answer = self.threads.call(self.limits.deadline, request);
        self.answered(segment, bytes, answer)
    }

    /// Does several reads at the same time.
    fn read_many(&self, geometry: Geometry, reads: &mut [RangeRead<'_>]) {
        // As many at a time as there may be requests, each group with a deadline of its own.
        let mut silent = false;
        for group in reads.chunks_mut(self.limits.requests) {
            if silent {
                // Nobody waits for one deadline after another.
                for read in group {
                    read.result = Err(failed("read", read.segment, io::ErrorKind::TimedOut));
                    self.count(&read.result);
                }
                continue;
            }
            let mut asked = Vec::new();
            let mut requests = Vec::new();
            for read in group {
                let range = geometry.check(read.segment, read.offset, read.bytes.len());
                if let Err(error) = range {
                    read.result = Err(error);
                    continue;
                }
                match self.range(read.segment, read.offset, read.bytes.len()) {
                    Ok(None) => read.result = Ok(()),
                    Ok(Some(request)) => {
                        requests.push(request);
                        asked.push(read);
                    }
                    Err(error) => {
                        read.result = Err(error);
                        self.count(&read.result);
                    }
                }
            }
            let answers = self.threads.call_all(self.limits.deadline, requests);
            let late = |answer: &Result<_, Unanswered>| matches!(answer, Err(Unanswered::Late));
            silent = !answers.is_empty() && answers.iter().all(late);
            for (read, answer) in asked.into_iter().zip(answers) {
                read.result = self.answered(read.segment, read.bytes, answer);
                self.count(&read.result);
            }
        }
    }

    /// Returns the request for a range of a segment; `None` for an empty one.
    fn range(
        &self,
        segment: u64,
        offset: usize,
        len: usize,
    ) -> Result<Option<impl Future<Output = opendal::Result<Buffer>> + Send + 'static>, DeviceError>
    {
        let missing = DeviceError::Missing { segment };
        let written = self.shared.state().table.get(segment).ok_or(missing.clone())?;
        if offset + len > written.len as usize {
            return Err(missing);
        }
        let (reads, name) = (self.reads.clone(), self.shared.name.object(written.object));
        let range = offset as u64..(offset + len) as u64;
        Ok((len > 0).then_some(async move { reads.read_with(&name).range(range).await }))
    }

    /// Fills `bytes` with the answer to a request for a range, or notes why that failed.
    fn answered(
        &self,
        segment: u64,
        bytes: &mut [u8],
        answer: Result<opendal::Result<Buffer>, Unanswered>,
    ) -> Result<(), DeviceError> {
        let (error, said) = match answer {
            Ok(Ok(found)) if found.len() == bytes.len() => {
                let mut rest = bytes;
                for part in found {
                    let (place, after) = rest.split_at_mut(part.len());
                    place.copy_from_slice(&part);
                    rest = after;
                }
                // It says nothing about writes, which may hang while reads do not.
                self.shared.state().counts.reads += 1;
                return Ok(());
            }
            Ok(Ok(found)) => (
                DeviceError::Missing { segment },
                format!("{} bytes came instead of {}", found.len(), bytes.len()),
            ),
            Ok(Err(error)) => {
                (fault::read(segment, &error), fault::shown(&error, &self.shared.secrets))
            }
            Err(Unanswered::Late) => (
                failed("read", segment, io::ErrorKind::TimedOut),
                "no answer before the deadline".to_owned(),
            ),
            Err(Unanswered::Panicked) => (
                DeviceError::Panicked { operation: "read", segment },
                "the service's client panicked".to_owned(),
            ),
        };
        self.shared.state().failed("read", &said);
        Err(error)
    }

    /// Counts a read that failed.
    fn count(&self, read: &Result<(), DeviceError>) {
        match read {
            Ok(()) => {}
            Err(DeviceError::Missing { .. }) => self.shared.state().counts.missing_reads += 1,
            Err(_) => self.shared.state().counts.read_failures += 1,
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.close();
        let closed = self.closed.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        // What is not deleted by now is left to `Remote::purge`.
        let _ = closed.recv_timeout(self.limits.drop_deadline);
    }
}

impl SwapDevice for RemoteSwapDevice {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn write_segment(&self, segment: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        let inner = self.here()?;
        self.geometry.check(segment, 0, bytes.len())?;
        let written = inner.write(segment, bytes);
        if written.is_err() {
            inner.shared.state().counts.write_failures += 1;
        }
        written
    }

    fn read(&self, segment: u64, offset: usize, bytes: &mut [u8]) -> Result<(), DeviceError> {
        let inner = self.here()?;
        self.geometry.check(segment, offset, bytes.len())?;
        let read = inner.read(segment, offset, bytes);
        inner.count(&read);
        read
    }

    fn read_many(&self, reads: &mut [RangeRead<'_>]) {
        match self.here() {
            Ok(inner) => inner.read_many(self.geometry, reads),
            Err(error) => reads.iter_mut().for_each(|read| read.result = Err(error.clone())),
        }
    }

    fn discard(&self, segment: u64) {
        let Ok(inner) = self.here() else { return };
        let older = inner.shared.state().table.remove(segment);
        if let Some(older) = older {
            inner.shared.doom(older, false);
        }
    }

    fn flush(&self) -> Result<(), DeviceError> {
        self.here().map(drop)
    }

    fn memory_bytes(&self) -> usize {
        self.here().map_or(0, |inner| {
            let state = inner.shared.state();
            state.table.memory_bytes() + state.queue.memory_bytes()
        })
    }
}

impl fmt::Debug for RemoteSwapDevice {
    /// Shows no address and no setting of the service, since these may contain secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteSwapDevice")
            .field("service", &self.service)
            .field("name", &self.name)
            .field("geometry", &self.geometry)
            .finish_non_exhaustive()
    }
}
