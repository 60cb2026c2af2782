//! Turns errors of OpenDAL into those of a device.

use core::error::Error as _;
use core::fmt::Write as _;
use std::io;

use opendal::{Error, ErrorKind};
use zpage::device::DeviceError;

/// The most characters of a service's message that are kept.
const MOST: usize = 200;

/// The error with which the service of this crate for Redis says that the server is full.
pub(crate) const FULL: &str = "the server has no memory for more (OOM)";

/// Returns the system's error under `error`, if there is one.
fn system_error(error: &Error) -> Option<&io::Error> {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(system) = cause.downcast_ref::<io::Error>() {
            return Some(system);
        }
        source = cause.source();
    }
    None
}

/// Returns whether some cause of the error says that Redis is at its `maxmemory`.
fn is_full(error: &Error) -> bool {
    if error.message() == FULL {
        return true;
    }
    let mut source = error.source();
    while let Some(cause) = source {
        if cause.to_string().starts_with("OOM") {
            return true;
        }
        source = cause.source();
    }
    false
}

/// Returns the kind of an error, as the system would classify it.
pub(crate) fn kind(error: &Error) -> io::ErrorKind {
    if is_full(error) {
        return io::ErrorKind::StorageFull;
    }
    match error.kind() {
        ErrorKind::NotFound => io::ErrorKind::NotFound,
        ErrorKind::PermissionDenied => io::ErrorKind::PermissionDenied,
        ErrorKind::RateLimited => io::ErrorKind::QuotaExceeded,
        ErrorKind::Unsupported => io::ErrorKind::Unsupported,
        ErrorKind::ConfigInvalid => io::ErrorKind::InvalidInput,
        _ if error.message().contains("timeout") => io::ErrorKind::TimedOut,
        _ => match system_error(error).map(io::Error::kind) {
            Some(kind) => kind,
            // The layer of retries calls all errors final, so a transfer that was cut off is known by its message only.
            None if error.is_temporary() || error.message().starts_with("http response got") => {
                io::ErrorKind::ConnectionAborted
            }
            None => io::ErrorKind::Other,
        },
    }
}

/// Returns the error of a write.
pub(crate) fn write(segment: u64, error: &Error) -> DeviceError {
    let code = system_error(error).and_then(io::Error::raw_os_error);
    DeviceError::Io { operation: "write", segment, kind: kind(error), code }
}

/// Returns whether a complete answer had another length than the range. OpenDAL has no kind for this, only messages.
fn is_of_another_length(error: &Error) -> bool {
    error.message().starts_with("reader got ")
}

/// Returns the error of a read. An object that is gone, or is shorter than the range, does not hold what was written.
pub(crate) fn read(segment: u64, error: &Error) -> DeviceError {
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::RangeNotSatisfied => DeviceError::Missing { segment },
        _ if is_of_another_length(error) => DeviceError::Missing { segment },
        _ => {
            let code = system_error(error).and_then(io::Error::raw_os_error);
            DeviceError::Io { operation: "read", segment, kind: kind(error), code }
        }
    }
}

/// Returns whether the service did not answer, so that asking it again soon costs as long.
pub(crate) fn is_unanswered(error: &Error) -> bool {
    // OpenDAL calls nearly all errors of the system temporary, also that of a full disk.
    let refused = [
        io::ErrorKind::StorageFull,
        io::ErrorKind::QuotaExceeded,
        io::ErrorKind::ReadOnlyFilesystem,
        io::ErrorKind::FileTooLarge,
        io::ErrorKind::PermissionDenied,
    ];
    let system = system_error(error).map(io::Error::kind);
    error.is_temporary() && !is_full(error) && !system.is_some_and(|kind| refused.contains(&kind))
}

/// Returns what to show of an error: its kind and message, without the context, in which services put addresses,
/// headers and bodies. `secrets` are replaced wherever they occur.
pub(crate) fn shown(error: &Error, secrets: &[String]) -> String {
    let mut text = error.message().to_owned();
    if let Some(system) = system_error(error) {
        let _ = write!(text, ": {system}");
    }
    format!("{}: {}", error.kind(), clean(&text, secrets))
}

/// Replaces secrets and control characters, and shortens the text.
pub(crate) fn clean(text: &str, secrets: &[String]) -> String {
    let mut text = text.to_owned();
    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        text = text.replace(secret.as_str(), "***");
    }
    text.chars().take(MOST).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_object_lost_is_missing_and_all_else_is_a_failure() {
        let read = |kind| super::read(3, &Error::new(kind, "x"));
        assert_eq!(read(ErrorKind::NotFound), DeviceError::Missing { segment: 3 });
        assert_eq!(read(ErrorKind::RangeNotSatisfied), DeviceError::Missing { segment: 3 });
        let DeviceError::Io { kind, .. } = read(ErrorKind::PermissionDenied) else { panic!() };
        assert_eq!(kind, io::ErrorKind::PermissionDenied);
        // A whole answer of another length, and a transfer that was cut off.
        let said = |text| super::read(3, &Error::new(ErrorKind::Unexpected, text));
        assert_eq!(said("reader got too little data"), DeviceError::Missing { segment: 3 });
        let cut = said("http response got too little data, expect: 9, actual: 3");
        let DeviceError::Io { kind, .. } = cut else { panic!() };
        assert_eq!(kind, io::ErrorKind::ConnectionAborted);
    }

    #[test]
    fn the_systems_number_and_a_full_server_are_found() {
        let disk = io::Error::from_raw_os_error(28);
        let error = Error::new(ErrorKind::Unexpected, "write").set_source(disk).set_temporary();
        assert!(!is_unanswered(&error), "a full disk answers");
        let full = DeviceError::Io {
            operation: "write",
            segment: 1,
            kind: io::ErrorKind::StorageFull,
            code: Some(28),
        };
        assert_eq!(write(1, &error), full);
        let text = io::Error::other("OOM command not allowed when used memory > 'maxmemory'.");
        let stock = Error::new(ErrorKind::Unexpected, "response error").set_source(text);
        assert_eq!(kind(&stock.set_temporary()), io::ErrorKind::StorageFull);
        let own = Error::new(ErrorKind::Unexpected, FULL);
        assert_eq!(kind(&own), io::ErrorKind::StorageFull);
        assert!(!is_unanswered(&own));
        let late = Error::new(ErrorKind::Unexpected, "operation timeout reached").set_temporary();
        assert!(kind(&late) == io::ErrorKind::TimedOut && is_unanswered(&late));
    }

    #[test]
    fn no_secret_and_no_context_is_shown() {
        let error = Error::new(ErrorKind::PermissionDenied, "wrong pass\nhunter2 given")
            .with_context("header", "Authorization: abc");
        let shown = shown(&error, &["hunter2".to_owned(), String::new()]);
        assert_eq!(shown, "PermissionDenied: wrong pass *** given");
    }
}
