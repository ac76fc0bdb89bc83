//! All lines of a store as plain arrays, and what they say about each other by looking at every
//! block.

use crate::{
    model::plain::{Cell, Plain, check},
    world::BLOCK,
};
use sandstone_storage::{Change, Settings, Store, Volume};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    rc::Rc,
};
use uuid::Uuid;

/// A volume or snapshot.
#[derive(Clone)]
pub(crate) struct Line {
    pub(crate) plain: Plain,
    pub(crate) snapshot_of: Option<Uuid>,
    /// The volume that began it all.
    pub(crate) family: Uuid,
    pub(crate) settings: Settings,
    pub(crate) attributes: Vec<u8>,
}

#[derive(Default)]
pub(crate) struct Model {
    pub(crate) lines: BTreeMap<Uuid, Line>,
    last: u128,
    /// Families of which it is not known any more who shares what, because a block was perhaps
    /// written with what it held.
    pub(crate) blurred: BTreeSet<Uuid>,
}

impl Model {
    /// An id that nobody had before.
    pub(crate) fn fresh_id(&mut self) -> Uuid {
        self.last += 1;
        // In no order, as the store's own.
        Uuid::from_u128(self.last.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835))
    }

    pub(crate) fn volumes(&self) -> Vec<Uuid> {
        self.ids(|line| line.snapshot_of.is_none())
    }

    pub(crate) fn snapshots_of(&self, volume: Uuid) -> Vec<Uuid> {
        self.ids(|line| line.snapshot_of == Some(volume))
    }

    pub(crate) fn ids(&self, which: impl Fn(&Line) -> bool) -> Vec<Uuid> {
        self.lines.iter().filter(|(_, line)| which(line)).map(|(id, _)| *id).collect()
    }

    /// The store's own of that id.
    pub(crate) fn handle(&self, store: &Store, id: Uuid) -> Volume {
        let handle = match self.lines[&id].snapshot_of {
            Some(volume) => store.snapshot(volume, id),
            None => store.volume(id),
        };
        handle.expect("the model has it")
    }

    /// Compares everything.
    pub(crate) async fn check(&self, store: &Store) {
        let ids = |volumes: Vec<Volume>| volumes.iter().map(Volume::id).collect::<BTreeSet<_>>();
        let volumes = self.volumes();
        assert_eq!(ids(store.volumes()), volumes.iter().copied().collect());
        for volume in volumes {
            let snapshots = ids(store.snapshots(volume).expect("the model has it"));
            assert_eq!(snapshots, self.snapshots_of(volume).into_iter().collect(), "of {volume}");
        }
        for (id, line) in &self.lines {
            let handle = self.handle(store, *id);
            check(&handle, &line.plain).await;
            assert_eq!(handle.is_snapshot(), line.snapshot_of.is_some());
            assert_eq!(handle.settings(), line.settings);
            assert_eq!(handle.attributes()[..], line.attributes[..]);
        }
    }

    /// What deletion of each line of a family would give back: of a volume with its snapshots, of a
    /// snapshot by itself.
    pub(crate) fn exclusive(&self, family: Uuid) -> BTreeMap<Uuid, u64> {
        let mut holders: HashMap<(usize, *const Vec<u8>), Vec<Uuid>> = HashMap::new();
        let ids = self.ids(|line| line.family == family);
        for id in &ids {
            for (block, cell) in self.lines[id].plain.cells.iter().enumerate() {
                if let Cell::Data(data) = cell {
                    holders.entry((block, Rc::as_ptr(data))).or_default().push(*id);
                }
            }
        }
        let volume = |id: &Uuid| self.lines[id].snapshot_of.unwrap_or(*id);
        let mut sums: BTreeMap<Uuid, u64> = ids.into_iter().map(|id| (id, 0)).collect();
        let mut add = |id: Uuid| *sums.get_mut(&id).expect("one of the family") += BLOCK;
        for holders in holders.values() {
            if let [one] = holders[..]
                && self.lines[&one].snapshot_of.is_some()
            {
                add(one);
            }
            let first = volume(&holders[0]);
            if holders.iter().all(|id| volume(id) == first) {
                add(first);
            }
        }
        sums
    }

    pub(crate) async fn check_exclusive(&self, store: &Store, of: Option<Uuid>) {
        let found = store.exclusive_bytes(of).await.expect("the sums");
        let only = of.map(|id| self.lines[&id].family);
        let concerned = self.ids(|line| only.is_none_or(|family| family == line.family));
        assert_eq!(found.len(), concerned.len());
        let families: BTreeSet<Uuid> = concerned.iter().map(|id| self.lines[id].family).collect();
        for family in families.difference(&self.blurred) {
            for (id, expected) in self.exclusive(*family) {
                assert_eq!(found[&id], expected, "what {id} alone holds");
            }
        }
    }

    /// Compares what changed between two lines of a family: as a whole, and a few at a time.
    pub(crate) async fn check_changes(
        &self,
        store: &Store,
        (newer, older): (Uuid, Uuid),
        (offset, len): (u64, u64),
        entries_max: usize,
    ) {
        let (new, old) = (&self.lines[&newer], &self.lines[&older]);
        let blurred = self.blurred.contains(&new.family);
        // Where it is not known who shares what, at least what reads otherwise must be told.
        let same = |a: &Cell, b: &Cell| if blurred { a.equals(b) } else { a.is(b) };
        let expected = changes(&new.plain, &old.plain, (offset, len), same);
        let (newer, older) = (self.handle(store, newer), self.handle(store, older));
        let end = offset + len;
        let found =
            newer.changes_since(&older, offset, len, usize::MAX).await.expect("the changes");
        assert_eq!(found.looked_to, end);
        if blurred {
            for change in &expected {
                for at in (change.offset..change.offset + change.len_bytes).step_by(BLOCK as usize)
                {
                    let told = found
                        .changes
                        .iter()
                        .any(|c| (c.offset..c.offset + c.len_bytes).contains(&at));
                    assert!(told, "nothing is told of what changed at {at}");
                }
            }
        } else {
            assert_eq!(found.changes, expected, "from {} to {}", older.id(), newer.id());
        }
        let (mut at, mut pages) = (offset, Vec::new());
        while at < end {
            let page =
                newer.changes_since(&older, at, end - at, entries_max).await.expect("a page");
            assert!(
                page.changes.len() <= entries_max && page.looked_to > at && page.looked_to <= end
            );
            at = page.looked_to;
            pages.extend(page.changes);
        }
        assert_eq!(pages, found.changes);
    }
}

/// What differs from `older`, block by block. Beyond its end there was nothing.
fn changes(
    newer: &Plain,
    older: &Plain,
    (offset, len): (u64, u64),
    same: impl Fn(&Cell, &Cell) -> bool,
) -> Vec<Change> {
    let mut changes: Vec<Change> = Vec::new();
    for block in offset / BLOCK..(offset + len).div_ceil(BLOCK) {
        let now = &newer.cells[block as usize];
        if same(now, older.cells.get(block as usize).unwrap_or(&Cell::Hole)) {
            continue;
        }
        let (from, to) = (offset.max(block * BLOCK), (offset + len).min((block + 1) * BLOCK));
        match changes.last_mut() {
            Some(last) if last.state == now.state() && last.offset + last.len_bytes == from => {
                last.len_bytes += to - from;
            }
            _ => changes.push(Change { offset: from, len_bytes: to - from, state: now.state() }),
        }
    }
    changes
}
