//! Who is attached to a volume, and how they are cut off.
//!
//! One `Attachments` belongs to one volume. Connections come in on worker threads and leave by dropping their guard;
//! the admin side counts them, closes the door, cuts them off and waits. Door and list are one state under one lock, so
//! a client either is in the list that a deletion looks at, or finds the door closed: it cannot slip in between.

use jiff::Timestamp;
use serde::Serialize;
use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::watch;

/// The live connections of one volume.
#[derive(Debug)]
pub(crate) struct Attachments {
    state: Mutex<State>,
    /// Follows the number of live connections, for those who wait until it is zero.
    live_count: watch::Sender<usize>,
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
    /// The volume is being deleted.
    Closed,
}

/// One live NBD connection.
pub(crate) struct Connection {
    /// Who it is: all connections of one holder are one attachment (a Unix peer's process, a TCP peer's address).
    pub(crate) holder: String,
    /// The export name it asked for.
    pub(crate) export_name: String,
    pub(crate) access: Access,
    pub(crate) since: Timestamp,
    /// Ends the connection soon, without waiting. Called from any thread, perhaps more than once, under this volume's
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

/// The volume is being deleted and takes no new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct VolumeClosing;

impl fmt::Display for VolumeClosing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the volume is being deleted")
    }
}

impl std::error::Error for VolumeClosing {}

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
        Arc::new(Attachments { state: Mutex::new(state), live_count: watch::Sender::new(0) })
    }

    /// Lets a connection in; it is gone when the guard is dropped.
    ///
    /// # Errors
    /// [`VolumeClosing`]: nothing was done.
    pub(crate) fn attach(
        self: &Arc<Attachments>,
        connection: Connection,
    ) -> Result<AttachedGuard, VolumeClosing> {
        let mut state = self.lock();
        match state.door {
            Door::Closed => Err(VolumeClosing),
            Door::Open => {
                let key = state.key_next;
                state.key_next += 1;
                state.live.insert(key, connection);
                self.live_count.send_replace(state.live.len());
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

    /// Closes the door if nobody is inside.
    ///
    /// # Errors
    /// Those who are; the door stays open.
    pub(crate) fn close_if_idle(&self) -> Result<(), Vec<Attachment>> {
        let mut state = self.lock();
        if state.live.is_empty() {
            state.door = Door::Closed;
            Ok(())
        } else {
            Err(state.attachments())
        }
    }

    /// Closes the door and cuts off everyone inside. They leave a little later: see [`Attachments::empty`].
    pub(crate) fn close_and_cut_off(&self) {
        let mut state = self.lock();
        state.door = Door::Closed;
        for connection in state.live.values() {
            (connection.cut_off)();
        }
    }

    /// Opens the door again, after a deletion that failed.
    pub(crate) fn reopen(&self) {
        self.lock().door = Door::Open;
    }

    /// Waits until nobody is inside. Dropping the future is safe.
    pub(crate) async fn empty(&self) {
        let mut count = self.live_count.subscribe();
        // The sender lives in `self`, so waiting cannot fail.
        let _closed = count.wait_for(|live| *live == 0).await;
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
        self.attachments.live_count.send_replace(state.live.len());
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
        attachments.close_if_idle().unwrap();
        assert_eq!(attachments.attach(quiet("a")).unwrap_err(), VolumeClosing);
        attachments.reopen();
        let inside = attachments.attach(quiet("a")).unwrap();
        assert_eq!(attachments.close_if_idle().unwrap_err().len(), 1);
        assert!(attachments.attach(quiet("b")).is_ok(), "the door stayed open");
        drop(inside);
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
        attachments.close_and_cut_off();
        assert_eq!(calls.load(Ordering::Relaxed), 3);
        let leaving = tokio::task::spawn_blocking(move || drop(guards));
        attachments.empty().await;
        leaving.await.unwrap();
        assert_eq!(attachments.count(), 0);
        attachments.empty().await;
    }
}
