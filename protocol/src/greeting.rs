//! The first bytes of each side: the server's greeting and the client's flags.
//!
//! Source: "Newstyle negotiation", "Handshake flags", "Client flags".

use bytes::{Buf, BufMut, BytesMut};

use crate::constants::{GREETING_MAGIC, OPTION_MAGIC};
use crate::error::DecodeError;

flag_set! {
    /// What the server's side of the handshake can do ("Handshake flags").
    pub struct HandshakeFlags: u16 {
        /// `NBD_FLAG_FIXED_NEWSTYLE`: options get replies.
        FIXED_NEWSTYLE = 0,
        /// `NBD_FLAG_NO_ZEROES`: the 124 zeroes after EXPORT_NAME may be left out.
        NO_ZEROES = 1,
    }
}

flag_set! {
    /// What the client answers to the greeting ("Client flags").
    pub struct ClientFlags: u32 {
        /// `NBD_FLAG_C_FIXED_NEWSTYLE`: the client sends more options than EXPORT_NAME.
        FIXED_NEWSTYLE = 0,
        /// `NBD_FLAG_C_NO_ZEROES`: leave the 124 zeroes out.
        NO_ZEROES = 1,
    }
}

/// What a server says as soon as a client has connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// Its abilities.
    pub flags: HandshakeFlags,
}

impl Greeting {
    /// The greeting of a fixed newstyle server, which is the only kind we are.
    pub const FIXED_NEWSTYLE: Greeting = Greeting { flags: HandshakeFlags::NAMED };

    /// Bytes on the wire.
    pub const BYTES: usize = 18;

    /// Appends the greeting.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_u64(GREETING_MAGIC);
        out.put_u64(OPTION_MAGIC);
        out.put_u16(self.flags.bits());
    }

    /// Takes a greeting from the front of `buf`; `None` when there are too few bytes.
    ///
    /// # Errors
    /// `BadMagic`: this is no newstyle server. Oldstyle servers end here too ("Oldstyle
    /// negotiation" is no longer supported even by the reference implementation).
    pub fn decode(buf: &mut BytesMut) -> Result<Option<Greeting>, DecodeError> {
        let Some(mut header) = buf.get(..Greeting::BYTES) else { return Ok(None) };
        for magic in [GREETING_MAGIC, OPTION_MAGIC] {
            let found = header.get_u64();
            if found != magic {
                return Err(DecodeError::BadMagic { message: "greeting", found });
            }
        }
        let flags = HandshakeFlags::from_bits(header.get_u16());
        buf.advance(Greeting::BYTES);
        Ok(Some(Greeting { flags }))
    }
}

impl ClientFlags {
    /// Bytes on the wire.
    pub const BYTES: usize = 4;

    /// Appends the flags.
    pub fn encode(self, out: &mut BytesMut) {
        out.put_u32(self.bits());
    }

    /// Takes client flags from the front of `buf`; `None` when there are too few bytes. Flags that
    /// the server must not accept are for [`Negotiation::begin`](crate::Negotiation::begin) to
    /// judge.
    pub fn decode(buf: &mut BytesMut) -> Option<ClientFlags> {
        buf.try_get_u32().ok().map(ClientFlags::from_bits)
    }
}
