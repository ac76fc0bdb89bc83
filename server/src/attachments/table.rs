//! The attachments of one export, for connections and the admin side.

use super::{
    attachment::{
        Access, Attachment, BlockedBy, Closing, Connection, Granted, Holder, InUse, MountInfo, MountStatus,
        Refused,
    },
    session::Session,
    state::{Purpose, Reservation, ReservationState, State},
};
use crate::api::{AccessMode, MountState};
use jiff::Timestamp;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::Notify;

/// Longest wait for a holder that has closed its connections while what it sent is still being
/// answered. Far more than that takes on a disk that works. A guess, not tuned.
pub(super) const LEAVING_TIME_MAX: Duration = Duration::from_secs(5);

/// How long a request that is refused because of a connection waits for it to be seen closing. A
/// client may have closed it already, while the kernel still delivers that, or a process that the
/// client is just starting still has a copy of the descriptor. (Seen once in some ten thousand on a
/// busy machine.)
pub(super) const CLOSE_SEEN_TIME_MAX: Duration = Duration::from_millis(50);
/// How often it looks meanwhile.
const CLOSE_SEEN_INTERVAL: Duration = Duration::from_millis(5);

/// The attachments of one export.
#[derive(Debug)]
pub(crate) struct Attachments {
    state: Mutex<State>,
    /// Told whenever a connection has gone.
    left: Notify,
}

impl Attachments {
    pub(crate) fn new(mode: AccessMode) -> Arc<Attachments> {
        Arc::new(Attachments { state: Mutex::new(State::new(mode)), left: Notify::new() })
    }

    /// Lets a connection in; it is gone when the guard is dropped. One that stands in the way and
    /// is just going is waited for: a program that ends and its successor that starts at once would
    /// else meet here. Dropping the future is safe.
    ///
    /// # Errors
    /// Why not; nothing was done.
    pub(crate) async fn attach(
        self: &Arc<Attachments>,
        connection: Connection,
    ) -> Result<AttachedGuard, Refused> {
        let (key, access) = self
            .in_turn(|state| {
                let access = state.admits(&connection.holder, Purpose::Connect)?;
                Ok((state.enter(connection.clone(), access), access))
            })
            .await?;
        Ok(AttachedGuard { attachments: Arc::clone(self), key, access })
    }

    /// What [`Attachments::attach`] would say, for a client that only asks.
    pub(crate) async fn would_attach(&self, holder: &Holder) -> Result<Access, Refused> {
        self.in_turn(|state| state.admits(holder, Purpose::Inspect)).await
    }

    /// Reserves access for a session that has none yet, or says which one its holder has for the
    /// same place. Attachments that are just going are waited for.
    ///
    /// # Errors
    /// Why not; nothing was done.
    pub(crate) async fn mount(&self, session: Session, info: MountInfo) -> Result<Granted, Refused> {
        let holder = Holder::Mount(session);
        self.in_turn(|state| {
            state.is_open()?;
            if let Some(same) = state.session_of(&info) {
                state.renew(same);
                return Ok(Granted::Again(same));
            }
            let access = state.has_room_for(&holder)?;
            state.reservations.insert(
                session,
                Reservation { info: info.clone(), access, state: ReservationState::Pending(Instant::now()) },
            );
            Ok(Granted::New(access))
        })
        .await
    }

    /// Gives a reservation that an earlier start of the server has given: `state` is pending or
    /// stale.
    pub(crate) fn mount_again(&self, session: Session, info: MountInfo, access: Access, state: MountState) {
        let state = match state {
            MountState::Pending | MountState::Mounted => ReservationState::Pending(Instant::now()),
            MountState::Stale => ReservationState::Stale,
        };
        self.lock().reservations.insert(session, Reservation { info, access, state });
    }

    /// Takes a reservation back and disconnects its clients; they leave a little later, see
    /// [`Attachments::gone`].
    pub(crate) fn unmount(&self, session: Session) {
        let mut state = self.lock();
        state.reservations.remove(&session);
        state.of(&Holder::Mount(session)).for_each(|live| live.connection.handle.disconnect());
    }

    /// Takes all reservations back, of an export that is closed and has no connection.
    pub(crate) fn unmount_all(&self) -> Vec<Session> {
        std::mem::take(&mut self.lock().reservations).into_keys().collect()
    }

    /// Takes a reservation back that has been without a connection for `grace`. Whether it was.
    pub(crate) fn expire(&self, session: Session, grace: Duration) -> bool {
        let mut state = self.lock();
        let since = match state.reservations.get(&session).map(|reservation| &reservation.state) {
            Some(ReservationState::Pending(since) | ReservationState::Idle(since)) => *since,
            Some(ReservationState::Connected | ReservationState::Stale) | None => return false,
        };
        since.elapsed() >= grace && state.reservations.remove(&session).is_some()
    }

    /// A mount as it is now.
    pub(crate) fn mount_status(&self, session: Session) -> Option<MountStatus> {
        let state = self.lock();
        let reservation = state.reservations.get(&session)?;
        let connections = state.of(&Holder::Mount(session)).count();
        Some(MountStatus { state: reservation.state(), access: reservation.access, connections })
    }

    /// Changes which clients may attach from now on. Blocking attachments that are just leaving are
    /// waited for.
    ///
    /// # Errors
    /// The attachments that it would break; nothing was done.
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

    /// Closes the export and disconnects every client, unless an attachment blocks that. One that
    /// blocks and is just leaving is waited for: a client that has closed its connection is gone
    /// for itself before it is for us. The disconnected ones leave a little later: see
    /// [`Attachments::empty`].
    ///
    /// # Errors
    /// The attachments that block; the export stays open, and no client was disconnected.
    pub(crate) async fn close(&self, why: Closing, blocked_by: BlockedBy) -> Result<(), Vec<Attachment>> {
        let close = |state: &mut State| {
            let blocking = match blocked_by {
                BlockedBy::Nothing => BTreeMap::new(),
                BlockedBy::Attachments => state.attachments(),
                BlockedBy::Writers => state.writers(),
            };
            if !blocking.is_empty() {
                return Err(state.in_use(blocking));
            }
            state.close(why);
            Ok(())
        };
        self.again_while(close, |in_use| Some(in_use.leaving)).await.map_err(InUse::list)
    }

    /// The closed volume is restored. The peers that were disconnected under plain names.
    pub(crate) fn restored(&self, at: Timestamp) -> Vec<String> {
        self.lock().restored(at)
    }

    /// It was not, after all.
    pub(crate) fn not_restored(&self, at: Timestamp) {
        self.lock().not_restored(at);
    }

    /// Keeps a peer out that a restore has disconnected before the start of the server.
    pub(crate) fn fence(&self, peer: String, restored_at: Timestamp) {
        self.lock().fence(peer, restored_at);
    }

    /// Whether a peer that a restore has disconnected would still be refused.
    pub(crate) fn is_fenced(&self, peer: &str) -> bool {
        self.lock().is_fenced(peer)
    }

    /// Opens the export again.
    pub(crate) fn reopen(&self) {
        self.lock().closing = None;
    }

    /// Why the export is closed, if it is.
    pub(crate) fn closing(&self) -> Option<Closing> {
        self.lock().closing
    }

    /// Waits until there is no connection. Dropping the future is safe.
    pub(crate) async fn empty(&self) {
        self.until(|state| state.live.is_empty()).await;
    }

    /// Waits until there is no connection of that holder. Dropping the future is safe.
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
            Refused::Closed(_)
            | Refused::NoMount
            | Refused::Stale
            | Refused::Restored { .. }
            | Refused::MountRestored { .. } => None,
        };
        self.again_while(attempt, leaving).await
    }

    /// Tries again whenever a connection has gone. `leaving` says of an error whether all blocking
    /// connections are closing, or `None` where none blocks, and trying again is no use.
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

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing below panics half-way through a change, so a poisoned state is still whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
