//! Replies to options.
//!
//! ```text
//!   | magic u64 | option u32 | reply type u32 | length u32 | data ... |
//! ```
//!
//! Source: "Fixed newstyle negotiation" (the frame), "Option reply types".

use std::fmt;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::constants::{OPTION_REPLY_ERROR_BIT, OPTION_REPLY_MAGIC};
use crate::error::DecodeError;
use crate::info::Info;
use crate::limits::OPTION_REPLY_BYTES_MAX;
use crate::option::OptionCode;
use crate::text::Text;

const HEADER_BYTES: usize = 20;

const REP_ACK: u32 = 1;
const REP_SERVER: u32 = 2;
const REP_INFO: u32 = 3;
const REP_META_CONTEXT: u32 = 4;

wire_enum! {
    /// Why an option was refused. All numbers have bit 31 set, also those in `Unknown`.
    pub enum OptionError: u32 {
        /// `NBD_REP_ERR_UNSUP`: the server does not know the option.
        Unsup = 0x8000_0001,
        /// `NBD_REP_ERR_POLICY`: the server's rules forbid it.
        Policy = 0x8000_0002,
        /// `NBD_REP_ERR_INVALID`: it is malformed, or not allowed now.
        Invalid = 0x8000_0003,
        /// `NBD_REP_ERR_PLATFORM`: not possible where the server runs.
        Platform = 0x8000_0004,
        /// `NBD_REP_ERR_TLS_REQD`: only after STARTTLS.
        TlsReqd = 0x8000_0005,
        /// `NBD_REP_ERR_UNKNOWN`: no such export.
        UnknownExport = 0x8000_0006,
        /// `NBD_REP_ERR_SHUTDOWN`: the server is stopping.
        Shutdown = 0x8000_0007,
        /// `NBD_REP_ERR_BLOCK_SIZE_REQD`: only for clients that ask for block sizes.
        BlockSizeReqd = 0x8000_0008,
        /// `NBD_REP_ERR_TOO_BIG`: request or reply is too large.
        TooBig = 0x8000_0009,
        /// `NBD_REP_ERR_EXT_HEADER_REQD`: only after EXTENDED_HEADERS.
        ExtHeaderReqd = 0x8000_000a,
    }
}

impl fmt::Display for OptionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            OptionError::Unsup => "the option is not supported",
            OptionError::Policy => "the server's policy forbids it",
            OptionError::Invalid => "the option is invalid",
            OptionError::Platform => "the server's platform does not support it",
            OptionError::TlsReqd => "the server wants TLS first",
            OptionError::UnknownExport => "there is no such export",
            OptionError::Shutdown => "the server is shutting down",
            OptionError::BlockSizeReqd => "the server wants its block sizes to be respected",
            OptionError::TooBig => "the request or its reply is too big",
            OptionError::ExtHeaderReqd => "the server wants extended headers",
            OptionError::Unknown(number) => return write!(f, "option error {number:#x}"),
        })
    }
}

/// One reply to an option. An option has any number of them; an `Ack` or an `Error` is the last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OptionReply {
    /// The option that is answered.
    pub option: OptionCode,
    /// What is answered.
    pub body: ReplyBody,
}

/// What a reply to an option says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplyBody {
    /// `NBD_REP_ACK`: done.
    Ack,
    /// `NBD_REP_SERVER`: an export.
    Server {
        /// Its name.
        name: Text,
        /// A sentence for people, may be empty.
        description: Text,
    },
    /// `NBD_REP_INFO`: a fact about an export.
    Info(Info),
    /// `NBD_REP_META_CONTEXT`: a context.
    MetaContext {
        /// What stands for it in block status replies; zero in the reply to a LIST.
        id: u32,
        /// Its name.
        name: Text,
    },
    /// Refused.
    Error {
        /// Why.
        error: OptionError,
        /// Why, for people; may be empty.
        text: Text,
    },
    /// A type, without bit 31, that this crate does not know.
    Unknown {
        /// The type.
        code: u32,
        /// Its data.
        data: Bytes,
    },
}

impl OptionReply {
    /// Appends the reply.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_u64(OPTION_REPLY_MAGIC);
        out.put_u32(self.option.to_wire());
        out.put_u32(self.body.code());
        let len_at = out.len();
        out.put_u32(0);
        match &self.body {
            ReplyBody::Ack => {}
            ReplyBody::Server { name, description } => {
                out.put_u32(name.len() as u32); // at most STRING_BYTES_MAX
                out.put_slice(name.as_bytes());
                out.put_slice(description.as_bytes());
            }
            ReplyBody::Info(info) => info.encode(out),
            ReplyBody::MetaContext { id, name } => {
                out.put_u32(*id);
                out.put_slice(name.as_bytes());
            }
            ReplyBody::Error { text, .. } => out.put_slice(text.as_bytes()),
            ReplyBody::Unknown { data, .. } => out.put_slice(data),
        }
        let len = u32::try_from(out.len() - len_at - 4).expect("option reply beyond 4 GiB");
        out[len_at..len_at + 4].copy_from_slice(&len.to_be_bytes());
    }

    /// Takes a reply from the front of `buf`; `None` when there are too few bytes.
    ///
    /// # Errors
    /// Any: the server's bytes make no sense, or are more than [`OPTION_REPLY_BYTES_MAX`]; the
    /// connection must end.
    pub fn decode(buf: &mut BytesMut) -> Result<Option<OptionReply>, DecodeError> {
        let Some(mut header) = buf.get(..HEADER_BYTES) else { return Ok(None) };
        let found = header.get_u64();
        if found != OPTION_REPLY_MAGIC {
            return Err(DecodeError::BadMagic { message: "option reply", found });
        }
        let option = OptionCode::from_wire(header.get_u32());
        let code = header.get_u32();
        let len = header.get_u32();
        if len > OPTION_REPLY_BYTES_MAX {
            let (len, max) = (len.into(), OPTION_REPLY_BYTES_MAX.into());
            return Err(DecodeError::TooLong { message: "option reply", len, max });
        }
        if buf.len() - HEADER_BYTES < len as usize {
            return Ok(None);
        }
        buf.advance(HEADER_BYTES);
        let body = ReplyBody::parse(code, buf.split_to(len as usize).freeze())?;
        Ok(Some(OptionReply { option, body }))
    }
}

impl ReplyBody {
    fn code(&self) -> u32 {
        match self {
            ReplyBody::Ack => REP_ACK,
            ReplyBody::Server { .. } => REP_SERVER,
            ReplyBody::Info(_) => REP_INFO,
            ReplyBody::MetaContext { .. } => REP_META_CONTEXT,
            ReplyBody::Error { error, .. } => error.to_wire(),
            ReplyBody::Unknown { code, .. } => *code,
        }
    }

    fn parse(code: u32, mut data: Bytes) -> Result<ReplyBody, DecodeError> {
        let malformed = |flaw| DecodeError::Malformed { message: "option reply", flaw };
        let too_short = |_| malformed("it is too short");
        let text =
            |data: &[u8]| Text::from_utf8(data).map_err(|_| malformed("it contains a bad string"));
        Ok(match code {
            REP_ACK if data.is_empty() => ReplyBody::Ack,
            REP_ACK => return Err(malformed("an ACK has no data")),
            REP_SERVER => {
                let name_len = data.try_get_u32().map_err(too_short)? as usize;
                let (name, description) = data
                    .split_at_checked(name_len)
                    .ok_or(malformed("the name is longer than the reply"))?;
                ReplyBody::Server { name: text(name)?, description: text(description)? }
            }
            REP_INFO => ReplyBody::Info(Info::parse(data)?),
            REP_META_CONTEXT => {
                let id = data.try_get_u32().map_err(too_short)?;
                ReplyBody::MetaContext { id, name: text(&data)? }
            }
            // A refusal is understood even when its text is not worth reading.
            error if error & OPTION_REPLY_ERROR_BIT != 0 => ReplyBody::Error {
                error: OptionError::from_wire(error),
                text: Text::from_utf8(&data)
                    .unwrap_or_else(|_| Text::message(&String::from_utf8_lossy(&data))),
            },
            code => ReplyBody::Unknown { code, data },
        })
    }
}
