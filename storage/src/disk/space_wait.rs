//! Waiting for room in the file system below the store, which may be smaller than the store's
//! limit.
//!
//! I1  A store counts as free only what the file system can back. So it is full, with all that a
//!     full store still can do, before a write fails for want of blocks.
//! I2  Where a write fails all the same, because others took the room, it waits and is tried again:
//!     nothing of it was acknowledged, and it writes the same bytes to the same place. (A failed
//!     sync is never tried again.)

use crate::base::HealthCell;
use sandstone_ring::{File, WriteBuf, WriteMode, runtime};
use std::{io, time::Duration};

/// Pause between two tries of a write that found no room.
const RETRY: Duration = Duration::from_millis(100);
/// Writes plainly; while the file system has no room, waits for it (I2).
///
/// # Errors
/// The device's errors; "no space left" once waits are cancelled.
pub(crate) async fn write(
    file: &File,
    health: &HealthCell,
    offset: u64,
    data: WriteBuf,
) -> io::Result<()> {
    write_as(WriteMode::Plain, file, health, offset, data).await
}

/// Writes in either mode, as [`write`] does.
///
/// # Errors
/// As [`write`].
pub(crate) async fn write_as(
    mode: WriteMode,
    file: &File,
    health: &HealthCell,
    offset: u64,
    data: WriteBuf,
) -> io::Result<()> {
    let (mut data, mut waiting) = (data, None);
    loop {
        match file.try_write(offset, data, mode).await {
            Err((error, returned)) if is_want_of_room(&error) && health.may_wait() => {
                waiting.get_or_insert_with(|| Waiting::begin(health, &error.to_string()));
                data = returned;
                runtime::sleep(RETRY).await;
            }
            result => return result.map_err(|(error, _)| error),
        }
    }
}

fn is_want_of_room(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// A write that waits, until this guard is dropped.
pub(crate) struct Waiting<'a>(&'a HealthCell);

impl<'a> Waiting<'a> {
    /// A write waits, for this reason.
    pub(crate) fn begin(health: &'a HealthCell, reason: &str) -> Self {
        health.enter_wait(reason);
        Self(health)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.leave_wait();
    }
}
