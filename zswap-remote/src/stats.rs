//! What a device has done, and what went wrong.

/// Figures of a device since it was made. They are read together.
///
/// What a store makes of failures is in the store's own figures: pages that it could not write stay in its pools, and
/// what it refuses because of that counts as `reject_device_fail`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct RemoteStats {
    /// Segments that are on the service now.
    pub objects: usize,
    /// Bytes of these segments.
    pub bytes: u64,
    /// Segments written.
    pub writes: u64,
    /// Writes that failed after all attempts, or were refused in a pause.
    pub write_failures: u64,
    /// Attempts to write that failed. The service may have performed them without an answer, or may yet do so.
    pub failed_attempts: u64,
    /// Writes that were not tried, because the service had not answered the ones before.
    pub paused_writes: u64,
    /// Reads that returned what was asked for.
    pub reads: u64,
    /// Reads that failed, except the ones in `missing_reads`.
    pub read_failures: u64,
    /// Reads of bytes that the service does not hold: it lost the object, or holds a shorter one.
    pub missing_reads: u64,
    /// Objects deleted.
    pub deletes: u64,
    /// Requests to delete that failed. Their objects wait for the next attempt.
    pub delete_failures: u64,
    /// Objects that wait to be deleted.
    pub waiting_deletes: usize,
    /// Objects left on the service because too many waited to be deleted. Dropping the device removes them, if the
    /// service lists objects; see [`RemoteBuilder::most_deletes`](crate::RemoteBuilder::most_deletes).
    pub forgotten_deletes: u64,
    /// The last failure: the operation, its kind and the service's message. It contains no secret.
    pub last_error: Option<String>,
}
