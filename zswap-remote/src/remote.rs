//! A service, on which devices are made, and from which what killed processes left is removed.

use core::fmt;
use core::time::Duration;
use std::collections::BTreeSet;

use opendal::Operator;
use opendal::layers::{RetryLayer, TimeoutLayer};

use crate::builder::{Quiet, RemoteBuilder};
use crate::deleter;
use crate::error::RemoteError;
use crate::name::StoreName;
use crate::service::Source;
use crate::threads::{Threads, Unanswered};
use crate::url;

/// A service and the place on it where stores keep their objects. `Send` and `Sync`; cheap to clone.
///
/// ```
/// use std::time::Duration;
/// use zpage::device::SwapDevice;
/// use zswap_remote::Remote;
///
/// # if cfg!(not(feature = "memory")) { return Ok(()); }
/// let remote = Remote::open("memory://")?;
/// let device = remote.device(1 << 10).build()?;
/// device.write_segment(3, b"packed pages")?;
/// let mut back = [0; 5];
/// device.read(3, 7, &mut back)?;
/// assert_eq!(&back, b"pages");
///
/// let limit = Duration::from_secs(10);
/// assert_eq!(remote.stores(limit)?, [device.name()]);
/// drop(device);
/// assert!(remote.stores(limit)?.is_empty());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Remote(Source);

impl Remote {
    /// Opens the service that a URL names:
    ///
    /// | URL | feature | secrets, from the environment |
    /// |---|---|---|
    /// | `redis://host:port/database`, `redis://host:port/database/prefix` | `redis` | `ZSWAP_REDIS_PASSWORD`, and `ZSWAP_REDIS_USERNAME` |
    /// | `s3://bucket/prefix` | `s3` | `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, and `AWS_SESSION_TOKEN` |
    /// | `fs:///directory` | `fs` | |
    /// | `memory://` | `memory` | |
    ///
    /// Instead of a secret's variable, the variable with `_FILE` at its end may name a file that holds the secret; a
    /// line break at its end does not count. For S3, `AWS_REGION` and `AWS_ENDPOINT_URL` set the region (default:
    /// us-east-1) and the address of the service (default: Amazon's). What `memory://` holds belongs to this value and
    /// its clones, and is for tests.
    ///
    /// The connection to Redis is not encrypted. A store that encrypts protects its pages on the way, too, but not the
    /// password.
    ///
    /// Does not contact the service.
    ///
    /// # Errors
    /// [`RemoteError::SecretInUrl`] if the URL contains a user name or password; [`RemoteError::Url`] if it lacks a part;
    /// [`RemoteError::UnknownScheme`] or [`RemoteError::FeatureOff`] if its service is unknown or not compiled in;
    /// [`RemoteError::Unset`], [`RemoteError::Variable`] or [`RemoteError::SecretFile`] if a secret is missing or
    /// cannot be used; [`RemoteError::Service`] if the service refuses its settings.
    ///
    /// # Blocking
    /// Reads the files of secrets.
    pub fn open(url: &str) -> Result<Self, RemoteError> {
        url::open(url, &|variable| std::env::var_os(variable)).map(Remote)
    }

    /// Uses an operator of OpenDAL, for services that [`open`](Self::open) does not know. The operator should have no
    /// layer for time-outs, retries or a bounded number of requests, since the device adds these. All devices share the
    /// operator, so its connections may live on the threads of any of them. If the operator knows a secret, use a
    /// service that keeps it out of its error messages: they appear in
    /// [`RemoteStats::last_error`](crate::RemoteStats::last_error).
    ///
    /// ```
    /// use zswap_remote::Remote;
    /// use zswap_remote::opendal::{Operator, services::Memory};
    ///
    /// # if cfg!(not(feature = "memory")) { return Ok(()); }
    /// let device = Remote::new(Operator::new(Memory::default())?).device(1 << 20).build()?;
    /// # let _ = device;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn new(operator: Operator) -> Self {
        Remote(Source::of(operator))
    }

    /// Starts building a device of `pages` times 4096 bytes. Several devices on one service do not meet.
    pub fn device(&self, pages: u64) -> RemoteBuilder {
        RemoteBuilder::new(self.0.clone(), pages)
    }

    /// Lists the stores that have objects at this place, of living processes and of killed ones. The service cannot
    /// tell which is which.
    ///
    /// # Errors
    /// [`RemoteError::Lacks`] if the service cannot list objects; [`RemoteError::Service`] if it fails;
    /// [`RemoteError::Late`] after `limit`; [`RemoteError::Threads`] if the system gives no thread.
    ///
    /// # Blocking
    /// Blocks in the service, for `limit` at most.
    pub fn stores(&self, limit: Duration) -> Result<Vec<StoreName>, RemoteError> {
        let names = self.ask("list its stores", limit, |operator| async move {
            let mut found = BTreeSet::new();
            for entry in operator.list("zswap-").await? {
                let first = entry.path().split('/').next().unwrap_or_default();
                found.extend(first.parse::<StoreName>().ok());
            }
            Ok(found)
        })?;
        Ok(names.into_iter().collect())
    }

    /// Deletes all objects of a store whose process was killed. Returns their number. Objects of other stores, and
    /// whatever else is at this place, stay.
    ///
    /// If the store's process is still alive, the store loses its pages on the service: its loads fail with
    /// [`DeviceError::Missing`](zpage::device::DeviceError::Missing).
    ///
    /// # Errors
    /// As for [`stores`](Self::stores). Some objects may be deleted then.
    ///
    /// # Blocking
    /// Blocks in the service, for `limit` at most.
    pub fn purge(&self, store: StoreName, limit: Duration) -> Result<u64, RemoteError> {
        self.ask("delete the objects of a store", limit, move |operator| async move {
            let objects = deleter::purge(&operator, store).await?;
            if operator.info().capability().create_dir {
                operator.delete(&format!("{store}/")).await?;
            }
            Ok(objects)
        })
    }

    /// Runs a request on a thread made for it.
    fn ask<T: Send + 'static, F>(
        &self,
        operation: &'static str,
        limit: Duration,
        request: impl FnOnce(Operator) -> F,
    ) -> Result<T, RemoteError>
    where
        F: Future<Output = opendal::Result<T>> + Send + 'static,
    {
        let service = self.0.scheme().to_owned();
        let operator = self.0.operator(limit)?;
        if !operator.info().capability().list {
            let instead = "remove what begins with \"zswap-\" by the service's own tools";
            return Err(RemoteError::Lacks { service, operation: "list objects", instead });
        }
        let timeout = TimeoutLayer::new().with_timeout(limit).with_io_timeout(limit);
        let operator =
            operator.layer(timeout).layer(RetryLayer::new().with_notify(Quiet).with_max_times(2));
        let threads = Threads::start(1).map_err(|reason| RemoteError::Threads { reason })?;
        match threads.call(limit, request(operator)) {
            Ok(answer) => answer.map_err(|error| self.0.failure(operation, &error)),
            Err(Unanswered::Late) => {
                Err(RemoteError::Late { service, operation, seconds: limit.as_secs() })
            }
            Err(Unanswered::Panicked) => {
                let reason = "the service's client panicked".to_owned();
                Err(RemoteError::Service { service, operation, reason })
            }
        }
    }
}

impl fmt::Debug for Remote {
    /// Shows the scheme only, since the rest may contain secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("service", &self.0.scheme()).finish_non_exhaustive()
    }
}
