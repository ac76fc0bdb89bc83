//! Who is attached to an export, who else may be, and how they are cut off.
//!
//! ```text
//!   mount ──────► a right, with a secret session ──► connections that name the session
//!   plain name ─────────────────────────────────► connections of one peer: a right while there are some
//! ```
//!
//! One `Attachments` belongs to one volume or snapshot. Connections come in during their handshake and leave by dropping
//! their guard; the admin side mounts, counts, closes the door, cuts off and waits.
//!
//! I1  Door, access mode, mounts and connections are one state under one lock, so that the check and the grant are one
//!     step: of two writers that come at once one is refused, and nobody slips in behind a deletion's look.
//! I2  All connections of one holder are one attachment, so that several connections of one client do not shut each
//!     other out.
//! I3  A connection that was cut off counts until it is gone: its last writes may still be under way.
//! I4  A mount's right lasts without a connection until it is given back, or has been without one for the grace.
//! I5  Who was attached when the volume was restored is not let in again as if nothing had happened: what it has cached is
//!     of before. A session is refused for good. A peer under a plain name, whom nothing tells from a new client that is
//!     called the same, is refused until it has not asked for [`QUIET_TIME`]: a client that connects again by itself never
//!     is that quiet.

mod state;

use crate::{mounts::Session, record::AccessMode};
use jiff::Timestamp;
use serde::Serialize;
use state::{Asks, Door, Right, Standing, State};
use std::{
    collections::BTreeMap,
    error, fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::Notify;

/// Longest wait for a holder that has closed its connections while what it sent is still being answered. Far more than
/// that takes on a disk that works. A guess, not tuned.
const LEAVING_TIME_MAX: Duration = Duration::from_secs(5);

/// How long a request that is refused because of a connection waits for it to be seen closing. A client may have closed it
/// already, while the kernel still delivers that, or a process that the client is just starting still has a copy of the
/// descriptor. (Seen once in some ten thousand on a busy machine.)
const CLOSE_SEEN_TIME_MAX: Duration = Duration::from_millis(50);
/// How often it looks meanwhile.
const CLOSE_SEEN_INTERVAL: Duration = Duration::from_millis(5);

/// How long a peer that was cut off by a restore must not ask. Clients that connect again by themselves try every few
/// seconds. A guess, not tuned.
const QUIET_TIME: Duration = Duration::from_secs(60);

/// The attachments of one export.
#[derive(Debug)]
pub(crate) struct Attachments {
    state: Mutex<State>,
    /// Told whenever a connection has gone.
    left: Notify,
}

/// Why an export takes no new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closing {
    /// It is being deleted.
    Deletion,
    /// Its content is being replaced.
    Restore,
}

/// Who keeps an export from being closed. The others are cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InTheWay {
    Everyone,
    Writers,
    Nobody,
}

/// Whose a connection is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Holder {
    /// Somebody who named the export and nothing else: a Unix peer's process, a TCP peer's address.
    Peer(String),
    /// Whoever knows the session of a mount.
    Mount(Session),
}

/// A connection's socket, as others see it.
pub(crate) trait Line: Send + Sync {
    /// Ends the connection soon, without waiting. Called from any thread, perhaps more than once, under the export's
    /// lock: it must neither block nor come back here.
    fn cut_off(&self);

    /// Whether the peer, or we, have closed it, so that it ends soon. The same holds for it.
    fn is_ending(&self) -> bool;
}

/// An NBD connection that asks to be let in.
#[derive(Clone)]
pub(crate) struct Connection {
    pub(crate) holder: Holder,
    /// The export name it asked for, without a session.
    pub(crate) export_name: String,
    pub(crate) since: Timestamp,
    pub(crate) line: Arc<dyn Line>,
}

/// What a connection may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    ReadWrite,
    ReadOnly,
}

/// What a mount is told to others as.
#[derive(Clone, Debug)]
pub(crate) struct Mounting {
    /// Whose it is: `sandbox agent-1`.
    pub(crate) holder: String,
    pub(crate) export_name: String,
    /// Where its holder has it: the same holder and place again is the same mount.
    pub(crate) mount_point: String,
    pub(crate) since: Timestamp,
}

/// What who asks for a mount is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Granted {
    /// A right for the session that was named.
    New(Access),
    /// The right of that session, which the same holder has for the same place.
    Again(Session),
}

/// How far a mount is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum MountState {
    /// No connection has come yet.
    Pending,
    Mounted,
    /// A host crash took acknowledged writes: it takes no connection, and is in nobody's way.
    Stale,
}

impl MountState {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            MountState::Pending => "pending",
            MountState::Mounted => "mounted",
            MountState::Stale => "stale",
        }
    }
}

/// A mount as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MountStatus {
    pub(crate) state: MountState,
    pub(crate) access: Access,
    pub(crate) connections: usize,
}

/// One attachment: a mount, or the connections of one peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
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

/// Why somebody is not let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    Closed(Closing),
    /// One may write, and that is another.
    Held {
        by: Attachment,
        /// Whether it is just going.
        leaving: bool,
    },
    /// There is no mount of that session, any more.
    NoMount,
    Stale,
    /// The volume was restored since it was attached.
    Restored {
        at: Timestamp,
        /// Whether a mount ended by it.
        mount: bool,
    },
}

/// Those who are in the way of a change.
#[derive(Debug)]
struct InUse {
    by: BTreeMap<Holder, Attachment>,
    /// Whether all of them are just going.
    leaving: bool,
}

impl fmt::Display for Closing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Closing::Deletion => "the export is being deleted",
            Closing::Restore => "the volume is being restored: connect again in a moment",
        })
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::Closed(why) => why.fmt(f),
            Refused::Held { by, leaving: _ } => write!(
                f,
                "the volume is RWO and attached by {} since {:.0}: it takes one writer at a time",
                by.holder, by.mounted_at
            ),
            Refused::NoMount => f.write_str(
                "there is no such mount: it was unmounted, its volume was restored, or it was without a connection for too long; \
                 mount the volume again",
            ),
            Refused::Restored { at, mount: true } => write!(
                f,
                "this mount ended when the volume was restored at {at:.0}, and what its client has cached is of before: unmount \
                 the file system, and mount the volume again"
            ),
            Refused::Restored { at, mount: false } => write!(
                f,
                "the volume was restored at {at:.0} while this client was attached, and what it has cached is of before: end \
                 it, and attach again after {QUIET_TIME:?} without an attempt, or mount the volume"
            ),
            Refused::Stale => f.write_str(
                "this mount is from before a host crash that lost up to a second of writes: unmount the volume and mount it \
                 again",
            ),
        }
    }
}

impl error::Error for Refused {}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("holder", &self.holder).finish_non_exhaustive()
    }
}

impl Attachments {
    pub(crate) fn new(mode: AccessMode) -> Arc<Attachments> {
        Arc::new(Attachments { state: Mutex::new(State::new(mode)), left: Notify::new() })
    }

    /// Lets a connection in; it is gone when the guard is dropped. One that stands in the way and is just going is waited
    /// for: a program that ends and its successor that starts at once would else meet here. Dropping the future is safe.
    ///
    /// # Errors
    /// Why not; nothing was done.
    pub(crate) async fn attach(
        self: &Arc<Attachments>,
        connection: Connection,
    ) -> Result<AttachedGuard, Refused> {
        let (key, access) = self
            .in_turn(|state| {
                let access = state.admits(&connection.holder, Asks::ToEnter)?;
                Ok((state.enter(connection.clone(), access), access))
            })
            .await?;
        Ok(AttachedGuard { attachments: Arc::clone(self), key, access })
    }

    /// What [`Attachments::attach`] would say, for a client that only asks.
    pub(crate) async fn would_attach(&self, holder: &Holder) -> Result<Access, Refused> {
        self.in_turn(|state| state.admits(holder, Asks::ToLook)).await
    }

    /// Gives a right to a session that has none yet, or says which one its holder has for the same place. Those who are just
    /// going are waited for.
    ///
    /// # Errors
    /// Why not; nothing was done.
    pub(crate) async fn mount(&self, session: Session, mounting: Mounting) -> Result<Granted, Refused> {
        let holder = Holder::Mount(session);
        self.in_turn(|state| {
            state.is_open()?;
            if let Some(same) = state.session_of(&mounting) {
                state.renew(same);
                return Ok(Granted::Again(same));
            }
            let access = state.has_room_for(&holder)?;
            state.rights.insert(
                session,
                Right { mounting: mounting.clone(), access, standing: Standing::Pending(Instant::now()) },
            );
            Ok(Granted::New(access))
        })
        .await
    }

    /// Gives a right that an earlier start of the server has given: `state` is pending or stale.
    pub(crate) fn mount_again(
        &self,
        session: Session,
        mounting: Mounting,
        access: Access,
        state: MountState,
    ) {
        let standing = match state {
            MountState::Pending | MountState::Mounted => Standing::Pending(Instant::now()),
            MountState::Stale => Standing::Stale,
        };
        self.lock().rights.insert(session, Right { mounting, access, standing });
    }

    /// Takes a right back and cuts its connections off; they leave a little later, see [`Attachments::gone`].
    pub(crate) fn unmount(&self, session: Session) {
        let mut state = self.lock();
        state.rights.remove(&session);
        state.of(&Holder::Mount(session)).for_each(|live| live.connection.line.cut_off());
    }

    /// Takes all rights back, of an export whose door is closed and that nobody is connected to.
    pub(crate) fn unmount_all(&self) -> Vec<Session> {
        std::mem::take(&mut self.lock().rights).into_keys().collect()
    }

    /// Takes a right back that has been without a connection for `grace`. Whether it was.
    pub(crate) fn expire(&self, session: Session, grace: Duration) -> bool {
        let mut state = self.lock();
        let since = match state.rights.get(&session).map(|right| &right.standing) {
            Some(Standing::Pending(since) | Standing::Idle(since)) => *since,
            Some(Standing::Connected | Standing::Stale) | None => return false,
        };
        since.elapsed() >= grace && state.rights.remove(&session).is_some()
    }

    /// A mount as it is now.
    pub(crate) fn mount_status(&self, session: Session) -> Option<MountStatus> {
        let state = self.lock();
        let right = state.rights.get(&session)?;
        let connections = state.of(&Holder::Mount(session)).count();
        Some(MountStatus { state: right.state(), access: right.access, connections })
    }

    /// Changes who may attach from now on. Those who are in the way and just going are waited for.
    ///
    /// # Errors
    /// Those whose attachment it would break; nothing was done.
    pub(crate) async fn set_mode(&self, mode: AccessMode) -> Result<(), Vec<Attachment>> {
        let change = |state: &mut State| {
            let writers = state.writers();
            if writers.len() > mode.writers_max() {
                return Err(state.in_use(writers));
            }
            state.mode = mode;
            Ok(())
        };
        self.again_while(change, |in_use| Some(in_use.leaving)).await.map_err(InUse::list)
    }

    /// Who is attached now, by holder.
    pub(crate) fn list(&self) -> Vec<Attachment> {
        self.lock().attachments().into_values().collect()
    }

    /// How many are attached now.
    pub(crate) fn count(&self) -> usize {
        self.lock().attachments().len()
    }

    /// Closes the door and cuts off everyone inside, unless somebody is in the way. Who is in the way and just going is
    /// waited for: a client that has closed its connection is gone for itself before it is for us. Those cut off leave a
    /// little later: see [`Attachments::empty`].
    ///
    /// # Errors
    /// Those who are in the way; the door stays open, and nobody was cut off.
    pub(crate) async fn close(&self, why: Closing, in_the_way: InTheWay) -> Result<(), Vec<Attachment>> {
        let close = |state: &mut State| {
            let blocking = match in_the_way {
                InTheWay::Nobody => BTreeMap::new(),
                InTheWay::Everyone => state.attachments(),
                InTheWay::Writers => state.writers(),
            };
            if !blocking.is_empty() {
                return Err(state.in_use(blocking));
            }
            state.close(why);
            Ok(())
        };
        self.again_while(close, |in_use| Some(in_use.leaving)).await.map_err(InUse::list)
    }

    /// The volume is restored behind its closed door. The peers that were cut off under plain names.
    pub(crate) fn restored(&self, at: Timestamp) -> Vec<String> {
        self.lock().restored(at)
    }

    /// It was not, after all.
    pub(crate) fn not_restored(&self, at: Timestamp) {
        self.lock().not_restored(at);
    }

    /// Keeps a peer out that a restore has cut off before the start of the server.
    pub(crate) fn keep_out(&self, peer: String, restored_at: Timestamp) {
        self.lock().keep_out(peer, restored_at);
    }

    /// Whether a peer that a restore has cut off would still be refused.
    pub(crate) fn is_kept_out(&self, peer: &str) -> bool {
        self.lock().is_kept_out(peer)
    }

    /// Opens the door again.
    pub(crate) fn reopen(&self) {
        self.lock().door = Door::Open;
    }

    /// Why the door is closed, if it is.
    pub(crate) fn closing(&self) -> Option<Closing> {
        match self.lock().door {
            Door::Open => None,
            Door::Closed(why) => Some(why),
        }
    }

    /// Waits until nobody is inside. Dropping the future is safe.
    pub(crate) async fn empty(&self) {
        self.until(|state| state.live.is_empty()).await;
    }

    /// Waits until no connection of that holder is inside. Dropping the future is safe.
    pub(crate) async fn gone(&self, holder: &Holder) {
        self.until(|state| state.of(holder).next().is_none()).await;
    }

    async fn until(&self, met: impl Fn(&State) -> bool) {
        loop {
            // Before the look, so that who leaves behind it is noticed.
            let left = self.left.notified();
            if met(&self.lock()) {
                return;
            }
            left.await;
        }
    }

    /// Tries again as long as who is in the way is going.
    async fn in_turn<T>(&self, attempt: impl Fn(&mut State) -> Result<T, Refused>) -> Result<T, Refused> {
        let leaving = |why: &Refused| match why {
            Refused::Held { leaving, .. } => Some(*leaving),
            Refused::Closed(_) | Refused::NoMount | Refused::Stale | Refused::Restored { .. } => None,
        };
        self.again_while(attempt, leaving).await
    }

    /// Tries again whenever a connection has gone. `leaving` says of an error whether all connections in the way are closing,
    /// or `None` where none is in the way, and trying again is no use.
    async fn again_while<T, E>(
        &self,
        attempt: impl Fn(&mut State) -> Result<T, E>,
        leaving: impl Fn(&E) -> Option<bool>,
    ) -> Result<T, E> {
        let began = tokio::time::Instant::now();
        loop {
            let left = self.left.notified();
            let outcome = attempt(&mut self.lock());
            let (time, interval) = match outcome.as_ref().err().and_then(&leaving) {
                None => return outcome,
                Some(true) => (LEAVING_TIME_MAX, LEAVING_TIME_MAX),
                Some(false) => (CLOSE_SEEN_TIME_MAX, CLOSE_SEEN_INTERVAL),
            };
            let rest = time.saturating_sub(began.elapsed());
            if rest.is_zero() {
                return outcome;
            }
            // Whether it was told or not, the next look decides.
            let _told = tokio::time::timeout(rest.min(interval), left).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing below panics half-way through a change, so a poisoned state is still whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InUse {
    fn list(self) -> Vec<Attachment> {
        self.by.into_values().collect()
    }
}

/// A connection's place in the list.
#[derive(Debug)]
pub(crate) struct AttachedGuard {
    attachments: Arc<Attachments>,
    key: u64,
    access: Access,
}

impl AttachedGuard {
    /// What the connection may do.
    pub(crate) fn access(&self) -> Access {
        self.access
    }
}

impl Drop for AttachedGuard {
    fn drop(&mut self) {
        self.attachments.lock().leave(self.key);
        self.attachments.left.notify_waiters();
    }
}

#[cfg(test)]
mod tests;
