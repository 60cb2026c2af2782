//! What `--backing` names: a file, or a remote service by its URL.

use core::fmt;
use std::path::Path;
use std::sync::Arc;

use zswap_core::device::SwapDevice;

use crate::error::{Error, Result};

/// A device that a [`Service`] opened.
pub struct Backing {
    pub(crate) device: Arc<dyn SwapDevice>,
    failure: Box<dyn Fn() -> Option<String>>,
}

impl Backing {
    /// Wraps a device whose errors say everything.
    pub fn new(device: impl SwapDevice + 'static) -> Self {
        Backing { device: Arc::new(device), failure: Box::new(|| None) }
    }

    /// Wraps a device that can say more about its last failure than its errors do. `failure` returns that in one
    /// sentence without secrets, or `None` if nothing failed.
    pub fn with_failure<D: SwapDevice + 'static>(
        device: D,
        failure: impl Fn(&D) -> Option<String> + 'static,
    ) -> Self {
        let device = Arc::new(device);
        let asked = device.clone();
        Backing { device, failure: Box::new(move || failure(&asked)) }
    }

    /// Returns what the device says about its last failure.
    pub(crate) fn failure(&self) -> Option<String> {
        (self.failure)()
    }
}

impl fmt::Debug for Backing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backing").field("device", &self.device).finish_non_exhaustive()
    }
}

/// A remote service to write pages back to.
#[derive(Clone, Copy, Debug)]
pub struct Service {
    /// What its URLs begin with, without `://`.
    pub scheme: &'static str,
    /// Opens a device of a number of pages of 4096 bytes. The error says in one sentence what is wrong and what to do.
    /// It contains no secret.
    pub open: fn(url: &str, pages: u64) -> core::result::Result<Backing, String>,
}

/// Returns the URL that `--backing` gives, and its scheme; `None` if it gives a file.
pub(crate) fn url(given: &Path) -> Option<(&str, &str)> {
    let text = given.to_str()?;
    let (scheme, _) = text.split_once("://")?;
    let is_scheme = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
    (scheme.starts_with(|c: char| c.is_ascii_alphabetic()) && scheme.chars().all(is_scheme))
        .then_some((text, scheme))
}

/// Returns the service with this scheme.
pub(crate) fn service<'a>(scheme: &str, services: &'a [Service]) -> Result<&'a Service> {
    let scheme = scheme.to_owned();
    match services.iter().find(|service| service.scheme == scheme) {
        Some(service) => Ok(service),
        None if services.is_empty() => Err(Error::NoServices { scheme }),
        None => {
            let known: Vec<&str> = services.iter().map(|service| service.scheme).collect();
            Err(Error::UnknownService { scheme, known: known.join(", ") })
        }
    }
}

impl Service {
    /// Opens a device of a number of pages.
    pub(crate) fn device(&self, url: &str, pages: u64) -> Result<Backing> {
        (self.open)(url, pages).map_err(|reason| Error::Service { reason })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_begins_with_a_scheme_and_all_else_is_a_file() {
        let scheme = |text: &'static str| url(Path::new(text)).map(|(_, scheme)| scheme);
        assert_eq!(scheme("redis://h/0"), Some("redis"));
        assert_eq!(scheme("s3://bucket"), Some("s3"));
        for file in ["pages", "/tmp/pages", "./redis://h", "://x", "1s://x", "a b://c", "redis:/h"]
        {
            assert_eq!(scheme(file), None, "{file}");
        }
    }

    #[test]
    fn a_program_without_services_names_the_one_that_has_them() {
        let refused = |services: &[Service]| {
            let opened = service("redis", services).and_then(|s| s.device("redis://h/0", 1));
            opened.unwrap_err().to_string()
        };
        assert!(refused(&[]).contains("cargo install --locked --force --path zswap-remote/cli"));
        let broken = Service { scheme: "redis", open: |_, _| Err("out of order".to_owned()) };
        assert!(refused(&[broken]).contains("out of order"));
        assert!(refused(&[Service { scheme: "s3", ..broken }]).contains("s3"));
    }
}
