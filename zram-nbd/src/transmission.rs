//! Requests and replies, one at a time.

use std::io::{ErrorKind, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};

use zram::{Zram, ZramError};

use crate::handshake::Agreed;
use crate::wire::{
    CMD_DF, CMD_DISC, CMD_FLUSH, CMD_FUA, CMD_NO_HOLE, CMD_READ, CMD_TRIM, CMD_WRITE,
    CMD_WRITE_ZEROES, EINVAL, EIO, ENOMEM, ENOSPC, EOVERFLOW, MOST_BYTES, Message, REPLY_DONE,
    REPLY_ERROR, REPLY_NONE, REPLY_OFFSET_DATA, REQUEST_MAGIC, SIMPLE_REPLY_MAGIC,
    STRUCTURED_REPLY_MAGIC, read_array, read_u32, read_u64,
};
use crate::{Session, SessionError};

/// The most bytes of buffer that a session keeps for small requests. A larger buffer is freed by the next read or
/// write that needs at most this number of bytes.
const KEPT: usize = 1 << 20;

struct Request {
    flags: u16,
    kind: u16,
    cookie: u64,
    offset: u64,
    len: u32,
}

/// Answers requests until the client disconnects.
pub(crate) fn run<S: Read + Write>(
    stream: &mut S,
    disk: &Zram,
    agreed: Agreed,
    session: &mut Session,
) -> Result<(), SessionError> {
    let mut buffer = Vec::new();
    loop {
        // A client may disconnect between two requests without saying so.
        let Some(request) = Request::read(stream)? else { return Ok(()) };
        let len = request.len as usize;
        if request.kind == CMD_DISC {
            return Ok(());
        }
        let writes = request.kind == CMD_WRITE;
        if writes && request.len > MOST_BYTES {
            // The session must end: the data of this request are not read, and would be taken for requests.
            return Err(SessionError::Protocol { what: "a write of length", value: len as u64 });
        }
        if (writes || request.kind == CMD_READ) && request.len <= MOST_BYTES {
            fit(&mut buffer, len)?;
        }
        if writes {
            stream.read_exact(&mut buffer)?;
        }
        // A user's codec may panic. The disk is then in the same state as after an error, and the reply
        // contains nothing of the buffer.
        let answered = || answer(disk, &request, &mut buffer, session);
        let done = catch_unwind(AssertUnwindSafe(answered)).unwrap_or(Err(EIO));
        session.requests += 1;
        reply(stream, agreed, &request, done.map(|()| &buffer[..]))?;
    }
}

/// Resizes the buffer to the length of a request and zeroes it. Frees a buffer that is much too large.
fn fit(buffer: &mut Vec<u8>, len: usize) -> Result<(), SessionError> {
    buffer.clear();
    if len <= KEPT && buffer.capacity() > KEPT {
        *buffer = Vec::new();
    }
    buffer.try_reserve_exact(len).map_err(|_| SessionError::NoMemory { bytes: len })?;
    buffer.resize(len, 0);
    Ok(())
}

impl Request {
    /// Reads the next request. Returns `None` if the stream ends where a request would begin.
    fn read<S: Read>(stream: &mut S) -> Result<Option<Self>, SessionError> {
        let mut magic = [0; 4];
        let first = loop {
            match stream.read(&mut magic) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        if first == 0 {
            return Ok(None);
        }
        stream.read_exact(&mut magic[first..])?;
        let magic = u32::from_be_bytes(magic);
        if magic != REQUEST_MAGIC {
            let value = magic.into();
            return Err(SessionError::Protocol { what: "a request's magic number", value });
        }
        let flags = u16::from_be_bytes(read_array(stream)?);
        let kind = u16::from_be_bytes(read_array(stream)?);
        let (cookie, offset) = (read_u64(stream)?, read_u64(stream)?);
        Ok(Some(Request { flags, kind, cookie, offset, len: read_u32(stream)? }))
    }
}

/// Executes a request. A read fills `buffer`, and a write stores the bytes of `buffer`. If the request fails, returns
/// the protocol's error number.
fn answer(
    disk: &Zram,
    request: &Request,
    buffer: &mut [u8],
    session: &mut Session,
) -> Result<(), u32> {
    let Request { flags, kind, offset, len, .. } = *request;
    let known = match kind {
        CMD_READ => CMD_DF | CMD_FUA,
        CMD_WRITE_ZEROES => CMD_NO_HOLE | CMD_FUA,
        _ => CMD_FUA,
    };
    if flags & !known != 0 {
        return Err(EINVAL);
    }
    match kind {
        CMD_READ if len > MOST_BYTES => Err(EOVERFLOW),
        CMD_READ => {
            disk.read(offset, buffer).map_err(|error| number(&error, EINVAL))?;
            session.read_bytes += u64::from(len);
            Ok(())
        }
        CMD_WRITE => {
            disk.write(offset, buffer).map_err(|error| number(&error, ENOSPC))?;
            session.written_bytes += u64::from(len);
            Ok(())
        }
        // Every acknowledged write is stored already, so there is nothing to flush.
        CMD_FLUSH => Ok(()),
        CMD_TRIM => disk.discard(offset, len.into()).map_err(|error| number(&error, EINVAL)),
        CMD_WRITE_ZEROES => {
            disk.write_zeroes(offset, len.into()).map_err(|error| number(&error, ENOSPC))
        }
        _ => Err(EINVAL),
    }
}

/// Returns the protocol's number for an error of the disk. Returns `beyond` if the range is not on the disk.
fn number(error: &ZramError, beyond: u32) -> u32 {
    match error {
        ZramError::OutOfRange { .. } => beyond,
        ZramError::MemLimit { .. } => ENOSPC,
        ZramError::Table { .. } | ZramError::Buffer { .. } | ZramError::Pool { .. } => ENOMEM,
        _ => EIO,
    }
}

fn reply<S: Write>(
    stream: &mut S,
    agreed: Agreed,
    request: &Request,
    done: Result<&[u8], u32>,
) -> Result<(), SessionError> {
    let is_read = request.kind == CMD_READ;
    let data = match done {
        Ok(bytes) if is_read => bytes,
        _ => &[],
    };
    let head = if agreed.structured {
        let head = |kind: u16, len: usize| {
            let head = Message::default().u32(STRUCTURED_REPLY_MAGIC).u16(REPLY_DONE).u16(kind);
            head.u64(request.cookie).u32(len as u32)
        };
        match done {
            Ok(_) if is_read && !data.is_empty() => {
                head(REPLY_OFFSET_DATA, 8 + data.len()).u64(request.offset)
            }
            Ok(_) => head(REPLY_NONE, 0),
            Err(number) => head(REPLY_ERROR, 6).u32(number).u16(0),
        }
    } else {
        let number = done.err().unwrap_or(0);
        Message::default().u32(SIMPLE_REPLY_MAGIC).u32(number).u64(request.cookie)
    };
    stream.write_all(&head.0)?;
    stream.write_all(data)?;
    Ok(stream.flush()?)
}
