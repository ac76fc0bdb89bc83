//! An image and everything that it refers to, looked at before qemu-img opens any of it.
//!
//! ```text
//!   disk.qcow2 ──backing──► base.qcow2 ──backing──► nothing
//!      │                       └─ data file
//!      └─ each: opened, header read, whole?           then one description of all of it, for qemu-img
//! ```
//!
//! I1  Nothing that an image refers to is opened unless its user has allowed it, and then only
//!     regular files of this host.
//! I2  qemu-img is told every file by its driver and place, and where the chain ends: it follows no
//!     name by itself, and probes nothing. What a VMDK descriptor names is the exception, which
//!     qemu takes from its text; the parser in `image_header` refuses whatever qemu could read
//!     otherwise.
//! I3  The chain ends: it has at most [`IMAGES_MAX`] images, and none of them twice.

use super::{
    error::ImageError,
    format::Format,
    header::{ExtentKind, Reference, check_sparse_extent, references},
};
use crate::cli::copy::{ImageFile, open};
use serde_json::{Map, Value, json};
use std::{
    fs::File,
    io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

/// Most images behind each other. A guess: people keep some dozens, and qemu has a coroutine's
/// stack for each.
const IMAGES_MAX: usize = 64;

/// Whether an image may refer to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Following {
    Refused,
    Allowed,
}

/// An image, and what is behind it.
#[derive(Debug)]
pub(super) struct Chain {
    /// The image itself, its backing file, that one's, and so on.
    links: Vec<Link>,
}

/// One image of a chain.
#[derive(Debug)]
struct Link {
    path: PathBuf,
    format: Format,
    place: PlaceKind,
    data_file: Option<PathBuf>,
    extents: Vec<PathBuf>,
}

/// What a path leads to. qemu has a driver for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PlaceKind {
    File,
    BlockDevice,
}

impl Chain {
    /// Follows an image of that format as far as it is allowed, and checks every part.
    ///
    /// # Errors
    /// [`ImageError`]; nothing was changed, and nothing opened that is not allowed.
    pub(super) fn follow(
        path: &Path,
        format: Format,
        following: Following,
    ) -> Result<Chain, ImageError> {
        let mut chain = Chain { links: Vec::new() };
        let mut seen: Vec<(u64, u64)> = Vec::new();
        let mut next = Some((path.to_path_buf(), format));
        while let Some((path, format)) = next {
            if chain.links.len() == IMAGES_MAX {
                return Err(ImageError::TooDeep(IMAGES_MAX));
            }
            let image = match chain.links.is_empty() {
                true => open(&path).map_err(ImageError::Io)?,
                false => open_reference(&path)?,
            };
            let identity = identity(&image.file).map_err(ImageError::Io)?;
            if seen.contains(&identity) {
                return Err(ImageError::Loop(path)); // keeps I3
            }
            seen.push(identity);
            let looked = Link::look(path.clone(), format, &image, following);
            let (link, backing) = looked.map_err(|error| match error {
                ImageError::Header { of: Some(of), error }
                    if chain.links.is_empty() && of == path =>
                {
                    ImageError::Header { of: None, error }
                }
                error => error,
            })?;
            next = backing.map(|backing| link.backing(backing)).transpose()?;
            chain.links.push(link);
        }
        Ok(chain)
    }

    /// The image's format.
    pub(super) fn format(&self) -> Format {
        self.links[0].format
    }

    /// What the image refers to, and what that does, in words.
    pub(super) fn others(&self) -> Vec<String> {
        let mut others = Vec::new();
        for (i, link) in self.links.iter().enumerate() {
            if i > 0 {
                others.push(format!("backing file {} ({})", link.path.display(), link.format));
            }
            others
                .extend(link.data_file.iter().map(|path| format!("data file {}", path.display())));
            others.extend(link.extents.iter().map(|path| format!("extent {}", path.display())));
        }
        others
    }

    /// The image alone, as qemu-img is told it.
    ///
    /// # Errors
    /// [`ImageError::NameIsNoText`].
    pub(super) fn alone(&self) -> Result<String, ImageError> {
        self.links[0].description(Value::Null).map(described)
    }

    /// The image with all that is behind it.
    ///
    /// # Errors
    /// [`ImageError::NameIsNoText`].
    pub(super) fn whole(&self) -> Result<String, ImageError> {
        let mut behind = Value::Null;
        for link in self.links.iter().rev() {
            behind = link.description(behind)?;
        }
        Ok(described(behind))
    }
}

fn described(description: Value) -> String {
    format!("json:{description}")
}

impl Link {
    fn look(
        path: PathBuf,
        format: Format,
        image: &ImageFile,
        following: Following,
    ) -> Result<(Link, Option<Reference>), ImageError> {
        let found = references(image, format)
            .map_err(|error| ImageError::Header { of: Some(path.clone()), error })?;
        if following == Following::Refused && !found.is_empty() {
            let backing =
                found.backing.iter().map(|backing| format!("backing file {:?}", backing.name));
            let data = found.data_file.iter().map(|name| format!("data file {name:?}"));
            let extents = found.extents.iter().map(|extent| format!("extent {:?}", extent.name));
            return Err(ImageError::Refers(backing.chain(data).chain(extents).collect())); // keeps I1
        }
        let is_device =
            image.file.metadata().map_err(ImageError::Io)?.file_type().is_block_device();
        let place = if is_device { PlaceKind::BlockDevice } else { PlaceKind::File };
        let mut link = Link { path, format, place, data_file: None, extents: Vec::new() };
        if let Some(name) = &found.data_file {
            let path = link.beside(name)?;
            open_reference(&path)?;
            link.data_file = Some(path);
        }
        for extent in &found.extents {
            let path = link.beside(&extent.name)?;
            let file = open_reference(&path)?;
            match extent.kind {
                ExtentKind::Flat { end_bytes } if end_bytes > file.len_bytes => {
                    return Err(ImageError::ExtentCutOff {
                        name: path,
                        end_bytes,
                        len_bytes: file.len_bytes,
                    });
                }
                ExtentKind::Flat { .. } => {}
                ExtentKind::Sparse => {
                    check_sparse_extent(&file)
                        .map_err(|error| ImageError::Header { of: Some(path.clone()), error })?;
                }
            }
            link.extents.push(path);
        }
        Ok((link, found.backing))
    }

    fn backing(
        &self,
        Reference { name, format }: Reference,
    ) -> Result<(PathBuf, Format), ImageError> {
        let path = self.beside(&name)?;
        match format.as_deref().map(Format::of_qemu_driver) {
            Some(Some(known)) => Ok((path, known)),
            Some(None) | None => {
                let by = self.path.clone();
                Err(match format {
                    Some(format) => ImageError::BackingFormat { by, name, format },
                    None => ImageError::BackingFormatMissing { by, name },
                })
            }
        }
    }

    /// The file that the image calls `name`. Names with a colon before any slash are URLs, or
    /// qemu's descriptions of what is no file.
    fn beside(&self, name: &str) -> Result<PathBuf, ImageError> {
        if name.split('/').next().is_some_and(|first| first.contains(':')) {
            return Err(ImageError::NotLocal { by: self.path.clone(), name: name.to_owned() });
        }
        Ok(self.path.parent().unwrap_or(Path::new("")).join(name))
    }

    fn description(&self, behind: Value) -> Result<Value, ImageError> {
        let mut description = Map::new();
        description.insert("driver".to_owned(), json!(self.format.qemu_driver()));
        description.insert("file".to_owned(), place(&self.path, self.place)?);
        if let Some(path) = &self.data_file {
            description.insert("data-file".to_owned(), place(path, PlaceKind::File)?);
        }
        match self.format {
            Format::Raw => {}
            // Said even where there is none: without it qemu follows the name in the header.
            Format::Qcow2 | Format::Vmdk | Format::Vhd | Format::Vhdx | Format::Vdi => {
                description.insert("backing".to_owned(), behind);
            }
        }
        Ok(Value::Object(description))
    }
}

/// A file by its driver, so that its name is never taken for a URL.
fn place(path: &Path, kind: PlaceKind) -> Result<Value, ImageError> {
    let driver = match kind {
        PlaceKind::File => "file",
        PlaceKind::BlockDevice => "host_device",
    };
    let filename = path.to_str().ok_or(ImageError::NameIsNoText)?;
    Ok(json!({ "driver": driver, "filename": filename }))
}

/// Opens a regular file that an image refers to.
fn open_reference(path: &Path) -> Result<ImageFile, ImageError> {
    let failed = |error| ImageError::Reference { name: path.to_path_buf(), error };
    let file = open(path).map_err(failed)?;
    if file.file.metadata().map_err(failed)?.is_file() {
        return Ok(file);
    }
    Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file")))
}

fn identity(file: &File) -> io::Result<(u64, u64)> {
    let metadata = file.metadata()?;
    Ok((metadata.dev(), metadata.ino()))
}
