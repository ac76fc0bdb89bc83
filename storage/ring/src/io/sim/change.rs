//! A change of a simulated medium, and the part of it that a crash leaves.

use super::image::Image;
use super::random::Random;

/// Unit at which a power loss tears, and to which direct I/O is aligned.
pub(super) const SECTOR_BYTES: u64 = 512;

/// The part of a change that a crash keeps, when it was not durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kept {
    /// Nothing of it.
    Nothing,
    /// All of it.
    Whole,
    /// This number of its first sectors of 512 bytes.
    Beginning(u64),
    /// Its sectors whose bit is set, the first in the lowest bit; the 64 bits repeat.
    Sectors(u64),
}

#[derive(Clone, Debug)]
pub(super) enum Change {
    Write { offset: u64, data: Vec<u8> },
    Zero { offset: u64, len: u64 },
}

impl Change {
    pub(super) fn apply(&self, image: &mut Image) {
        match self {
            Change::Write { offset, data } => image.write(*offset, data),
            Change::Zero { offset, len } => image.zero(*offset, *len),
        }
    }

    /// Applies it to `out`, which was read from `at`.
    pub(super) fn overlay(&self, at: u64, out: &mut [u8]) {
        let from = self.offset().max(at);
        let to = (self.offset() + self.len()).min(at + out.len() as u64);
        if from < to {
            let out = &mut out[(from - at) as usize..(to - at) as usize];
            match self {
                Change::Write { offset, data } => {
                    out.copy_from_slice(&data[(from - offset) as usize..(to - offset) as usize]);
                }
                Change::Zero { .. } => out.fill(0),
            }
        }
    }

    pub(super) fn offset(&self) -> u64 {
        match self {
            Change::Write { offset, .. } | Change::Zero { offset, .. } => *offset,
        }
    }

    pub(super) fn len(&self) -> u64 {
        match self {
            Change::Write { data, .. } => data.len() as u64,
            Change::Zero { len, .. } => *len,
        }
    }

    /// The part of it that covers `len` bytes from its byte `skip` on.
    pub(super) fn part(&self, skip: u64, len: u64) -> Change {
        match self {
            Change::Write { offset, data } => Change::Write {
                offset: offset + skip,
                data: data[skip as usize..(skip + len) as usize].to_vec(),
            },
            Change::Zero { offset, .. } => Change::Zero { offset: offset + skip, len },
        }
    }

    /// The parts of it outside a range of the disk.
    pub(super) fn outside(self, from: u64, to: u64) -> Vec<Change> {
        let (start, end) = (self.offset(), self.offset() + self.len());
        if to <= start || end <= from {
            return vec![self];
        }
        let front = (start < from).then(|| self.part(0, from - start));
        let back = (to < end).then(|| self.part(to - start, end - to));
        front.into_iter().chain(back).collect()
    }

    /// Its sectors, each as a change. A long run of zeroes is split into few steps, because it is a
    /// command without data.
    pub(super) fn sectors(&self) -> impl Iterator<Item = Change> {
        let step = match self {
            Change::Write { .. } => SECTOR_BYTES,
            Change::Zero { len, .. } => SECTOR_BYTES.max((len / 16).next_multiple_of(SECTOR_BYTES)),
        };
        let len = self.len();
        (0..len.div_ceil(step))
            .map(move |index| self.part(index * step, step.min(len - index * step)))
    }

    /// A random result of a crash: all, nothing, a beginning, or any sectors.
    pub(super) fn torn(&self, random: &mut Random) -> Vec<Change> {
        match random.below(4) {
            0 => Vec::new(),
            1 => vec![self.clone()],
            2 => {
                let len = random.below(self.len() / SECTOR_BYTES + 1) * SECTOR_BYTES;
                if len == 0 { Vec::new() } else { vec![self.part(0, len)] }
            }
            _ => self.sectors().filter(|_| random.coin()).collect(),
        }
    }

    /// The same change at another offset.
    pub(super) fn at(self, offset: u64) -> Change {
        match self {
            Change::Write { data, .. } => Change::Write { offset, data },
            Change::Zero { len, .. } => Change::Zero { offset, len },
        }
    }

    /// The part of it that `kept` keeps.
    pub(super) fn kept(&self, kept: Kept) -> Vec<Change> {
        match kept {
            Kept::Nothing | Kept::Beginning(0) => Vec::new(),
            Kept::Whole => vec![self.clone()],
            Kept::Beginning(sectors) => vec![self.part(0, self.len().min(sectors * SECTOR_BYTES))],
            Kept::Sectors(mask) => {
                let sectors = self.len().div_ceil(SECTOR_BYTES);
                let there = (0..sectors).filter(|sector| mask >> (sector % 64) & 1 == 1);
                let start = |sector| sector * SECTOR_BYTES;
                there
                    .map(|s| self.part(start(s), SECTOR_BYTES.min(self.len() - start(s))))
                    .collect()
            }
        }
    }
}
