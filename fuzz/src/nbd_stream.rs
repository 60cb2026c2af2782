//! Sends arbitrary bytes to the NBD server as a client. The server answers or closes the
//! connection, and the disk must still work afterwards.

use std::io::{self, Read, Write};
use std::sync::Arc;

use arbitrary::Arbitrary;
use zram::Zram;
use zram_nbd::{Export, serve};

const SIZE: u64 = 1 << 18;

/// A part of the bytes that a client sends.
#[derive(Arbitrary, Debug)]
pub enum Part {
    Any(Vec<u8>),
    Hello { zeroes: bool },
    Option { option: u8, data: Vec<u8> },
    Go,
    Structured,
    Request { flags: u8, kind: u8, offset: u32, len: u16 },
    Write { offset: u32, data: Vec<u8> },
}

struct Client {
    says: io::Cursor<Vec<u8>>,
    heard: usize,
}

impl Read for Client {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        // Returns at most 977 bytes at a time: a network may also deliver the bytes in parts.
        let len = bytes.len().min(977);
        self.says.read(&mut bytes[..len])
    }
}

impl Write for Client {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.heard += bytes.len();
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn option(says: &mut Vec<u8>, option: u32, data: &[u8]) {
    says.extend(b"IHAVEOPT");
    says.extend(option.to_be_bytes());
    says.extend((data.len() as u32).to_be_bytes());
    says.extend(data);
}

fn request(says: &mut Vec<u8>, flags: u16, kind: u16, offset: u64, len: u32) {
    says.extend(0x2560_9513u32.to_be_bytes());
    says.extend(flags.to_be_bytes());
    says.extend(kind.to_be_bytes());
    says.extend(7u64.to_be_bytes());
    says.extend(offset.to_be_bytes());
    says.extend(len.to_be_bytes());
}

/// Sends the first 60 parts to a server. Then checks that the disk can be read and emptied.
pub fn run(parts: &[Part]) {
    let disk = Zram::builder().disksize(SIZE).zpool("zbud").algorithm("lz4");
    let disk = Arc::new(disk.build().expect("built-in names"));
    let mut says = Vec::new();
    for part in parts.iter().take(60) {
        match part {
            Part::Any(bytes) => says.extend(bytes),
            Part::Hello { zeroes } => says.extend([0, 0, 0, if *zeroes { 1 } else { 3 }]),
            Part::Option { option: number, data } => option(&mut says, u32::from(*number), data),
            Part::Go => option(&mut says, 7, &[0; 6]),
            Part::Structured => option(&mut says, 8, &[]),
            Part::Request { flags, kind, offset, len } => {
                request(
                    &mut says,
                    u16::from(*flags),
                    u16::from(*kind),
                    u64::from(*offset),
                    u32::from(*len),
                );
            }
            Part::Write { offset, data } => {
                request(&mut says, 0, 1, u64::from(*offset), data.len() as u32);
                says.extend(data);
            }
        }
    }
    let mut client = Client { says: io::Cursor::new(says), heard: 0 };
    let ended = serve(&mut client, &Export::new(disk.clone(), "disk"));
    assert!(client.heard >= 18, "every client gets a greeting");
    if let Ok(session) = ended {
        assert!(client.heard as u64 >= session.read_bytes);
    }
    let mut bytes = vec![0; SIZE as usize];
    disk.read(0, &mut bytes).expect("a sound disk");
    disk.discard(0, SIZE).expect("on the disk");
    assert_eq!((disk.mm_stat().orig_data_size, disk.mm_stat().compr_data_size), (0, 0));
}
