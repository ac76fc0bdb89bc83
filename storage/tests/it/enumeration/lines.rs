//! What the store ought to hold: lines as cells of a sector each, and the states that the log went
//! through.

use bytes::Bytes;
use std::collections::BTreeMap;
use uuid::Uuid;

/// Bytes of a cell: what may be torn.
pub(crate) const CELL: u64 = 512;
pub(crate) const CELLS_A_BLOCK: u64 = crate::world::BLOCK / CELL;

/// Volumes and snapshots with their cells. A cell is zero, or a word that tells who wrote it,
/// where, and when.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Lines(pub(crate) BTreeMap<Uuid, Vec<u64>>);

/// The id of a volume.
pub(crate) fn volume_id(number: u64) -> Uuid {
    Uuid::from_u128(u128::from(number) * 100)
}

/// The id of a snapshot of a volume.
pub(crate) fn snapshot_id(volume: Uuid, number: u64) -> Uuid {
    Uuid::from_u128(volume.as_u128() + u128::from(number))
}

pub(crate) fn is_snapshot(id: Uuid) -> bool {
    !id.as_u128().is_multiple_of(100)
}

pub(crate) fn volume_of(id: Uuid) -> Uuid {
    Uuid::from_u128(id.as_u128() / 100 * 100)
}

/// What a cell holds that was written for a line at that place and time.
pub(crate) fn word(line: Uuid, cell: u64, version: u64) -> u64 {
    (line.as_u128() as u64 / 100) << 48 | cell << 32 | version << 1 | 1
}

pub(crate) fn bytes_of(cells: &[u64]) -> Bytes {
    let words =
        cells.iter().flat_map(|cell| std::iter::repeat_n(cell.to_le_bytes(), CELL as usize / 8));
    words.flatten().collect::<Vec<_>>().into()
}

/// The cells that bytes are.
///
/// # Errors
/// Where a cell was never written as it is.
pub(crate) fn cells_of(bytes: &[u8]) -> Result<Vec<u64>, String> {
    let cell = |(i, bytes): (usize, &[u8])| {
        let (first, rest) = bytes.split_at(8);
        let whole = rest.chunks_exact(8).all(|word| word == first);
        let word = u64::from_le_bytes(first.try_into().expect("eight bytes"));
        if whole { Ok(word) } else { Err(format!("cell {i} is a mixture")) }
    };
    bytes.chunks_exact(CELL as usize).enumerate().map(cell).collect()
}

impl Lines {
    /// The first volume of these, or the first at all.
    pub(crate) fn target(&self, preferred: &[Uuid]) -> Option<Uuid> {
        let preferred = preferred.iter().find(|id| self.0.contains_key(id));
        preferred.or_else(|| self.0.keys().find(|id| !is_snapshot(**id))).copied()
    }

    pub(crate) fn cells(&self, line: Uuid) -> u64 {
        self.0[&line].len() as u64
    }

    /// What differs, in words.
    pub(crate) fn difference(&self, other: &Lines) -> String {
        for (id, cells) in &self.0 {
            match other.0.get(id) {
                None => return format!("{} is missing", id.as_u128()),
                Some(theirs) if theirs.len() != cells.len() => {
                    return format!(
                        "{} has {} cells, not {}",
                        id.as_u128(),
                        theirs.len(),
                        cells.len()
                    );
                }
                Some(theirs) => {
                    if let Some(i) = (0..cells.len()).find(|i| cells[*i] != theirs[*i]) {
                        return format!(
                            "{} cell {i} is {:x}, not {:x}",
                            id.as_u128(),
                            theirs[i],
                            cells[i]
                        );
                    }
                }
            }
        }
        let more = other.0.keys().find(|id| !self.0.contains_key(id));
        more.map_or_else(|| "nothing differs".into(), |id| format!("{} is there", id.as_u128()))
    }
}

/// How far the log has come, in steps, and what of it must survive which death.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Floors {
    pub(crate) begun: usize,
    /// Survives the process.
    pub(crate) acknowledged: usize,
    /// Survives the host.
    pub(crate) written: usize,
    /// Survives the power.
    pub(crate) durable: usize,
}

/// All states that the log went through, and the floors now.
#[derive(Clone, Debug)]
pub(crate) struct Timeline {
    pub(crate) states: Vec<Lines>,
    pub(crate) floors: Floors,
    /// Steps up to a line's last.
    last_step: BTreeMap<Uuid, usize>,
}

impl Timeline {
    pub(crate) fn new(lines: Lines) -> Self {
        Self { states: vec![lines], floors: Floors::default(), last_step: BTreeMap::new() }
    }

    pub(crate) fn now(&self) -> &Lines {
        self.states.last().expect("there is a first")
    }

    /// A number that no step had before.
    pub(crate) fn version(&self) -> u64 {
        self.states.len() as u64
    }

    /// One record of the log changes a line, and perhaps others with it.
    pub(crate) fn step(&mut self, line: Uuid, change: impl FnOnce(&mut Lines)) {
        let mut lines = self.now().clone();
        change(&mut lines);
        self.states.push(lines);
        self.floors.begun = self.states.len() - 1;
        self.last_step.insert(line, self.floors.begun);
    }

    /// Cells of a line become something else.
    pub(crate) fn fill(&mut self, line: Uuid, from: u64, cells: &[u64]) {
        self.step(line, |lines| {
            let all = lines.0.get_mut(&line).expect("the line is there");
            all[from as usize..from as usize + cells.len()].copy_from_slice(cells);
        });
    }

    /// What was begun up to there is acknowledged, from staging.
    pub(crate) fn staged(&mut self, steps: usize) {
        self.floors.acknowledged = self.floors.acknowledged.max(steps);
    }

    /// What was begun up to there is acknowledged, from the store.
    pub(crate) fn stored(&mut self, steps: usize) {
        self.staged(steps);
        self.floors.written = self.floors.written.max(steps);
    }

    /// What was begun up to there is on stable storage.
    pub(crate) fn synced(&mut self, steps: usize) {
        self.stored(steps);
        self.floors.durable = self.floors.durable.max(steps);
    }

    /// A flush of the line was acknowledged.
    pub(crate) fn flushed(&mut self, line: Uuid) {
        self.synced(self.last_step.get(&line).copied().unwrap_or(0));
    }
}
