//! What a header may refer to.

/// Longest text of a header that is read: a descriptor, or the area of header extensions. VMware's
/// own are a few KiB; qemu reads 20 sectors of an embedded one, and 2 MiB of a file.
pub(super) const TEXT_BYTES_MAX: usize = 2 << 20;

/// What an image refers to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct References {
    /// The image that holds what this one does not.
    pub(crate) backing: Option<Reference>,
    /// The file that holds the data of a qcow2 image which only has the tables.
    pub(crate) data_file: Option<String>,
    /// The files that a VMDK descriptor is put together from.
    pub(crate) extents: Vec<ExtentFile>,
}

impl References {
    pub(crate) fn is_empty(&self) -> bool {
        self.backing.is_none() && self.data_file.is_none() && self.extents.is_empty()
    }
}

/// A backing file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    /// As the header has it.
    pub(crate) name: String,
    /// Its format, in the header's word; None where the header does not say.
    pub(crate) format: Option<String>,
}

/// A file that a VMDK descriptor names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ExtentFile {
    pub(crate) name: String,
    pub(crate) kind: ExtentKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExtentKind {
    /// Bytes of the disk, so many and from there on.
    Flat { end_bytes: u64 },
    /// A sparse file with a header of its own.
    Sparse,
}
