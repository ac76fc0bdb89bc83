//! One step of a random sequence, done to the store and to the model.

use crate::{
    model::at_once::at_once,
    model::family::{Line, Model},
    model::plain::{Edit, Plain, check, check_range, found},
    world::{BLOCK, Random, spec, unless_full},
};
use bytes::Bytes;
use sandstone_ring::runtime;
use sandstone_storage::{Durability, ForkSpec, Kind, Result, Store, Volume, VolumeChange};
use std::time::Duration;
use uuid::Uuid;

/// What kind of sequence it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    /// Lines that there are at once, at most.
    pub(crate) lines_max: usize,
    /// Whether snapshots and forks are made, too.
    pub(crate) lineage: bool,
    /// Whether requests are of a few blocks, at places where others were before.
    pub(crate) small: bool,
}

impl Scale {
    pub(crate) fn range(&self, random: &mut Random, size: u64) -> (u64, u64) {
        if !self.small {
            return random.range(size);
        }
        // The first leaf's begin, around its end, and anywhere.
        let blocks = size.div_ceil(BLOCK);
        let at = match random.below(4) {
            0 => random.below(blocks),
            1 => 250 + random.below(12),
            _ => random.below(20),
        };
        let count = if random.one_in(12) { random.below(400) } else { 1 + random.below(4) };
        let (offset, len) = (at.min(blocks - 1) * BLOCK, count * BLOCK);
        let (offset, len) = match random.below(4) {
            0 => (offset + random.below(BLOCK), random.below(len + 1)),
            _ => (offset, len),
        };
        let offset = offset.min(size - 1);
        (offset, len.clamp(1, size - offset))
    }

    pub(crate) fn edit(&self, random: &mut Random, size: u64) -> Edit {
        let range = self.range(random, size);
        Edit::random(random, size, range)
    }

    fn size(self, random: &mut Random) -> u64 {
        let size = BLOCK * (1 + random.below(700));
        if random.one_in(4) { size - random.below(BLOCK) } else { size }
    }

    pub(crate) fn fork_spec(id: Uuid) -> ForkSpec {
        ForkSpec { id, size_bytes: None, settings: None, attributes: Vec::new() }
    }
}

/// What was made, unless there was no room.
pub(crate) fn copied(made: Result<Volume>) -> Option<Volume> {
    match made {
        Ok(volume) => Some(volume),
        Err(error) => {
            unless_full(Err(error));
            None
        }
    }
}

fn kind<T>(result: Result<T>) -> Option<Kind> {
    result.err().map(|error| error.kind())
}

pub(crate) async fn step(store: &Store, model: &mut Model, scale: &Scale, random: &mut Random) {
    let volumes = model.volumes();
    if volumes.is_empty() || (volumes.len() < 4 && random.one_in(8)) {
        return create(store, model, *scale, random).await;
    }
    let id = random.pick(&volumes);
    let volume = model.handle(store, id);
    let size = volume.size_bytes();
    match random.below(if scale.lineage { 49 } else { 30 }) {
        0 => delete_volume(store, model, id).await,
        1 => resize(store, model, id, random).await,
        2 => volume.flush().await.expect("a flush"),
        3 => drop(unless_full(store.checkpoint().await)),
        4 => {
            if unless_full(store.reclaim().await) {
                model.check(store).await;
            }
        }
        5 => runtime::sleep(Duration::from_millis(random.pick(&[1, 300, 7000]))).await,
        6 => check(&volume, &model.lines[&id].plain).await,
        7..=10 => {
            let (offset, len) = scale.range(random, size);
            check_range(&volume, &model.lines[&id].plain, offset, len).await;
        }
        11 => refusals(store, model, id, scale, random).await,
        12..=15 => at_once(store, model, id, scale, random).await,
        30..=39 if model.lines.len() >= scale.lines_max => delete_volume(store, model, id).await,
        30..=34 => snapshot(store, model, id, random).await,
        35..=39 => fork(store, model, random).await,
        40 | 41 => restore(store, model, id, random).await,
        42 => delete_snapshot(store, model, id, random).await,
        43..=45 => {
            let family = model.lines[&id].family;
            let family = model.ids(|line| line.family == family);
            let (newer, older) = (random.pick(&family), random.pick(&family));
            let range = match random.below(3) {
                0 => (0, model.lines[&newer].plain.size),
                _ => scale.range(random, model.lines[&newer].plain.size),
            };
            model.check_changes(store, (newer, older), range, 1 + random.below(3) as usize).await;
        }
        46..=48 => {
            let all: Vec<_> = model.lines.keys().copied().collect();
            let of = random.one_in(2).then(|| random.pick(&all));
            model.check_exclusive(store, of).await;
        }
        _ => {
            let edit = scale.edit(random, size);
            let durability = if random.one_in(8) { Durability::Fua } else { Durability::Volatile };
            send(&volume, model, &edit, durability).await;
        }
    }
}

/// One request by itself.
async fn send(volume: &Volume, model: &mut Model, edit: &Edit, durability: Durability) {
    let line = model.lines.get_mut(&volume.id()).expect("the caller found it");
    if edit.send(volume, durability).await {
        edit.apply(&mut line.plain);
        return;
    }
    let blocks = edit.blocks();
    let mut blurred = false;
    for (block, now) in blocks.clone().zip(found(volume, blocks).await) {
        let cell = &mut line.plain.cells[block];
        let mut after = cell.clone();
        edit.apply_to(block, &mut after);
        if now.equals(cell) {
            blurred |= !after.is(cell) && now.equals(&after);
        } else {
            assert!(
                now.equals(&after),
                "block {block} is neither what it was nor what was written"
            );
            *cell = after;
        }
    }
    if blurred {
        let family = line.family;
        model.blurred.insert(family);
    }
}

async fn create(store: &Store, model: &mut Model, scale: Scale, random: &mut Random) {
    let (id, size) = (model.fresh_id(), scale.size(random));
    let mut spec = spec(id, size, random.one_in(2));
    spec.attributes = vec![1; random.below(20) as usize];
    let (settings, attributes) = (spec.settings, spec.attributes.clone());
    if copied(store.create_volume(spec.clone()).await).is_some() {
        let plain = Plain::new(size);
        model.lines.insert(id, Line { plain, snapshot_of: None, family: id, settings, attributes });
        assert_eq!(kind(store.create_volume(spec).await), Some(Kind::Exists));
    }
}

async fn resize(store: &Store, model: &mut Model, id: Uuid, random: &mut Random) {
    let volume = model.handle(store, id);
    let line = model.lines.get_mut(&id).expect("the caller found it");
    let size = line.plain.size + random.below(100 * BLOCK);
    line.settings.writeback = random.one_in(2);
    let attributes = random.one_in(2).then(|| vec![2; random.below(20) as usize]);
    let change = VolumeChange {
        size_bytes: Some(size),
        settings: Some(line.settings),
        attributes: attributes.clone(),
    };
    if unless_full(store.update_volume(id, change).await) {
        line.plain.grow(size);
        line.attributes = attributes.unwrap_or(line.attributes.clone());
    }
    line.settings = volume.settings();
    let smaller = VolumeChange { size_bytes: Some(line.plain.size - 1), ..VolumeChange::default() };
    assert_eq!(kind(store.update_volume(id, smaller).await), Some(Kind::Invalid));
}

async fn snapshot(store: &Store, model: &mut Model, of: Uuid, random: &mut Random) {
    let (id, attributes) = (model.fresh_id(), vec![3; random.below(20) as usize]);
    let Some(made) = copied(store.create_snapshot(of, id, attributes.clone()).await) else {
        return;
    };
    let line = model.lines[&of].clone();
    assert_eq!(made.used_bytes(), line.plain.used_bytes());
    model.lines.insert(id, Line { snapshot_of: Some(of), attributes, ..line });
}

async fn fork(store: &Store, model: &mut Model, random: &mut Random) {
    let sources: Vec<_> = model.lines.keys().copied().collect();
    let (source, id) = (random.pick(&sources), model.fresh_id());
    let mut line =
        Line { snapshot_of: None, attributes: vec![4; 9], ..model.lines[&source].clone() };
    let mut spec = ForkSpec { attributes: line.attributes.clone(), ..Scale::fork_spec(id) };
    if random.one_in(3) {
        line.plain.grow(line.plain.size + random.below(100 * BLOCK));
        spec.size_bytes = Some(line.plain.size);
    }
    if random.one_in(3) {
        line.settings.writeback = !line.settings.writeback;
        spec.settings = Some(line.settings);
    }
    if let Some(made) = copied(store.create_fork(source, spec).await) {
        assert_eq!((made.size_bytes(), made.settings()), (line.plain.size, line.settings));
        model.lines.insert(id, line);
    }
}

async fn restore(store: &Store, model: &mut Model, id: Uuid, random: &mut Random) {
    let strangers = model.ids(|line| line.snapshot_of != Some(id));
    assert_eq!(kind(store.restore(id, random.pick(&strangers)).await), Some(Kind::NotFound));
    let snapshots = model.snapshots_of(id);
    if snapshots.is_empty() {
        return;
    }
    let snapshot = random.pick(&snapshots);
    store.restore(id, snapshot).await.expect("a restore");
    let plain = model.lines[&snapshot].plain.clone();
    model.lines.get_mut(&id).expect("the caller found it").plain = plain;
    check(&model.handle(store, id), &model.lines[&id].plain).await;
}

async fn delete_snapshot(store: &Store, model: &mut Model, id: Uuid, random: &mut Random) {
    let strangers = model.ids(|line| line.snapshot_of != Some(id));
    assert!(
        !store.delete_snapshot(id, random.pick(&strangers)).await.expect("it has none of that id")
    );
    let snapshots = model.snapshots_of(id);
    if snapshots.is_empty() {
        return;
    }
    let snapshot = random.pick(&snapshots);
    let handle = model.handle(store, snapshot);
    assert!(store.delete_snapshot(id, snapshot).await.expect("a delete"));
    assert!(!store.delete_snapshot(id, snapshot).await.expect("a second one"));
    assert_eq!(kind(handle.read(0, 1).await), Some(Kind::NotFound));
    assert!(store.snapshot(id, snapshot).is_none());
    model.lines.remove(&snapshot);
}

async fn delete_volume(store: &Store, model: &mut Model, id: Uuid) {
    let mut gone = model.snapshots_of(id);
    gone.push(id);
    let handles: Vec<_> = gone.iter().map(|id| model.handle(store, *id)).collect();
    assert!(store.delete_volume(id).await.expect("a delete"));
    assert!(!store.delete_volume(id).await.expect("a second one"));
    for handle in handles {
        let end = handle.size_bytes();
        for refused in [
            kind(handle.flush().await),
            kind(handle.read(0, 1).await),
            kind(handle.trim(0, end, Durability::Volatile).await),
            kind(handle.changes_since(&handle, 0, end, 1).await),
        ] {
            assert_eq!(refused, Some(Kind::NotFound));
        }
    }
    gone.iter().for_each(|id| drop(model.lines.remove(id)));
}

/// What is not done, and what does nothing.
async fn refusals(store: &Store, model: &mut Model, id: Uuid, scale: &Scale, random: &mut Random) {
    let volume = model.handle(store, id);
    let size = volume.size_bytes();
    let write = volume.write(size - 1, Bytes::from_static(b"xy"), Durability::Volatile).await;
    assert_eq!(kind(write), Some(Kind::OutOfRange));
    let (offset, len) = scale.range(random, size);
    volume.prefetch(offset, len).await.expect("a prefetch");
    volume.write(offset, Bytes::new(), Durability::Fua).await.expect("nothing to write");
    assert!(volume.block_status(offset, 0, 1).await.expect("nothing to tell").is_empty());
    let none = volume.changes_since(&volume, offset, 0, 1).await.expect("nothing to tell");
    assert!(none.changes.is_empty() && none.looked_to == offset);
    for snapshot in model.snapshots_of(id) {
        let handle = model.handle(store, snapshot);
        let end = handle.size_bytes();
        for refused in [
            kind(handle.write(0, Bytes::from_static(b"x"), Durability::Volatile).await),
            kind(handle.trim(0, end, Durability::Volatile).await),
            kind(store.update_volume(snapshot, VolumeChange::default()).await),
            kind(store.create_snapshot(snapshot, model.fresh_id(), Vec::new()).await),
            kind(store.create_fork(snapshot, Scale::fork_spec(id)).await),
        ] {
            assert!(
                matches!(refused, Some(Kind::Invalid | Kind::NotFound | Kind::Exists)),
                "{refused:?}"
            );
        }
        assert!(!store.delete_volume(snapshot).await.expect("no volume of that id"));
    }
}
