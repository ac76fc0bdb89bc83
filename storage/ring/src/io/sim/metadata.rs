//! The metadata of the file system that a simulated disk stands for: which pages count as written,
//! and what of that is in its journal.
//!
//! ```text
//!   hole ──allocate──► unwritten ──write──► written ──write in place──► written
//!     └─────────write, both at once────────────┘                        … ──punch──► hole
//! ```
//! Each arrow except *write in place* waits for the journal.
//!
//! I1  The journal is written by a sync and by a write through, for all that completed before; and
//!     by itself at any time, but always from the oldest change on.
//! I2  A crash of the host drops every change of metadata that is not in the journal, and with it
//!     later writes to the page: the page has the content from before that change.
//! I3  On a block device there is no metadata; in a file whose blocks move, each write changes it.

use std::ops::Range;
use std::sync::Arc;

use super::change::Change;
use super::image::{Image, PAGE_BYTES, Page};
use crate::io::Placement;

#[derive(Clone, Debug)]
pub(super) struct Metadata {
    placement: Placement,
    /// One bit a page that counts as written.
    written: Vec<u64>,
    /// Not in the journal yet, in order.
    pending: Vec<Pending>,
}

/// The effect of one change on metadata.
#[derive(Clone, Debug)]
struct Pending {
    /// The change's number.
    number: u64,
    before: Vec<Before>,
}

/// A page as it was before a change.
#[derive(Clone, Debug)]
pub(super) struct Before {
    pub(super) page: u64,
    /// `None` is all zeroes.
    pub(super) content: Option<Arc<Page>>,
    was_written: bool,
}

impl Metadata {
    pub(super) fn new(len: u64) -> Metadata {
        let mut metadata = Metadata {
            placement: Placement::InPlace("a simulation"),
            written: Vec::new(),
            pending: Vec::new(),
        };
        metadata.resize(len);
        metadata
    }

    pub(super) fn placement(&self) -> Placement {
        self.placement
    }

    pub(super) fn set_placement(&mut self, placement: Placement) {
        self.placement = placement;
    }

    pub(super) fn resize(&mut self, len: u64) {
        let pages = len.div_ceil(PAGE_BYTES);
        self.written.resize(pages.div_ceil(64) as usize, 0);
        if !pages.is_multiple_of(64)
            && let Some(last) = self.written.last_mut()
        {
            *last &= (1 << (pages % 64)) - 1;
        }
    }

    /// Notes the change `number`, which is about to be applied to `image`.
    pub(super) fn note(&mut self, number: u64, change: &Change, image: &Image) {
        let before: Vec<Before> = match self.placement {
            Placement::Device => Vec::new(),
            Placement::InPlace(_)
            | Placement::Moving(_)
            | Placement::Buffered(_)
            | Placement::Memory(_) => {
                let pages = self.pages(change).filter(|page| self.changes(change, *page));
                let before = |page| Before {
                    page,
                    content: image.page(page),
                    was_written: self.is_written(page),
                };
                pages.map(before).collect()
            }
        };
        self.mark(change);
        if !before.is_empty() {
            self.pending.push(Pending { number, before });
        }
    }

    /// Updates the bits for a change.
    pub(super) fn mark(&mut self, change: &Change) {
        let is_written = matches!(change, Change::Write { .. });
        for page in self.pages(change) {
            self.set(page, is_written);
        }
    }

    /// The journal now has the metadata of changes numbered below `covered`.
    pub(super) fn journal(&mut self, covered: u64) {
        self.pending.retain(|pending| pending.number >= covered);
    }

    /// Changes of metadata that are not in the journal.
    pub(super) fn unjournaled(&self) -> usize {
        self.pending.len()
    }

    /// Keeps the first `kept` of these, and returns the pages from before the others, the newest
    /// first.
    pub(super) fn forget(&mut self, kept: usize) -> Vec<Before> {
        let mut pending = std::mem::take(&mut self.pending);
        let lost = pending.split_off(kept.min(pending.len()));
        let before: Vec<Before> = lost.into_iter().rev().flat_map(|lost| lost.before).collect();
        for Before { page, was_written, .. } in &before {
            self.set(*page, *was_written);
        }
        before
    }

    /// The parts of a range that a write changes metadata of.
    pub(super) fn unwritten(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let mut missing: Vec<Range<u64>> = Vec::new();
        for page in range.start / PAGE_BYTES..range.end.div_ceil(PAGE_BYTES) {
            let part =
                (page * PAGE_BYTES).max(range.start)..((page + 1) * PAGE_BYTES).min(range.end);
            match missing.last_mut() {
                _ if self.is_written(page) => {}
                Some(last) if last.end == part.start => last.end = part.end,
                Some(_) | None => missing.push(part),
            }
        }
        missing
    }

    /// The pages that a change makes written, or holes.
    fn pages(&self, change: &Change) -> Range<u64> {
        let (from, to) = (change.offset(), change.offset() + change.len());
        match change {
            Change::Write { .. } => from / PAGE_BYTES..to.div_ceil(PAGE_BYTES),
            // A page that a hole covers in part is written in place.
            Change::Zero { .. } => {
                from.div_ceil(PAGE_BYTES)..(to / PAGE_BYTES).max(from.div_ceil(PAGE_BYTES))
            }
        }
    }

    fn changes(&self, change: &Change, page: u64) -> bool {
        match change {
            Change::Write { .. } => !self.is_written(page) || !self.placement.is_trusted(),
            Change::Zero { .. } => self.is_written(page),
        }
    }

    fn is_written(&self, page: u64) -> bool {
        self.written.get((page / 64) as usize).is_some_and(|word| word >> (page % 64) & 1 == 1)
    }

    fn set(&mut self, page: u64, is_written: bool) {
        let (word, bit) = (&mut self.written[(page / 64) as usize], 1 << (page % 64));
        if is_written { *word |= bit } else { *word &= !bit }
    }
}
