//! Why a command failed: each a sentence that says what to do.

use super::{image_error::ImageError, image_format::Packing, increment::ReadError};
use crate::{client::ClientError, serve::ServeError, show, token::TokenError};
use sandstone_config::Problems;
use std::{error, fmt, io, path::PathBuf, process::ExitCode};

/// Why a command failed.
#[derive(Debug)]
pub(crate) enum CliError {
    /// The configuration has mistakes; as many lines as there are.
    Config(Problems),
    Serve(ServeError),
    Token(TokenError),
    Client(ClientError),
    /// That is no address of an admin API.
    AdminAddress(String),
    /// No volume has that id or name.
    NoVolume(String),
    /// Several volumes have that name.
    AmbiguousName(String, Vec<String>),
    /// There is no mount of that session.
    NoMount(String),
    /// The volume has no such snapshot.
    NoSnapshot {
        volume: String,
        snapshot: String,
    },
    /// Several snapshots of the volume have that name.
    AmbiguousSnapshot {
        snapshot: String,
        ids: Vec<String>,
    },
    /// An increment cannot be read, or is not whole.
    Increment(PathBuf, ReadError),
    /// An image is not imported, and nothing was written.
    ImageRefused(PathBuf, Box<ImageError>),
    /// An export under a name that says that it is packed.
    PackedExport(PathBuf, Packing),
    /// The volume does not hold what the increment follows.
    OtherState {
        volume: String,
        offset: u64,
        /// The id of the snapshot that the increment follows.
        from: String,
    },
    /// An increment was written only in part, and the volume could not be put back.
    HalfApplied {
        volume: String,
        /// Holds what the volume was.
        snapshot: String,
        source: Box<CliError>,
    },
    /// The server's reclaim failed, for the reason it gives.
    Reclaim(String),
    /// So many bytes of the store are not what was written there.
    Rotten(u64),
    /// A store cannot be looked at while it lies still.
    Unreadable(PathBuf, sandstone_storage::Error),
    /// So many things are wrong with a store.
    Findings(u64),
    /// Nothing was found out about a store, for this reason.
    NotChecked(Box<CliError>),
    /// Whoever runs us wants us to end.
    Interrupted,
    /// Signals cannot be waited for.
    Signals(io::Error),
    /// The image is larger than the volume.
    TooSmall {
        volume: String,
        volume_bytes: u64,
        image_bytes: u64,
    },
    /// An image cannot be read or written.
    Image(PathBuf, io::Error),
    /// An image needs qemu-img, and it is not installed.
    QemuImgMissing {
        what: String,
    },
    /// qemu-img failed.
    QemuImg {
        doing: String,
        said: String,
    },
    /// The volume could not be read or written over NBD.
    Nbd {
        volume: String,
        source: io::Error,
    },
    /// What is drawn again and again needs a terminal.
    NoTerminal,
    /// The reader of our output went away.
    OutputClosed,
    /// Our output cannot be written.
    Output(io::Error),
}

impl CliError {
    /// Why nothing was found out about a store. That nobody wants to know any more is no reason.
    pub(super) fn not_checked(self) -> CliError {
        match self {
            CliError::OutputClosed => CliError::OutputClosed,
            reason => CliError::NotChecked(Box::new(reason)),
        }
    }

    /// The exit status that tells it to scripts: 2 where nothing was found out, so that 1 can mean "something is wrong".
    pub(super) fn exit_code(&self) -> ExitCode {
        match self {
            CliError::NotChecked(_) => ExitCode::from(2),
            _ => ExitCode::FAILURE,
        }
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CliError::Config(problems) => match problems.list.as_slice() {
                [_] => write!(f, "the configuration has a mistake: {problems}"),
                list => write!(f, "the configuration has {} mistakes:\n{problems}", list.len()),
            },
            CliError::Serve(error) => error.fmt(f),
            CliError::Token(error) => error.fmt(f),
            CliError::Client(error) => error.fmt(f),
            CliError::AdminAddress(text) => write!(
                f,
                "{text:?} is no address of an admin API: write http://host:port or unix:PATH (there is no TLS)"
            ),
            CliError::NoVolume(name) => {
                write!(f, "there is no volume {name:?}: `{} volume list` shows all", show::own_command())
            }
            CliError::AmbiguousName(name, ids) => {
                write!(f, "several volumes are named {name:?}: say which by its id ({})", ids.join(", "))
            }
            CliError::NoMount(session) => write!(
                f,
                "there is no mount with the session {session:?}: `{} mounts` shows those there are",
                show::own_command()
            ),
            CliError::NoSnapshot { volume, snapshot } => write!(
                f,
                "volume {volume:?} has no snapshot {snapshot:?}: `{} snapshot list {}` shows those it has",
                show::own_command(),
                show::quoted(volume.as_ref())
            ),
            CliError::AmbiguousSnapshot { snapshot, ids } => write!(
                f,
                "several snapshots of the volume are named {snapshot:?}: say which by its id ({})",
                ids.join(", ")
            ),
            CliError::Increment(path, error) => write!(f, "the increment {} {error}", path.display()),
            CliError::ImageRefused(path, why) => write!(f, "the image {} {why}", path.display()),
            CliError::PackedExport(path, packing) => write!(
                f,
                "nothing is packed while it is exported: export to {}, then `{} {}`",
                path.with_extension("").display(),
                packing.as_str(),
                show::quoted(&path.with_extension(""))
            ),
            CliError::OtherState { volume, offset, from } => write!(
                f,
                "volume {volume:?} is not in the state that this increment follows (snapshot {from}; they differ at \
                 byte {offset}), and was left as it is: apply the increments in the order they were made, onto a \
                 copy that nothing else has changed"
            ),
            CliError::HalfApplied { volume, snapshot, source } => write!(
                f,
                "volume {volume:?} has only a part of the increment ({source}): go back with `{} snapshot restore {} \
                 {snapshot}`, then apply it again",
                show::own_command(),
                show::quoted(volume.as_ref())
            ),
            CliError::Reclaim(why) => write!(f, "the server could not reclaim everything: {why}"),
            CliError::Rotten(bytes) => write!(
                f,
                "{} of the store is lost: write the places that were named anew, from a backup",
                show::rounded(*bytes)
            ),
            CliError::Unreadable(path, error) => {
                write!(
                    f,
                    "the store {} cannot be looked at: {}; stop its server, or name the store's file",
                    path.display(),
                    show::with_causes(error)
                )
            }
            CliError::Findings(count) => {
                write!(f, "{count} finding(s): keep a copy of the store, and take what is lost from a backup")
            }
            CliError::NotChecked(error) => error.fmt(f),
            CliError::Interrupted => f.write_str("interrupted"),
            CliError::Signals(error) => write!(f, "signals cannot be waited for: {error}"),
            CliError::TooSmall { volume, volume_bytes, image_bytes } => write!(
                f,
                "the image has {image_bytes} bytes and volume {volume:?} only {volume_bytes}: grow it with \
                 `{} volume resize`, or import into a new name",
                show::own_command()
            ),
            CliError::Image(path, error) => write!(f, "the image {} cannot be used: {error}", path.display()),
            CliError::QemuImgMissing { what } => {
                write!(
                    f,
                    "{what}, which needs qemu-img: install it (package qemu-utils), or convert the image to raw"
                )
            }
            CliError::QemuImg { doing, said } => write!(f, "qemu-img failed {doing}: {said}"),
            CliError::Nbd { volume, source } => {
                write!(f, "volume {volume:?} cannot be copied over NBD: {source}")
            }
            CliError::NoTerminal => f.write_str(
                "this is no terminal to draw on: use --once for one table, or --json for a line each time",
            ),
            CliError::OutputClosed => f.write_str("nobody reads the output"),
            CliError::Output(error) => write!(f, "the output cannot be written: {error}"),
        }
    }
}

impl error::Error for CliError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            CliError::Config(error) => Some(error),
            CliError::Serve(error) => Some(error),
            CliError::Token(error) => Some(error),
            CliError::Client(error) => Some(error),
            CliError::Image(_, error)
            | CliError::Nbd { source: error, .. }
            | CliError::Output(error)
            | CliError::Signals(error) => Some(error),
            CliError::Increment(_, error) => Some(error),
            CliError::ImageRefused(_, error) => Some(error),
            CliError::HalfApplied { source, .. } => Some(source),
            CliError::Unreadable(_, error) => Some(error),
            CliError::NotChecked(error) => Some(error),
            CliError::AdminAddress(_)
            | CliError::NoVolume(_)
            | CliError::AmbiguousName(..)
            | CliError::NoMount(_)
            | CliError::NoSnapshot { .. }
            | CliError::AmbiguousSnapshot { .. }
            | CliError::PackedExport(..)
            | CliError::OtherState { .. }
            | CliError::Reclaim(_)
            | CliError::Rotten(_)
            | CliError::Findings(_)
            | CliError::Interrupted
            | CliError::TooSmall { .. }
            | CliError::QemuImgMissing { .. }
            | CliError::QemuImg { .. }
            | CliError::NoTerminal
            | CliError::OutputClosed => None,
        }
    }
}

impl From<ServeError> for CliError {
    fn from(error: ServeError) -> CliError {
        CliError::Serve(error)
    }
}

impl From<ClientError> for CliError {
    fn from(error: ClientError) -> CliError {
        CliError::Client(error)
    }
}
