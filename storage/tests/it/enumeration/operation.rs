//! What a run is made of.

use super::lines::{
    CELL, CELLS_A_BLOCK, Timeline, bytes_of, is_snapshot, snapshot_id, volume_id, volume_of, word,
};
use super::start::{FORK, MAIN, WRITEBACK};
use crate::world::write_either_way;
use futures_util::future::{Either, join, select};
use sandstone_ring::runtime;
use sandstone_storage::{
    Allocation, Durability, ForkSpec, Health, Kind, Store, Volume, VolumeChange,
};
use std::{
    pin::pin,
    sync::{Mutex, MutexGuard},
    time::Duration,
};
use uuid::Uuid;

/// One operation, which always does the same to the volume that it finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// Three whole blocks.
    Write,
    /// Twenty blocks, which are two batches.
    WriteLong,
    /// From the middle of a block to the middle of another, with FUA.
    WriteFua,
    /// Two blocks of a volume with write-back.
    WriteBack,
    /// Two writes with FUA, the second of which comes while the first one's sync is under way.
    Together,
    Trim,
    Zero,
    Flush,
    Snapshot,
    Fork,
    Restore,
    Delete,
    Resize,
    Checkpoint,
    /// What the keeper does next by itself: a usual round of reclaim, which marks, sweeps, and
    /// finds what is sparse; or a checkpoint, where nothing is to be had.
    Mark,
    /// The keeper's rounds until one has forwarded what the one before found sparse, or there is
    /// none.
    Forward,
    /// A thorough reclaim: rounds of all of it, and what is free is punched out of the file.
    Sweep,
}

/// How long the keeper may take to find that it is quiet.
const KEEPER_WAIT: Duration = Duration::from_secs(9);
/// How often one looks whether it has.
const LOOK: Duration = Duration::from_millis(20);

impl Operation {
    pub(crate) const ALL: [Operation; 17] = [
        Operation::Write,
        Operation::WriteLong,
        Operation::WriteFua,
        Operation::WriteBack,
        Operation::Together,
        Operation::Trim,
        Operation::Zero,
        Operation::Flush,
        Operation::Snapshot,
        Operation::Fork,
        Operation::Restore,
        Operation::Delete,
        Operation::Resize,
        Operation::Checkpoint,
        Operation::Mark,
        Operation::Forward,
        Operation::Sweep,
    ];

    /// Does it, as the `nth` of its run, and tells the timeline what it does before and what it has
    /// done after.
    ///
    /// # Errors
    /// Where the store does not do what it is asked.
    pub(crate) async fn perform(
        self,
        store: &Store,
        timeline: &Mutex<Timeline>,
        nth: u64,
    ) -> Result<(), String> {
        let here = Doing { store, timeline, nth };
        match self {
            Self::Write => {
                here.write(MAIN, 2 * CELLS_A_BLOCK, 3 * CELLS_A_BLOCK, Durability::Volatile).await
            }
            Self::WriteLong => {
                here.write(MAIN, CELLS_A_BLOCK, 20 * CELLS_A_BLOCK, Durability::Volatile).await
            }
            Self::WriteFua => here.write(MAIN, 13, 13, Durability::Fua).await,
            Self::WriteBack => {
                here.write(WRITEBACK, 8, 2 * CELLS_A_BLOCK, Durability::Volatile).await
            }
            Self::Together => here.together().await,
            Self::Trim => here.trim().await,
            Self::Zero => here.zero().await,
            Self::Flush => here.flush().await,
            Self::Snapshot => here.snapshot().await,
            Self::Fork => here.fork().await,
            Self::Restore => here.restore().await,
            Self::Delete => here.delete().await,
            Self::Resize => here.resize().await,
            Self::Checkpoint => here.covering(store.checkpoint()).await,
            Self::Sweep => here.covering(store.reclaim()).await,
            Self::Mark => here.keeper(|_, _| true).await,
            Self::Forward => here.keeper(|before, now| now > before).await,
        }
    }
}

struct Doing<'a> {
    store: &'a Store,
    timeline: &'a Mutex<Timeline>,
    nth: u64,
}

type Done = Result<(), String>;

fn told(error: sandstone_storage::Error) -> String {
    format!("{:?}: {error}", error.kind())
}

impl Doing<'_> {
    fn timeline(&self) -> MutexGuard<'_, Timeline> {
        self.timeline.lock().expect("nobody panics with it")
    }

    /// The volume that is worked on, and its cells.
    fn target(&self, number: u64) -> Option<(Uuid, u64)> {
        let timeline = self.timeline();
        let target = timeline.now().target(&[volume_id(number), volume_id(FORK)])?;
        Some((target, timeline.now().cells(target)))
    }

    fn volume(&self, id: Uuid) -> Result<Volume, String> {
        self.store.volume(id).ok_or_else(|| format!("volume {} is gone", id.as_u128()))
    }

    async fn write(&self, number: u64, from: u64, count: u64, durability: Durability) -> Done {
        let Some((id, cells)) = self.target(number) else { return Ok(()) };
        let (from, end) = (from.min(cells - 1), (from + count).min(cells));
        let (data, steps) = {
            let mut timeline = self.timeline();
            let version = timeline.version();
            let data: Vec<u64> = (from..end).map(|cell| word(id, cell, version)).collect();
            let mut at = from;
            while at < end {
                let next = ((at / CELLS_A_BLOCK + 1) * CELLS_A_BLOCK).min(end);
                timeline.fill(id, at, &data[(at - from) as usize..(next - from) as usize]);
                at = next;
            }
            (data, timeline.floors.begun)
        };
        let volume = self.volume(id)?;
        write_either_way(&volume, from * CELL, bytes_of(&data), durability).await.map_err(told)?;
        self.acknowledged(&volume, durability, steps)
    }

    /// What a volume was asked for, up to that step, was acknowledged.
    fn acknowledged(&self, volume: &Volume, durability: Durability, steps: usize) -> Done {
        let mut timeline = self.timeline();
        match durability {
            Durability::Fua => timeline.synced(steps),
            Durability::Volatile if volume.settings().writeback => timeline.staged(steps),
            Durability::Volatile => timeline.stored(steps),
        }
        Ok(())
    }

    /// The step that was begun last.
    fn begun(&self) -> usize {
        self.timeline().floors.begun
    }

    async fn together(&self) -> Done {
        let records = || self.store.stats().log_records;
        let before = records();
        let first = self.write(MAIN, 0, 2 * CELLS_A_BLOCK, Durability::Fua);
        let second = async {
            // It comes behind the first in the log, some time after that was written, and before it
            // is synced.
            while records() == before && self.store.health() == Health::Ready {
                runtime::sleep(Duration::from_micros(10)).await;
            }
            runtime::sleep(Duration::from_micros(200)).await;
            self.write(MAIN, 7 * CELLS_A_BLOCK, CELLS_A_BLOCK, Durability::Fua).await
        };
        let (first, second) = join(first, second).await;
        first.and(second)
    }

    /// To the end of the volume, which may be in the middle of a block.
    async fn trim(&self) -> Done {
        let Some((id, cells)) = self.target(MAIN) else { return Ok(()) };
        let from = (4 * CELLS_A_BLOCK).min(cells / 2 / CELLS_A_BLOCK * CELLS_A_BLOCK);
        self.timeline().fill(id, from, &vec![0; (cells - from) as usize]);
        let volume = self.volume(id)?;
        let trim = volume.trim(from * CELL, (cells - from) * CELL, Durability::Volatile);
        trim.await.map_err(told)?;
        self.acknowledged(&volume, Durability::Volatile, self.begun())
    }

    /// Parts of two blocks and whole ones between them: three records.
    async fn zero(&self) -> Done {
        let Some((id, cells)) = self.target(MAIN) else { return Ok(()) };
        let (from, end) = (3, (6 * CELLS_A_BLOCK + 5).min(cells));
        let (head, tail) = (CELLS_A_BLOCK, end / CELLS_A_BLOCK * CELLS_A_BLOCK);
        for (from, end) in [(from, head), (head, tail), (tail, end)] {
            self.timeline().fill(id, from, &vec![0; (end - from) as usize]);
        }
        let volume = self.volume(id)?;
        let zero = volume.write_zeroes(
            from * CELL,
            (end - from) * CELL,
            Allocation::Reserve,
            Durability::Volatile,
        );
        zero.await.map_err(told)?;
        self.acknowledged(&volume, Durability::Volatile, self.begun())
    }

    async fn flush(&self) -> Done {
        for number in [MAIN, WRITEBACK] {
            let Some((id, _)) = self.target(number) else { return Ok(()) };
            self.volume(id)?.flush().await.map_err(told)?;
            self.timeline().flushed(id);
        }
        Ok(())
    }

    /// A change of the catalog was acknowledged, and with it all before.
    fn changed(&self) -> Done {
        let mut timeline = self.timeline();
        let begun = timeline.floors.begun;
        timeline.synced(begun);
        Ok(())
    }

    async fn snapshot(&self) -> Done {
        let Some((id, _)) = self.target(MAIN) else { return Ok(()) };
        let snapshot = snapshot_id(id, 10 + self.nth);
        self.timeline().step(id, |lines| drop(lines.0.insert(snapshot, lines.0[&id].clone())));
        let made = self.store.create_snapshot(id, snapshot, Vec::new()).await.map_err(told)?;
        self.changed()?;
        let wrote = made.write(0, bytes_of(&[1]), Durability::Volatile).await.map_err(|e| e.kind());
        if wrote == Err(Kind::Invalid) {
            Ok(())
        } else {
            Err(format!("a snapshot was written: {wrote:?}"))
        }
    }

    async fn fork(&self) -> Done {
        let Some((id, _)) = self.target(MAIN) else { return Ok(()) };
        let fork = volume_id(10 + self.nth);
        self.timeline().step(fork, |lines| drop(lines.0.insert(fork, lines.0[&id].clone())));
        let spec = ForkSpec { id: fork, size_bytes: None, settings: None, attributes: Vec::new() };
        self.store.create_fork(id, spec).await.map_err(told)?;
        self.changed()
    }

    /// To the first snapshot of the volume, if there is one.
    async fn restore(&self) -> Done {
        let Some((id, _)) = self.target(MAIN) else { return Ok(()) };
        let of = |line: &&Uuid| is_snapshot(**line) && volume_of(**line) == id;
        let Some(snapshot) = self.timeline().now().0.keys().find(of).copied() else {
            return Ok(());
        };
        self.timeline().step(id, |lines| drop(lines.0.insert(id, lines.0[&snapshot].clone())));
        self.store.restore(id, snapshot).await.map_err(told)?;
        self.changed()
    }

    /// The fork first, then others.
    async fn delete(&self) -> Done {
        let Some(id) = self.timeline().now().target(&[volume_id(FORK), volume_id(MAIN)]) else {
            return Ok(());
        };
        self.timeline().step(id, |lines| lines.0.retain(|line, _| volume_of(*line) != id));
        if !self.store.delete_volume(id).await.map_err(told)? {
            return Err(format!("there was no volume {}", id.as_u128()));
        }
        self.changed()
    }

    /// By a block and a half.
    async fn resize(&self) -> Done {
        let Some((id, cells)) = self.target(MAIN) else { return Ok(()) };
        let cells = cells + 12;
        self.timeline()
            .step(id, |lines| lines.0.get_mut(&id).expect("it is there").resize(cells as usize, 0));
        let change = VolumeChange { size_bytes: Some(cells * CELL), ..VolumeChange::default() };
        self.store.update_volume(id, change).await.map_err(told)?;
        self.changed()
    }

    /// Makes durable what was acknowledged before it.
    async fn covering(&self, work: impl Future<Output = sandstone_storage::Result<()>>) -> Done {
        let acknowledged = self.timeline().floors.acknowledged;
        work.await.map_err(told)?;
        self.timeline().synced(acknowledged);
        Ok(())
    }

    /// Waits for the keeper's work, until what was forwarded before and is now satisfies `enough`.
    async fn keeper(&self, enough: impl Fn(u64, u64) -> bool) -> Done {
        let works = || self.store.stats().checkpoints;
        let forwarded = || self.store.reclaim_progress().forwarded_bytes;
        let (mut seen, before) = (works(), forwarded());
        let waiting = pin!(async {
            loop {
                runtime::sleep(LOOK).await;
                if std::mem::replace(&mut seen, works()) != seen && enough(before, forwarded()) {
                    return;
                }
            }
        });
        match select(waiting, pin!(runtime::sleep(KEEPER_WAIT))).await {
            Either::Left(_) | Either::Right(_) => Ok(()),
        }
    }
}
