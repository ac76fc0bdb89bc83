//! Bytes on their way between images and volumes.

mod device;
mod raw_image;
mod read_at;
mod span;
pub(crate) mod transfer;

pub(crate) use device::{CopyError, Device};
pub(crate) use raw_image::{Partial, Source, Target, open, refuse_others};
pub(crate) use read_at::{Fields, ImageFile, ReadAt, bytes_at, bytes_up_to, each_entry};
pub(crate) use span::{CHUNK_BYTES, Content, Extent, Span, ZERO_BYTES_MAX, buffer, is_zero};
