//! Where the operators of devices come from.

use core::time::Duration;
use std::sync::Arc;

use opendal::Operator;

use crate::error::RemoteError;
use crate::fault;

/// Makes an operator. The argument is the time-out of an attempt.
type Make = dyn Fn(Duration) -> opendal::Result<Operator> + Send + Sync;

/// Makes operators of one service, and knows its secrets. A service that keeps connections gets an operator for each
/// device, because a connection lives on the threads of the device that opened it.
#[derive(Clone)]
pub(crate) struct Source {
    make: Arc<Make>,
    scheme: String,
    secrets: Arc<[String]>,
}

impl Source {
    /// Makes a source. Makes a first operator, so that settings that the service refuses are an error here.
    #[cfg_attr(
        not(any(feature = "s3", feature = "redis", feature = "fs")),
        expect(dead_code, reason = "no service needs it")
    )]
    pub(crate) fn new(
        scheme: &str,
        secrets: Vec<String>,
        make: impl Fn(Duration) -> opendal::Result<Operator> + Send + Sync + 'static,
    ) -> Result<Self, RemoteError> {
        // A message may quote a secret. The longest is replaced first, since one may contain another.
        let quoted = |secret: &String| secret.escape_debug().to_string();
        let mut secrets: Vec<String> =
            secrets.iter().map(quoted).chain(secrets.iter().cloned()).collect();
        secrets.sort_by_key(|secret| core::cmp::Reverse(secret.len()));
        secrets.dedup();
        let source =
            Source { make: Arc::new(make), scheme: scheme.to_owned(), secrets: secrets.into() };
        source.operator(Duration::from_secs(1))?;
        Ok(source)
    }

    /// Makes a source of this one operator.
    pub(crate) fn of(operator: Operator) -> Self {
        let scheme = operator.info().scheme().to_owned();
        Source { make: Arc::new(move |_| Ok(operator.clone())), scheme, secrets: Arc::new([]) }
    }

    pub(crate) fn operator(&self, attempt_timeout: Duration) -> Result<Operator, RemoteError> {
        (self.make)(attempt_timeout).map_err(|error| self.failure("accept its settings", &error))
    }

    /// Returns what an error of the service means to the caller.
    pub(crate) fn failure(&self, operation: &'static str, error: &opendal::Error) -> RemoteError {
        let reason = fault::shown(error, &self.secrets);
        RemoteError::Service { service: self.scheme.clone(), operation, reason }
    }

    pub(crate) fn scheme(&self) -> &str {
        &self.scheme
    }

    pub(crate) fn secrets(&self) -> &Arc<[String]> {
        &self.secrets
    }
}
