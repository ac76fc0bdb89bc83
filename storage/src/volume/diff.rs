//! Diff: what changed between a snapshot and a later state of its volume, by their maps alone.

use crate::{
    base::{BLOCK_BYTES, Error, Kind, Result},
    disk::NodesInHand,
    format::RunState,
    map::Comparison,
    volume::{ExtentState, Volume},
};
use std::ops::ControlFlow;

/// A range that was written, zeroed or trimmed since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Byte offset of the first byte.
    pub offset: u64,
    /// Number of bytes.
    pub len_bytes: u64,
    /// The range's state now.
    pub state: ExtentState,
}

/// A part of a diff: changes in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changes {
    /// The changes, which do not overlap; neighbours of one state are joined.
    pub changes: Vec<Change>,
    /// Byte offset up to which the range was compared.
    pub looked_to: u64,
}

impl Volume {
    /// Compares `len` bytes from `offset` on with `older`, a volume or snapshot of the same family.
    /// It returns at most `entries_max` changes (at least one), so it may end before the range
    /// does; ask again from `looked_to`. It reads no data. Data beyond the end of `older` counts as
    /// a change. Changes are whole blocks, except at the ends of the range.
    ///
    /// # Errors
    /// [`Kind::OutOfRange`]; [`Kind::NotFound`] when one of the two was deleted; [`Kind::Invalid`]
    /// for another family; [`Kind::Io`], [`Kind::Corrupt`] when a map cannot be read.
    pub async fn changes_since(
        &self,
        older: &Volume,
        offset: u64,
        len: u64,
        entries_max: usize,
    ) -> Result<Changes> {
        let volume = &*self.inner;
        volume.check_range(offset, len)?;
        let block_bytes = BLOCK_BYTES as u64;
        // Held until the end: the nodes that the two maps refer to now stay where they are.
        let _pin = volume.engine.pins.pin();
        let of = |volume: &Volume| {
            let state = volume.inner.lock();
            state.check_exists().map(|()| (state.tree.clone(), state.meta.family))
        };
        let ((newer, family), (older, older_family)) = (of(self)?, of(older)?);
        if family != older_family {
            return Err(Error::new(Kind::Invalid, "the two have no common ancestor"));
        }
        let mut nodes = NodesInHand::new(&volume.engine.disk);
        let mut changes: Vec<Change> = Vec::new();
        let (mut at, end) = (offset / block_bytes, (offset + len).div_ceil(block_bytes));
        while len > 0 && at < end {
            let (start, mut full) = (at, false);
            let compared =
                newer.compare(&older, &nodes, start, end - start, &mut |blocks, comparison| {
                    if let Comparison::Differs(state) = comparison {
                        let state = match state {
                            Some(RunState::Data(_)) => ExtentState::Data,
                            Some(RunState::Zero) => ExtentState::Zero,
                            None => ExtentState::Hole,
                        };
                        let (from, len_bytes) = (at * block_bytes, blocks * block_bytes);
                        full = changes.len() == entries_max.max(1);
                        match changes.last_mut() {
                            Some(last)
                                if last.state == state && last.offset + last.len_bytes == from =>
                            {
                                last.len_bytes += len_bytes;
                                full = false;
                            }
                            _ if full => return ControlFlow::Break(()),
                            _ => changes.push(Change { offset: from, len_bytes, state }),
                        }
                    }
                    at += blocks;
                    ControlFlow::Continue(())
                });
            match compared {
                Ok(_) if full => break,
                Ok(_) => {}
                Err(missing) => nodes.load(missing).await?,
            }
        }
        let looked_to = (at * block_bytes).clamp(offset, offset + len);
        for change in &mut changes {
            let change_end = (change.offset + change.len_bytes).min(offset + len);
            change.offset = change.offset.max(offset);
            change.len_bytes = change_end - change.offset;
        }
        Ok(Changes { changes, looked_to })
    }
}
