//! VMDK: a descriptor in text, which names the files that the disk is put together from, or a
//! sparse file of grains with a descriptor inside. Little-endian.
//!
//! Which files qemu opens follows from the text. So this reads less than qemu does: a line that it
//! does not know is an error, and a sparse header without a size, which makes qemu look for a
//! descriptor with extents behind it, is one, too.

use super::{
    error::{HeaderError, within},
    reference::{ExtentFile, ExtentKind, Reference, References, TEXT_BYTES_MAX},
};
use crate::cli::copy::{Fields, ReadAt, bytes_up_to, each_entry};

const SPARSE: &[u8; 4] = b"KDMV";
const ESX_SPARSE: &[u8; 4] = b"COWD";

const SECTOR_BYTES: u64 = 512;

/// Most bytes of a descriptor inside a sparse file. Source: qemu looks at 20 sectors.
const EMBEDDED_BYTES_MAX: usize = 20 * SECTOR_BYTES as usize;

/// Where the table of tables is, of a stream that was written in one go: in a copy of the header at
/// the end.
const AT_THE_END: u64 = u64::MAX;
/// That copy between two markers of a sector each, and the type of the first.
const FOOTER_BYTES: u64 = 3 * SECTOR_BYTES;
const FOOTER_MARKER: u32 = 3;

/// The second table of tables counts.
const FLAG_REDUNDANT: u32 = 1 << 1;

/// Source: VMware's specification: 512 entries a grain table.
const TABLE_ENTRIES_MAX: u32 = 512;

/// Values of a grain's entry below the first place: not there, and zeroes.
const GRAIN_OFFSET_MIN: u32 = 2;

const PARENT: &str = "parentFileNameHint";

/// What stands first in a line that names an extent.
const ACCESSES: [&str; 3] = ["RW", "RDONLY", "NOACCESS"];

pub(super) fn references(from: &impl ReadAt) -> Result<References, HeaderError> {
    let magic: Fields<4> = Fields::read(from, 0)?;
    match &magic.0 {
        SPARSE => sparse(from),
        ESX_SPARSE => Err(HeaderError::Unsupported(
            "it is of the old sparse format of ESX: clone it with vmkfstools -i",
        )),
        _ => {
            if from.len_bytes() > TEXT_BYTES_MAX as u64 {
                return Err(HeaderError::Malformed("a descriptor has at most 2 MiB"));
            }
            let descriptor = Descriptor::parse(&bytes_up_to(from, 0, TEXT_BYTES_MAX)?)?;
            if descriptor.extents.is_empty() {
                return Err(HeaderError::Malformed(
                    "a descriptor names the files of its disk, and this one names none",
                ));
            }
            Ok(References {
                backing: descriptor.parent(),
                data_file: None,
                extents: descriptor.extents,
            })
        }
    }
}

pub(super) fn check_extent(from: &impl ReadAt) -> Result<(), HeaderError> {
    let magic: Fields<4> = Fields::read(from, 0)?;
    if magic.0 != *SPARSE {
        return Err(HeaderError::Unsupported("an extent that should be sparse is of another kind"));
    }
    sparse(from).map(drop)
}

/// A sparse file: it may have a parent. Extents that its descriptor names are itself, and qemu does
/// not look at them.
fn sparse(from: &impl ReadAt) -> Result<References, HeaderError> {
    let first: Fields<79> = Fields::read(from, 0)?;
    if first.u64_le(12) == 0 {
        return Err(HeaderError::Malformed("a sparse file has a size"));
    }
    let mut headers = vec![first];
    if headers[0].u64_le(56) == AT_THE_END {
        headers.push(footer(from)?);
    }
    let mut parent = None;
    for header in &headers {
        let sectors = header.u64_le(28);
        if sectors > 0 {
            let offset = sectors
                .checked_mul(SECTOR_BYTES)
                .ok_or(HeaderError::Malformed("an offset is beyond any file"))?;
            let text = bytes_up_to(from, offset, EMBEDDED_BYTES_MAX)?;
            parent = parent.or(Descriptor::parse(&text)?.parent());
        }
    }
    check_grains(from, &headers[headers.len() - 1])?;
    Ok(References { backing: parent, data_file: None, extents: Vec::new() })
}

/// The copy of the header at the end of a stream.
fn footer(from: &impl ReadAt) -> Result<Fields<79>, HeaderError> {
    let len_bytes = from.len_bytes();
    let cut_off = || HeaderError::CutOff {
        what: "the footer that it must have",
        end_bytes: len_bytes.saturating_add(FOOTER_BYTES),
        len_bytes,
    };
    let at = len_bytes.checked_sub(FOOTER_BYTES).ok_or_else(cut_off)?;
    let marker: Fields<16> = Fields::read(from, at)?;
    let header: Fields<79> = Fields::read(from, at + SECTOR_BYTES)?;
    let is_footer = marker.u32_le(12) == FOOTER_MARKER && header.bytes(0) == *SPARSE;
    if is_footer && header.u64_le(12) != 0 { Ok(header) } else { Err(cut_off()) }
}

/// Whether every table of grains lies in the file, and every grain begins in it.
fn check_grains(from: &impl ReadAt, header: &Fields<79>) -> Result<(), HeaderError> {
    let (capacity, grain_sectors, table_entries) =
        (header.u64_le(12), header.u64_le(20), header.u32_le(44));
    if grain_sectors == 0 || !(1..=TABLE_ENTRIES_MAX).contains(&table_entries) {
        return Err(HeaderError::Malformed(
            "its grains or its tables have no size that they can have",
        ));
    }
    let table_bytes = u64::from(table_entries) * 4;
    let tables = capacity.div_ceil(grain_sectors).div_ceil(u64::from(table_entries));
    let directory = header.u64_le(if header.u32_le(8) & FLAG_REDUNDANT == 0 { 56 } else { 48 });
    let directory = directory
        .checked_mul(SECTOR_BYTES)
        .ok_or(HeaderError::Malformed("an offset is beyond any file"))?;
    within(from, "its directory of grain tables", directory, tables.saturating_mul(4))?;
    let mut tables_bytes = 0;
    each_entry(from, directory, tables, |entry: [u8; 4]| {
        let table = u64::from(u32::from_le_bytes(entry)) * SECTOR_BYTES;
        if table == 0 {
            return Ok(());
        }
        tables_bytes += table_bytes;
        if tables_bytes > from.len_bytes() {
            return Err(HeaderError::Malformed(
                "it has more grain tables than the file has room for",
            ));
        }
        within(from, "a grain table", table, table_bytes)?;
        each_entry(
            from,
            table,
            u64::from(table_entries),
            |entry: [u8; 4]| match u32::from_le_bytes(entry) {
                ..GRAIN_OFFSET_MIN => Ok(()),
                sector => within(from, "a grain", u64::from(sector) * SECTOR_BYTES, 1),
            },
        )
    })
}

/// What a descriptor says that matters here.
#[derive(Debug, Default, PartialEq, Eq)]
struct Descriptor {
    parent: Option<String>,
    extents: Vec<ExtentFile>,
}

impl Descriptor {
    /// Reads a descriptor up to its first zero, as qemu does.
    fn parse(bytes: &[u8]) -> Result<Descriptor, HeaderError> {
        let bytes = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        let text = str::from_utf8(bytes)
            .map_err(|_| HeaderError::Malformed("its descriptor is no UTF-8"))?;
        let mut descriptor = Descriptor::default();
        for line in text.split('\n').map(str::trim) {
            if line.is_empty() || line.starts_with('#') {
                if line.contains(PARENT) {
                    return Err(HeaderError::Malformed(
                        "a comment of its descriptor names a parent",
                    ));
                }
                continue;
            }
            let word = line.split_ascii_whitespace().next().unwrap_or_default();
            if ACCESSES.contains(&word) {
                descriptor.extents.push(extent(line)?);
                continue;
            }
            let known = line.split_once('=').map(|(key, value)| (key.trim(), value.trim()));
            let Some((key, value)) = known.filter(|(key, _)| !key.contains(char::is_whitespace))
            else {
                return Err(HeaderError::Malformed(
                    "its descriptor has a line that is neither a key nor an extent",
                ));
            };
            if key == PARENT {
                let name = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
                let name = name.filter(|name| !name.is_empty() && !name.contains('"'));
                let name =
                    name.ok_or(HeaderError::Malformed("the name of its parent is not in quotes"))?;
                if descriptor.parent.replace(name.to_owned()).is_some() {
                    return Err(HeaderError::Malformed("its descriptor names two parents"));
                }
            } else if line.contains(PARENT) {
                return Err(HeaderError::Malformed(
                    "its descriptor names a parent where none belongs",
                ));
            }
        }
        Ok(descriptor)
    }

    fn parent(&self) -> Option<Reference> {
        let format = Some("vmdk".to_owned());
        self.parent.clone().map(|name| Reference { name, format })
    }
}

/// `RW 4192256 FLAT "disk-f001.vmdk" 0`: access, sectors, kind, file, and where in it a flat extent
/// begins, in sectors.
fn extent(line: &str) -> Result<ExtentFile, HeaderError> {
    let malformed = || HeaderError::Malformed("its descriptor has an extent that cannot be read");
    let mut quoted = line.split('"');
    let (Some(before), Some(name), Some(after), None) =
        (quoted.next(), quoted.next(), quoted.next(), quoted.next())
    else {
        return Err(malformed());
    };
    let words: Vec<&str> = before.split_ascii_whitespace().collect();
    let [access, sectors, kind] = words[..] else { return Err(malformed()) };
    let sectors: u64 = sectors.parse().map_err(|_| malformed())?;
    let begin: u64 = match after.trim() {
        "" => 0,
        begin => begin.parse().map_err(|_| malformed())?,
    };
    // qemu reads no more of a name, and ends it at a carriage return: it would open another file
    // than the one that is told.
    if name.is_empty() || name.len() > 511 || name.contains(char::is_control) || sectors == 0 {
        return Err(malformed());
    }
    if access != "RW" {
        return Err(HeaderError::Unsupported(
            "an extent of it may not be written, and qemu-img would leave it out",
        ));
    }
    let end_bytes = begin
        .checked_add(sectors)
        .and_then(|end| end.checked_mul(SECTOR_BYTES))
        .ok_or_else(malformed)?;
    let kind = match kind {
        "FLAT" | "VMFS" => ExtentKind::Flat { end_bytes },
        "SPARSE" => ExtentKind::Sparse,
        _ => {
            return Err(HeaderError::Unsupported(
                "an extent of it is of a kind that is not read: FLAT, VMFS and SPARSE are",
            ));
        }
    };
    Ok(ExtentFile { name: name.to_owned(), kind })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Descriptor, String> {
        Descriptor::parse(text.as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_descriptor_says_its_extents_and_its_parent() {
        let text = "# Disk DescriptorFile\r\nversion=1\r\nCID=1\r\nparentCID=ffffffff\r\ncreateType=\"twoGbMaxExtentFlat\"\r\n\
            \r\n# Extents\r\nRW 8 FLAT \"a b.vmdk\" 16\r\nRW 4 SPARSE \"../c.vmdk\"\r\nddb.adapterType = \"ide\"\r\n\
            parentFileNameHint=\"/p.vmdk\"\r\n\0parentFileNameHint=\"x\"";
        let flat = ExtentKind::Flat { end_bytes: 24 * 512 };
        let extents = vec![
            ExtentFile { name: "a b.vmdk".into(), kind: flat },
            ExtentFile { name: "../c.vmdk".into(), kind: ExtentKind::Sparse },
        ];
        assert_eq!(parse(text), Ok(Descriptor { parent: Some("/p.vmdk".into()), extents }));
    }

    /// qemu searches for its words wherever they stand, and reads a line's words over the ends of
    /// lines.
    #[test]
    fn what_qemu_would_read_otherwise_is_an_error() {
        for text in [
            "RW\n 8 FLAT \"x\" 0",
            "RW 8\nFLAT \"x\" 0",
            "RW 8 FLAT \"x\" 0 \"y\"",
            "RW 8 FLAT x 0",
            "RW 0 FLAT \"x\" 0",
            "RW -8 FLAT \"x\" 0",
            "RW 8 FLAT \"\" 0",
            "RW 8 ZERO \"x\"",
            "RDONLY 8 FLAT \"x\" 0",
            "# parentFileNameHint=\"x\"",
            "comment=\"parentFileNameHint=\"x\"",
            "parentFileNameHint=x",
            "parentFileNameHint=\"x\"\nparentFileNameHint=\"y\"",
            "what is this",
            "two words=1",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }
}
