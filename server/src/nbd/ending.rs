//! How connections end.

use super::loss::Lost;
use std::{fmt, io};

/// How a connection ended.
pub(super) enum Ending {
    /// The client said goodbye.
    Disconnected,
    /// It closed its side, or the server did.
    Closed,
    /// It did so within something.
    Torn(&'static str),
    /// It broke the protocol, so that nothing more can be made of what it sends.
    Broken(String),
    /// The connection failed.
    Failed(io::Error),
    /// It came to an end otherwise.
    Lost(Lost),
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disconnected => f.write_str("the client disconnected"),
            Self::Closed => f.write_str("the stream ended"),
            Self::Torn(what) => write!(f, "the stream ended within a {what}"),
            Self::Broken(why) => write!(f, "cut off: {why}"),
            Self::Failed(error) => write!(f, "the connection failed: {error}"),
            Self::Lost(why) => why.fmt(f),
        }
    }
}
