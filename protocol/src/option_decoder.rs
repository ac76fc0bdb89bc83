//! Options from bytes, without trusting their lengths.
//!
//! I1  No more than `OPTION_DATA_BYTES_MAX` and one header are ever waited for.
//! I2  Data up to `OPTION_DRAIN_BYTES_MAX` is thrown away as it arrives, and the option is then
//!     reported as too big, so that it can be answered and the next one be read.
//! I3  A malformed option is consumed as a whole: the stream goes on behind it.
//!
//! Source: "Newstyle negotiation": "the presence of the option length in every option allows the
//! server to skip any options presented by the client that it does not understand".

use bytes::{Buf, BytesMut};

use crate::constants::OPTION_MAGIC;
use crate::error::DecodeError;
use crate::flaw::Flaw;
use crate::limits::{OPTION_DATA_BYTES_MAX, OPTION_DRAIN_BYTES_MAX};
use crate::option::{OptionCode, OptionRequest};

const HEADER_BYTES: usize = 16;

/// What came in as an option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReceivedOption {
    /// A well-formed one.
    Request(OptionRequest),
    /// One whose data breaks the specification.
    Malformed {
        /// Which option.
        code: OptionCode,
        /// What is wrong.
        flaw: Flaw,
    },
    /// One whose data was too long to keep and has been thrown away.
    TooBig {
        /// Which option.
        code: OptionCode,
        /// Length of its data, bytes.
        len: u32,
    },
}

impl ReceivedOption {
    /// Which option this is.
    pub fn code(&self) -> OptionCode {
        match self {
            ReceivedOption::Request(request) => request.code(),
            ReceivedOption::Malformed { code, .. } | ReceivedOption::TooBig { code, .. } => *code,
        }
    }
}

/// Takes options from the front of a buffer. One a connection: it remembers data that is being
/// thrown away.
#[derive(Debug, Default)]
pub struct OptionDecoder {
    draining: Option<Draining>,
}

#[derive(Debug)]
struct Draining {
    code: OptionCode,
    len: u32,
    left: u32,
}

impl OptionDecoder {
    /// A decoder at the beginning of an option.
    pub fn new() -> OptionDecoder {
        OptionDecoder::default()
    }

    /// Takes the next option; `None` when there are too few bytes.
    ///
    /// # Errors
    /// `BadMagic`, or `TooLong` for more than [`OPTION_DRAIN_BYTES_MAX`]: the connection must end.
    pub fn decode(&mut self, buf: &mut BytesMut) -> Result<Option<ReceivedOption>, DecodeError> {
        if self.draining.is_some() {
            return Ok(self.drain(buf));
        }
        let Some(mut header) = buf.get(..HEADER_BYTES) else { return Ok(None) };
        let found = header.get_u64();
        if found != OPTION_MAGIC {
            return Err(DecodeError::BadMagic { message: "option", found });
        }
        let code = OptionCode::from_wire(header.get_u32());
        let len = header.get_u32();
        if len > OPTION_DRAIN_BYTES_MAX {
            let (len, max) = (len.into(), OPTION_DRAIN_BYTES_MAX.into());
            return Err(DecodeError::TooLong { message: "option", len, max });
        }
        if len > OPTION_DATA_BYTES_MAX {
            buf.advance(HEADER_BYTES);
            self.draining = Some(Draining { code, len, left: len });
            return Ok(self.drain(buf));
        }
        if buf.len() - HEADER_BYTES < len as usize {
            return Ok(None); // keeps I1
        }
        buf.advance(HEADER_BYTES);
        let data = buf.split_to(len as usize).freeze();
        Ok(Some(match OptionRequest::parse(code, data) {
            Ok(request) => ReceivedOption::Request(request),
            Err(flaw) => ReceivedOption::Malformed { code, flaw }, // keeps I3
        }))
    }

    /// Throws away what has arrived; reports the option with its last byte. Keeps I2.
    fn drain(&mut self, buf: &mut BytesMut) -> Option<ReceivedOption> {
        let draining = self.draining.as_mut()?;
        let here = buf.len().min(draining.left as usize);
        buf.advance(here);
        draining.left -= here as u32;
        if draining.left > 0 {
            return None;
        }
        let Draining { code, len, .. } = self.draining.take()?;
        Some(ReceivedOption::TooBig { code, len })
    }
}
