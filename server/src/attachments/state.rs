//! What [`Attachments`](super::Attachments) keeps under its lock: rights, connections, and who may have which.

use super::{
    attachment::{Access, Attachment, Closing, Connection, Holder, InUse, Mounting, QUIET_TIME, Refused},
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
    pub(super) door: Door,
    pub(super) mode: AccessMode,
    key_next: u64,
    pub(super) live: BTreeMap<u64, Live>,
    pub(super) rights: BTreeMap<Session, Right>,
    /// Those who were attached when the door was closed.
    cut_off: BTreeSet<Holder>,
    /// The sessions that the last restore has ended, and when that was.
    ended: (Timestamp, BTreeSet<Session>),
    /// The peers that a restore has cut off.
    outdated: BTreeMap<String, Outdated>,
}

/// What a client wants to know of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asks {
    /// Whether it may come in, and it will.
    ToEnter,
    /// Whether it could.
    ToLook,
}

/// A peer whose cache is of before a restore.
#[derive(Clone, Copy, Debug)]
struct Outdated {
    restored_at: Timestamp,
    /// When it was cut off, or has last asked to come in.
    asked_at: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Door {
    Open,
    Closed(Closing),
}

/// A connection that was let in.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) connection: Connection,
    access: Access,
}

/// What a mount may do, whether somebody is connected or not.
#[derive(Debug)]
pub(super) struct Right {
    pub(super) mounting: Mounting,
    pub(super) access: Access,
    pub(super) standing: Standing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// No connection yet, since then.
    Pending(Instant),
    Connected,
    /// No connection any more, since then.
    Idle(Instant),
    /// See [`MountState::Stale`].
    Stale,
}

impl Outdated {
    fn was_quiet(&self) -> bool {
        self.asked_at.elapsed() >= QUIET_TIME
    }
}

impl Right {
    pub(super) fn state(&self) -> MountState {
        match self.standing {
            Standing::Pending(_) => MountState::Pending,
            Standing::Connected | Standing::Idle(_) => MountState::Mounted,
            Standing::Stale => MountState::Stale,
        }
    }
}

impl State {
    pub(super) fn new(mode: AccessMode) -> State {
        State {
            door: Door::Open,
            mode,
            key_next: 0,
            live: BTreeMap::new(),
            rights: BTreeMap::new(),
            cut_off: BTreeSet::new(),
            ended: (Timestamp::UNIX_EPOCH, BTreeSet::new()),
            outdated: BTreeMap::new(),
        }
    }

    /// What a connection of that holder may do.
    ///
    /// # Errors
    /// Why it may not come in.
    pub(super) fn admits(&mut self, holder: &Holder, asks: Asks) -> Result<Access, Refused> {
        self.is_open()?;
        let session = match holder {
            Holder::Peer(peer) => {
                self.is_up_to_date(peer, asks)?;
                return self.has_room_for(holder);
            }
            Holder::Mount(session) => session,
        };
        let Some(right) = self.rights.get(session) else {
            let (at, ended) = &self.ended;
            let by_restore = ended.contains(session);
            return Err(if by_restore { Refused::MountRestored { at: *at } } else { Refused::NoMount });
        };
        match right.state() {
            MountState::Pending | MountState::Mounted => Ok(right.access),
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
            AccessMode::Rwo => match self.writers().into_iter().find(|(other, _)| other != holder) {
                Some((other, by)) => Err(Refused::Held { leaving: self.is_leaving(&other), by }),
                None => Ok(Access::ReadWrite),
            },
        }
    }

    /// Refuses a peer whose cache is of before a restore. Keeps I5.
    fn is_up_to_date(&mut self, peer: &str, asks: Asks) -> Result<(), Refused> {
        let Some(outdated) = self.outdated.get_mut(peer) else { return Ok(()) };
        if outdated.was_quiet() {
            self.outdated.remove(peer);
            return Ok(());
        }
        match asks {
            Asks::ToEnter => outdated.asked_at = Instant::now(),
            // Whoever only looks has no cache, and must not keep the others at that address out.
            Asks::ToLook => {}
        }
        Err(Refused::Restored { at: outdated.restored_at })
    }

    /// Closes the door and cuts off everyone inside.
    pub(super) fn close(&mut self, why: Closing) {
        self.door = Door::Closed(why);
        let holders = self.live.values().map(|live| live.connection.holder.clone());
        self.cut_off = holders.chain(self.rights.keys().copied().map(Holder::Mount)).collect();
        self.live.values().for_each(|live| live.connection.line.cut_off());
    }

    /// What is behind the closed door was replaced: what those who were cut off know of it is of before.
    pub(super) fn restored(&mut self, at: Timestamp) -> Vec<String> {
        self.outdated.retain(|_, outdated| !outdated.was_quiet());
        self.ended = (at, BTreeSet::new());
        let mut peers = Vec::new();
        for holder in mem::take(&mut self.cut_off) {
            match holder {
                Holder::Mount(session) => {
                    self.ended.1.insert(session);
                }
                Holder::Peer(peer) => {
                    peers.push(peer.clone());
                    self.keep_out(peer, at);
                }
            }
        }
        peers
    }

    /// See [`Attachments::not_restored`](super::Attachments::not_restored).
    pub(super) fn not_restored(&mut self, at: Timestamp) {
        self.outdated.retain(|_, outdated| outdated.restored_at != at);
        self.ended.1.clear();
    }

    pub(super) fn keep_out(&mut self, peer: String, restored_at: Timestamp) {
        self.outdated.insert(peer, Outdated { restored_at, asked_at: Instant::now() });
    }

    pub(super) fn is_kept_out(&self, peer: &str) -> bool {
        self.outdated.get(peer).is_some_and(|outdated| !outdated.was_quiet())
    }

    /// A mount that waits for a connection waits from now on.
    pub(super) fn renew(&mut self, session: Session) {
        if let Some(Right { standing: Standing::Pending(since) | Standing::Idle(since), .. }) =
            self.rights.get_mut(&session)
        {
            *since = Instant::now();
        }
    }

    /// The session that the same holder has for the same place. A stale mount is none.
    pub(super) fn session_of(&self, mounting: &Mounting) -> Option<Session> {
        let same = |right: &Right| {
            let Mounting { holder, mount_point, .. } = &right.mounting;
            right.standing != Standing::Stale
                && (holder, mount_point) == (&mounting.holder, &mounting.mount_point)
        };
        self.rights.iter().find(|(_, right)| same(right)).map(|(session, _)| *session)
    }

    /// Those who are in the way of a change, and whether all of them go.
    pub(super) fn in_use(&self, by: BTreeMap<Holder, Attachment>) -> InUse {
        InUse { leaving: by.keys().all(|holder| self.is_leaving(holder)), by }
    }

    /// Whether nothing is left of a holder but connections that end.
    fn is_leaving(&self, holder: &Holder) -> bool {
        let lasts = match holder {
            Holder::Peer(_) => false,
            Holder::Mount(session) => self.rights.contains_key(session),
        };
        !lasts && self.of(holder).all(|live| live.connection.line.is_ending())
    }

    pub(super) fn is_open(&self) -> Result<(), Refused> {
        match self.door {
            Door::Open => Ok(()),
            Door::Closed(why) => Err(Refused::Closed(why)),
        }
    }

    /// Takes in a connection that [`State::admits`] has let in. Its key.
    pub(super) fn enter(&mut self, connection: Connection, access: Access) -> u64 {
        if let Some(right) = self.right_of(&connection.holder) {
            right.standing = Standing::Connected;
        }
        let key = self.key_next;
        self.key_next += 1;
        self.live.insert(key, Live { connection, access });
        key
    }

    /// Forgets a connection that has gone.
    pub(super) fn leave(&mut self, key: u64) {
        let Some(Live { connection: Connection { holder, .. }, .. }) = self.live.remove(&key) else { return };
        if self.of(&holder).next().is_none()
            && let Some(right) = self.right_of(&holder)
        {
            right.standing = Standing::Idle(Instant::now());
        }
    }

    fn right_of(&mut self, holder: &Holder) -> Option<&mut Right> {
        match holder {
            Holder::Peer(_) => None,
            Holder::Mount(session) => self.rights.get_mut(session),
        }
    }

    /// The connections of a holder.
    pub(super) fn of<'a>(&'a self, holder: &'a Holder) -> impl Iterator<Item = &'a Live> {
        self.live.values().filter(move |live| live.connection.holder == *holder)
    }

    /// Those of whom at least one connection may write, and mounts that give the right to.
    pub(super) fn writers(&self) -> BTreeMap<Holder, Attachment> {
        let mut writers = self.attachments();
        writers.retain(|_, attachment| !attachment.read_only);
        writers
    }

    /// Everyone. Stale mounts give no right, so they are not among them.
    pub(super) fn attachments(&self) -> BTreeMap<Holder, Attachment> {
        let mut attachments: BTreeMap<Holder, Attachment> = self
            .rights
            .iter()
            .filter(|(_, right)| right.standing != Standing::Stale)
            .map(|(session, right)| (Holder::Mount(*session), right.attachment()))
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

impl Right {
    fn attachment(&self) -> Attachment {
        let Mounting { holder, export_name, since, mount_point: _ } = self.mounting.clone();
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
    /// As if so much time had gone by for the peers that a restore has cut off.
    pub(super) fn pass(&mut self, time: std::time::Duration) {
        self.outdated.values_mut().for_each(|outdated| {
            outdated.asked_at = outdated.asked_at.checked_sub(time).expect("the machine runs for longer");
        });
    }
}
