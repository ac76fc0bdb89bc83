//! Incremental backups: what changed in a volume since a snapshot, as a file, and that file applied
//! to a copy elsewhere.
//!
//! ```text
//!   export   diff of the maps ─► ranges ─┬─► checksum of what `from` had there   (its NBD export)
//!                                        └─► data that `to` has there            (its NBD export)
//!   import   the file is whole? ─► the volume has what `from` had, in every range?
//!            ─► grow, write, flush
//! ```
//!
//! A head is exported through a snapshot that is taken for it and deleted afterwards: it holds
//! still while others write.
//!
//! An import reads the file three times, and writes in the last: whatever is wrong with the file or
//! the volume is seen before anything has changed. It looks at ranges that the increment changes,
//! and at no others: a volume that differs elsewhere is taken for a copy, because to tell it from
//! one would be to read all of it. While it writes, a snapshot of the volume is kept, and when
//! writing fails the volume goes back to it.

mod checksums;
mod export;
mod format;
mod import;

pub(super) use export::{Since, export};
pub(super) use format::MAGIC;
pub(super) use import::import;
