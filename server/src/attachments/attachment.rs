//! Attachments, the requests for one, and their refusals.

use super::session::Session;
use crate::api::MountState;
use jiff::Timestamp;
use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};
use thiserror::Error;

/// How long a peer that was disconnected by a restore must not ask. Clients that connect again by
/// themselves try every few seconds. A guess, not tuned.
pub(super) const FENCE_TIME: Duration = Duration::from_secs(60);

/// Why an export takes no new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum Closing {
    /// It is being deleted.
    #[error("the export is being deleted")]
    Deletion,
    /// Its content is being replaced.
    #[error("the volume is being restored: connect again in a moment")]
    Restore,
}

/// Which attachments keep an export from being closed. The others are disconnected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BlockedBy {
    Attachments,
    Writers,
    Nothing,
}

/// Whose a connection is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Holder {
    /// A client that named the export and nothing else: a Unix peer's process, a TCP peer's
    /// address.
    Peer(String),
    /// A client that knows the session of a mount.
    Mount(Session),
}

/// A connection, for the code that does not serve it.
pub(crate) trait ConnectionHandle: Send + Sync {
    /// Ends the connection soon, without waiting. Called from any thread, perhaps more than once,
    /// under the export's lock: it must neither block nor come back here.
    fn disconnect(&self);

    /// Whether the peer, or we, have closed it, so that it ends soon. The same holds for it.
    fn is_closing(&self) -> bool;
}

/// An NBD connection that asks to be let in.
#[derive(Clone)]
pub(crate) struct Connection {
    pub(crate) holder: Holder,
    /// The export name it asked for, without a session.
    pub(crate) export_name: String,
    pub(crate) since: Timestamp,
    pub(crate) handle: Arc<dyn ConnectionHandle>,
}

/// What a connection may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    ReadWrite,
    ReadOnly,
}

/// How a mount is shown to other clients.
#[derive(Clone, Debug)]
pub(crate) struct MountInfo {
    /// Whose it is: `sandbox agent-1`.
    pub(crate) holder: String,
    pub(crate) export_name: String,
    /// Where its holder has it: the same holder and place again is the same mount.
    pub(crate) mount_point: String,
    pub(crate) since: Timestamp,
}

/// The answer to a request for a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Granted {
    /// A reservation for the session that was named.
    New(Access),
    /// The reservation of that session, which the same holder has for the same place.
    Again(Session),
}

/// A mount as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MountStatus {
    pub(crate) state: MountState,
    pub(crate) access: Access,
    pub(crate) connections: usize,
}

/// One attachment: a mount, or the connections of one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attachment {
    pub(crate) holder: String,
    pub(crate) export_name: String,
    /// When it was mounted, or its oldest live connection came.
    pub(crate) mounted_at: Timestamp,
    /// Whether none of its connections may write.
    pub(crate) read_only: bool,
    pub(crate) connections: usize,
    pub(crate) state: MountState,
}

/// Why a client may not attach.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum Refused {
    #[error("{0}")]
    Closed(Closing),
    /// One may write, and that is another.
    #[error(
        "the volume is RWO and attached by {} since {:.0}: it takes one writer at a time",
        .by.holder,
        .by.mounted_at
    )]
    Held {
        by: Attachment,
        /// Whether it is just going.
        leaving: bool,
    },
    /// There is no mount of that session, any more.
    #[error(
        "there is no such mount: it was unmounted, its volume was restored, or it was without a \
         connection for too long; mount the volume again"
    )]
    NoMount,
    #[error(
        "this mount is from before a host crash that lost up to a second of writes: unmount the \
         volume and mount it again"
    )]
    Stale,
    /// The volume was restored since it was attached.
    #[error(
        "the volume was restored at {at:.0} while this client was attached, and what it has cached \
         is of before: end it, and attach again after {FENCE_TIME:?} without an attempt, or mount \
         the volume"
    )]
    Restored { at: Timestamp },
    /// The mount ended by a restore of its volume.
    #[error(
        "this mount ended when the volume was restored at {at:.0}, and what its client has cached \
         is of before: unmount the file system, and mount the volume again"
    )]
    MountRestored { at: Timestamp },
}

/// The attachments that block a change.
#[derive(Debug)]
pub(super) struct InUse {
    pub(super) by: BTreeMap<Holder, Attachment>,
    /// Whether all of them are just going.
    pub(super) leaving: bool,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("holder", &self.holder).finish_non_exhaustive()
    }
}

impl InUse {
    pub(super) fn list(self) -> Vec<Attachment> {
        self.by.into_values().collect()
    }
}
