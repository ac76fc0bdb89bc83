//! The formats of disk images: by name, and by what a file begins with.

use crate::cli::{copy::ReadAt, increment};
use clap::ValueEnum;
use std::{ffi::OsStr, fmt, io, path::Path};

/// A format that is read and written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// The disk's bytes and nothing else
    Raw,
    Qcow2,
    Vmdk,
    #[value(alias = "vpc")]
    Vhd,
    Vhdx,
    Vdi,
}

impl Format {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Format::Raw => "raw",
            Format::Qcow2 => "qcow2",
            Format::Vmdk => "vmdk",
            Format::Vhd => "vhd",
            Format::Vhdx => "vhdx",
            Format::Vdi => "vdi",
        }
    }

    /// qemu's word for it.
    pub(super) fn qemu_driver(self) -> &'static str {
        match self {
            Format::Vhd => "vpc",
            other => other.as_str(),
        }
    }

    /// The format that is meant by qemu's word.
    pub(super) fn of_qemu_driver(word: &str) -> Option<Format> {
        Format::value_variants().iter().copied().find(|format| format.qemu_driver() == word)
    }

    /// The format that a file's name says; None where it says none, and so means raw.
    pub(super) fn of_name(path: &Path) -> Option<Format> {
        match extension(path)?.as_str() {
            "qcow2" => Some(Format::Qcow2),
            "vmdk" => Some(Format::Vmdk),
            "vhdx" => Some(Format::Vhdx),
            "vdi" => Some(Format::Vdi),
            "vpc" | "vhd" => Some(Format::Vhd),
            _ => None,
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// How a file is packed that unpacks to one other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    Gzip,
    Xz,
    Zstd,
    Bzip2,
}

impl Packing {
    /// The program that unpacks it as well.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Packing::Gzip => "gzip",
            Packing::Xz => "xz",
            Packing::Zstd => "zstd",
            Packing::Bzip2 => "bzip2",
        }
    }

    /// What a packed file's name ends with.
    pub(super) fn extension(self) -> &'static str {
        match self {
            Packing::Gzip => "gz",
            Packing::Xz => "xz",
            Packing::Zstd => "zst",
            Packing::Bzip2 => "bz2",
        }
    }

    /// The packing that a file's name says.
    pub(super) fn of_name(path: &Path) -> Option<Packing> {
        let extension = extension(path)?;
        [Packing::Gzip, Packing::Xz, Packing::Zstd, Packing::Bzip2]
            .into_iter()
            .find(|packing| packing.extension() == extension)
    }
}

/// Something that holds files, of which one may be an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Archive {
    Tar,
    Zip,
    SevenZip,
}

/// What a file looks like. It says what its bytes are like, not what they are: a guest may have
/// written them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// Like no format that is known here, and so like a disk.
    Plain,
    Image(Format),
    Packed(Packing),
    Archive(Archive),
    /// An image or a packing that is known by name alone.
    Other(&'static str),
    /// What `export --since` writes.
    Increment,
}

impl fmt::Display for Look {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Look::Plain => "a raw disk",
            Look::Image(format) => format.as_str(),
            Look::Packed(packing) => packing.as_str(),
            Look::Archive(Archive::Tar) => "tar",
            Look::Archive(Archive::Zip) => "zip",
            Look::Archive(Archive::SevenZip) => "7z",
            Look::Other(name) => name,
            Look::Increment => "an increment",
        })
    }
}

/// Beginnings of files: offset, bytes, and what they look like. LUKS is not among them: it is a
/// disk's bytes, which no conversion could open without its key. Source: the formats' own
/// specifications.
const MAGICS: [(u64, &[u8], Look); 22] = [
    (0, b"QFI\xfb", Look::Image(Format::Qcow2)),
    (0, b"KDMV", Look::Image(Format::Vmdk)),
    (0, b"COWD", Look::Image(Format::Vmdk)),
    (0, b"# Disk DescriptorFile", Look::Image(Format::Vmdk)),
    (0, b"vhdxfile", Look::Image(Format::Vhdx)),
    (0, b"conectix", Look::Image(Format::Vhd)),
    (64, &[0x7f, 0x10, 0xda, 0xbe], Look::Image(Format::Vdi)),
    (0, &[0x1f, 0x8b, 0x08], Look::Packed(Packing::Gzip)),
    (0, b"\xfd7zXZ\0", Look::Packed(Packing::Xz)),
    (0, &[0x28, 0xb5, 0x2f, 0xfd], Look::Packed(Packing::Zstd)),
    (0, &[0x50, 0x2a, 0x4d, 0x18], Look::Packed(Packing::Zstd)), // the frame without content that pzstd begins with
    (0, b"BZh", Look::Packed(Packing::Bzip2)),
    (257, b"ustar", Look::Archive(Archive::Tar)),
    (0, b"PK\x03\x04", Look::Archive(Archive::Zip)),
    (0, b"PK\x05\x06", Look::Archive(Archive::Zip)),
    (0, b"7z\xbc\xaf\x27\x1c", Look::Archive(Archive::SevenZip)),
    (0, b"QED\0", Look::Other("qed")),
    (0, b"WithoutFreeSpace", Look::Other("parallels")),
    (0, b"WithouFreSpacExt", Look::Other("parallels")),
    (0, b"Bochs Virtual HD Image", Look::Other("bochs")),
    (0, b"#!/bin/sh\n#V2.0 Format", Look::Other("cloop")),
    (0, &[0x04, 0x22, 0x4d, 0x18], Look::Other("lz4")),
];

/// So many bytes are enough to say what a file looks like.
pub(super) const LOOK_BYTES: usize = 512;

impl Look {
    /// By a file's first bytes, at best [`LOOK_BYTES`] of them.
    pub(super) fn of_bytes(begin: &[u8]) -> Look {
        if begin.starts_with(&increment::MAGIC) {
            return Look::Increment;
        }
        let is = |offset: u64, magic: &[u8]| {
            begin.get(offset as usize..).is_some_and(|rest| rest.starts_with(magic))
        };
        let found = MAGICS.iter().find(|(offset, magic, _)| is(*offset, magic));
        found.map_or_else(
            || if is_descriptor(begin) { Look::Image(Format::Vmdk) } else { Look::Plain },
            |found| found.2,
        )
    }

    /// # Errors
    /// Of reading.
    pub(super) fn of(image: &impl ReadAt) -> io::Result<Look> {
        let len = image.len_bytes().min(LOOK_BYTES as u64);
        let mut begin = vec![0; len as usize];
        image.read_exact_at(&mut begin, 0)?;
        Ok(Look::of_bytes(&begin))
    }
}

/// A VMDK descriptor may begin with other comments and blank lines before its version. qemu takes
/// such for one, too.
fn is_descriptor(begin: &[u8]) -> bool {
    let mut lines = begin.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let after_comment = begin.trim_ascii_start().starts_with(b"#");
    let first = lines.find(|line| !line.is_empty() && !line.starts_with(b"#"));
    let version = |line: &[u8]| [&b"version=1"[..], b"version=2", b"version=3"].contains(&line);
    after_comment && first.is_some_and(version)
}

fn extension(path: &Path) -> Option<String> {
    path.extension().and_then(OsStr::to_str).map(str::to_ascii_lowercase)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_files_name_says_its_format_and_its_packing() {
        for (name, format, packing) in [
            ("a.qcow2", Some(Format::Qcow2), None),
            ("a.QCOW2", Some(Format::Qcow2), None),
            ("a.vmdk", Some(Format::Vmdk), None),
            ("a.vhdx", Some(Format::Vhdx), None),
            ("a.vdi", Some(Format::Vdi), None),
            ("a.vpc", Some(Format::Vhd), None),
            ("a.vhd", Some(Format::Vhd), None),
            ("a.raw", None, None),
            ("a.img", None, None),
            ("qcow2", None, None),
            ("a.qcow2.gz", None, Some(Packing::Gzip)),
            ("a.XZ", None, Some(Packing::Xz)),
            ("a.zst", None, Some(Packing::Zstd)),
            ("a.bz2", None, Some(Packing::Bzip2)),
        ] {
            assert_eq!(Format::of_name(Path::new(name)), format, "{name}");
            assert_eq!(Packing::of_name(Path::new(name)), packing, "{name}");
        }
    }

    #[test]
    fn formats_have_qemus_words() {
        for format in Format::value_variants() {
            assert_eq!(Format::of_qemu_driver(format.qemu_driver()), Some(*format));
        }
        assert_eq!(Format::of_qemu_driver("nbd"), None);
    }

    #[test]
    fn a_files_first_bytes_say_what_it_looks_like() {
        for (offset, magic, look) in MAGICS {
            let mut bytes = vec![0; LOOK_BYTES];
            bytes[offset as usize..offset as usize + magic.len()].copy_from_slice(magic);
            assert_eq!(Look::of_bytes(&bytes), look);
            assert_eq!(
                Look::of_bytes(&bytes[..offset as usize + magic.len() - 1]),
                Look::Plain,
                "{look}"
            );
        }
        for bytes in [&[][..], &[0; 3], &[1; 4096], b"LUKS\xba\xbe\x00\x01", b"# a script\nexit\n"]
        {
            assert_eq!(Look::of_bytes(bytes), Look::Plain);
        }
        assert_eq!(Look::of_bytes(b"\n# made by\n \nversion=1\nCID=0"), Look::Image(Format::Vmdk));
    }
}
