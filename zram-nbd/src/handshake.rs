//! The fixed newstyle handshake: the client sends options until it has chosen the export or aborts.

use std::io::{Read, Write};

use crate::wire::{
    CAN_MULTI_CONN, FIXED_NEWSTYLE, HAS_FLAGS, INFO_BLOCK_SIZE, INFO_EXPORT, INIT_MAGIC,
    MOST_BYTES, Message, NO_ZEROES, OPT_ABORT, OPT_EXPORT_NAME, OPT_GO, OPT_INFO, OPT_LIST,
    OPT_MAGIC, OPT_REPLY_MAGIC, OPT_STRUCTURED_REPLY, REP_ACK, REP_ERR_INVALID, REP_ERR_UNKNOWN,
    REP_ERR_UNSUP, REP_INFO, REP_SERVER, SEND_DF, SEND_FLUSH, SEND_FUA, SEND_TRIM,
    SEND_WRITE_ZEROES, read_array, read_u32,
};
use crate::{Export, SessionError};

/// The most bytes of an option's data. An export's name has at most 4096 bytes.
const MOST_OPTION: u32 = 8192;
/// The most options that a client may send. The last of them must choose the export or abort.
const MOST_OPTIONS: usize = 100;
/// Zeros that follow the reply to `EXPORT_NAME`, unless the client negotiated `NO_ZEROES`.
const PADDING: [u8; 124] = [0; 124];

/// What client and server agreed on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Agreed {
    pub(crate) structured: bool,
}

/// Returns the flags of the export.
fn flags(agreed: Agreed) -> u16 {
    let df = if agreed.structured { SEND_DF } else { 0 };
    HAS_FLAGS | SEND_FLUSH | SEND_FUA | SEND_TRIM | SEND_WRITE_ZEROES | CAN_MULTI_CONN | df
}

/// Answers options until the client has chosen the export. Returns `None` if the client aborts, and an error if
/// the client violates the protocol or the stream fails.
pub(crate) fn negotiate<S: Read + Write>(
    stream: &mut S,
    export: &Export,
) -> Result<Option<Agreed>, SessionError> {
    let hello = Message::default().bytes(INIT_MAGIC).bytes(OPT_MAGIC);
    send(stream, hello.u16(FIXED_NEWSTYLE | NO_ZEROES))?;
    let client = read_u32(stream)?;
    if client & !u32::from(FIXED_NEWSTYLE | NO_ZEROES) != 0 {
        return Err(SessionError::Protocol { what: "client flags", value: client.into() });
    }
    let no_zeroes = client & u32::from(NO_ZEROES) != 0;
    let mut agreed = Agreed::default();
    for _ in 0..MOST_OPTIONS {
        let magic: [u8; 8] = read_array(stream)?;
        if magic != *OPT_MAGIC {
            let value = u64::from_be_bytes(magic);
            return Err(SessionError::Protocol { what: "an option's magic number", value });
        }
        let (option, len) = (read_u32(stream)?, read_u32(stream)?);
        if len > MOST_OPTION {
            return Err(SessionError::Protocol { what: "an option of length", value: len.into() });
        }
        let mut data = vec![0; len as usize];
        stream.read_exact(&mut data)?;
        match option {
            OPT_EXPORT_NAME => {
                if !export.is_named(&data) {
                    // The protocol has no error reply to this option.
                    return Err(SessionError::Protocol {
                        what: "another export's name of length",
                        value: len.into(),
                    });
                }
                let about = Message::default().u64(export.disk.disksize()).u16(flags(agreed));
                let padding = if no_zeroes { &[][..] } else { &PADDING };
                send(stream, about.bytes(padding))?;
                return Ok(Some(agreed));
            }
            OPT_ABORT => {
                // The client need not wait for the reply, so it does not matter if sending fails.
                let _ = reply(stream, option, REP_ACK, &[]);
                return Ok(None);
            }
            OPT_LIST if data.is_empty() => {
                let name = export.name.as_bytes();
                let entry = Message::default().u32(name.len() as u32).bytes(name);
                reply(stream, option, REP_SERVER, &entry.0)?;
                reply(stream, option, REP_ACK, &[])?;
            }
            OPT_INFO | OPT_GO => match asked_name(&data) {
                None => reply(
                    stream,
                    option,
                    REP_ERR_INVALID,
                    b"malformed name or information requests",
                )?,
                Some(name) if !export.is_named(name) => {
                    reply(stream, option, REP_ERR_UNKNOWN, b"no such export")?;
                }
                Some(_) => {
                    tell(stream, option, export, agreed)?;
                    if option == OPT_GO {
                        return Ok(Some(agreed));
                    }
                }
            },
            OPT_STRUCTURED_REPLY if data.is_empty() => {
                agreed.structured = true;
                reply(stream, option, REP_ACK, &[])?;
            }
            OPT_LIST | OPT_STRUCTURED_REPLY => {
                reply(stream, option, REP_ERR_INVALID, b"this option has no data")?;
            }
            _ => reply(stream, option, REP_ERR_UNSUP, b"no such option")?,
        }
    }
    Err(SessionError::Protocol { what: "options, more than", value: MOST_OPTIONS as u64 })
}

impl Export {
    /// Returns whether a name that a client sent means this export. An empty name does, too.
    fn is_named(&self, name: &[u8]) -> bool {
        name.is_empty() || name == self.name.as_bytes()
    }
}

/// Returns the name in the data of `INFO` and `GO`, or `None` if the data are malformed. The data are the
/// name's length, the name, the number of information requests, and the requests.
fn asked_name(data: &[u8]) -> Option<&[u8]> {
    let (len, rest) = data.split_first_chunk()?;
    let name = rest.get(..u32::from_be_bytes(*len) as usize)?;
    let (count, requests) = rest[name.len()..].split_first_chunk()?;
    (requests.len() == 2 * usize::from(u16::from_be_bytes(*count))).then_some(name)
}

/// Sends the export's size, flags and block sizes, whether the client requested them or not.
fn tell<S: Write>(
    stream: &mut S,
    option: u32,
    export: &Export,
    agreed: Agreed,
) -> Result<(), SessionError> {
    let about = Message::default().u16(INFO_EXPORT).u64(export.disk.disksize()).u16(flags(agreed));
    reply(stream, option, REP_INFO, &about.0)?;
    let page = export.disk.unit() as u32;
    let sizes = Message::default().u16(INFO_BLOCK_SIZE).u32(1).u32(page).u32(MOST_BYTES);
    reply(stream, option, REP_INFO, &sizes.0)?;
    reply(stream, option, REP_ACK, &[])
}

fn reply<S: Write>(
    stream: &mut S,
    option: u32,
    kind: u32,
    data: &[u8],
) -> Result<(), SessionError> {
    let head = Message::default().u64(OPT_REPLY_MAGIC).u32(option).u32(kind);
    send(stream, head.u32(data.len() as u32).bytes(data))
}

fn send<S: Write>(stream: &mut S, message: Message) -> Result<(), SessionError> {
    stream.write_all(&message.0)?;
    Ok(stream.flush()?)
}
