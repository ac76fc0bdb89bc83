//! What an import reads: decided by the image's name and `--format`, and held against its bytes.
//!
//! The bytes never decide by themselves. A raw image has what a guest wrote, and a guest may write
//! what looks like qcow2 with a backing file `/etc/shadow`; where name and bytes disagree, the user
//! is asked.
//!
//! ```text
//!   name, --format ─► format expected ─┐
//!   first bytes ─► look ───────────────┴─ agree? ─► raw: as it is
//!                                                   qcow2, …: chain followed and checked ─► qemu-img
//!                                                   packed: the same once more, on what is inside
//! ```

use super::{
    chain::{Chain, Following},
    error::{ImageError, LimitedBy},
    format::{Archive, Format, Look, Packing},
    qemu_img,
    unpack::{Bound, SPOOL_BYTES_MAX, Unpacked, telling, untold},
};
use crate::cli::{
    base::{CliError, Context, Progress},
    copy::{ImageFile, ReadAt, Source, open},
    image::header::has_vhd_footer,
};
use sandstone_config::ranges;
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// An image that was looked at.
#[derive(Debug)]
pub(super) enum Looked {
    Raw(ImageFile),
    Converted(Chain),
    /// Packed, with an image of that format inside.
    Packed(ImageFile, Packing, Format),
}

/// An image that can be copied.
pub(super) struct Ready {
    pub(super) content: Content,
    /// Bytes of the disk that it holds.
    pub(super) disk_bytes: u64,
    /// What it is, in words.
    pub(super) kind: String,
}

/// Where its bytes come from.
pub(super) enum Content {
    Raw(Source),
    Converted(Chain),
    /// Unpacked while it is copied.
    Packed(ImageFile, Packing),
    /// Unpacked into a file, which goes with this.
    Spooled(
        Chain,
        #[expect(dead_code, reason = "it is the file's life that counts")] NamedTempFile,
    ),
}

impl Looked {
    /// Looks at an image, and at what it refers to as far as that is allowed. Nothing is converted
    /// or unpacked yet.
    ///
    /// # Errors
    /// Why it is not imported.
    pub(super) fn at(
        path: &Path,
        said: Option<Format>,
        following: Following,
    ) -> Result<Looked, ImageError> {
        let image = open(path).map_err(ImageError::Io)?;
        if image.len_bytes == 0 {
            return Err(ImageError::Empty);
        }
        let look = Look::of(&image).map_err(ImageError::Io)?;
        if let Some(packing) = Packing::of_name(path) {
            if look != Look::Packed(packing) {
                return Err(ImageError::IsNotPacked { said: packing, look });
            }
            let begin = Unpacked::new(&image.file, packing, &untold)?.begin()?;
            if begin.is_empty() {
                return Err(ImageError::Empty);
            }
            // A fixed VHD is known by its end, which is seen when it is unpacked.
            let inside = decide(
                Path::new(path.file_stem().unwrap_or_default()),
                said,
                Look::of_bytes(&begin),
                || true,
            );
            let format = inside.map_err(|error| match error {
                ImageError::Archive { kind, .. } => {
                    ImageError::Archive { kind, path: path.to_path_buf(), member: None }
                }
                error => error,
            })?;
            return Ok(Looked::Packed(image, packing, format));
        }
        let format =
            decide(path, said, look, || has_vhd_footer(&image)).map_err(|error| match error {
                ImageError::Archive { kind: Archive::Tar, path, member: _ } => {
                    ImageError::Archive { kind: Archive::Tar, path, member: image_in_tar(&image) }
                }
                error => error,
            })?;
        match format {
            Format::Raw => Ok(Looked::Raw(image)),
            _ => Chain::follow(path, format, following).map(Looked::Converted),
        }
    }

    /// What is read beside the image, in words.
    pub(super) fn others(&self) -> Vec<String> {
        match self {
            Looked::Raw(_) | Looked::Packed(..) => Vec::new(),
            Looked::Converted(chain) => chain.others(),
        }
    }

    /// Finds out how large the disk is, and whether the image is whole: what is packed is unpacked
    /// for it. `volume_bytes` is what an image may have, where it goes into a volume that is there
    /// already.
    ///
    /// # Errors
    /// Why it is not imported.
    pub(super) fn ready(
        self,
        path: &Path,
        volume_bytes: Option<u64>,
        context: &Context,
    ) -> Result<Ready, CliError> {
        let refused = |error| CliError::ImageRefused(path.to_path_buf(), Box::new(error));
        match self {
            Looked::Raw(image) => {
                let disk_bytes = image.len_bytes;
                Ok(Ready {
                    content: Content::Raw(Source::of(image)),
                    disk_bytes,
                    kind: Format::Raw.to_string(),
                })
            }
            Looked::Converted(chain) => {
                let disk_bytes = checked(&chain, path)?;
                let kind = chain.format().to_string();
                Ok(Ready { content: Content::Converted(chain), disk_bytes, kind })
            }
            Looked::Packed(image, packing, format) => {
                let kind = format!("{format} in {}", packing.as_str());
                let progress = Progress::new(image.len_bytes, context.audience());
                let told = telling(&progress);
                let unpacked = Unpacked::new(&image.file, packing, &told).map_err(refused)?;
                if format == Format::Raw {
                    let bound = match volume_bytes {
                        Some(bytes_max) => Bound { bytes_max, by: LimitedBy::Volume },
                        None => {
                            Bound { bytes_max: ranges::VOLUME.bytes_max, by: LimitedBy::AnyVolume }
                        }
                    };
                    let disk_bytes = unpacked.measure(bound).map_err(refused)?;
                    drop(told);
                    drop(progress);
                    return Ok(Ready {
                        content: Content::Packed(image, packing),
                        disk_bytes,
                        kind,
                    });
                }
                let chain_and_file = spool(unpacked, format).map_err(refused)?;
                let (chain, file) = chain_and_file;
                let disk_bytes = checked(&chain, path)?;
                Ok(Ready { content: Content::Spooled(chain, file), disk_bytes, kind })
            }
        }
    }
}

/// Unpacks an image that is to be converted, and looks at it: beside it is nothing that it could
/// refer to.
fn spool(unpacked: Unpacked<'_>, format: Format) -> Result<(Chain, NamedTempFile), ImageError> {
    let failed = |error| ImageError::Spool(std::env::temp_dir(), error);
    let file = NamedTempFile::with_prefix("sandstone-import-").map_err(failed)?;
    unpacked.spool(&file, Bound { bytes_max: SPOOL_BYTES_MAX, by: LimitedBy::Spool })?;
    let chain =
        Chain::follow(file.path(), format, Following::Refused).map_err(|error| match error {
            ImageError::Refers(_) => ImageError::PackedRefers,
            error => error,
        })?;
    Ok((chain, file))
}

/// Has qemu-img check an image. Bytes of its disk.
fn checked(chain: &Chain, path: &Path) -> Result<u64, CliError> {
    qemu_img::check(chain, path)?;
    match qemu_img::disk_bytes(chain, path)? {
        0 => Err(CliError::ImageRefused(path.to_path_buf(), Box::new(ImageError::Empty))),
        disk_bytes => Ok(disk_bytes),
    }
}

/// The format of an image by its name, or by what its user says, if its bytes do not contradict.
/// `has_vhd_footer` is asked where a VHD is expected: a fixed one begins with the disk itself.
fn decide(
    name: &Path,
    said: Option<Format>,
    look: Look,
    has_vhd_footer: impl Fn() -> bool,
) -> Result<Format, ImageError> {
    match (said, Format::of_name(name)) {
        (Some(Format::Raw), _) => Ok(Format::Raw),
        (Some(expected), _) | (None, Some(expected)) => {
            let fits =
                look == Look::Image(expected) || (expected == Format::Vhd && has_vhd_footer());
            if fits { Ok(expected) } else { Err(ImageError::IsNot { said: expected, look }) }
        }
        (None, None) => match look {
            Look::Plain => Ok(Format::Raw),
            Look::Archive(kind) => {
                Err(ImageError::Archive { kind, path: name.to_path_buf(), member: None })
            }
            Look::Image(_) | Look::Packed(_) | Look::Other(_) | Look::Increment => {
                Err(ImageError::LooksLike(look))
            }
        },
    }
}

/// Most members of a tar archive that are looked at for an image. An OVA has a handful.
const MEMBERS_MAX: usize = 64;
const TAR_BLOCK_BYTES: usize = 512;

/// The first member of a tar archive whose name says that it is an image. Source: POSIX, pax, ustar
/// interchange format.
fn image_in_tar(archive: &impl ReadAt) -> Option<String> {
    let mut offset = 0_u64;
    for _ in 0..MEMBERS_MAX {
        let mut header = [0; TAR_BLOCK_BYTES];
        archive.read_exact_at(&mut header, offset).ok()?;
        let name = header[..100].split(|byte| *byte == 0).next().unwrap_or_default();
        let name = str::from_utf8(name).ok().filter(|name| !name.contains(char::is_control))?;
        let path = PathBuf::from(name);
        let is_raw =
            path.extension().is_some_and(|extension| extension == "raw" || extension == "img");
        if !name.starts_with('-') && (is_raw || Format::of_name(&path).is_some()) {
            return Some(name.to_owned());
        }
        let size = str::from_utf8(&header[124..136]).ok()?.trim_matches(['\0', ' ']);
        let size = u64::from_str_radix(size, 8).ok()?;
        let blocks = size.div_ceil(TAR_BLOCK_BYTES as u64).checked_add(1)?;
        offset = offset.checked_add(blocks.checked_mul(TAR_BLOCK_BYTES as u64)?)?;
    }
    None
}

#[cfg(test)]
#[path = "source_tests.rs"]
mod tests;
