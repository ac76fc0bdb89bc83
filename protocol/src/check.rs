//! From a request on the wire to a request that can be served: flags, rights, sizes and range.
//!
//! I1  A [`Checked`] need not be checked again: its range lies in the export, its payload within
//!     the limit, and its flags mean something for it.
//! I2  A refused WRITE says how much payload is still to be thrown away, so that the next request
//!     is found.
//!
//! The order is: does the command exist, may it write, are its flags known, is it too long, is it
//! in range. When several are wrong the first one is told; the specification leaves that open.
//!
//! Source: "Request types", "Command flags", "Error values", "Size constraints".

use thiserror::Error;

use crate::error::WireError;
use crate::export::TransmissionFlags;
use crate::request::{Command, CommandFlags, Request};

#[cfg(test)]
mod tests;

/// What was agreed with the client, as far as requests are judged by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Size of the export, bytes. The server may raise it when the export grows: a request may
    /// reach beyond what the client was told, not beyond what is there.
    pub size_bytes: u64,
    /// What the client was told it may do.
    pub flags: TransmissionFlags,
    /// Most bytes in the payload of a request or reply.
    pub payload_bytes_max: u32,
    /// Whether the client selected contexts for BLOCK_STATUS.
    pub block_status: bool,
}

/// A request that can be served. Offsets and lengths are bytes; `offset + len` is at most the
/// export's size. A length of zero is allowed (except for `BlockStatus`) and means: succeed and do
/// nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checked {
    /// Send data.
    Read {
        /// First byte.
        offset: u64,
        /// At most the maximum payload.
        len: u32,
        /// "Don't fragment": at most one content chunk. Only with structured replies.
        df: bool,
    },
    /// Store the payload, which is still to be received.
    Write {
        /// First byte.
        offset: u64,
        /// At most the maximum payload.
        len: u32,
        /// Reply when it is on stable storage.
        fua: bool,
    },
    /// Put all earlier writes on stable storage.
    Flush,
    /// The data is not needed any more.
    Trim {
        /// First byte.
        offset: u64,
        /// Up to 4 GiB - 1.
        len: u32,
        /// Reply when it is on stable storage.
        fua: bool,
    },
    /// Zero a range.
    WriteZeroes {
        /// First byte.
        offset: u64,
        /// Up to 4 GiB - 1.
        len: u32,
        /// Keep the room, so that later writes cannot fail for the lack of it.
        no_hole: bool,
        /// Fail with ENOTSUP rather than be as slow as a write.
        fast_zero: bool,
        /// Reply when it is on stable storage.
        fua: bool,
    },
    /// The data will be needed soon.
    Cache {
        /// First byte.
        offset: u64,
        /// Up to 4 GiB - 1.
        len: u32,
    },
    /// Report on the selected contexts.
    BlockStatus {
        /// First byte.
        offset: u64,
        /// 1 to 4 GiB - 1.
        len: u32,
        /// One descriptor for each context, at most `len` long.
        req_one: bool,
    },
    /// Answer all requests under way, then close; no reply to this one.
    Disconnect,
}

/// A request that is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{reason}: {error}")]
pub struct Reject {
    /// To be sent in the reply.
    pub error: WireError,
    /// For people: a sentence for the reply's text and the log.
    pub reason: &'static str,
    /// Bytes of payload that follow the request, to be thrown away. Zero when `fatal`.
    pub drain: u64,
    /// The payload is too long to be thrown away: close the connection, after the reply if that is
    /// easy. "Either the server or the client MAY initiate a hard disconnect if the payload of an
    /// `NBD_CMD_WRITE` request [...] would be large enough to be deemed a denial of service attack"
    /// ("Size constraints").
    pub fatal: bool,
}

impl Request {
    /// Judges the request by what was agreed.
    ///
    /// # Errors
    /// A [`Reject`], to be sent as the reply. The connection survives it unless `fatal`.
    #[inline]
    pub fn check(&self, terms: &Terms) -> Result<Checked, Reject> {
        self.judge(terms).map_err(|(error, reason)| self.reject(terms, error, reason))
    }

    fn judge(&self, terms: &Terms) -> Result<Checked, (WireError, &'static str)> {
        let Request { offset, len, flags, .. } = *self;
        let fua = flags.contains(CommandFlags::FUA);
        match self.command {
            Command::Read => {
                self.check_flags(terms, CommandFlags::DF)?;
                let df = flags.contains(CommandFlags::DF);
                if len > terms.payload_bytes_max {
                    // EINVAL for what is "larger than the advertised maximum payload" ("Size
                    // constraints"); EOVERFLOW only where it is "too large to send without
                    // fragmentation" (`NBD_CMD_READ`).
                    let error = if df { WireError::Eoverflow } else { WireError::Einval };
                    return Err((error, "the read is longer than the maximum payload"));
                }
                self.check_range(terms, WireError::Einval)?;
                Ok(Checked::Read { offset, len, df })
            }
            Command::Write => {
                check_writable(terms)?;
                self.check_flags(terms, CommandFlags::EMPTY)?;
                if len > terms.payload_bytes_max {
                    return Err((
                        WireError::Einval,
                        "the write is longer than the maximum payload",
                    ));
                }
                self.check_range(terms, WireError::Enospc)?;
                Ok(Checked::Write { offset, len, fua })
            }
            // "The values of the length and offset fields in a disconnect request MUST be zero" -
            // but there is no reply to say otherwise, and the client is leaving.
            Command::Disconnect => Ok(Checked::Disconnect),
            Command::Flush => {
                check_offered(terms, TransmissionFlags::SEND_FLUSH)?;
                self.check_flags(terms, CommandFlags::EMPTY)?;
                if offset != 0 || len != 0 {
                    return Err((WireError::Einval, "offset and length of a flush must be zero"));
                }
                Ok(Checked::Flush)
            }
            Command::Trim => {
                check_writable(terms)?;
                check_offered(terms, TransmissionFlags::SEND_TRIM)?;
                self.check_flags(terms, CommandFlags::EMPTY)?;
                self.check_range(terms, WireError::Einval)?;
                Ok(Checked::Trim { offset, len, fua })
            }
            Command::WriteZeroes => {
                check_writable(terms)?;
                check_offered(terms, TransmissionFlags::SEND_WRITE_ZEROES)?;
                self.check_flags(terms, CommandFlags::NO_HOLE.with(CommandFlags::FAST_ZERO))?;
                self.check_range(terms, WireError::Enospc)?;
                let no_hole = flags.contains(CommandFlags::NO_HOLE);
                let fast_zero = flags.contains(CommandFlags::FAST_ZERO);
                Ok(Checked::WriteZeroes { offset, len, no_hole, fast_zero, fua })
            }
            Command::Cache => {
                // Served whether offered or not: "client implementations exist which attempt to
                // send a cache request even when `NBD_FLAG_SEND_CACHE` was not set".
                self.check_flags(terms, CommandFlags::EMPTY)?;
                self.check_range(terms, WireError::Einval)?;
                Ok(Checked::Cache { offset, len })
            }
            Command::BlockStatus => {
                if !terms.block_status {
                    return Err((
                        WireError::Einval,
                        "no metadata context was selected for this export",
                    ));
                }
                self.check_flags(terms, CommandFlags::REQ_ONE)?;
                if len == 0 {
                    // Unspecified; but a reply needs a descriptor, and a descriptor is not empty.
                    return Err((WireError::Einval, "block status of nothing cannot be described"));
                }
                self.check_range(terms, WireError::Einval)?;
                Ok(Checked::BlockStatus {
                    offset,
                    len,
                    req_one: flags.contains(CommandFlags::REQ_ONE),
                })
            }
            // "The server SHOULD return `NBD_EINVAL` if it receives an unknown command."
            Command::Unknown(_) => Err((WireError::Einval, "unknown command")),
        }
    }

    /// "The server SHOULD return `NBD_EINVAL` if it receives an unknown command flag. It also
    /// SHOULD return `NBD_EINVAL` if it receives a request with a flag not explicitly documented as
    /// applicable" ("Error values"). FUA, once offered, "MUST" be accepted on all commands; DF and
    /// FAST_ZERO need to be offered, too.
    fn check_flags(
        &self,
        terms: &Terms,
        own: CommandFlags,
    ) -> Result<(), (WireError, &'static str)> {
        const NEED_OFFER: [(CommandFlags, TransmissionFlags); 3] = [
            (CommandFlags::FUA, TransmissionFlags::SEND_FUA),
            (CommandFlags::DF, TransmissionFlags::SEND_DF),
            (CommandFlags::FAST_ZERO, TransmissionFlags::SEND_FAST_ZERO),
        ];
        if self.flags.is_empty() {
            return Ok(());
        }
        if !own.with(CommandFlags::FUA).contains(self.flags) {
            return Err((WireError::Einval, "a flag is unknown or not meant for this command"));
        }
        for (flag, offer) in NEED_OFFER {
            if self.flags.contains(flag) && !terms.flags.contains(offer) {
                return Err((WireError::Einval, "a flag was not offered by the server"));
            }
        }
        Ok(())
    }

    /// "The server SHOULD return `NBD_ENOSPC` if it receives a write request including one or more
    /// sectors beyond the size of the device", also for write zeroes; `NBD_EINVAL` for "a read or
    /// trim request" ("Error values") and for block status.
    fn check_range(
        &self,
        terms: &Terms,
        beyond: WireError,
    ) -> Result<(), (WireError, &'static str)> {
        match self.offset.checked_add(self.len.into()) {
            Some(end) if end <= terms.size_bytes => Ok(()),
            Some(_) | None => Err((beyond, "the range goes beyond the end of the export")),
        }
    }

    /// Keeps I2.
    #[cold]
    fn reject(&self, terms: &Terms, error: WireError, reason: &'static str) -> Reject {
        let payload_len = self.payload_len();
        let fatal = payload_len > terms.payload_bytes_max;
        Reject { error, reason, drain: if fatal { 0 } else { payload_len.into() }, fatal }
    }
}

/// "It SHOULD return `NBD_EPERM` if it receives a write or trim request on a read-only export"
/// ("Error values").
fn check_writable(terms: &Terms) -> Result<(), (WireError, &'static str)> {
    if terms.flags.contains(TransmissionFlags::READ_ONLY) {
        return Err((WireError::Eperm, "the export is read-only"));
    }
    Ok(())
}

/// "A client MUST NOT send a [...] request unless `NBD_FLAG_SEND_*` was set" ("Request types").
fn check_offered(terms: &Terms, offer: TransmissionFlags) -> Result<(), (WireError, &'static str)> {
    if !terms.flags.contains(offer) {
        return Err((WireError::Einval, "the command was not offered by the server"));
    }
    Ok(())
}
