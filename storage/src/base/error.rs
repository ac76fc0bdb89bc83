//! Errors of the store, sorted by what the caller can do about them.

use std::{error, fmt, io, sync::Arc};

/// The kind of an error: what it means for the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The store has no room for new data. Nothing was lost; reads, trims and deletions go on, and
    /// writes succeed again after trims and deletions.
    NoSpace,
    /// The range lies beyond the end of the volume. Nothing was done.
    OutOfRange,
    /// The volume does not exist, or was deleted meanwhile. Nothing was done.
    NotFound,
    /// A volume or snapshot of that id exists already. Nothing was done.
    Exists,
    /// The request makes no sense (a shrinking resize, an unaligned size). Nothing was done.
    Invalid,
    /// The bytes on disk differ from what was written. This read fails; the store goes on.
    Corrupt,
    /// The device refused this one read. The store goes on.
    Io,
    /// A log write or sync failed earlier: no write or flush succeeds until the server restarts.
    /// Reads go on.
    Latched,
    /// Recovery found acknowledged data damaged: the store serves reads only.
    ReadOnly,
}

/// An error of the store: kind, context, and the error underneath where there is one.
///
/// [`source`](error::Error::source) gives the [`io::Error`] itself, whose kind a caller may ask.
#[derive(Clone, Debug)]
pub struct Error {
    kind: Kind,
    context: String,
    source: Option<Arc<io::Error>>,
}

impl Error {
    pub(crate) fn new(kind: Kind, context: impl Into<String>) -> Self {
        Self { kind, context: context.into(), source: None }
    }

    pub(crate) fn io(context: impl Into<String>, source: io::Error) -> Self {
        Self { kind: Kind::Io, context: context.into(), source: Some(Arc::new(source)) }
    }

    pub(crate) fn corrupt(context: impl Into<String>) -> Self {
        Self::new(Kind::Corrupt, context)
    }

    /// The kind, which says what the caller can do about the error.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Text of the error with the one underneath.
    pub(crate) fn with_cause(&self) -> String {
        match &self.source {
            Some(source) => format!("{self}: {source}"),
            None => self.to_string(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)
    }
}

// By hand: a derived `source` is the `Arc`, and a caller's downcast to `io::Error` finds nothing.
impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        self.source.as_deref().map(|e| e as _)
    }
}

/// A result of the store.
pub type Result<T, E = Error> = std::result::Result<T, E>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_is_the_io_error_itself() {
        let error = Error::io("opening", io::Error::from(io::ErrorKind::NotFound));
        let source = error::Error::source(&error).and_then(|e| e.downcast_ref::<io::Error>());
        assert_eq!(source.map(io::Error::kind), Some(io::ErrorKind::NotFound));
    }
}
