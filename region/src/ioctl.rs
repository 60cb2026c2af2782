//! The ioctls of a userfaultfd, as calls with up to five numbers.

use std::os::fd::RawFd;

/// The argument of every ioctl: as many numbers as the longest has. What comes back is in the last one that it has.
pub(crate) type Argument = [u64; 5];

/// # Safety
/// That of the ioctl `number`, on the file that the descriptor names at this moment. `argument` is at least as long as its
/// structure.
pub(crate) unsafe fn ioctl(fd: RawFd, number: u32, argument: &mut Argument) -> libc::c_int {
    // SAFETY: the caller's contract.
    unsafe { libc::ioctl(fd, number as _, argument.as_mut_ptr()) }
}
