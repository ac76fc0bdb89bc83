//! The mounts of all volumes: kept over restarts, found by session and by sandbox, ended when they
//! are unused.
//!
//! ```text
//!   mount     reservation in the volume's attachments ─► file: durable ─► answer
//!   unmount   reservation taken back, clients disconnected and gone ─► file: durable ─► answer
//!   start     file ─► reservations, all pending or stale ─► file: vouched for by this start
//!             ─► clients are let in
//! ```
//!
//! What a mount may do, and whether it is connected, the volume's `Attachments` know; this is what
//! outlives them.
//!
//! I1  A mount that was answered is in the file; one whose end was answered is not. In between, a
//!     crash leaves either: a mount whose session was lost ends by its grace.
//! I2  A write-back mount goes on only where this start and every one since it was made found what
//!     was staged before. The file holds the last start that vouched for it. A start that died
//!     before it could is as bad as a loss: what it found, is unknown.
//! I3  A peer that a restore has disconnected is in the file before the volume is restored, and
//!     until it was quiet for long enough to be let in: a restart of the server in between is no
//!     way in.

mod file;
mod table;

pub(crate) use file::{MountRecord, MountsError, Tuning};
pub(crate) use table::{FILE_NAME, Mount, Mounts};
