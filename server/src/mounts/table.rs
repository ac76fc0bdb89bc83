//! All mounts in memory, and their way into the file and out of it.

use super::file::{self, Content, FencedRecord, MountRecord, MountsError, Tuning};
use crate::{
    api::MountState,
    attachments::{Access, Attachments, MountInfo, MountStatus, Session},
};
use jiff::Timestamp;
use sandstone_storage::{StagingFate, Volume};
use std::{
    cmp::Reverse,
    collections::BTreeMap,
    io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use uuid::Uuid;

/// Name of the file, in the data directory.
pub(crate) const FILE_NAME: &str = "mounts.json";

/// How often mounts are held against their grace; a mount ends that much late at most.
const EXPIRY_INTERVAL: Duration = Duration::from_millis(500);

/// One mount.
pub(crate) struct Mount {
    pub(crate) record: MountRecord,
    /// The volume as this mount has tuned it; all its connections share it.
    pub(crate) volume: Volume,
    attachments: Arc<Attachments>,
}

/// All of them.
pub(crate) struct Mounts {
    path: PathBuf,
    /// The number of this start of the store.
    epoch: u32,
    kept: Mutex<Kept>,
    /// The change up to which the file is written. Held while it is written, so that changes that
    /// come meanwhile share the next write.
    saved: tokio::sync::Mutex<u64>,
}

#[derive(Default)]
struct Kept {
    changes: u64,
    mounts: BTreeMap<Session, Arc<Mount>>,
    fenced: Vec<Fenced>,
}

/// A peer that a restore has disconnected, with the attachments that know whether it is refused
/// still.
struct Fenced {
    record: FencedRecord,
    attachments: Arc<Attachments>,
}

impl Mount {
    /// A mount of a volume with these attachments.
    pub(crate) fn new(
        record: MountRecord,
        volume: &Volume,
        attachments: &Arc<Attachments>,
    ) -> Mount {
        let tuned = if record.tuning == Tuning::default() {
            volume.clone()
        } else {
            volume.with_override(record.tuning.into())
        };
        Mount { record, volume: tuned, attachments: Arc::clone(attachments) }
    }

    /// How it is now; `None` when it has just ended.
    pub(crate) fn status(&self) -> Option<MountStatus> {
        self.attachments.mount_status(self.record.session)
    }
}

impl MountRecord {
    /// What others are told.
    pub(crate) fn info(&self) -> MountInfo {
        MountInfo {
            holder: format!("sandbox {}", self.sandbox_id),
            export_name: self.volume_id.to_string(),
            mount_point: self.mount_point.clone(),
            since: self.mounted_at,
        }
    }

    fn access(&self) -> Access {
        if self.read_only { Access::ReadOnly } else { Access::ReadWrite }
    }
}

impl Mounts {
    /// None yet, of the start of that number. `path` is the file.
    pub(crate) fn new(path: PathBuf, epoch: u32) -> Mounts {
        Mounts { path, epoch, kept: Mutex::default(), saved: tokio::sync::Mutex::new(0) }
    }

    /// Adds a mount whose right was given, durably.
    ///
    /// # Errors
    /// The file cannot be written; the mount is not added.
    pub(crate) async fn add(&self, mount: Mount) -> io::Result<Arc<Mount>> {
        let mount = Arc::new(mount);
        let session = mount.record.session;
        self.change(|mounts| drop(mounts.insert(session, Arc::clone(&mount))));
        match self.save().await {
            Ok(()) => Ok(mount),
            Err(error) => {
                self.change(|mounts| drop(mounts.remove(&session)));
                Err(error)
            }
        }
    }

    /// Forgets mounts whose right was taken back, durably.
    ///
    /// # Errors
    /// The file cannot be written: after a restart they would be pending again.
    pub(crate) async fn forget(&self, sessions: &[Session]) -> io::Result<()> {
        let any = {
            let mut kept = self.lock();
            let any =
                sessions.iter().filter(|session| kept.mounts.remove(session).is_some()).count() > 0;
            // Nothing to write where nothing has changed: this is asked twice a second.
            kept.changes += u64::from(any);
            any
        };
        if any { self.save().await } else { Ok(()) }
    }

    /// Remembers peers that a restore cuts off, durably.
    ///
    /// # Errors
    /// The file cannot be written: a restart would let them in.
    pub(crate) async fn fence(
        &self,
        volume_id: Uuid,
        attachments: &Arc<Attachments>,
        peers: Vec<String>,
        restored_at: Timestamp,
    ) -> io::Result<()> {
        if peers.is_empty() {
            return Ok(());
        }
        {
            let mut kept = self.lock();
            kept.changes += 1;
            kept.fenced.retain(|Fenced { record, .. }| {
                record.volume_id != volume_id || !peers.contains(&record.peer)
            });
            kept.fenced.extend(peers.into_iter().map(|peer| Fenced {
                record: FencedRecord { volume_id, peer, restored_at },
                attachments: Arc::clone(attachments),
            }));
        }
        self.save().await
    }

    /// Forgets the peers that would be let in again.
    fn let_in(&self) {
        let mut kept = self.lock();
        let before = kept.fenced.len();
        kept.fenced.retain(|Fenced { record, attachments }| attachments.is_fenced(&record.peer));
        if kept.fenced.len() < before {
            kept.changes += 1;
        }
    }

    /// The mount of that session once it is durable, where another request has just added it;
    /// `None` where that failed.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) async fn settled(&self, session: Session) -> io::Result<Option<Arc<Mount>>> {
        if self.get(session).is_some() {
            self.save().await?;
        }
        Ok(self.get(session))
    }

    /// The mount of that session.
    pub(crate) fn get(&self, session: Session) -> Option<Arc<Mount>> {
        self.lock().mounts.get(&session).cloned()
    }

    /// All mounts, newest first.
    pub(crate) fn list(&self) -> Vec<Arc<Mount>> {
        let mut list: Vec<Arc<Mount>> = self.lock().mounts.values().cloned().collect();
        list.sort_by_key(|mount| (Reverse(mount.record.mounted_at), mount.record.session));
        list
    }

    /// How many mounts are in which state.
    pub(crate) fn count_by_state(&self) -> BTreeMap<MountState, usize> {
        let states = [MountState::Pending, MountState::Mounted, MountState::Stale];
        let mut counts = BTreeMap::from(states.map(|state| (state, 0)));
        for status in self.list().iter().filter_map(|mount| mount.status()) {
            *counts.entry(status.state).or_default() += 1;
        }
        counts
    }

    /// Takes up the mounts of earlier starts, before clients are let in. `find` looks a volume up;
    /// `staging` is what the store found.
    ///
    /// # Errors
    /// [`MountsError`].
    pub(crate) async fn recover(
        &self,
        find: impl Fn(Uuid) -> Option<(Volume, Arc<Attachments>)>,
        staging: StagingFate,
    ) -> Result<(), MountsError> {
        let Some(Content { epoch, mounts, fenced, .. }) = file::read(&self.path)? else {
            return Ok(());
        };
        for record in fenced {
            let Some((_, attachments)) = find(record.volume_id) else { continue };
            attachments.fence(record.peer.clone(), record.restored_at); // keeps I3
            self.lock().fenced.push(Fenced { record, attachments });
        }
        let nothing_lost = match staging {
            StagingFate::Kept => epoch.checked_add(1) == Some(self.epoch),
            StagingFate::Lost => false,
        };
        let mut stale = 0;
        for mut record in mounts {
            let Some((volume, attachments)) = find(record.volume_id) else { continue };
            let writeback = record.tuning.writeback.unwrap_or(volume.settings().writeback);
            record.stale |= writeback && !nothing_lost; // keeps I2
            stale += usize::from(record.stale);
            let state = if record.stale { MountState::Stale } else { MountState::Pending };
            let session = record.session;
            attachments.mount_again(session, record.info(), record.access(), state);
            let mount = Arc::new(Mount::new(record, &volume, &attachments));
            self.change(|mounts| drop(mounts.insert(session, mount)));
        }
        if stale > 0 {
            tracing::warn!(
                stale,
                "a host crash lost acknowledged writes: mounts of write-back volumes must be made anew"
            );
        }
        self.save().await.map_err(|error| MountsError::Unwritable(self.path.clone(), error))
    }

    /// Ends mounts that have been without a connection for `grace`, for ever.
    pub(crate) async fn expire(&self, grace: Duration) {
        let mut interval = tokio::time::interval(EXPIRY_INTERVAL);
        loop {
            interval.tick().await;
            let mut ended = self.list();
            ended.retain(|mount| mount.attachments.expire(mount.record.session, grace));
            for mount in &ended {
                let MountRecord { sandbox_id, volume_id, .. } = &mount.record;
                tracing::info!(sandbox = sandbox_id, volume = %volume_id, "a mount ended: no client was connected");
            }
            let sessions: Vec<Session> = ended.iter().map(|mount| mount.record.session).collect();
            self.let_in();
            let forgotten = self.forget(&sessions).await;
            // What was only let in is written, too.
            if let Err(error) = forgotten.and(self.save().await) {
                tracing::error!(%error, "mounts that ended would come back at the next start");
            }
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut BTreeMap<Session, Arc<Mount>>) -> T) -> T {
        let mut kept = self.lock();
        kept.changes += 1;
        change(&mut kept.mounts)
    }

    /// Waits until all changes up to now are in the file.
    async fn save(&self) -> io::Result<()> {
        let wanted = self.lock().changes;
        let mut saved = self.saved.lock().await;
        if *saved >= wanted {
            return Ok(());
        }
        let (changes, content) = {
            let kept = self.lock();
            let records = kept.mounts.values().map(|mount| mount.record.clone()).collect();
            let fenced = kept.fenced.iter().map(|kept| kept.record.clone()).collect();
            (kept.changes, Content::new(self.epoch, records, fenced))
        };
        let path = self.path.clone();
        tokio::task::spawn_blocking(move || file::write(&path, &content))
            .await
            .map_err(io::Error::other)??;
        *saved = changes;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        // Nothing below panics half-way through a change, so what is kept is still whole.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
