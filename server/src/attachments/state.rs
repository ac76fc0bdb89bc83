//! What [`Attachments`](super::Attachments) keeps under its lock: reservations, connections, and
//! who may have which.

use super::{
    attachment::{
        Access, Attachment, Closing, Connection, FENCE_TIME, Holder, InUse, MountInfo, Refused,
    },
    session::Session,
};
use crate::api::{AccessMode, MountState};
use jiff::Timestamp;
use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    time::Instant,
};

#[derive(Debug)]
pub(super) struct State {
    pub(super) closing: Option<Closing>,
    pub(super) mode: AccessMode,
    key_next: u64,
    pub(super) live: BTreeMap<u64, Live>,
    pub(super) reservations: BTreeMap<Session, Reservation>,
    /// The holders that were attached when the export was closed.
    cut_off: BTreeSet<Holder>,
    /// The sessions that the last restore has ended, and when that was.
    ended: (Timestamp, BTreeSet<Session>),
    /// The peers that a restore has disconnected.
    fenced: BTreeMap<String, Fenced>,
}

/// Why a client asks whether it may attach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// It attaches if it may.
    Connect,
    /// It only asks.
    Inspect,
}

/// A peer whose cache is of before a restore.
#[derive(Clone, Copy, Debug)]
struct Fenced {
    restored_at: Timestamp,
    /// When it was disconnected, or has last asked to come in.
    asked_at: Instant,
}

/// A connection that was let in.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) connection: Connection,
    access: Access,
}

/// What a mount may do, whether it has a connection or not.
#[derive(Debug)]
pub(super) struct Reservation {
    pub(super) info: MountInfo,
    pub(super) access: Access,
    pub(super) state: ReservationState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReservationState {
    /// No connection yet, since then.
    Pending(Instant),
    Connected,
    /// No connection any more, since then.
    Idle(Instant),
    /// See [`MountState::Stale`].
    Stale,
}

impl Fenced {
    fn was_quiet(&self) -> bool {
        self.asked_at.elapsed() >= FENCE_TIME
    }
}

impl Reservation {
    pub(super) fn state(&self) -> MountState {
        match self.state {
            ReservationState::Pending(_) => MountState::Pending,
            ReservationState::Connected | ReservationState::Idle(_) => MountState::Mounted,
            ReservationState::Stale => MountState::Stale,
        }
    }
}

impl State {
    pub(super) fn new(mode: AccessMode) -> State {
        State {
            closing: None,
            mode,
            key_next: 0,
            live: BTreeMap::new(),
            reservations: BTreeMap::new(),
            cut_off: BTreeSet::new(),
            ended: (Timestamp::UNIX_EPOCH, BTreeSet::new()),
            fenced: BTreeMap::new(),
        }
    }

    /// What a connection of that holder may do.
    ///
    /// # Errors
    /// Why it may not come in.
    pub(super) fn admits(&mut self, holder: &Holder, purpose: Purpose) -> Result<Access, Refused> {
        self.is_open()?;
        let session = match holder {
            Holder::Peer(peer) => {
                self.is_up_to_date(peer, purpose)?;
                return self.has_room_for(holder);
            }
            Holder::Mount(session) => session,
        };
        let Some(reservation) = self.reservations.get(session) else {
            let (at, ended) = &self.ended;
            let by_restore = ended.contains(session);
            return Err(if by_restore {
                Refused::MountRestored { at: *at }
            } else {
                Refused::NoMount
            });
        };
        match reservation.state() {
            MountState::Pending | MountState::Mounted => Ok(reservation.access),
            MountState::Stale => Err(Refused::Stale),
        }
    }

    /// What a new attachment of that holder may do, beside those of others.
    ///
    /// # Errors
    /// Why there may be none.
    pub(super) fn has_room_for(&self, holder: &Holder) -> Result<Access, Refused> {
        self.is_open()?;
        match self.mode {
            AccessMode::Rox => Ok(Access::ReadOnly),
            AccessMode::Rwx => Ok(Access::ReadWrite),
            AccessMode::Rwo => {
                match self.writers().into_iter().find(|(other, _)| other != holder) {
                    Some((other, by)) => {
                        Err(Refused::Held { leaving: self.is_leaving(&other), by })
                    }
                    None => Ok(Access::ReadWrite),
                }
            }
        }
    }

    /// Refuses a peer whose cache is of before a restore. Keeps I5.
    fn is_up_to_date(&mut self, peer: &str, purpose: Purpose) -> Result<(), Refused> {
        let Some(fenced) = self.fenced.get_mut(peer) else { return Ok(()) };
        if fenced.was_quiet() {
            self.fenced.remove(peer);
            return Ok(());
        }
        match purpose {
            Purpose::Connect => fenced.asked_at = Instant::now(),
            // A client that only looks has no cache, and must not keep the others at that address
            // out.
            Purpose::Inspect => {}
        }
        Err(Refused::Restored { at: fenced.restored_at })
    }

    /// Closes the export and disconnects every client.
    pub(super) fn close(&mut self, why: Closing) {
        self.closing = Some(why);
        let holders = self.live.values().map(|live| live.connection.holder.clone());
        self.cut_off =
            holders.chain(self.reservations.keys().copied().map(Holder::Mount)).collect();
        self.live.values().for_each(|live| live.connection.handle.disconnect());
    }

    /// The content of the closed export was replaced: what the disconnected clients have cached is
    /// of before.
    pub(super) fn restored(&mut self, at: Timestamp) -> Vec<String> {
        self.fenced.retain(|_, fenced| !fenced.was_quiet());
        self.ended = (at, BTreeSet::new());
        let mut peers = Vec::new();
        for holder in mem::take(&mut self.cut_off) {
            match holder {
                Holder::Mount(session) => {
                    self.ended.1.insert(session);
                }
                Holder::Peer(peer) => {
                    peers.push(peer.clone());
                    self.fence(peer, at);
                }
            }
        }
        peers
    }

    /// See [`Attachments::not_restored`](super::Attachments::not_restored).
    pub(super) fn not_restored(&mut self, at: Timestamp) {
        self.fenced.retain(|_, fenced| fenced.restored_at != at);
        self.ended.1.clear();
    }

    pub(super) fn fence(&mut self, peer: String, restored_at: Timestamp) {
        self.fenced.insert(peer, Fenced { restored_at, asked_at: Instant::now() });
    }

    pub(super) fn is_fenced(&self, peer: &str) -> bool {
        self.fenced.get(peer).is_some_and(|fenced| !fenced.was_quiet())
    }

    /// A mount that waits for a connection waits from now on.
    pub(super) fn renew(&mut self, session: Session) {
        if let Some(Reservation {
            state: ReservationState::Pending(since) | ReservationState::Idle(since),
            ..
        }) = self.reservations.get_mut(&session)
        {
            *since = Instant::now();
        }
    }

    /// The session that the same holder has for the same place. A stale mount is none.
    pub(super) fn session_of(&self, info: &MountInfo) -> Option<Session> {
        let same = |reservation: &Reservation| {
            let MountInfo { holder, mount_point, .. } = &reservation.info;
            reservation.state != ReservationState::Stale
                && (holder, mount_point) == (&info.holder, &info.mount_point)
        };
        self.reservations
            .iter()
            .find(|(_, reservation)| same(reservation))
            .map(|(session, _)| *session)
    }

    /// The attachments that block a change, and whether all of them are leaving.
    pub(super) fn in_use(&self, by: BTreeMap<Holder, Attachment>) -> InUse {
        InUse { leaving: by.keys().all(|holder| self.is_leaving(holder)), by }
    }

    /// Whether nothing is left of a holder but connections that end.
    fn is_leaving(&self, holder: &Holder) -> bool {
        let lasts = match holder {
            Holder::Peer(_) => false,
            Holder::Mount(session) => self.reservations.contains_key(session),
        };
        !lasts && self.of(holder).all(|live| live.connection.handle.is_closing())
    }

    pub(super) fn is_open(&self) -> Result<(), Refused> {
        self.closing.map_or(Ok(()), |why| Err(Refused::Closed(why)))
    }

    /// Takes in a connection that [`State::admits`] has let in. Its key.
    pub(super) fn enter(&mut self, connection: Connection, access: Access) -> u64 {
        if let Some(reservation) = self.reservation_of(&connection.holder) {
            reservation.state = ReservationState::Connected;
        }
        let key = self.key_next;
        self.key_next += 1;
        self.live.insert(key, Live { connection, access });
        key
    }

    /// Forgets a connection that has gone.
    pub(super) fn leave(&mut self, key: u64) {
        let Some(Live { connection: Connection { holder, .. }, .. }) = self.live.remove(&key)
        else {
            return;
        };
        if self.of(&holder).next().is_none()
            && let Some(reservation) = self.reservation_of(&holder)
        {
            reservation.state = ReservationState::Idle(Instant::now());
        }
    }

    fn reservation_of(&mut self, holder: &Holder) -> Option<&mut Reservation> {
        match holder {
            Holder::Peer(_) => None,
            Holder::Mount(session) => self.reservations.get_mut(session),
        }
    }

    /// The connections of a holder.
    pub(super) fn of<'a>(&'a self, holder: &'a Holder) -> impl Iterator<Item = &'a Live> {
        self.live.values().filter(move |live| live.connection.holder == *holder)
    }

    /// The holders with a connection that may write, and the mounts that reserve that.
    pub(super) fn writers(&self) -> BTreeMap<Holder, Attachment> {
        let mut writers = self.attachments();
        writers.retain(|_, attachment| !attachment.read_only);
        writers
    }

    /// All of them. Stale mounts reserve nothing, so they are not among them.
    pub(super) fn attachments(&self) -> BTreeMap<Holder, Attachment> {
        let mut attachments: BTreeMap<Holder, Attachment> = self
            .reservations
            .iter()
            .filter(|(_, reservation)| reservation.state != ReservationState::Stale)
            .map(|(session, reservation)| (Holder::Mount(*session), reservation.attachment()))
            .collect();
        for Live { connection, access } in self.live.values() {
            let read_only = *access == Access::ReadOnly;
            attachments
                .entry(connection.holder.clone())
                .and_modify(|attachment| {
                    attachment.connections += 1;
                    attachment.read_only &= read_only;
                    attachment.mounted_at = attachment.mounted_at.min(connection.since);
                })
                .or_insert_with(|| connection.attachment(read_only));
        }
        attachments
    }
}

impl Reservation {
    fn attachment(&self) -> Attachment {
        let MountInfo { holder, export_name, since, mount_point: _ } = self.info.clone();
        Attachment {
            holder,
            export_name,
            mounted_at: since,
            read_only: self.access == Access::ReadOnly,
            connections: 0,
            state: self.state(),
        }
    }
}

impl Connection {
    /// What it is an attachment as, alone.
    fn attachment(&self, read_only: bool) -> Attachment {
        Attachment {
            holder: match &self.holder {
                Holder::Peer(peer) => peer.clone(),
                Holder::Mount(_) => "a sandbox that is being unmounted".to_owned(),
            },
            export_name: self.export_name.clone(),
            mounted_at: self.since,
            read_only,
            connections: 1,
            state: MountState::Mounted,
        }
    }
}

#[cfg(test)]
impl State {
    /// As if so much time had gone by for the peers that a restore has disconnected.
    pub(super) fn pass(&mut self, time: std::time::Duration) {
        self.fenced.values_mut().for_each(|fenced| {
            fenced.asked_at =
                fenced.asked_at.checked_sub(time).expect("the machine runs for longer");
        });
    }
}
