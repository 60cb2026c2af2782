//! A hand-written NBD client for the tests.

#![allow(dead_code, reason = "each test file uses some of it")]

use std::io::{self, ErrorKind, Read, Write};

const OPT: u64 = 0x4948_4156_454f_5054;
/// The size in bytes that the disk must have.
pub(crate) const SIZE: u64 = 64 << 20;

/// The client's end of a connection. A thread of the server serves the other end.
pub(crate) struct Client<S> {
    pub(crate) stream: S,
    pub(crate) structured: bool,
}

impl<S: Read + Write> Client<S> {
    pub(crate) fn send(&mut self, parts: &[&[u8]]) {
        self.stream.write_all(&parts.concat()).unwrap();
    }

    pub(crate) fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    pub(crate) fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.take())
    }

    pub(crate) fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.take())
    }

    pub(crate) fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.take())
    }

    pub(crate) fn hello(&mut self, flags: u32) {
        assert_eq!(self.take(), *b"NBDMAGICIHAVEOPT");
        assert_eq!(self.u16(), 3, "fixed newstyle, and no zeroes");
        self.send(&[&flags.to_be_bytes()]);
    }

    pub(crate) fn option(&mut self, option: u32, data: &[u8]) {
        let len = data.len() as u32;
        self.send(&[&OPT.to_be_bytes(), &option.to_be_bytes(), &len.to_be_bytes(), data]);
    }

    /// Reads the reply to an option and returns its kind and data.
    pub(crate) fn reply(&mut self, option: u32) -> (u32, Vec<u8>) {
        assert_eq!((self.u64(), self.u32()), (0x3_e889_0455_65a9, option));
        let (kind, len) = (self.u32(), self.u32());
        let mut data = vec![0; len as usize];
        self.stream.read_exact(&mut data).unwrap();
        (kind, data)
    }

    /// Performs the handshake and returns the export's flags.
    pub(crate) fn go(&mut self, structured: bool) -> u16 {
        self.hello(3);
        if structured {
            self.option(8, &[]);
            assert_eq!(self.reply(8), (1, vec![]));
            self.structured = true;
        }
        self.option(7, &[0, 0, 0, 4, b'd', b'i', b's', b'k', 0, 0]);
        let (kind, info) = self.reply(7);
        assert_eq!((kind, &info[..2], &info[2..10]), (3, &[0, 0][..], &SIZE.to_be_bytes()[..]));
        let (kind, sizes) = self.reply(7);
        assert_eq!((kind, sizes.len(), &sizes[..2]), (3, 14, &[0, 3][..]));
        assert_eq!(self.reply(7), (1, vec![]));
        u16::from_be_bytes([info[10], info[11]])
    }

    pub(crate) fn request(&mut self, kind: u16, flags: u16, cookie: u64, offset: u64, len: u32) {
        let (kind, flags) = (kind.to_be_bytes(), flags.to_be_bytes());
        let (cookie, offset) = (cookie.to_be_bytes(), offset.to_be_bytes());
        let magic = 0x2560_9513u32.to_be_bytes();
        self.send(&[&magic, &flags, &kind, &cookie, &offset, &len.to_be_bytes()]);
    }

    /// Reads the reply to a request and returns its data or its error number.
    pub(crate) fn answer(&mut self, cookie: u64, offset: u64, read: usize) -> Result<Vec<u8>, u32> {
        let mut data = vec![0; read];
        if !self.structured {
            assert_eq!(self.u32(), 0x6744_6698);
            let error = self.u32();
            assert_eq!(self.u64(), cookie);
            if error != 0 {
                return Err(error);
            }
            self.stream.read_exact(&mut data).unwrap();
            return Ok(data);
        }
        assert_eq!((self.u32(), self.u16()), (0x668e_33ef, 1), "one chunk, the last");
        let kind = self.u16();
        assert_eq!(self.u64(), cookie);
        match (kind, self.u32()) {
            (0, 0) => assert_eq!(read, 0),
            (1, len) => {
                assert_eq!((len as usize, self.u64()), (8 + read, offset));
                self.stream.read_exact(&mut data).unwrap();
            }
            (0x8001, 6) => {
                let error = self.u32();
                assert_eq!(self.u16(), 0);
                return Err(error);
            }
            other => panic!("{other:?}"),
        }
        Ok(data)
    }

    pub(crate) fn call(&mut self, kind: u16, offset: u64, len: u32) -> Result<Vec<u8>, u32> {
        let cookie = offset ^ u64::from(len) << 40 ^ 0x1122_3344_5566_7788;
        self.request(kind, 0, cookie, offset, len);
        self.answer(cookie, offset, if kind == 0 { len as usize } else { 0 })
    }

    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<Vec<u8>, u32> {
        self.request(1, 1, 7, offset, bytes.len() as u32);
        self.send(&[bytes]);
        self.answer(7, offset, 0)
    }

    /// Returns whether the server has closed the connection.
    pub(crate) fn is_closed(&mut self) -> bool {
        let read = self.stream.read(&mut [0]);
        is_there(read).unwrap_or(0) == 0
    }

    /// Returns whether the server has closed the connection. Finds that out by writing, without reading.
    pub(crate) fn is_cut_off(&mut self) -> bool {
        let written = self.stream.write(&[0]);
        is_there(written).is_none()
    }

    /// Sends the whole handshake at once, reads the replies, and returns errors instead of panicking.
    pub(crate) fn go_at_once(&mut self) -> io::Result<()> {
        let name = [0, 0, 0, 4, b'd', b'i', b's', b'k', 0, 0];
        let (flags, go) = (3u32.to_be_bytes(), 7u32.to_be_bytes());
        let said = [&flags[..], &OPT.to_be_bytes(), &go, &[0, 0, 0, 10], &name].concat();
        self.stream.write_all(&said)?;
        // The hello, two replies with information, and the acknowledgement.
        self.stream.read_exact(&mut [0; 18 + 32 + 34 + 20])
    }
}

/// Returns the number of bytes read or written, or `None` if the connection is closed.
fn is_there(done: io::Result<usize>) -> Option<usize> {
    match done {
        Ok(bytes) => Some(bytes),
        Err(error) => {
            let waits = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
            assert!(!waits, "neither a byte nor the end: {error}");
            None
        }
    }
}
