//! Why a header is refused.

use crate::cli::copy::ReadAt;
use std::io;
use thiserror::Error;

/// Why an image is refused by its header.
#[derive(Debug, Error)]
pub(crate) enum HeaderError {
    #[error("{0}")]
    Io(#[source] io::Error),
    /// The file ends before something that it must have.
    #[error(
        "it is cut off: {what} would end at byte {end_bytes}, and the file has {len_bytes}; fetch it \
         again"
    )]
    CutOff { what: &'static str, end_bytes: u64, len_bytes: u64 },
    /// A field has a value that it cannot have.
    #[error("its header is damaged: {0}")]
    Malformed(&'static str),
    /// Something that a conversion would lose, or that needs a key.
    #[error("{0}")]
    Unsupported(&'static str),
}

impl From<io::Error> for HeaderError {
    fn from(error: io::Error) -> HeaderError {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return HeaderError::Malformed("the file ends inside it");
        }
        HeaderError::Io(error)
    }
}

/// Whether `offset + len` lies within the file.
pub(super) fn within(
    from: &impl ReadAt,
    what: &'static str,
    offset: u64,
    len: u64,
) -> Result<(), HeaderError> {
    let len_bytes = from.len_bytes();
    match offset.checked_add(len) {
        Some(end_bytes) if end_bytes > len_bytes => {
            Err(HeaderError::CutOff { what, end_bytes, len_bytes })
        }
        Some(_) => Ok(()),
        None => Err(HeaderError::Malformed("an offset is beyond any file")),
    }
}

/// Text of a header, which must be UTF-8 without a zero: other names are no names that could be
/// told.
pub(super) fn text(bytes: Vec<u8>) -> Result<String, HeaderError> {
    let text =
        String::from_utf8(bytes).ok().filter(|text| !text.is_empty() && !text.contains('\0'));
    text.ok_or(HeaderError::Malformed("a file name in it is empty or no UTF-8"))
}
