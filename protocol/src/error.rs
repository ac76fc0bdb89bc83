//! What the wire can say when a request fails, and what we say when the other side's bytes make no sense.

use std::fmt;
use std::num::NonZeroU32;

/// An error in a reply to a request. Zero on the wire means success and is no `WireError`. Source: "Error
/// values".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WireError {
    /// Operation not permitted; a write to a read-only export.
    Eperm,
    /// Input/output error.
    Eio,
    /// Out of memory. "The server SHOULD NOT return `NBD_ENOMEM` if at all possible."
    Enomem,
    /// Invalid argument: unknown command or flag, or a range that cannot be read.
    Einval,
    /// No space left on device; also a write beyond its end.
    Enospc,
    /// Value too large; only for an unfragmented READ (or lengths without payload).
    Eoverflow,
    /// Not supported; only for a WRITE_ZEROES with FAST_ZERO that would be slow.
    Enotsup,
    /// The server is being shut down.
    Eshutdown,
    /// A number that the specification does not list. "The client SHOULD treat an unexpected error value as
    /// if it had been `NBD_EINVAL`." Only for numbers without a name: build it by [`WireError::from_wire`].
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

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WireError::Eperm => f.write_str("operation not permitted (EPERM)"),
            WireError::Eio => f.write_str("input/output error (EIO)"),
            WireError::Enomem => f.write_str("out of memory (ENOMEM)"),
            WireError::Einval => f.write_str("invalid argument (EINVAL)"),
            WireError::Enospc => f.write_str("no space left (ENOSPC)"),
            WireError::Eoverflow => f.write_str("value too large (EOVERFLOW)"),
            WireError::Enotsup => f.write_str("not supported (ENOTSUP)"),
            WireError::Eshutdown => f.write_str("the server is shutting down (ESHUTDOWN)"),
            WireError::Unknown(number) => write!(f, "error number {number}"),
        }
    }
}

impl std::error::Error for WireError {}

/// The byte stream can no longer be understood. Always the end of the connection: where the next message
/// begins is not known, or reading up to it is not worth it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// A message does not begin with its magic number.
    BadMagic {
        /// Which message.
        message: &'static str,
        /// What stood there instead.
        found: u64,
    },
    /// A message announces more bytes than we are willing to read.
    TooLong {
        /// Which message.
        message: &'static str,
        /// Announced length of its data, bytes.
        len: u64,
        /// The limit, bytes.
        max: u64,
    },
    /// A message from the server contradicts itself or the specification.
    Malformed {
        /// Which message.
        message: &'static str,
        /// What is wrong with it.
        flaw: &'static str,
    },
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DecodeError::BadMagic { message, found } => {
                write!(f, "{message}: must begin with its magic number, found {found:#x}")
            }
            DecodeError::TooLong { message, len, max } => {
                write!(f, "{message}: announces {len} bytes of data, the limit is {max}")
            }
            DecodeError::Malformed { message, flaw } => write!(f, "{message}: {flaw}"),
        }
    }
}

impl std::error::Error for DecodeError {}

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
