//! Why an image is refused before anything is written: each a sentence that says what to do.

use super::{
    format::{Archive, Format, Look, Packing},
    header::HeaderError,
};
use crate::show;
use std::{
    io,
    path::{Path, PathBuf},
};
use thiserror::Error;

/// The way out where an image may be taken as it is.
const AS_IT_IS: &str = "say --format raw to take its bytes as they are";

/// Why an image is refused. Its text continues `the image PATH …`.
#[derive(Debug, Error)]
pub(super) enum ImageError {
    #[error("cannot be used: {0}")]
    Io(#[source] io::Error),
    #[error("is empty")]
    Empty,
    /// Its name promises a raw disk, and it begins like something else. A guest may have written
    /// that.
    #[error("looks like {}, or {AS_IT_IS}", looks_like(*.0))]
    LooksLike(Look),
    /// Its name, or `--format`, says one thing and its bytes another.
    #[error("is no {said} but looks like {look}: {}", is_not(*look))]
    IsNot { said: Format, look: Look },
    /// Its name says that it is packed, and it is not.
    #[error(
        "is not packed with {}, as its name says, but looks like {look}: give it a name that says \
         what it is",
        .said.as_str()
    )]
    IsNotPacked { said: Packing, look: Look },
    /// Several files in one, perhaps with an image among them.
    #[error("is an archive: unpack it with {}, or {AS_IT_IS}", unpack(*kind, path, .member.as_deref()))]
    Archive { kind: Archive, path: PathBuf, member: Option<String> },
    /// Its name is no text that could be told to qemu-img.
    #[error("has a name that is no UTF-8: rename it")]
    NameIsNoText,
    /// A header is damaged, or says that the file is cut off; `of` is the file behind the image
    /// that has it, where it is not the image's own.
    #[error("cannot be converted{}: {error}", because_of(.of.as_deref()))]
    Header {
        of: Option<PathBuf>,
        #[source]
        error: HeaderError,
    },
    /// It refers to other files, and the user has not allowed that.
    #[error(
        "refers to other files of this host ({}), and none was read: say --allow-backing where you \
         trust it with them, or make it whole with qemu-img convert",
        .0.join(", ")
    )]
    Refers(Vec<String>),
    /// A packed image refers to other files, and has no place beside which they could be.
    #[error("refers to other files: unpack it beside them, and import what comes out")]
    PackedRefers,
    /// What it refers to is no file of this host.
    #[error(
        "cannot be followed: {by} refers to {name:?}, which is no plain path of a file of this host"
    )]
    NotLocal { by: PathBuf, name: String },
    /// A file that it refers to cannot be used.
    #[error("cannot be followed: {name} cannot be used: {error}")]
    Reference {
        name: PathBuf,
        #[source]
        error: io::Error,
    },
    /// Its backing file has no format.
    #[error(
        "cannot be followed: {by} does not say the format of its backing file {name:?}, and guessing \
         it could read what a guest has written there; say it with qemu-img rebase -u -b … -F …"
    )]
    BackingFormatMissing { by: PathBuf, name: String },
    /// Its backing file has a format that is not read.
    #[error(
        "cannot be followed: {by} says that its backing file {name:?} is {format:?}, which is not \
         read"
    )]
    BackingFormat { by: PathBuf, name: String, format: String },
    /// A file ends before what is said to be in it.
    #[error("is cut off: {name} should have {end_bytes} bytes and has {len_bytes}; fetch it again")]
    ExtentCutOff { name: PathBuf, end_bytes: u64, len_bytes: u64 },
    /// Its backing files lead back to one of them.
    #[error("has no beginning: its backing files lead back to {0}")]
    Loop(PathBuf),
    /// It has more backing files than that, one behind the other.
    #[error("has more than {0} images behind each other: make it whole with qemu-img convert")]
    TooDeep(usize),
    /// What is packed in it has more bytes than that.
    #[error("unpacks to more than {}", by.of(*bytes_max))]
    Unpacked { bytes_max: u64, by: LimitedBy },
    /// It cannot be unpacked.
    #[error(
        "cannot be unpacked ({}: {error}): it is damaged or cut off, fetch it again",
        .packing.as_str()
    )]
    Damaged {
        packing: Packing,
        #[source]
        error: io::Error,
    },
    /// A place for what was unpacked cannot be written.
    #[error("cannot be unpacked to {0}: {1}; TMPDIR names another place, or unpack it yourself")]
    Spool(PathBuf, #[source] io::Error),
    /// qemu-img found something wrong with it.
    #[error(
        "is damaged or cut off, as qemu-img check finds ({0}): fetch it again, or see what qemu-img \
         check -r all can save"
    )]
    Check(String),
}

/// What bounds an image that is unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LimitedBy {
    /// The volume that it goes into.
    Volume,
    /// The largest volume that there may be.
    AnyVolume,
    /// The most that is put aside to be converted.
    Spool,
}

impl LimitedBy {
    fn of(self, bytes_max: u64) -> String {
        let size = show::rounded(bytes_max);
        match self {
            LimitedBy::Volume => format!("the {size} of the volume: import into a new name"),
            LimitedBy::AnyVolume => format!("{size}, the largest volume that there may be"),
            LimitedBy::Spool => format!(
                "{size}, which is the most that is unpacked to be converted: unpack it yourself, and \
                 import what comes out"
            ),
        }
    }
}

fn looks_like(look: Look) -> String {
    match look {
        Look::Increment => {
            "an increment, not like a whole image: say --onto to apply it to the volume it follows"
                .to_owned()
        }
        Look::Image(format) => format!(
            "{look} inside, which its name does not say and a guest that wrote the disk may have put \
             there: say --format {format} to convert it"
        ),
        Look::Packed(packing) => format!(
            "{look}, which its name does not say: give it a name that ends in .{} to have it unpacked",
            packing.extension()
        ),
        Look::Plain | Look::Archive(_) | Look::Other(_) => {
            format!("{look}, which is not read: convert it to qcow2 or raw")
        }
    }
}

fn is_not(look: Look) -> String {
    match look {
        Look::Image(format) => format!("say --format {format} to convert it, or {AS_IT_IS}"),
        _ => format!("{AS_IT_IS}, or give it a name that says what it is"),
    }
}

fn unpack(kind: Archive, path: &Path, member: Option<&str>) -> String {
    let path = show::quoted(path);
    let command = match kind {
        Archive::Tar => format!("tar -xf {path}"),
        Archive::Zip => format!("unzip {path}"),
        Archive::SevenZip => format!("7z x {path}"),
    };
    match member.map(|name| show::quoted(name.as_ref())) {
        Some(member) => format!("`{command} {member}` and import {member}"),
        None => format!("`{command}` and import the image in it"),
    }
}

fn because_of(file: Option<&Path>) -> String {
    file.map_or_else(String::new, |file| format!(", because of {}", file.display()))
}
