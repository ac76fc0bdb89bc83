//! Requests of the transmission phase: 28 bytes, and for a WRITE its payload behind them.
//!
//! ```text
//!   | magic u32 | flags u16 | command u16 | cookie u64 | offset u64 | length u32 | payload (WRITE only) ... |
//! ```
//!
//! Source: "Request message", "Command flags", "Request types".

use bytes::{Buf, BufMut, BytesMut};

use crate::constants::REQUEST_MAGIC;
use crate::error::DecodeError;

/// Bytes of a request on the wire, without payload.
pub const REQUEST_BYTES: usize = 28;

wire_enum! {
    /// What a request wants ("Request types").
    pub enum Command: u16 {
        /// `NBD_CMD_READ`
        Read = 0,
        /// `NBD_CMD_WRITE`: the only one with a payload.
        Write = 1,
        /// `NBD_CMD_DISC`: end of the connection, no reply.
        Disconnect = 2,
        /// `NBD_CMD_FLUSH`
        Flush = 3,
        /// `NBD_CMD_TRIM`
        Trim = 4,
        /// `NBD_CMD_CACHE`
        Cache = 5,
        /// `NBD_CMD_WRITE_ZEROES`
        WriteZeroes = 6,
        /// `NBD_CMD_BLOCK_STATUS`
        BlockStatus = 7,
    }
}

flag_set! {
    /// How a request wants it ("Command flags").
    pub struct CommandFlags: u16 {
        /// `NBD_CMD_FLAG_FUA`: reply when it is on stable storage.
        FUA = 0,
        /// `NBD_CMD_FLAG_NO_HOLE`: WRITE_ZEROES, keep the room.
        NO_HOLE = 1,
        /// `NBD_CMD_FLAG_DF`: READ, one content chunk.
        DF = 2,
        /// `NBD_CMD_FLAG_REQ_ONE`: BLOCK_STATUS, one descriptor.
        REQ_ONE = 3,
        /// `NBD_CMD_FLAG_FAST_ZERO`: WRITE_ZEROES, fail rather than be slow.
        FAST_ZERO = 4,
        /// `NBD_CMD_FLAG_PAYLOAD_LEN`: of the extended headers extension; refused here.
        PAYLOAD_LEN = 5,
    }
}

/// The client's name for a request; comes back in its replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cookie(pub u64);

/// A request as it stands on the wire; [`Request::check`] makes sense of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// How.
    pub flags: CommandFlags,
    /// What.
    pub command: Command,
    /// For the replies.
    pub cookie: Cookie,
    /// First byte concerned; zero where the command has no range.
    pub offset: u64,
    /// Bytes concerned; zero where the command has no range.
    pub len: u32,
}

impl Request {
    /// Takes a request, without its payload, from the front of `buf`; `None` when there are too few
    /// bytes.
    ///
    /// # Errors
    /// `BadMagic`: the connection must end, the beginning of the next request is not known.
    #[inline]
    pub fn decode(buf: &mut BytesMut) -> Result<Option<Request>, DecodeError> {
        let Some(mut header) = buf.first_chunk::<REQUEST_BYTES>().map(|header| &header[..]) else {
            return Ok(None);
        };
        let magic = header.get_u32();
        if magic != REQUEST_MAGIC {
            return Err(DecodeError::BadMagic { message: "request", found: magic.into() });
        }
        let request = Request {
            flags: CommandFlags::from_bits(header.get_u16()),
            command: Command::from_wire(header.get_u16()),
            cookie: Cookie(header.get_u64()),
            offset: header.get_u64(),
            len: header.get_u32(),
        };
        buf.advance(REQUEST_BYTES);
        Ok(Some(request))
    }

    /// Appends the request; the payload of a WRITE is to follow.
    #[inline]
    pub fn encode(&self, out: &mut BytesMut) {
        let mut bytes = [0; REQUEST_BYTES];
        let mut rest = &mut bytes[..];
        rest.put_u32(REQUEST_MAGIC);
        rest.put_u16(self.flags.bits());
        rest.put_u16(self.command.to_wire());
        rest.put_u64(self.cookie.0);
        rest.put_u64(self.offset);
        rest.put_u32(self.len);
        out.put_slice(&bytes);
    }

    /// Bytes of payload that follow the request on the wire. "(*length* bytes of data if the
    /// request is of type `NBD_CMD_WRITE`)", "Request message"; unknown commands have none.
    pub const fn payload_len(&self) -> u32 {
        match self.command {
            Command::Write => self.len,
            Command::Read
            | Command::Disconnect
            | Command::Flush
            | Command::Trim
            | Command::Cache
            | Command::WriteZeroes
            | Command::BlockStatus
            | Command::Unknown(_) => 0,
        }
    }
}
