//! A Unix socket's file: made with the mode that is configured, and removed when the listener is
//! gone.
//!
//! I1  The mode is set before anyone can connect, whatever the umask.
//! I2  Only the socket that was made here is removed: at its place may be another server's by now.

use rustix::fs::{AtFlags, CWD, Mode, OFlags, fstat, openat, statat};
use std::{
    fs::{self, Permissions},
    io,
    os::{
        fd::OwnedFd,
        unix::fs::{FileTypeExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};
use thiserror::Error;
use tokio::net::{UnixListener, UnixSocket, UnixStream};

/// Connections that may wait to be accepted. The kernel has a limit of its own
/// (net.core.somaxconn).
const BACKLOG: u32 = 1024;

/// Why a socket cannot be bound. Its text continues `cannot listen on the socket PATH: `.
#[derive(Debug, Error)]
pub(crate) enum BindError {
    /// A server listens there.
    #[error("a server listens there; stop it")]
    InUse,
    /// Something else is there.
    #[error("something is there that is no socket; move it away")]
    NoSocket,
    /// Another user's socket may be that of a living server.
    #[error("a socket is there, and whether a server listens cannot be found out ({0}); remove it")]
    Unknown(#[source] io::Error),
    #[error("{0}{advice}", advice = advice(.0))]
    Io(#[from] io::Error),
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "; make its directory",
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "; make its directory writable for this user"
        }
        _ => "",
    }
}

/// A socket's file. Dropped, it is removed.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    /// The file itself, which keeps its inode's number from becoming another's.
    held: OwnedFd,
}

impl SocketFile {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// Listens at `path`. A socket file that a dead server left is in the way; it goes. One that a
/// server listens on stays: the store's lock comes later, and keeps only two servers of one store
/// apart.
///
/// # Errors
/// What is in the way, or those of bind(2).
pub(crate) async fn bind(path: &Path, mode: u32) -> Result<(UnixListener, SocketFile), BindError> {
    match fs::symlink_metadata(path) {
        Ok(there) if there.file_type().is_socket() => match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                fs::remove_file(path)?
            }
            Ok(_) => return Err(BindError::InUse),
            // Its queue is full.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(BindError::InUse);
            }
            Err(error) => return Err(BindError::Unknown(error)),
        },
        Ok(_) => return Err(BindError::NoSocket),
        Err(_) => {}
    }
    let socket = UnixSocket::new_stream()?;
    socket.bind(path).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => BindError::InUse,
        _ => BindError::Io(error),
    })?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let held = openat(CWD, path, flags, Mode::empty()).map_err(io::Error::from)?;
    let file = SocketFile { path: path.to_owned(), held };
    fs::set_permissions(path, Permissions::from_mode(mode))?; // keeps I1: no listener yet
    Ok((socket.listen(BACKLOG)?, file))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let here = fstat(&self.held).map(|here| (here.st_dev, here.st_ino));
        let there = statat(CWD, &self.path, AtFlags::SYMLINK_NOFOLLOW);
        let is_own = there.is_ok_and(|there| here == Ok((there.st_dev, there.st_ino))); // keeps I2
        if is_own && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "the socket file stays");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_is_taken_over_only_from_the_dead() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("nbd.sock");
        let (living, file) = bind(&path, 0o600).await.unwrap();
        assert!(matches!(bind(&path, 0o600).await, Err(BindError::InUse)));
        UnixStream::connect(&path).await.expect("the first one still listens there");
        drop(living);
        assert!(path.exists());
        let (_second, second_file) = bind(&path, 0o600).await.unwrap();
        drop(file);
        assert!(path.exists(), "it is the second one's");
        drop(second_file);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_plain_file_at_its_place_is_told_as_such_and_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "mine").unwrap();
        let error = bind(&path, 0o600).await.unwrap_err();
        assert!(error.to_string().contains("no socket"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"mine");
        let error = bind(&directory.path().join("missing/nbd.sock"), 0o600).await.unwrap_err();
        assert!(error.to_string().contains("make its directory"), "{error}");
    }

    #[tokio::test]
    async fn its_mode_is_what_is_configured() {
        let directory = tempfile::tempdir().unwrap();
        for mode in [0o600, 0o660, 0o666, 0o777] {
            let path = directory.path().join(format!("{mode:o}.sock"));
            let _bound = bind(&path, mode).await.unwrap();
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode);
        }
    }
}
