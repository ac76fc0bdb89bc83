//! What can be wrong with the data of an option.

use bytes::TryGetError;
use thiserror::Error;

use crate::text::TextError;

/// What is wrong with the data of an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Flaw {
    /// It ends inside a field, or a length in it points beyond its end.
    #[error("the option's data ends too early")]
    Truncated,
    /// It goes on after its last field.
    #[error("the option's data goes on after its last field")]
    TrailingData,
    /// It should not be there: the option has no data.
    #[error("this option takes no data")]
    DataNotAllowed,
    /// A string in it is not one.
    #[error("the option contains {0}")]
    BadText(#[from] TextError),
}

impl From<TryGetError> for Flaw {
    fn from(_: TryGetError) -> Flaw {
        Flaw::Truncated
    }
}
