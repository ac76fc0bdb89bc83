//! How connections end.

use super::abort::AbortReason;
use std::io;
use thiserror::Error;

/// How a connection ended.
#[derive(Debug, Error)]
pub(super) enum DisconnectReason {
    /// The client sent DISC.
    #[error("the client disconnected")]
    Disconnected,
    /// It closed its side, or the server did.
    #[error("the stream ended")]
    Closed,
    /// It did so within a message.
    #[error("the stream ended within a {0}")]
    Torn(&'static str),
    /// It broke the protocol, so that nothing more can be made of what it sends.
    #[error("cut off: {0}")]
    Broken(String),
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Failed(#[source] io::Error),
    /// It came to an end otherwise.
    #[error(transparent)]
    Aborted(AbortReason),
}
