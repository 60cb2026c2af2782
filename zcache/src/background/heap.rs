//! Memory that the system allocator keeps of what was freed.

/// Lets the system allocator give back what it keeps of freed memory. Samples, trainings and tables that shrink leave
/// some MiB of small blocks and large holes, which glibc would keep for this process. Elsewhere it does nothing.
///
/// # Blocking
/// Takes the allocator's locks in turn, each for as long as the list of free blocks behind it is.
pub(super) fn trim() {
    #[cfg(all(target_os = "linux", target_env = "gnu", not(miri)))]
    // SAFETY: the call takes a number and gives back memory that no block is in. It may be made at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}
