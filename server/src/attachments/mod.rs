//! Which clients are attached to an export, which others may be, and how they are disconnected.
//!
//! ```text
//!   mount ──────► a reservation, with a secret session ──► connections that name the session
//!   plain name ──────────────────────► connections of one peer: they reserve while there are some
//! ```
//!
//! One `Attachments` belongs to one volume or snapshot. Connections come in during their handshake
//! and leave by dropping their guard; the admin side mounts, counts, closes, disconnects and waits.
//!
//! I1  Closing, access mode, mounts and connections are one state under one lock, so that the check
//!     and the grant are one step: of two writers that come at once one is refused, and no client
//!     attaches behind a deletion's check.
//! I2  All connections of one holder are one attachment, so that several connections of one client
//!     do not shut each other out.
//! I3  A connection that was disconnected counts until it is gone: its last writes may still be
//!     under way.
//! I4  A mount's right lasts without a connection until it is given back, or has been without one
//!     for the grace.
//! I5  Who was attached when the volume was restored is not let in again as if nothing had
//!     happened: what it has cached is of before. A session is refused for good. A peer under a
//!     plain name, whom nothing tells from a new client that is called the same, is refused until
//!     it has not asked for [`FENCE_TIME`]: a client that connects again by itself never is that
//!     quiet.

mod attachment;
mod session;
mod state;
mod table;
#[cfg(test)]
mod tests;

pub(crate) use attachment::{
    Access, Attachment, BlockedBy, Closing, Connection, ConnectionHandle, Granted, Holder,
    MountInfo, MountStatus, Refused,
};
pub(crate) use session::Session;
pub(crate) use table::{AttachedGuard, Attachments};
