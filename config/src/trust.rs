//! Which files a program may rely on unasked: the ones that only its own user and root can have
//! written.
//!
//! I1  What is at the place may be a pipe or a device: it is not opened, and nothing waits for it.
//! I2  A file is trusted by what it is once it is open. The names that led there may change hands
//!     meanwhile.
//!
//! A file may be writable by a group that has the number of its owner: that group is the owner's
//! alone, as Debian and others make one for each user.

use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat, fstat, openat, statat},
    process::geteuid,
};
use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};
use thiserror::Error;

/// The user whose programs are trusted by all.
const ROOT: u32 = 0;

/// Why a file is not relied on. Its text continues that of the file's path.
#[derive(Debug, Error)]
pub enum Distrust {
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Io(#[source] io::Error),
    /// It is no file but that.
    #[error("is no file but a {0}")]
    Kind(&'static str),
    /// It belongs to that user.
    #[error("belongs to user {0}, who is neither you nor root")]
    Foreign(u32),
    /// Others may write to it, by its mode.
    #[error("can be written by others (mode {0:o})")]
    Writable(u32),
    /// It has more than so many bytes.
    #[error("has more than {0} bytes")]
    TooLarge(u64),
}

impl From<rustix::io::Errno> for Distrust {
    fn from(error: rustix::io::Errno) -> Distrust {
        Distrust::Io(error.into())
    }
}

/// Whether a link at the place of a file is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Links {
    /// If it is of a trusted owner too.
    Trusted,
    Refused,
}

/// Reads a file that the user has named, whosever it is; pipes too.
///
/// # Errors
/// [`Distrust::Io`], [`Distrust::TooLarge`].
pub fn read_named(path: &Path, bytes_max: u64) -> Result<Vec<u8>, Distrust> {
    content(File::open(path).map_err(Distrust::Io)?, bytes_max)
}

/// Reads a file that was found and not named, through a link of a trusted owner too.
///
/// # Errors
/// Why it is not trusted, or cannot be read.
pub fn read_found(path: &Path, bytes_max: u64) -> Result<Vec<u8>, Distrust> {
    content(open(path, Links::Trusted)?, bytes_max)
}

/// Reads a file of the program's own making. No link leads to one.
///
/// # Errors
/// Why it is not trusted, or cannot be read.
pub fn read_own(path: &Path, bytes_max: u64) -> Result<Vec<u8>, Distrust> {
    content(open(path, Links::Refused)?, bytes_max)
}

/// Whether a directory is of a trusted owner. Others may be able to write to it, so what is in it
/// is to be looked at as well.
///
/// # Errors
/// [`Distrust::Foreign`], [`Distrust::Io`]; [`Distrust::Kind`] where it is none.
pub fn check_directory(path: &Path) -> Result<(), Distrust> {
    let stat = statat(CWD, path, AtFlags::empty())?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => check_owner(&stat),
        other => Err(Distrust::Kind(named(other))),
    }
}

/// Whether others may write to what is at `path`.
///
/// # Errors
/// [`Distrust::Writable`], [`Distrust::Io`].
pub fn check_mode(path: &Path) -> Result<(), Distrust> {
    check_writers(&statat(CWD, path, AtFlags::empty())?)
}

/// Whether that user's programs are relied on.
pub fn is_trusted(user: u32) -> bool {
    user == ROOT || user == geteuid().as_raw()
}

fn open(path: &Path, links: Links) -> Result<File, Distrust> {
    let link = statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW)?;
    let (at, open) = match (FileType::from_raw_mode(link.st_mode), links) {
        (FileType::Symlink, Links::Refused) => return Err(Distrust::Kind("symbolic link")),
        (FileType::Symlink, Links::Trusted) => {
            check_owner(&link)?;
            (statat(CWD, path, AtFlags::empty())?, OFlags::empty())
        }
        _ => (link, OFlags::NOFOLLOW),
    };
    check(&at)?; // keeps I1
    let flags = open | OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(openat(CWD, path, flags, Mode::empty())?);
    check(&fstat(&file)?)?; // keeps I2
    Ok(file)
}

fn check(stat: &Stat) -> Result<(), Distrust> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {}
        other => return Err(Distrust::Kind(named(other))),
    }
    check_owner(stat)?;
    check_writers(stat)
}

fn check_owner(stat: &Stat) -> Result<(), Distrust> {
    if is_trusted(stat.st_uid) { Ok(()) } else { Err(Distrust::Foreign(stat.st_uid)) }
}

fn check_writers(stat: &Stat) -> Result<(), Distrust> {
    let by_group = stat.st_mode & 0o020 != 0 && stat.st_gid != stat.st_uid;
    if by_group || stat.st_mode & 0o002 != 0 {
        return Err(Distrust::Writable(stat.st_mode & 0o7777));
    }
    Ok(())
}

fn content(file: File, bytes_max: u64) -> Result<Vec<u8>, Distrust> {
    let mut bytes = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut bytes).map_err(Distrust::Io)?;
    if bytes.len() as u64 > bytes_max {
        return Err(Distrust::TooLarge(bytes_max));
    }
    Ok(bytes)
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs,
        os::unix::fs::{PermissionsExt, symlink},
    };

    const MAX: u64 = 100;

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_file_that_others_may_write_is_not_relied_on() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "text").unwrap();
        for mode in [0o400, 0o600, 0o644, 0o755] {
            set_mode(&path, mode);
            assert_eq!(read_found(&path, MAX).unwrap(), b"text", "{mode:o}");
        }
        for mode in [0o602, 0o646, 0o666] {
            set_mode(&path, mode);
            assert!(
                matches!(read_found(&path, MAX), Err(Distrust::Writable(told)) if told == mode)
            );
            assert_eq!(read_named(&path, MAX).unwrap(), b"text", "who names it decides");
        }
        assert!(check_mode(&path).is_err());
        set_mode(&path, 0o600);
        assert!(check_mode(&path).is_ok());
        assert!(matches!(read_found(&path, 3), Err(Distrust::TooLarge(3))));
    }

    #[test]
    fn a_group_is_others_unless_it_is_the_owners_alone() {
        let stat = |uid, gid, mode| {
            let mut stat = statat(CWD, ".", AtFlags::empty()).unwrap();
            (stat.st_uid, stat.st_gid, stat.st_mode) = (uid, gid, mode);
            stat
        };
        assert!(check_writers(&stat(1000, 1000, 0o100_664)).is_ok());
        assert!(check_writers(&stat(1000, 100, 0o100_664)).is_err());
        let other = geteuid().as_raw() + 1;
        assert!(
            matches!(check(&stat(other, other, 0o100_600)), Err(Distrust::Foreign(user)) if user == other)
        );
        assert!(check(&stat(ROOT, ROOT, 0o100_644)).is_ok());
    }

    #[test]
    fn pipes_links_and_directories_are_told_and_nothing_waits() {
        let directory = tempfile::tempdir().unwrap();
        let [file, link, pipe] = ["file", "link", "pipe"].map(|name| directory.path().join(name));
        fs::write(&file, "text").unwrap();
        symlink(&file, &link).unwrap();
        rustix::fs::mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        assert_eq!(read_found(&link, MAX).unwrap(), b"text", "a link of one's own");
        assert!(matches!(read_own(&link, MAX), Err(Distrust::Kind("symbolic link"))));
        for read in [read_found, read_own] {
            assert!(matches!(read(&pipe, MAX), Err(Distrust::Kind("pipe"))));
            assert!(matches!(read(directory.path(), MAX), Err(Distrust::Kind("directory"))));
        }
        check_directory(directory.path()).unwrap();
        assert!(matches!(check_directory(&file), Err(Distrust::Kind("file"))));
    }
}
