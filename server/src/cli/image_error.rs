//! Why an image is refused before anything is written: each a sentence that says what to do.

use super::{
    image_format::{Archive, Format, Look, Packing},
    image_header::HeaderError,
};
use crate::show;
use std::{error, fmt, io, path::PathBuf};

/// What is said where an image may be taken as it is.
const AS_IT_IS: &str = "say --format raw to take its bytes as they are";

/// Why an image is refused. Its text continues `the image PATH …`.
#[derive(Debug)]
pub(super) enum ImageError {
    Io(io::Error),
    Empty,
    /// Its name promises a raw disk, and it begins like something else. A guest may have written that.
    LooksLike(Look),
    /// Its name, or `--format`, says one thing and its bytes another.
    IsNot {
        said: Format,
        look: Look,
    },
    /// Its name says that it is packed, and it is not.
    IsNotPacked {
        said: Packing,
        look: Look,
    },
    /// Several files in one, perhaps with an image among them.
    Archive {
        kind: Archive,
        path: PathBuf,
        member: Option<String>,
    },
    /// Its name is no text that could be told to qemu-img.
    NameIsNoText,
    /// A header is damaged, or says that the file is cut off.
    Header {
        /// The file behind the image that has it, where it is not the image's own.
        of: Option<PathBuf>,
        error: HeaderError,
    },
    /// It refers to other files, and nobody has allowed that.
    Refers(Vec<String>),
    /// A packed image refers to other files, and has no place beside which they could be.
    PackedRefers,
    /// What it refers to is no file of this host.
    NotLocal {
        by: PathBuf,
        name: String,
    },
    /// A file that it refers to cannot be used.
    Reference {
        name: PathBuf,
        error: io::Error,
    },
    /// Its backing file has no format, or one that is not read.
    BackingFormat {
        by: PathBuf,
        name: String,
        format: Option<String>,
    },
    /// A file ends before what is said to be in it.
    ExtentCutOff {
        name: PathBuf,
        end_bytes: u64,
        len_bytes: u64,
    },
    /// Its backing files lead back to one of them.
    Loop(PathBuf),
    /// It has more backing files than that, one behind the other.
    TooDeep(usize),
    /// What is packed in it has more bytes than that.
    Unpacked {
        bytes_max: u64,
        room: Room,
    },
    /// It cannot be unpacked.
    Damaged {
        packing: Packing,
        error: io::Error,
    },
    /// A place for what was unpacked cannot be written.
    Spool(PathBuf, io::Error),
    /// qemu-img found something wrong with it.
    Check(String),
}

/// What bounds an image that is unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// The volume that it goes into.
    Volume,
    /// The largest volume that there may be.
    AnyVolume,
    /// The most that is put aside to be converted.
    Spool,
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ImageError::Io(error) => write!(f, "cannot be used: {error}"),
            ImageError::Empty => f.write_str("is empty"),
            ImageError::LooksLike(Look::Increment) => write!(
                f,
                "looks like an increment, not like a whole image: say --onto to apply it to the volume it follows, or {AS_IT_IS}"
            ),
            ImageError::LooksLike(look @ Look::Image(format)) => write!(
                f,
                "looks like {look} inside, which its name does not say and whoever wrote the disk may have put there: \
                 say --format {format} to convert it, or {AS_IT_IS}"
            ),
            ImageError::LooksLike(Look::Packed(packing)) => write!(
                f,
                "looks like {}, which its name does not say: give it a name that ends in .{} to have it unpacked, or \
                 {AS_IT_IS}",
                packing.as_str(),
                packing.extension()
            ),
            ImageError::LooksLike(look) => {
                write!(f, "looks like {look}, which is not read: convert it to qcow2 or raw, or {AS_IT_IS}")
            }
            ImageError::IsNot { said, look: Look::Image(format) } => {
                write!(
                    f,
                    "is no {said} but looks like {format}: say --format {format} to convert it, or {AS_IT_IS}"
                )
            }
            ImageError::IsNot { said, look } => {
                write!(
                    f,
                    "is no {said} but looks like {look}: {AS_IT_IS}, or give it a name that says what it is"
                )
            }
            ImageError::IsNotPacked { said, look } => write!(
                f,
                "is not packed with {}, as its name says, but looks like {look}: give it a name that says what it is",
                said.as_str()
            ),
            ImageError::Archive { kind, path, member } => {
                let path = show::quoted(path);
                let unpack = match kind {
                    Archive::Tar => format!("tar -xf {path}"),
                    Archive::Zip => format!("unzip {path}"),
                    Archive::SevenZip => format!("7z x {path}"),
                };
                let member_word = member.as_ref().map(|name| show::quoted(name.as_ref()));
                match member_word {
                    Some(member) => {
                        write!(f, "is an archive: unpack it with `{unpack} {member}` and import {member}")
                    }
                    None => write!(f, "is an archive: unpack it with `{unpack}` and import the image in it"),
                }?;
                write!(f, ", or {AS_IT_IS}")
            }
            ImageError::NameIsNoText => f.write_str("has a name that is no UTF-8: rename it"),
            ImageError::Header { of: None, error } => write!(f, "cannot be converted: {error}"),
            ImageError::Header { of: Some(of), error } => {
                write!(f, "cannot be converted, because of {}: {error}", of.display())
            }
            ImageError::Refers(names) => write!(
                f,
                "refers to other files of this host ({}), and none was read: say --allow-backing where you trust it \
                 with them, or make it whole with qemu-img convert",
                names.join(", ")
            ),
            ImageError::PackedRefers => {
                f.write_str("refers to other files: unpack it beside them, and import what comes out")
            }
            ImageError::NotLocal { by, name } => write!(
                f,
                "cannot be followed: {} refers to {name:?}, which is no plain path of a file of this host",
                by.display()
            ),
            ImageError::Reference { name, error } => {
                write!(f, "cannot be followed: {} cannot be used: {error}", name.display())
            }
            ImageError::BackingFormat { by, name, format: None } => write!(
                f,
                "cannot be followed: {} does not say the format of its backing file {name:?}, and guessing it could read \
                 what a guest has written there; say it with qemu-img rebase -u -b … -F …",
                by.display()
            ),
            ImageError::BackingFormat { by, name, format: Some(format) } => write!(
                f,
                "cannot be followed: {} says that its backing file {name:?} is {format:?}, which is not read",
                by.display()
            ),
            ImageError::ExtentCutOff { name, end_bytes, len_bytes } => write!(
                f,
                "is cut off: {} should have {end_bytes} bytes and has {len_bytes}; fetch it again",
                name.display()
            ),
            ImageError::Loop(path) => {
                write!(f, "has no beginning: its backing files lead back to {}", path.display())
            }
            ImageError::TooDeep(images_max) => {
                write!(
                    f,
                    "has more than {images_max} images behind each other: make it whole with qemu-img convert"
                )
            }
            ImageError::Unpacked { bytes_max, room } => {
                let size = show::rounded(*bytes_max);
                match room {
                    Room::Volume => {
                        write!(f, "unpacks to more than the {size} of the volume: import into a new name")
                    }
                    Room::AnyVolume => {
                        write!(f, "unpacks to more than {size}, the largest volume that there may be")
                    }
                    Room::Spool => write!(
                        f,
                        "unpacks to more than {size}, which is the most that is unpacked to be converted: unpack it \
                         yourself, and import what comes out"
                    ),
                }
            }
            ImageError::Damaged { packing, error } => write!(
                f,
                "cannot be unpacked ({}: {error}): it is damaged or cut off, fetch it again",
                packing.as_str()
            ),
            ImageError::Spool(directory, error) => write!(
                f,
                "cannot be unpacked to {}: {error}; TMPDIR names another place, or unpack it yourself",
                directory.display()
            ),
            ImageError::Check(said) => write!(
                f,
                "is damaged or cut off, as qemu-img check finds ({said}): fetch it again, or see what qemu-img check -r \
                 all can save"
            ),
        }
    }
}

impl error::Error for ImageError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            ImageError::Io(error)
            | ImageError::Reference { error, .. }
            | ImageError::Damaged { error, .. }
            | ImageError::Spool(_, error) => Some(error),
            ImageError::Header { error, .. } => Some(error),
            ImageError::Empty
            | ImageError::LooksLike(_)
            | ImageError::IsNot { .. }
            | ImageError::IsNotPacked { .. }
            | ImageError::Archive { .. }
            | ImageError::NameIsNoText
            | ImageError::Refers(_)
            | ImageError::PackedRefers
            | ImageError::NotLocal { .. }
            | ImageError::BackingFormat { .. }
            | ImageError::ExtentCutOff { .. }
            | ImageError::Loop(_)
            | ImageError::TooDeep(_)
            | ImageError::Unpacked { .. }
            | ImageError::Check(_) => None,
        }
    }
}
