//! The end of a process in which a page cannot be had.

/// Writes one line to standard error and ends the process. For the handler of faults, which has nobody to return an
/// error to. Allocates nothing itself.
pub(crate) fn die(why: core::fmt::Arguments<'_>) -> ! {
    use core::fmt::Write;

    struct Line {
        bytes: [u8; 500],
        len: usize,
    }
    impl Write for Line {
        fn write_str(&mut self, text: &str) -> core::fmt::Result {
            let room = &mut self.bytes[self.len..];
            let len = text.len().min(room.len());
            room[..len].copy_from_slice(&text.as_bytes()[..len]);
            self.len += len;
            Ok(())
        }
    }
    let mut line = Line { bytes: [0; 500], len: 0 };
    let _ = write!(line, "zswap-region: {why}");
    let len = line.len.min(line.bytes.len() - 1);
    line.bytes[len] = b'\n';
    // SAFETY: the bytes are valid for the length that is given.
    unsafe { libc::write(2, line.bytes.as_ptr().cast(), len + 1) };
    std::process::abort()
}
