//! Who is attached to an export, and how they are cut off.
//!
//! One `Attachments` belongs to one volume or snapshot. Connections come in on worker threads and leave by dropping their
//! guard; the admin side counts them, closes the door, cuts them off and waits. Door and list are one state under one
//! lock, so a client either is in the list that a deletion looks at, or finds the door closed: it cannot slip in between.

use jiff::Timestamp;
use serde::Serialize;
use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::Notify;

/// The live connections of one export.
#[derive(Debug)]
pub(crate) struct Attachments {
    state: Mutex<State>,
    /// Told when the last live connection has gone.
    emptied: Notify,
}

#[derive(Debug)]
struct State {
    door: Door,
    key_next: u64,
    live: BTreeMap<u64, Connection>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Door {
    Open,
    Closed(Closing),
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

/// One live NBD connection.
pub(crate) struct Connection {
    /// Who it is: all connections of one holder are one attachment (a Unix peer's process, a TCP peer's address).
    pub(crate) holder: String,
    /// The export name it asked for.
    pub(crate) export_name: String,
    pub(crate) access: Access,
    pub(crate) since: Timestamp,
    /// Ends the connection soon, without waiting. Called from any thread, perhaps more than once, under this export's
    /// lock: it must neither block nor come back here.
    pub(crate) cut_off: Arc<dyn Fn() + Send + Sync>,
}

/// What a connection may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    ReadWrite,
    ReadOnly,
}

/// One attachment: the connections of one holder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Attachment {
    pub(crate) holder: String,
    pub(crate) export_name: String,
    /// When its oldest live connection came.
    pub(crate) mounted_at: Timestamp,
    /// Whether none of its connections may write.
    pub(crate) read_only: bool,
    pub(crate) connections: usize,
}

impl fmt::Display for Closing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Closing::Deletion => "the export is being deleted",
            Closing::Restore => "the volume is being restored: connect again in a moment",
        })
    }
}

impl std::error::Error for Closing {}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("holder", &self.holder)
            .field("access", &self.access)
            .finish_non_exhaustive()
    }
}

impl Attachments {
    pub(crate) fn new() -> Arc<Attachments> {
        let state = State { door: Door::Open, key_next: 0, live: BTreeMap::new() };
        Arc::new(Attachments { state: Mutex::new(state), emptied: Notify::new() })
    }

    /// Lets a connection in; it is gone when the guard is dropped.
    ///
    /// # Errors
    /// Why the door is closed; nothing was done.
    pub(crate) fn attach(self: &Arc<Attachments>, connection: Connection) -> Result<AttachedGuard, Closing> {
        let mut state = self.lock();
        match state.door {
            Door::Closed(why) => Err(why),
            Door::Open => {
                let key = state.key_next;
                state.key_next += 1;
                state.live.insert(key, connection);
                Ok(AttachedGuard { attachments: Arc::clone(self), key })
            }
        }
    }

    /// Who is attached now, by holder.
    pub(crate) fn list(&self) -> Vec<Attachment> {
        self.lock().attachments()
    }

    /// How many are attached now.
    pub(crate) fn count(&self) -> usize {
        self.list().len()
    }

    /// Closes the door and cuts off everyone inside, unless somebody is in the way. They leave a little later: see
    /// [`Attachments::empty`].
    ///
    /// # Errors
    /// Those who are in the way; the door stays open, and nobody was cut off.
    pub(crate) fn close(&self, why: Closing, in_the_way: InTheWay) -> Result<(), Vec<Attachment>> {
        let mut state = self.lock();
        let mut blocking = match in_the_way {
            InTheWay::Nobody => Vec::new(),
            InTheWay::Everyone | InTheWay::Writers => state.attachments(),
        };
        if in_the_way == InTheWay::Writers {
            blocking.retain(|attachment| !attachment.read_only);
        }
        if !blocking.is_empty() {
            return Err(blocking);
        }
        state.door = Door::Closed(why);
        state.live.values().for_each(|connection| (connection.cut_off)());
        Ok(())
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
        loop {
            // Before the look, so that who leaves behind it is noticed.
            let emptied = self.emptied.notified();
            if self.lock().live.is_empty() {
                return;
            }
            emptied.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing below panics half-way through a change, so a poisoned state is still whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn attachments(&self) -> Vec<Attachment> {
        let mut by_holder: BTreeMap<&str, Attachment> = BTreeMap::new();
        for connection in self.live.values() {
            let read_only = connection.access == Access::ReadOnly;
            by_holder
                .entry(&connection.holder)
                .and_modify(|attachment| {
                    attachment.connections += 1;
                    attachment.read_only &= read_only;
                    attachment.mounted_at = attachment.mounted_at.min(connection.since);
                })
                .or_insert_with(|| Attachment {
                    holder: connection.holder.clone(),
                    export_name: connection.export_name.clone(),
                    mounted_at: connection.since,
                    read_only,
                    connections: 1,
                });
        }
        by_holder.into_values().collect()
    }
}

/// A connection's place in the list.
#[derive(Debug)]
pub(crate) struct AttachedGuard {
    attachments: Arc<Attachments>,
    key: u64,
}

impl Drop for AttachedGuard {
    fn drop(&mut self) {
        let mut state = self.attachments.lock();
        state.live.remove(&self.key);
        if state.live.is_empty() {
            self.attachments.emptied.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn connection(holder: &str, access: Access, cut_off: Arc<dyn Fn() + Send + Sync>) -> Connection {
        Connection {
            holder: holder.into(),
            export_name: "disk".into(),
            access,
            since: crate::record::now(),
            cut_off,
        }
    }

    fn quiet(holder: &str) -> Connection {
        connection(holder, Access::ReadWrite, Arc::new(|| ()))
    }

    #[test]
    fn connections_of_one_holder_are_one_attachment() {
        let attachments = Attachments::new();
        let first = attachments.attach(quiet("pid 1")).unwrap();
        let _second = attachments.attach(connection("pid 1", Access::ReadOnly, Arc::new(|| ()))).unwrap();
        let _other = attachments.attach(connection("pid 2", Access::ReadOnly, Arc::new(|| ()))).unwrap();
        let list = attachments.list();
        assert_eq!(list.len(), 2);
        assert_eq!((list[0].connections, list[0].read_only), (2, false));
        assert_eq!((list[1].connections, list[1].read_only), (1, true));
        drop(first);
        assert_eq!(attachments.list()[0].connections, 1);
    }

    #[test]
    fn a_closed_door_lets_nobody_in_until_it_is_opened_again() {
        let attachments = Attachments::new();
        attachments.close(Closing::Restore, InTheWay::Everyone).unwrap();
        assert_eq!(attachments.attach(quiet("a")).unwrap_err(), Closing::Restore);
        assert_eq!(attachments.closing(), Some(Closing::Restore));
        attachments.reopen();
        assert_eq!(attachments.closing(), None);
        let inside = attachments.attach(quiet("a")).unwrap();
        assert_eq!(attachments.close(Closing::Deletion, InTheWay::Everyone).unwrap_err().len(), 1);
        assert!(attachments.attach(quiet("b")).is_ok(), "the door stayed open");
        drop(inside);
    }

    #[test]
    fn readers_are_cut_off_where_only_writers_are_in_the_way() {
        let attachments = Attachments::new();
        let calls = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&calls);
        let cut_off = move || {
            count.fetch_add(1, Ordering::Relaxed);
        };
        let _reader = attachments.attach(connection("r", Access::ReadOnly, Arc::new(cut_off))).unwrap();
        let writer = attachments.attach(quiet("w")).unwrap();
        let blocking = attachments.close(Closing::Restore, InTheWay::Writers).unwrap_err();
        assert_eq!((blocking.len(), blocking[0].holder.as_str()), (1, "w"));
        assert_eq!(calls.load(Ordering::Relaxed), 0);
        drop(writer);
        attachments.close(Closing::Restore, InTheWay::Writers).unwrap();
        assert_eq!(calls.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn cutting_off_reaches_everyone_and_waiting_ends_when_they_are_gone() {
        let attachments = Attachments::new();
        let calls = Arc::new(AtomicUsize::new(0));
        let guards: Vec<AttachedGuard> = (0..3)
            .map(|i| {
                let calls = Arc::clone(&calls);
                let cut_off = move || {
                    calls.fetch_add(1, Ordering::Relaxed);
                };
                attachments
                    .attach(connection(&format!("pid {i}"), Access::ReadWrite, Arc::new(cut_off)))
                    .unwrap()
            })
            .collect();
        attachments.close(Closing::Deletion, InTheWay::Nobody).unwrap();
        assert_eq!(calls.load(Ordering::Relaxed), 3);
        let leaving = tokio::task::spawn_blocking(move || drop(guards));
        attachments.empty().await;
        leaving.await.unwrap();
        assert_eq!(attachments.count(), 0);
        attachments.empty().await;
    }
}
