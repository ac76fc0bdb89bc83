//! Why a command failed: each a sentence that says what to do.

use super::client::ClientError;
use crate::{serve::ServeError, show, token::TokenError};
use sandstone_config::Problems;
use std::{error, io, path::PathBuf, process::ExitCode};
use thiserror::Error;

/// A cause that is only shown.
type Cause = Box<dyn error::Error + Send + Sync>;

/// Why a command failed.
#[derive(Debug, Error)]
pub(crate) enum CliError {
    /// The configuration has mistakes; as many lines as there are.
    #[error("the configuration has {how_many}{0}", how_many = how_many(.0))]
    Config(#[source] Problems),
    #[error(transparent)]
    Serve(#[from] ServeError),
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error(transparent)]
    Client(#[from] ClientError),
    /// That is no address of an admin API.
    #[error(
        "{0:?} is no address of an admin API: write http://host:port or unix:PATH (there is no TLS)"
    )]
    AdminAddress(String),
    /// No volume has that id or name.
    #[error("there is no volume {0:?}: `{own} volume list` shows all", own = show::own_command())]
    NoVolume(String),
    /// Several volumes have that name.
    #[error("several volumes are named {0:?}: say which by its id ({ids})", ids = .1.join(", "))]
    AmbiguousName(String, Vec<String>),
    /// There is no mount of that session.
    #[error(
        "there is no mount with the session {0:?}: `{own} mounts` shows those there are",
        own = show::own_command()
    )]
    NoMount(String),
    /// The volume has no such snapshot.
    #[error(
        "volume {volume:?} has no snapshot {snapshot:?}: `{} snapshot list {}` shows those it has",
        show::own_command(),
        show::quoted(volume.as_ref())
    )]
    NoSnapshot { volume: String, snapshot: String },
    /// Several snapshots of the volume have that name.
    #[error(
        "several snapshots of the volume are named {snapshot:?}: say which by its id ({})",
        .ids.join(", ")
    )]
    AmbiguousSnapshot { snapshot: String, ids: Vec<String> },
    /// An increment cannot be read, or is not whole.
    #[error("the increment {0} {1}")]
    Increment(PathBuf, #[source] Cause),
    /// An image is not imported, and nothing was written.
    #[error("the image {0} {1}")]
    ImageRefused(PathBuf, #[source] Cause),
    /// An export under a name that says that it is packed, by that program.
    #[error(
        "nothing is packed while it is exported: export to {to}, then `{1} {word}`",
        to = .0.with_extension("").display(),
        word = show::quoted(&.0.with_extension(""))
    )]
    PackedExport(PathBuf, &'static str),
    /// The volume does not hold what the increment follows; `from` is the id of that snapshot.
    #[error(
        "volume {volume:?} is not in the state that this increment follows (snapshot {from}; they \
         differ at byte {offset}), and was left as it is: apply the increments in the order they \
         were made, onto a copy that nothing else has changed"
    )]
    OtherState { volume: String, offset: u64, from: String },
    /// An increment was written only in part, and the volume could not be put back to the snapshot.
    #[error(
        "volume {volume:?} has only a part of the increment ({source}): go back with `{} snapshot \
         restore {} {snapshot}`, then apply it again",
        show::own_command(),
        show::quoted(volume.as_ref())
    )]
    HalfApplied { volume: String, snapshot: String, source: Box<CliError> },
    /// The server's reclaim failed, for the reason it gives.
    #[error("the server could not reclaim everything: {0}")]
    Reclaim(String),
    /// So many bytes of the store are not what was written there.
    #[error(
        "{} of the store is lost: write the places that were named anew, from a backup",
        show::rounded(*.0)
    )]
    Corrupt(u64),
    /// A stopped store cannot be read.
    #[error(
        "the store {0} cannot be looked at: {why}; stop its server, or name the store's file",
        why = show::with_causes(.1)
    )]
    Unreadable(PathBuf, #[source] sandstone_storage::Error),
    /// So many things are wrong with a store.
    #[error("{0} finding(s): keep a copy of the store, and take what is lost from a backup")]
    Findings(u64),
    /// Nothing was found out about a store, for this reason.
    #[error(transparent)]
    NotChecked(Box<CliError>),
    /// A signal asked the command to end.
    #[error("interrupted")]
    Interrupted,
    /// Signals cannot be waited for.
    #[error("signals cannot be waited for: {0}")]
    Signals(#[source] io::Error),
    /// The image is larger than the volume.
    #[error(
        "the image has {image_bytes} bytes and volume {volume:?} only {volume_bytes}: grow it with \
         `{} volume resize`, or import into a new name",
        show::own_command()
    )]
    TooSmall { volume: String, volume_bytes: u64, image_bytes: u64 },
    /// An image cannot be read or written.
    #[error("the image {0} cannot be used: {1}")]
    Image(PathBuf, #[source] io::Error),
    /// An image needs qemu-img, and it is not installed.
    #[error(
        "{0}, which needs qemu-img: install it (package qemu-utils), or convert the image to raw"
    )]
    QemuImgMissing(&'static str),
    /// qemu-img failed.
    #[error("qemu-img failed {doing}: {said}")]
    QemuImg { doing: String, said: String },
    /// The volume could not be read or written over NBD.
    #[error("volume {volume:?} cannot be copied over NBD: {source}")]
    Nbd { volume: String, source: io::Error },
    /// What is drawn again and again needs a terminal.
    #[error(
        "this is no terminal to draw on: use --once for one table, or --json for a line each time"
    )]
    NoTerminal,
    /// The reader of the output went away.
    #[error("the output is closed")]
    OutputClosed,
    /// The output cannot be written.
    #[error("the output cannot be written: {0}")]
    Output(#[source] io::Error),
}

fn how_many(problems: &Problems) -> String {
    match problems.list.len() {
        1 => "a mistake: ".to_owned(),
        count => format!("{count} mistakes:\n"),
    }
}

impl CliError {
    /// Why nothing was found out about a store. That the output has no reader is no reason.
    pub(crate) fn not_checked(self) -> CliError {
        match self {
            CliError::OutputClosed => CliError::OutputClosed,
            reason => CliError::NotChecked(Box::new(reason)),
        }
    }

    /// The exit status that tells it to scripts: 2 where nothing was found out, so that 1 can mean
    /// "something is wrong".
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            CliError::NotChecked(_) => ExitCode::from(2),
            _ => ExitCode::FAILURE,
        }
    }
}
