//! A crash state is opened and judged.

use super::fates::{Tears, fates};
use super::lines::{
    CELL, CELLS_A_BLOCK, Lines, bytes_of, cells_of, is_snapshot, volume_id, volume_of, word,
};
use super::start::{FORK, MAIN, SHAPE};
use crate::world::{BLOCK, Random, World, content_of, read, spec};
use futures_util::future::{Either, select};
use sandstone_ring::{Runtime, SharedMemory, runtime, sim::SimDisk};
use sandstone_storage::{Durability, Health, Store};
use std::{
    hash::{BuildHasher, Hash},
    pin::pin,
    sync::{Arc, Mutex},
    time::Duration,
};

/// Virtual time that an opening and a look at everything may take: hundreds of times what it does.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a machine finds when it is switched on, and what may be in it.
#[derive(Clone)]
pub(crate) struct CrashState<'a> {
    pub(crate) disk: SimDisk,
    /// Of the same boot, where it outlived the process.
    pub(crate) staging: Option<Arc<Content>>,
    /// The states of the log that are right, oldest first.
    pub(crate) right: &'a [Lines],
    /// A number for these.
    pub(crate) question: u64,
    /// Those that are right where the power fails before the store is open: the process died first,
    /// which is no sync.
    pub(crate) right_without_power: &'a [Lines],
}

impl CrashState<'_> {
    /// A number for what the machine finds.
    pub(crate) fn content(&self) -> u64 {
        hash(&(self.disk.content_hash(), self.staging.as_ref().map(|staging| staging.hash)))
    }

    fn world(&self) -> World {
        let held = |content: &Arc<Content>| {
            Arc::new(SharedMemory::holding(&content.bytes).expect("memory"))
        };
        let staging = self.staging.as_ref().map(held);
        World::on(self.disk.copy(), SHAPE, staging)
    }

    /// Opens the store and holds all that is in it against what is right (P1, P2, P3, P5, P9); then
    /// goes on: a write, its flush, its reading. Gives the disk then, and what must be there if all
    /// else is lost.
    ///
    /// # Errors
    /// What is wrong.
    pub(crate) fn judge(&self, seed: u64) -> Result<(SimDisk, Lines), String> {
        let world = self.world();
        let lines = in_time(seed, async {
            let (store, _) =
                world.open().await.map_err(|error| format!("it does not open: {error}"))?;
            if store.health() != Health::Ready {
                return Err(format!("nothing was damaged, and yet: {:?}", store.health()));
            }
            let found = observe(&store).await?;
            if !self.right.contains(&found) {
                let nearest =
                    self.right.last().map(|right| right.difference(&found)).unwrap_or_default();
                return Err(format!(
                    "no state of {} is this one; of the last, {nearest}",
                    self.right.len()
                ));
            }
            go_on(&store, found).await
        })?;
        Ok((world.disk, lines))
    }

    /// The states in which a crash during the opening of this one leaves the machine.
    ///
    /// # Errors
    /// Where it does not open.
    pub(crate) fn crashes_of_recovery(&self, random: &mut Random) -> Result<Vec<Self>, String> {
        let world = self.world();
        let moments = Arc::new(Mutex::new(Vec::new()));
        let (kept, staging) = (Arc::clone(&moments), self.staging.as_ref().and(world.staging()));
        world.disk.watch_syncs(move |disk| {
            let staging = staging.as_deref().map(|memory| Arc::new(Content::of(memory)));
            kept.lock().expect("nobody panics with it").push((disk.copy(), staging));
        });
        in_time(random.next(), async {
            world.open().await.map_err(|error| format!("it does not open: {error}")).map(|_| ())
        })?;
        let moments = std::mem::take(&mut *moments.lock().expect("nobody panics with it"));
        let mut states = Vec::new();
        for (disk, staging) in moments {
            let changes = disk.unsynced();
            for fate in fates(&changes, Tears::One, random) {
                let right = self.right_without_power;
                let question = hash(right);
                states.push(Self {
                    disk: disk.crash_keeping(&fate),
                    staging: None,
                    right,
                    question,
                    ..*self
                });
            }
            if staging.is_some() {
                let in_flight: Vec<_> =
                    changes.into_iter().filter(|change| change.in_flight).collect();
                for fate in fates(&in_flight, Tears::One, random) {
                    states.push(Self {
                        disk: disk.kill_keeping(&fate),
                        staging: staging.clone(),
                        ..*self
                    });
                }
            }
        }
        Ok(states)
    }
}

/// What a staging memory held.
pub(crate) struct Content {
    bytes: Vec<u8>,
    hash: u64,
}

impl Content {
    pub(crate) fn of(memory: &SharedMemory) -> Self {
        let bytes = content_of(memory);
        Self { hash: hash(&bytes), bytes }
    }
}

pub(crate) fn hash<T: Hash + ?Sized>(of: &T) -> u64 {
    foldhash::quality::FixedState::default().hash_one(of)
}

/// Runs `work` in virtual time, and not for ever.
pub(crate) fn in_time<T>(
    seed: u64,
    work: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    Runtime::simulated(seed).block_on(async {
        match select(pin!(work), pin!(runtime::sleep(PATIENCE))).await {
            Either::Left((done, _)) => done,
            Either::Right(_) => Err("it hangs".into()),
        }
    })
}

/// Everything that is in the store.
///
/// # Errors
/// Where something cannot be read, or is nothing that was ever written (P4, P5).
pub(crate) async fn observe(store: &Store) -> Result<Lines, String> {
    let mut lines = Lines::default();
    let snapshots = store.all_snapshots().into_iter().map(|(volume, snapshot)| {
        assert_eq!(volume, volume_of(snapshot.id()));
        snapshot
    });
    for line in store.volumes().into_iter().chain(snapshots) {
        let name = line.id().as_u128();
        let bytes = read(&line, 0, line.size_bytes()).await;
        let bytes = bytes.map_err(|error| format!("{name} cannot be read: {error}"))?;
        let used =
            bytes.chunks(BLOCK as usize).filter(|block| block.iter().any(|b| *b != 0)).count();
        if line.used_bytes() != used as u64 * BLOCK {
            return Err(format!(
                "{name} says that it uses {} bytes, not {used} blocks",
                line.used_bytes()
            ));
        }
        lines.0.insert(line.id(), cells_of(&bytes).map_err(|why| format!("{name}: {why}"))?);
    }
    Ok(lines)
}

/// Writes what a run would write next, so that it stands where something that was lost may have
/// stood.
async fn go_on(store: &Store, mut lines: Lines) -> Result<Lines, String> {
    const VERSION: u64 = 1 << 20;
    let told = |error: sandstone_storage::Error| format!("it does not go on: {error}");
    let id = match lines.target(&[volume_id(MAIN), volume_id(FORK)]) {
        Some(id) => id,
        None => {
            let id = volume_id(MAIN);
            store.create_volume(spec(id, 8 * BLOCK, false)).await.map_err(told)?;
            lines.0.insert(id, vec![0; 8 * CELLS_A_BLOCK as usize]);
            id
        }
    };
    assert!(!is_snapshot(id));
    let from = 2 * CELLS_A_BLOCK;
    let data: Vec<u64> =
        (from..from + 3 * CELLS_A_BLOCK).map(|cell| word(id, cell, VERSION)).collect();
    let volume = store.volume(id).ok_or("the volume went away")?;
    volume.write(from * CELL, bytes_of(&data), Durability::Volatile).await.map_err(told)?;
    volume.flush().await.map_err(told)?;
    let cells = lines.0.get_mut(&id).expect("it is there");
    cells[from as usize..][..data.len()].copy_from_slice(&data);
    let found = cells_of(&read(&volume, 0, volume.size_bytes()).await.map_err(told)?)?;
    if found == *cells { Ok(lines) } else { Err("what was written on is not there".into()) }
}
