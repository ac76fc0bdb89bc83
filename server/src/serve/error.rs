//! Why the server did not start, or did not stop well.

use crate::{
    mounts::MountsError,
    nbd::{self, ListenError},
    net::BindError,
    process::LimitError,
    registry::UnreadableRecord,
    show,
    token::TokenError,
};
use sandstone_config::{IoEngine, trust::Distrust};
use std::{error::Error as _, io, net::SocketAddr, path::PathBuf};
use thiserror::Error;

/// Why the server did not start, or did not stop well.
#[derive(Debug, Error)]
pub(crate) enum ServeError {
    #[error("the log's thread does not start: {0}")]
    Log(#[source] io::Error),
    #[error(transparent)]
    Limit(#[from] LimitError),
    #[error(
        "the data directory {0} cannot be made or written: {1}; make it writable for this user, or \
         choose another data_dir"
    )]
    DataDir(PathBuf, #[source] io::Error),
    #[error(
        "the data directory {0} {1}, and its token and its store are not to be relied on: run as \
         that user, chown it, or choose another data_dir"
    )]
    ForeignDataDir(PathBuf, #[source] Distrust),
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error("io_uring cannot be used: {0}; set store.io to \"auto\" or \"threads\"")]
    Uring(#[source] io::Error),
    #[error("the I/O engine does not start: {0}")]
    Engine(#[source] io::Error),
    #[error("the control threads do not start: {0}")]
    Control(#[source] io::Error),
    #[error("the store {0} cannot be opened: {why}{advice}", why = show::with_causes(.1), advice = advice(.1))]
    Open(PathBuf, #[source] sandstone_storage::Error),
    #[error(transparent)]
    Record(#[from] UnreadableRecord),
    #[error(transparent)]
    Mounts(#[from] MountsError),
    #[error("the admin API cannot listen on {0}: {1}; {advice}set admin.listen", advice = nbd::in_use(.1))]
    AdminListen(SocketAddr, #[source] io::Error),
    #[error("the admin API cannot listen on the socket {0}: {1}, or set admin.unix")]
    AdminSocket(PathBuf, #[source] BindError),
    #[error(transparent)]
    NbdListen(#[from] ListenError),
    #[error("the store was not closed well: {0}; it recovers at the next start")]
    Close(#[source] sandstone_storage::Error),
}

impl ServeError {
    /// What kept an engine of that kind from starting.
    pub(crate) fn engine(io: IoEngine, error: io::Error) -> ServeError {
        match io {
            IoEngine::Uring => ServeError::Uring(error),
            IoEngine::Auto | IoEngine::Threads => ServeError::Engine(error),
        }
    }
}

/// What can be done about a store that cannot be opened, as far as the system's reason says it.
fn advice(error: &sandstone_storage::Error) -> &'static str {
    let below = error.source().and_then(|below| below.downcast_ref::<io::Error>());
    match below.map(io::Error::kind) {
        Some(io::ErrorKind::NotFound) => "; make its directory, or set store.path",
        Some(io::ErrorKind::PermissionDenied) => "; run as its owner, or set store.path",
        Some(io::ErrorKind::ReadOnlyFilesystem) => {
            "; make its file system writable, or set store.path"
        }
        Some(io::ErrorKind::WouldBlock) => "; stop the server that has it",
        Some(io::ErrorKind::InvalidInput) => "; set store.path to a file or a block device",
        Some(_) | None => "",
    }
}
