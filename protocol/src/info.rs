//! Facts about an export in the replies to INFO and GO. Source: `NBD_REP_INFO` under "Option reply
//! types".

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::error::DecodeError;
use crate::export::{BlockSizes, TransmissionFlags};
use crate::text::Text;

wire_enum! {
    /// A kind of fact that a client may ask for.
    pub enum InfoType: u16 {
        /// `NBD_INFO_EXPORT`: size and flags; always told.
        Export = 0,
        /// `NBD_INFO_NAME`: the canonical name.
        Name = 1,
        /// `NBD_INFO_DESCRIPTION`: a sentence for people.
        Description = 2,
        /// `NBD_INFO_BLOCK_SIZE`: sizes of requests.
        BlockSize = 3,
    }
}

/// One fact about an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Info {
    /// Size and flags.
    Export {
        /// Size, bytes.
        size_bytes: u64,
        /// What may be done with it.
        flags: TransmissionFlags,
    },
    /// The canonical name.
    Name(Text),
    /// A sentence for people.
    Description(Text),
    /// Sizes of requests.
    BlockSize(BlockSizes),
    /// A fact that this crate does not know; "the client MUST ignore information types that it does
    /// not recognize".
    Unknown {
        /// Its type, none of [`InfoType`]'s.
        code: u16,
        /// What it says.
        data: Bytes,
    },
}

impl Info {
    /// Its kind.
    pub fn info_type(&self) -> InfoType {
        match self {
            Info::Export { .. } => InfoType::Export,
            Info::Name(_) => InfoType::Name,
            Info::Description(_) => InfoType::Description,
            Info::BlockSize(_) => InfoType::BlockSize,
            Info::Unknown { code, .. } => InfoType::from_wire(*code),
        }
    }

    pub(crate) fn encode(&self, out: &mut BytesMut) {
        out.put_u16(self.info_type().to_wire());
        match self {
            Info::Export { size_bytes, flags } => {
                out.put_u64(*size_bytes);
                out.put_u16(flags.bits());
            }
            Info::Name(text) | Info::Description(text) => out.put_slice(text.as_bytes()),
            Info::BlockSize(sizes) => {
                out.put_u32(sizes.minimum);
                out.put_u32(sizes.preferred);
                out.put_u32(sizes.maximum_payload);
            }
            Info::Unknown { data, .. } => out.put_slice(data),
        }
    }

    /// `data` is all that follows the header of an `NBD_REP_INFO`.
    pub(crate) fn parse(mut data: Bytes) -> Result<Info, DecodeError> {
        let malformed =
            |flaw| DecodeError::Malformed { message: "information about an export", flaw };
        let code = data.try_get_u16().map_err(|_| malformed("it has no type"))?;
        let info = match InfoType::from_wire(code) {
            InfoType::Export if data.len() == 10 => Info::Export {
                size_bytes: data.get_u64(),
                flags: TransmissionFlags::from_bits(data.get_u16()),
            },
            InfoType::BlockSize if data.len() == 12 => Info::BlockSize(BlockSizes {
                minimum: data.get_u32(),
                preferred: data.get_u32(),
                maximum_payload: data.get_u32(),
            }),
            InfoType::Export | InfoType::BlockSize => {
                return Err(malformed("its length is not the prescribed one"));
            }
            InfoType::Name => {
                Info::Name(Text::from_utf8(&data).map_err(|_| malformed("bad name"))?)
            }
            InfoType::Description => {
                Info::Description(Text::from_utf8(&data).map_err(|_| malformed("bad description"))?)
            }
            InfoType::Unknown(code) => Info::Unknown { code, data },
        };
        Ok(info)
    }
}
