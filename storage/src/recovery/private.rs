//! Private files in directories that every user can write, such as shared memory's.
//!
//! A file there with the server's name may be a pipe, a device, a link to another file of the
//! server, or a file whose owner reads it and truncates it while the server has it mapped. So
//! before any of them is opened, and again afterwards, it is checked:
//!
//! I1  It is a regular file with one name, of a trusted owner, and no other user may open it. Then
//!     no other user can truncate it either, and a mapping of it never ends in a bus error.
//! I2  Opening neither follows a link, nor waits, nor touches anything but a file.

use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat, fstat, openat, statat},
    io::Errno,
};
use std::{fs::File, io, path::Path};

/// Permission bits of group and others.
const OTHERS: u32 = 0o077;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    ReadWrite,
}

/// Opens an existing file. `owners` are its trusted owners.
///
/// # Errors
/// `NotFound`; `InvalidInput`, with the reason, for a file that breaks I1; otherwise those of
/// open(2).
pub(crate) fn open(path: &Path, access: Access, owners: &[u32]) -> io::Result<File> {
    let before = statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW)?;
    check(&before, owners)?; // keeps I2
    let how = match access {
        Access::Read => OFlags::RDONLY,
        Access::ReadWrite => OFlags::RDWR,
    };
    let flags = how | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(openat(CWD, path, flags, Mode::empty())?);
    check(&fstat(&file)?, owners)?; // keeps I1: it may be another one by now
    Ok(file)
}

/// Creates a new file, for its owner only.
///
/// # Errors
/// `AlreadyExists`, also for a link that leads nowhere; otherwise those of open(2).
pub(crate) fn create(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(openat(CWD, path, flags, Mode::RUSR | Mode::WUSR)?))
}

/// Whether an open file is still what its path leads to.
pub(crate) fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(here), Ok(there)) = (fstat(file), statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW)) else {
        return false;
    };
    (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)
}

fn check(stat: &Stat, owners: &[u32]) -> io::Result<()> {
    let refused = |why: String| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {}
        FileType::Symlink => return refused("it is a symbolic link".to_owned()),
        other => return refused(format!("it is no file but a {}", named(other))),
    }
    if !owners.contains(&stat.st_uid) {
        return refused(format!("it belongs to user {}", stat.st_uid));
    }
    if stat.st_mode & OTHERS != 0 {
        return refused(format!("others may open it (mode {:o})", stat.st_mode & 0o7777));
    }
    if stat.st_nlink != 1 {
        return refused(format!("it has {} names", stat.st_nlink));
    }
    Ok(())
}

fn named(file_type: FileType) -> &'static str {
    match file_type {
        FileType::RegularFile => "file",
        FileType::Directory => "directory",
        FileType::Symlink => "symbolic link",
        FileType::Fifo => "pipe",
        FileType::Socket => "socket",
        FileType::CharacterDevice | FileType::BlockDevice => "device",
        FileType::Unknown => "thing of an unknown kind",
    }
}

/// The effective user of this process.
pub(crate) fn own_user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Takes the lock of a file; `false` where another process has it.
///
/// # Errors
/// The errors of flock(2), where the file system has no locks.
pub(crate) fn try_lock(file: &File) -> io::Result<bool> {
    loop {
        match rustix::fs::flock(file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(true),
            Err(Errno::WOULDBLOCK) => return Ok(false),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs,
        os::unix::fs::{PermissionsExt, symlink},
    };

    fn refusal(path: &Path) -> String {
        let error = open(path, Access::ReadWrite, &[own_user()]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{error}");
        error.to_string()
    }

    #[test]
    fn only_a_file_of_ones_own_is_opened() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        assert_eq!(
            open(&path, Access::Read, &[own_user()]).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
        create(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(create(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        let file = open(&path, Access::ReadWrite, &[own_user()]).unwrap();
        assert!(is_at(&file, &path));
        let error = open(&path, Access::Read, &[own_user() + 1]).unwrap_err().to_string();
        assert!(error.contains("belongs to user"), "{error}");

        let second = directory.path().join("second");
        fs::hard_link(&path, &second).unwrap();
        assert!(refusal(&path).contains("2 names"));
        fs::remove_file(&second).unwrap();
        for mode in [0o640, 0o604, 0o666] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert!(refusal(&path).contains(&format!("mode {mode:o}")));
        }
    }

    #[test]
    fn links_pipes_and_directories_are_not_opened_and_nothing_waits() {
        let directory = tempfile::tempdir().unwrap();
        let [link, pipe, dangling] =
            ["link", "pipe", "dangling"].map(|name| directory.path().join(name));
        let target = directory.path().join("target");
        create(&target).unwrap();
        symlink(&target, &link).unwrap();
        symlink(directory.path().join("nothing"), &dangling).unwrap();
        rustix::fs::mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        assert!(refusal(&link).contains("symbolic link"));
        assert!(refusal(&dangling).contains("symbolic link"));
        assert!(refusal(&pipe).contains("a pipe"));
        assert!(refusal(directory.path()).contains("a directory"));
        assert_eq!(create(&dangling).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert!(!directory.path().join("nothing").exists());
    }

    #[test]
    fn a_file_has_one_that_holds_its_lock() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let holder = create(&path).unwrap();
        assert!(try_lock(&holder).unwrap());
        let other = open(&path, Access::ReadWrite, &[own_user()]).unwrap();
        assert!(!try_lock(&other).unwrap());
        drop(holder);
        assert!(try_lock(&other).unwrap());
    }
}
