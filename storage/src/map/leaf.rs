//! A leaf: the states of the 256 blocks of one MiB of a volume.

use crate::{
    base::{Address, LEAF_BLOCKS},
    format::RunState,
};
use smallvec::SmallVec;
use std::ops::ControlFlow;

const BLOCKS: usize = LEAF_BLOCKS as usize;

/// Consecutive blocks of a leaf that have one state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// First block in the leaf.
    pub(crate) start: u8,
    /// 1 to 256.
    pub(crate) len: u16,
    pub(crate) state: RunState,
}

impl Run {
    fn end(&self) -> u16 {
        u16::from(self.start) + self.len
    }

    fn continues(&self, next: &Run) -> bool {
        self.end() == u16::from(next.start)
            && match (self.state, next.state) {
                (RunState::Zero, RunState::Zero) => true,
                (RunState::Data(a), RunState::Data(b)) => a.raw() + u64::from(self.len) == b.raw(),
                (RunState::Zero, RunState::Data(_)) | (RunState::Data(_), RunState::Zero) => false,
            }
    }
}

/// Runs in order, none overlapping, neighbours joined where they continue each other; checksums of
/// the data blocks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Leaf {
    runs: Vec<Run>,
    /// By block; zero where there is no data.
    checksums: Option<Box<[u32; BLOCKS]>>,
}

impl Leaf {
    /// A leaf that is one zero run.
    pub(crate) fn zero() -> Self {
        Self {
            runs: vec![Run { start: 0, len: LEAF_BLOCKS as u16, state: RunState::Zero }],
            checksums: None,
        }
    }

    /// The runs in order.
    pub(crate) fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// Checksum of a data block.
    pub(crate) fn checksum(&self, block: u8) -> u32 {
        self.checksums.as_ref().map_or(0, |c| c[usize::from(block)])
    }

    /// Number of data blocks.
    pub(crate) fn data_blocks(&self) -> u64 {
        self.runs
            .iter()
            .filter(|r| matches!(r.state, RunState::Data(_)))
            .map(|r| u64::from(r.len))
            .sum()
    }

    /// Sets the state of `len` blocks from `start` on (`None`: a hole). Returns the change in data
    /// blocks.
    pub(crate) fn replace(
        &mut self,
        start: u8,
        len: u16,
        state: Option<RunState>,
        checksums: &[u32],
    ) -> i64 {
        let (from, to) = (u16::from(start), u16::from(start) + len);
        assert!(len > 0 && usize::from(to) <= BLOCKS);
        let first = self.first_behind(from);
        if let Some(state) = state
            && let Some(run) = self.runs.get_mut(first)
            && (run.start, run.len) == (start, len)
        {
            // The run keeps its place and gets another state: so are most writes to a leaf that is
            // written at random.
            let removed = if matches!(run.state, RunState::Data(_)) { i64::from(len) } else { 0 };
            run.state = state;
            self.join(first.saturating_sub(1), first + 2);
            return self.set_checksums(from, to, Some(state), checksums) - removed;
        }
        let last = first + self.runs[first..].partition_point(|r| u16::from(r.start) < to);
        let mut removed = 0;
        let mut middle: SmallVec<[Run; 3]> = SmallVec::new();
        for run in &self.runs[first..last] {
            let (a, b) = (u16::from(run.start).max(from), run.end().min(to));
            if matches!(run.state, RunState::Data(_)) {
                removed += i64::from(b - a);
            }
        }
        if let Some(run) = self.runs[first..last].first()
            && u16::from(run.start) < from
        {
            middle.push(Run { len: from - u16::from(run.start), ..*run });
        }
        if let Some(state) = state {
            middle.push(Run { start, len, state });
        }
        if let Some(run) = self.runs[first..last].last()
            && run.end() > to
        {
            let state = run.state.plus(to - u16::from(run.start));
            middle.push(Run { start: to as u8, len: run.end() - to, state });
        }
        self.runs.splice(first..last, middle.iter().copied());
        self.join(first.saturating_sub(1), first + middle.len() + 1);
        self.set_checksums(from, to, state, checksums) - removed
    }

    /// Sets the checksums of blocks, which are zero where there is no data. Returns the number of
    /// data blocks among them.
    fn set_checksums(
        &mut self,
        from: u16,
        to: u16,
        state: Option<RunState>,
        checksums: &[u32],
    ) -> i64 {
        let blocks = usize::from(from)..usize::from(to);
        if let Some(RunState::Data(_)) = state {
            assert_eq!(checksums.len(), blocks.len());
            let table = self.checksums.get_or_insert_with(|| Box::new([0; BLOCKS]));
            table[blocks].copy_from_slice(checksums);
            return i64::from(to - from);
        }
        if let Some(table) = &mut self.checksums {
            table[blocks].fill(0);
        }
        0
    }

    /// The first run that ends behind block `at`.
    fn first_behind(&self, at: u16) -> usize {
        match self.runs.get(usize::from(at)) {
            // Every block up to here is a run of its own.
            Some(run) if u16::from(run.start) == at => usize::from(at),
            Some(_) | None => self.runs.partition_point(|r| r.end() <= at),
        }
    }

    /// Joins runs that continue each other between these two places.
    fn join(&mut self, from: usize, to: usize) {
        let mut at = from;
        let mut to = to.min(self.runs.len());
        while at + 1 < to {
            if self.runs[at].continues(&self.runs[at + 1]) {
                self.runs[at].len += self.runs[at + 1].len;
                self.runs.remove(at + 1);
                to -= 1;
            } else {
                at += 1;
            }
        }
    }

    /// Calls `each` with the address and the number of blocks of each stretch of data among `len`
    /// blocks from `start` on.
    pub(crate) fn each_data(&self, start: u8, len: u16, mut each: impl FnMut(Address, u64)) {
        let (from, to) = (u16::from(start), u16::from(start) + len);
        for run in &self.runs[self.first_behind(from)..] {
            if u16::from(run.start) >= to {
                return;
            }
            let (a, b) = (u16::from(run.start).max(from), run.end().min(to));
            if let RunState::Data(address) = run.state.plus(a - u16::from(run.start)) {
                each(address, u64::from(b - a));
            }
        }
    }

    /// Calls `each(start, len, state)` for the blocks from `start` on, in order, holes included,
    /// until it says stop.
    pub(crate) fn lookup(
        &self,
        start: u8,
        len: u16,
        mut each: impl FnMut(u8, u16, Option<RunState>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let (mut at, to) = (u16::from(start), u16::from(start) + len);
        let first = self.first_behind(at);
        for run in &self.runs[first..] {
            let run_start = u16::from(run.start);
            if run_start >= to {
                break;
            }
            if run_start > at {
                each(at as u8, run_start - at, None)?;
                at = run_start;
            }
            let end = run.end().min(to);
            each(at as u8, end - at, Some(run.state.plus(at - run_start)))?;
            at = end;
        }
        if at < to { each(at as u8, to - at, None) } else { ControlFlow::Continue(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::SegmentId;
    use proptest::prelude::*;

    impl Leaf {
        fn self_check(&self) -> bool {
            self.runs.iter().all(|r| r.len > 0 && usize::from(r.end()) <= BLOCKS)
                && self
                    .runs
                    .windows(2)
                    .all(|w| w[0].end() <= u16::from(w[1].start) && !w[0].continues(&w[1]))
        }
    }

    fn address(block: u32) -> Address {
        Address::new(SegmentId(3), block)
    }

    proptest! {
        #[test]
        fn leaf_equals_a_table_of_blocks(
            steps in prop::collection::vec((0u16..256, 1u16..64, 0u8..3, 0u32..12_000), 1..60)
        ) {
            let mut leaf = Leaf::default();
            let mut twin: Vec<Option<(RunState, u32)>> = vec![None; 256];
            let is_data =
                |s: &&Option<(RunState, u32)>| matches!(s, Some((RunState::Data(_), _)));
            for (start, len, kind, target) in steps {
                let len = len.min(256 - start);
                let state = match kind {
                    0 => None,
                    1 => Some(RunState::Zero),
                    _ => Some(RunState::Data(address(target))),
                };
                let sums: Vec<u32> = match state {
                    Some(RunState::Data(_)) => (0..u32::from(len)).map(|i| target ^ i).collect(),
                    _ => Vec::new(),
                };
                let before = twin.iter().filter(is_data).count() as i64;
                for i in 0..len {
                    twin[usize::from(start + i)] =
                        state.map(|s| (s.plus(i), sums.get(usize::from(i)).copied().unwrap_or(0)));
                }
                let after = twin.iter().filter(is_data).count() as i64;
                prop_assert_eq!(leaf.replace(start as u8, len, state, &sums), after - before);
                prop_assert!(leaf.self_check());
                prop_assert_eq!(leaf.data_blocks() as i64, after);
            }
            let mut seen = Vec::new();
            let done = leaf.lookup(0, 256, |start, len, state| {
                for i in 0..len {
                    let block = (u16::from(start) + i) as u8;
                    seen.push(state.map(|s| (s.plus(i), leaf.checksum(block))));
                }
                ControlFlow::Continue(())
            });
            prop_assert!(done.is_continue());
            prop_assert_eq!(seen, twin);
        }
    }
}
