//! What the wire can say when a request fails, and what we say when the other side's bytes make no
//! sense.

use std::num::NonZeroU32;

use thiserror::Error;

/// An error in a reply to a request. Zero on the wire means success and is no `WireError`. Source:
/// "Error values".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
pub enum WireError {
    /// Operation not permitted; a write to a read-only export.
    #[error("operation not permitted (EPERM)")]
    Eperm,
    /// Input/output error.
    #[error("input/output error (EIO)")]
    Eio,
    /// Out of memory. "The server SHOULD NOT return `NBD_ENOMEM` if at all possible."
    #[error("out of memory (ENOMEM)")]
    Enomem,
    /// Invalid argument: unknown command or flag, or a range that cannot be read.
    #[error("invalid argument (EINVAL)")]
    Einval,
    /// No space left on device; also a write beyond its end.
    #[error("no space left (ENOSPC)")]
    Enospc,
    /// Value too large; only for an unfragmented READ (or lengths without payload).
    #[error("value too large (EOVERFLOW)")]
    Eoverflow,
    /// Not supported; only for a WRITE_ZEROES with FAST_ZERO that would be slow.
    #[error("not supported (ENOTSUP)")]
    Enotsup,
    /// The server is being shut down.
    #[error("the server is shutting down (ESHUTDOWN)")]
    Eshutdown,
    /// A number that the specification does not list. "The client SHOULD treat an unexpected error
    /// value as if it had been `NBD_EINVAL`." Only for numbers without a name: build it by
    /// [`WireError::from_wire`].
    #[error("error number {0}")]
    Unknown(NonZeroU32),
}

impl WireError {
    /// The error with this number; `None` is success (zero).
    pub const fn from_wire(number: u32) -> Option<WireError> {
        let Some(nonzero) = NonZeroU32::new(number) else { return None };
        Some(match number {
            1 => WireError::Eperm,
            5 => WireError::Eio,
            12 => WireError::Enomem,
            22 => WireError::Einval,
            28 => WireError::Enospc,
            75 => WireError::Eoverflow,
            95 => WireError::Enotsup,
            108 => WireError::Eshutdown,
            _ => WireError::Unknown(nonzero),
        })
    }

    /// Its number on the wire, never zero.
    pub const fn to_wire(self) -> u32 {
        match self {
            WireError::Eperm => 1,
            WireError::Eio => 5,
            WireError::Enomem => 12,
            WireError::Einval => 22,
            WireError::Enospc => 28,
            WireError::Eoverflow => 75,
            WireError::Enotsup => 95,
            WireError::Eshutdown => 108,
            WireError::Unknown(number) => number.get(),
        }
    }
}

/// The byte stream can no longer be understood. Always the end of the connection: where the next
/// message begins is not known, or reading up to it is not worth it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// A message does not begin with its magic number.
    #[error("{message}: must begin with its magic number, found {found:#x}")]
    BadMagic {
        /// Which message.
        message: &'static str,
        /// What stood there instead.
        found: u64,
    },
    /// A message announces more bytes than we are willing to read.
    #[error("{message}: announces {len} bytes of data, the limit is {max}")]
    TooLong {
        /// Which message.
        message: &'static str,
        /// Announced length of its data, bytes.
        len: u64,
        /// The limit, bytes.
        max: u64,
    },
    /// A message from the server contradicts itself or the specification.
    #[error("{message}: {flaw}")]
    Malformed {
        /// Which message.
        message: &'static str,
        /// What is wrong with it.
        flaw: &'static str,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_listed_number_has_a_name_and_comes_back() {
        for number in 1..=200 {
            let error = WireError::from_wire(number).unwrap();
            assert_eq!(error.to_wire(), number);
            let listed = [1, 5, 12, 22, 28, 75, 95, 108].contains(&number);
            assert_eq!(matches!(error, WireError::Unknown(_)), !listed, "{number}");
        }
    }

    #[test]
    fn zero_is_success() {
        assert_eq!(WireError::from_wire(0), None);
    }
}
