//! What the handshake tells a client about an export.
//!
//! Source: "Transmission flags", "Size constraints", `NBD_OPT_EXPORT_NAME` under "Option types".

use bytes::{Buf, BufMut, BytesMut};
use uuid::Uuid;

use crate::error::DecodeError;
use crate::limits::PAYLOAD_BYTES_MAX;
use crate::text::Text;

flag_set! {
    /// What a client may do with an export ("Transmission flags").
    pub struct TransmissionFlags: u16 {
        /// `NBD_FLAG_HAS_FLAGS`: always set.
        HAS_FLAGS = 0,
        /// `NBD_FLAG_READ_ONLY`: writes are refused.
        READ_ONLY = 1,
        /// `NBD_FLAG_SEND_FLUSH`: FLUSH is served.
        SEND_FLUSH = 2,
        /// `NBD_FLAG_SEND_FUA`: the FUA flag is honoured.
        SEND_FUA = 3,
        /// `NBD_FLAG_ROTATIONAL`: seeks are expensive.
        ROTATIONAL = 4,
        /// `NBD_FLAG_SEND_TRIM`: TRIM is served.
        SEND_TRIM = 5,
        /// `NBD_FLAG_SEND_WRITE_ZEROES`: WRITE_ZEROES and NO_HOLE are served.
        SEND_WRITE_ZEROES = 6,
        /// `NBD_FLAG_SEND_DF`: the DF flag is honoured; clear unless structured replies are
        /// negotiated.
        SEND_DF = 7,
        /// `NBD_FLAG_CAN_MULTI_CONN`: all connections see one cache; a flush on one covers the
        /// others.
        CAN_MULTI_CONN = 8,
        /// `NBD_FLAG_SEND_RESIZE`: of the resize extension, not served here.
        SEND_RESIZE = 9,
        /// `NBD_FLAG_SEND_CACHE`: CACHE is served.
        SEND_CACHE = 10,
        /// `NBD_FLAG_SEND_FAST_ZERO`: the FAST_ZERO flag is honoured.
        SEND_FAST_ZERO = 11,
        /// `NBD_FLAG_BLOCK_STATUS_PAYLOAD`: of the extended headers extension, not served here.
        BLOCK_STATUS_PAYLOAD = 12,
    }
}

/// Whether an export takes writes from this client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reads and writes.
    ReadWrite,
    /// Reads only; a write gets EPERM.
    ReadOnly,
}

impl TransmissionFlags {
    /// Everything that [`Request::check`](crate::Request::check) lets through. One cache for all
    /// connections is promised in both cases. [`Negotiation`](crate::Negotiation) clears SEND_DF
    /// where replies are simple.
    pub const fn for_export(access: Access) -> TransmissionFlags {
        let common = TransmissionFlags::HAS_FLAGS
            .with(TransmissionFlags::SEND_FLUSH)
            .with(TransmissionFlags::SEND_FUA)
            .with(TransmissionFlags::SEND_DF)
            .with(TransmissionFlags::CAN_MULTI_CONN)
            .with(TransmissionFlags::SEND_CACHE);
        match access {
            Access::ReadOnly => common.with(TransmissionFlags::READ_ONLY),
            Access::ReadWrite => common
                .with(TransmissionFlags::SEND_TRIM)
                .with(TransmissionFlags::SEND_WRITE_ZEROES)
                .with(TransmissionFlags::SEND_FAST_ZERO),
        }
    }
}

/// `NBD_INFO_BLOCK_SIZE`: sizes that requests must or should have, bytes ("Size constraints").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockSizes {
    /// Offsets and lengths must be a multiple of this; a power of two, at most 64 KiB.
    pub minimum: u32,
    /// Offsets and lengths should be a multiple of this; a power of two, at least 512.
    pub preferred: u32,
    /// Most bytes in the payload of a request or reply.
    pub maximum_payload: u32,
}

impl BlockSizes {
    /// Any byte range may be read or written, whole blocks of 4 KiB are best, and one payload is at
    /// most [`PAYLOAD_BYTES_MAX`].
    pub const BYTE_ALIGNED: BlockSizes =
        BlockSizes { minimum: 1, preferred: 4096, maximum_payload: PAYLOAD_BYTES_MAX };
}

/// An export as the server found it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportInfo {
    /// Its canonical name, told on `NBD_INFO_NAME`; not always the one the client asked for.
    pub name: Text,
    /// A sentence for people, told on `NBD_INFO_DESCRIPTION`; empty means none.
    pub description: Text,
    /// Its size, bytes.
    pub size_bytes: u64,
    /// What may be done with it.
    pub flags: TransmissionFlags,
    /// Sizes of requests. [`Request::check`](crate::Request::check) does not look for alignment, so
    /// `minimum` is 1.
    pub block_sizes: BlockSizes,
    /// The snapshots that the context `x-sandstone:changed-since:` is offered for, newest first.
    /// Only looked at when the client [`Inspect`](crate::Purpose::Inspect)s; for an attachment it
    /// may be left empty.
    pub snapshots: Vec<Uuid>,
}

/// The end of an EXPORT_NAME handshake: the only option whose answer is no option reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExportNameReply {
    /// Size of the export, bytes.
    pub size_bytes: u64,
    /// What may be done with it.
    pub flags: TransmissionFlags,
    /// What follows.
    pub zeroes: Zeroes,
}

/// Whether 124 zero bytes follow the answer to EXPORT_NAME; both sides know from the flags they
/// exchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zeroes {
    /// 124 of them.
    Sent,
    /// None (`NBD_FLAG_C_NO_ZEROES`).
    Omitted,
}

impl Zeroes {
    const fn len(self) -> usize {
        match self {
            Zeroes::Sent => 124,
            Zeroes::Omitted => 0,
        }
    }
}

impl ExportNameReply {
    /// Appends the reply.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_u64(self.size_bytes);
        out.put_u16(self.flags.bits());
        out.put_bytes(0, self.zeroes.len());
    }

    /// Takes a reply from the front of `buf`; `None` when there are too few bytes. `zeroes` is what
    /// the client's flags agreed to.
    ///
    /// # Errors
    /// `Malformed`: what must be zero is not.
    pub fn decode(
        buf: &mut BytesMut,
        zeroes: Zeroes,
    ) -> Result<Option<ExportNameReply>, DecodeError> {
        let len = 10 + zeroes.len();
        let Some(mut bytes) = buf.get(..len) else { return Ok(None) };
        let size_bytes = bytes.get_u64();
        let flags = TransmissionFlags::from_bits(bytes.get_u16());
        if bytes.iter().any(|&byte| byte != 0) {
            let flaw = "the 124 reserved bytes are not zero";
            return Err(DecodeError::Malformed { message: "reply to EXPORT_NAME", flaw });
        }
        buf.advance(len);
        Ok(Some(ExportNameReply { size_bytes, flags, zeroes }))
    }
}
