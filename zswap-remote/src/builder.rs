//! The settings of a device, and how a device is built from them.

use core::fmt;
use core::time::Duration;
use std::sync::{Arc, Mutex, mpsc};

use opendal::layers::{
    ConcurrentLimitLayer, RetryEvent, RetryInterceptor, RetryLayer, TimeoutLayer,
};
use zpage::PAGE_SIZE;
use zpage::device::Geometry;

use crate::deleter::Deleter;
use crate::device::{Inner, Limits, RemoteSwapDevice};
use crate::error::RemoteError;
use crate::name::StoreName;
use crate::service::Source;
use crate::state::Shared;
use crate::threads::Threads;

/// The bytes of a segment where the service can read a part of an object.
const SEGMENT_BYTES: usize = 64 << 10;
/// The services of OpenDAL that read a part of an object without reading all of it. OpenDAL's capabilities do not tell
/// these apart from the others, which read the whole object and return the part.
const READ_RANGES: &[&str] = &[
    "aliyun_drive",
    "azblob",
    "azdls",
    "azfile",
    "b2",
    "cos",
    "dropbox",
    "fs",
    "gcs",
    "gdrive",
    "hdfs",
    "hdfs-native",
    "http",
    "memory",
    "monoiofs",
    "obs",
    "onedrive",
    "oss",
    "redis",
    "s3",
    "sftp",
    "swift",
    "webdav",
    "webhdfs",
];
/// The most objects of one request to delete.
const MOST_OF_A_DELETE: usize = 1000;
/// The most requests to delete at a time.
const DELETES_AT_ONCE: usize = 4;

/// Builds a [`RemoteSwapDevice`]. [`Remote::device`](crate::Remote::device) returns one.
///
/// ```
/// use std::time::Duration;
/// use zswap_remote::Remote;
///
/// # if cfg!(not(feature = "memory")) { return Ok(()); }
/// let device = Remote::open("memory://")?
///     .device(1 << 20)
///     .segment_bytes(32 << 10)
///     .deadline(Duration::from_secs(2))
///     .build()?;
/// assert_eq!(device.stats().objects, 0);
/// # Ok::<(), zswap_remote::RemoteError>(())
/// ```
#[derive(Clone)]
#[must_use = "a builder builds nothing until build() is called"]
pub struct RemoteBuilder {
    source: Source,
    pages: u64,
    segment_bytes: Option<usize>,
    requests: usize,
    threads: usize,
    attempt_timeout: Duration,
    retries: u32,
    deadline: Duration,
    longest_pause: Duration,
    late_writes: Duration,
    most_deletes: usize,
    drop_deadline: Duration,
}

impl RemoteBuilder {
    pub(crate) fn new(source: Source, pages: u64) -> Self {
        RemoteBuilder {
            source,
            pages,
            segment_bytes: None,
            requests: 64,
            threads: 1,
            attempt_timeout: Duration::from_secs(2),
            retries: 2,
            deadline: Duration::from_secs(5),
            longest_pause: Duration::from_secs(8),
            late_writes: Duration::from_secs(120),
            most_deletes: 1 << 16,
            drop_deadline: Duration::from_secs(5),
        }
    }

    /// Sets the bytes of a segment, which is one object: 8192 to 262144, a multiple of 4096. Default: 65536 on services
    /// that read a part of an object, such as S3, Redis and files. OpenDAL's client for any other service reads the
    /// whole object for each page; there the default is 8192.
    pub fn segment_bytes(mut self, bytes: usize) -> Self {
        self.segment_bytes = Some(bytes);
        self
    }

    /// Sets the most requests at a time, 1 to 4096, without those that delete, of which there are 4. Default: 64. A
    /// call that finds that many waits, within its deadline.
    pub fn requests(mut self, most: usize) -> Self {
        self.requests = most;
        self
    }

    /// Sets the number of threads that talk to the service, 1 to 64. Default: 1, which is fastest for a service without
    /// encryption in transit.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// Sets how long one attempt of a request may take, 1 ms or more. Default: 2 s.
    pub fn attempt_timeout(mut self, limit: Duration) -> Self {
        self.attempt_timeout = limit;
        self
    }

    /// Sets how often a request is repeated after a failure that may pass, 0 to 100. Default: 2.
    pub fn retries(mut self, retries: u32) -> Self {
        self.retries = retries;
        self
    }

    /// Sets how long a read or a write may take with all its attempts, 1 ms or more. Default: 5 s.
    pub fn deadline(mut self, limit: Duration) -> Self {
        self.deadline = limit;
        self
    }

    /// Sets for how long at most writes fail at once when the service does not answer. Default: 8 s. The first pause
    /// is a 32nd of this.
    pub fn longest_pause(mut self, pause: Duration) -> Self {
        self.longest_pause = pause;
        self
    }

    /// Sets when an object is deleted for the second time after a write without an answer. Default: 120 s. A write that
    /// arrives even later leaves an object that nobody reads.
    pub fn late_writes(mut self, after: Duration) -> Self {
        self.late_writes = after;
        self
    }

    /// Sets the most objects that wait to be deleted. Each takes 24 bytes, or 32 if it is to be deleted for the second
    /// time. Default: 65536. What does not fit is counted, and stays on the service until the device is dropped, which
    /// removes it if the service lists objects.
    pub fn most_deletes(mut self, most: usize) -> Self {
        self.most_deletes = most;
        self
    }

    /// Sets how long dropping the device may take to delete its objects. Default: 5 s.
    pub fn drop_deadline(mut self, limit: Duration) -> Self {
        self.drop_deadline = limit;
        self
    }

    /// Builds the device and starts its threads. Does not contact the service: a service that is gone at this time may
    /// come later.
    ///
    /// # Errors
    /// [`RemoteError::Setting`] if a setting is out of range; [`RemoteError::Lacks`] if the service cannot write, read
    /// and delete; [`RemoteError::Service`] if it refuses its settings; [`RemoteError::Random`] and
    /// [`RemoteError::Threads`] if the system gives no random number or no thread.
    ///
    /// # Blocking
    /// Does not block.
    pub fn build(self) -> Result<RemoteSwapDevice, RemoteError> {
        self.check()?;
        let operator = self.source.operator(self.attempt_timeout)?;
        let info = operator.info();
        let service = info.scheme().to_owned();
        let able = info.capability();
        for (can, operation) in
            [(able.write, "write"), (able.read, "read"), (able.delete, "delete objects")]
        {
            if !can {
                let instead = "choose a service that reads, writes and deletes";
                return Err(RemoteError::Lacks { service, operation, instead });
            }
        }
        let usual = if READ_RANGES.contains(&info.scheme()) {
            SEGMENT_BYTES
        } else {
            Geometry::LEAST_SEGMENT
        };
        // A small device has smaller segments, so that there are at least four.
        let usual = usual.min(Geometry::of_pages(self.pages).segment_bytes);
        let geometry = geometry(self.pages, self.segment_bytes.unwrap_or(usual));
        if able.write_total_max_size.is_some_and(|most| most < geometry.segment_bytes) {
            let (value, allowed) =
                (geometry.segment_bytes, "less; this service limits its objects");
            return Err(setting("segment_bytes", value, allowed));
        }
        let threads =
            Threads::start(self.threads).map_err(|reason| RemoteError::Threads { reason })?;
        // Each attempt has its time-out below the retries, as OpenDAL requires. A request that waits for its turn does
        // so within the deadline of its call only.
        let timeout = TimeoutLayer::new()
            .with_timeout(self.attempt_timeout)
            .with_io_timeout(self.attempt_timeout);
        let timed = operator.layer(timeout);
        let turns = ConcurrentLimitLayer::new(self.requests);
        let retry = RetryLayer::new()
            .with_notify(Quiet)
            .with_max_times(self.retries as usize)
            .with_min_delay(Duration::from_millis(50))
            .with_jitter();
        let name = StoreName::random()?;
        let shared = Arc::new(Shared::new(
            name,
            self.source.secrets().clone(),
            self.most_deletes,
            self.late_writes,
        ));
        let (done, closed) = mpsc::sync_channel(1);
        let deleter = Deleter {
            shared: shared.clone(),
            operator: timed.clone(),
            batch: able.delete_max_size.unwrap_or(1).clamp(1, MOST_OF_A_DELETE),
            at_once: DELETES_AT_ONCE,
            limit: self.attempt_timeout * 2,
            lists: able.list,
            folders: able.create_dir,
            done,
        };
        threads.spawn(deleter.run());
        let inner = Inner {
            shared,
            threads,
            reads: timed.clone().layer(retry).layer(turns.clone()),
            // Writes are retried by the device, under another name.
            writes: timed.layer(turns),
            limits: Limits {
                requests: self.requests,
                deadline: self.deadline,
                retries: self.retries,
                longest_pause: self.longest_pause,
                drop_deadline: self.drop_deadline,
            },
            closed: Mutex::new(closed),
        };
        Ok(RemoteSwapDevice::new(inner, geometry, service))
    }

    fn check(&self) -> Result<(), RemoteError> {
        if let Some(bytes) = self.segment_bytes {
            let sizes = Geometry::LEAST_SEGMENT..=Geometry::MOST_SEGMENT;
            if !sizes.contains(&bytes) || bytes % PAGE_SIZE != 0 {
                let allowed = "a multiple of 4096, from 8192 to 262144";
                return Err(setting("segment_bytes", bytes, allowed));
            }
        }
        if !(1..=4096).contains(&self.requests) {
            return Err(setting("requests", self.requests, "1 to 4096"));
        }
        if !(1..=64).contains(&self.threads) {
            return Err(setting("threads", self.threads, "1 to 64"));
        }
        if self.retries > 100 {
            return Err(setting("retries", self.retries, "0 to 100"));
        }
        for (name, limit) in
            [("attempt_timeout", self.attempt_timeout), ("deadline", self.deadline)]
        {
            if !(Duration::from_millis(1)..=Duration::from_secs(86400)).contains(&limit) {
                return Err(setting(name, format!("{limit:?}"), "1 ms to a day"));
            }
        }
        for (name, limit) in [
            ("longest_pause", self.longest_pause),
            ("late_writes", self.late_writes),
            ("drop_deadline", self.drop_deadline),
        ] {
            if limit > Duration::from_secs(86400) {
                return Err(setting(name, format!("{limit:?}"), "at most a day"));
            }
        }
        Ok(())
    }
}

/// Logs nothing about a request that is repeated: the errors of services contain addresses, headers and bodies.
pub(crate) struct Quiet;

impl RetryInterceptor for Quiet {
    fn intercept(&self, _event: RetryEvent<'_>) {}
}

fn setting(setting: &'static str, value: impl fmt::Display, allowed: &'static str) -> RemoteError {
    RemoteError::Setting { setting, value: value.to_string(), allowed }
}

/// Returns the sizes of a device of `pages` times 4096 bytes. Bytes that fill no segment are left out.
fn geometry(pages: u64, segment_bytes: usize) -> Geometry {
    let segments = pages / (segment_bytes / PAGE_SIZE) as u64;
    Geometry { segments, segment_bytes, block_bytes: 1 }
}

impl fmt::Debug for RemoteBuilder {
    /// Shows no setting of the service, since these may contain secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteBuilder")
            .field("pages", &self.pages)
            .field("segment_bytes", &self.segment_bytes)
            .field("requests", &self.requests)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}
