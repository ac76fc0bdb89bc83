//! How connections end.

use super::abort::AbortReason;
use std::io;
use thiserror::Error;

/// How a connection ended.
#[derive(Debug, Error)]
pub(super) enum Disconnect {
    /// The client sent DISC: a soft disconnect.
    #[error("the client disconnected")]
    Soft,
    /// It closed its side, or the server did.
    #[error("the stream ended")]
    Closed,
    /// It did so within a message.
    #[error("the stream ended within a {0}")]
    Truncated(&'static str),
    /// It broke the protocol, so that nothing more can be made of what it sends.
    #[error("cut off: {0}")]
    Protocol(String),
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Failed(#[source] io::Error),
    /// It came to an end otherwise.
    #[error(transparent)]
    Aborted(AbortReason),
}
