//! The pages of the catalog: which numbers each of them holds, and where it lies.
//!
//! I1  Each number is in the range of exactly one page of a level: from the page's first number
//!     (from zero, for the first page) up to the first number of the next.
//! I2  Pages that are written anew end at the same borders as the pages that they replace, so that
//!     all other pages stay what they are.

use crate::{
    base::{Address, VolumeNumber},
    format::PageRef,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

/// Fewest entries of a page that stays by itself: one with fewer is written together with its
/// neighbour when either changes.
const ENTRIES_MIN: usize = 8;
/// The same for pages of the index.
const REFERENCES_MIN: usize = 32;
/// Behind the last number that an entry can have.
const NUMBERS_END: u32 = u32::MAX;

/// Numbers whose pages are written anew together.
pub(crate) type Numbers = Range<u32>;

/// Both levels of pages, as the last checkpoint left them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CatalogPages {
    entries: Level,
    index: Level,
}

/// The pages of a level, by their first numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Level(BTreeMap<VolumeNumber, PageRef>);

impl CatalogPages {
    /// The pages with these references.
    pub(crate) fn new(index: Vec<PageRef>, entries: Vec<PageRef>) -> Self {
        Self { entries: Level::of(entries), index: Level::of(index) }
    }

    /// All pages of both levels.
    pub(crate) fn all(&self) -> impl Iterator<Item = &PageRef> {
        self.index.0.values().chain(self.entries.0.values())
    }

    /// The pages that the next checkpoint may keep when entries or families of these numbers
    /// changed. It replaces all others, whatever else changes until then.
    pub(crate) fn lasting(
        &self,
        changed: &BTreeSet<VolumeNumber>,
    ) -> impl Iterator<Item = &PageRef> {
        let entries = self.entries.hit(changed);
        let index = self.index.hit(&entries);
        let index = self.index.0.values().filter(move |page| !index.contains(&page.first));
        let entries = self.entries.0.values().filter(move |page| !entries.contains(&page.first));
        index.chain(entries)
    }

    /// A number of each page of entries: where they change, all pages are written anew.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = VolumeNumber> {
        self.entries.0.keys().copied()
    }

    /// The pages of the index, in order.
    pub(crate) fn index(&self) -> Vec<PageRef> {
        self.index.0.values().copied().collect()
    }

    /// Blocks of all pages, both copies.
    pub(crate) fn blocks(&self) -> u64 {
        self.all().map(|page| 2 * u64::from(page.blocks)).sum()
    }

    /// The ranges of numbers whose pages are to be written anew when entries or families of these
    /// numbers changed, in order and apart. `count` counts the entries of a range.
    pub(crate) fn to_write(
        &self,
        changed: &BTreeSet<VolumeNumber>,
        count: impl Fn(&Numbers) -> usize,
    ) -> Vec<Numbers> {
        self.entries.to_write(changed, |numbers| count(numbers) < ENTRIES_MIN)
    }

    /// Replaces the pages of entries of a range. Returns the first numbers of all pages that came
    /// or went.
    pub(crate) fn replace_entries(
        &mut self,
        numbers: &Numbers,
        pages: Vec<PageRef>,
    ) -> BTreeSet<VolumeNumber> {
        self.entries.replace(numbers, pages)
    }

    /// The ranges of numbers whose pages of the index are to be written anew when these pages of
    /// entries came or went, and the references that each range has now.
    pub(crate) fn index_to_write(
        &self,
        changed: &BTreeSet<VolumeNumber>,
    ) -> Vec<(Numbers, Vec<PageRef>)> {
        let references = |numbers: &Numbers| {
            self.entries.0.range(VolumeNumber(numbers.start)..VolumeNumber(numbers.end))
        };
        let ranges =
            self.index.to_write(changed, |numbers| references(numbers).count() < REFERENCES_MIN);
        let with_references = |numbers: Numbers| {
            let pages = references(&numbers).map(|(_, page)| *page).collect();
            (numbers, pages)
        };
        ranges.into_iter().map(with_references).collect()
    }

    /// Replaces the pages of the index of a range.
    pub(crate) fn replace_index(&mut self, numbers: &Numbers, pages: Vec<PageRef>) {
        self.index.replace(numbers, pages);
    }
}

impl Level {
    fn of(pages: Vec<PageRef>) -> Self {
        Self(pages.into_iter().map(|page| (page.first, page)).collect())
    }

    /// First number of the page that a number belongs to (I1).
    fn page_of(&self, number: VolumeNumber) -> Option<VolumeNumber> {
        let page = self.0.range(..=number).next_back().or_else(|| self.0.first_key_value());
        page.map(|(first, _)| *first)
    }

    fn next(&self, first: VolumeNumber) -> Option<VolumeNumber> {
        self.0.range(VolumeNumber(first.0 + 1)..).next().map(|(first, _)| *first)
    }

    fn before(&self, first: VolumeNumber) -> Option<VolumeNumber> {
        self.0.range(..first).next_back().map(|(first, _)| *first)
    }

    /// First numbers of the pages that these numbers belong to.
    fn hit(&self, numbers: &BTreeSet<VolumeNumber>) -> BTreeSet<VolumeNumber> {
        numbers.iter().filter_map(|number| self.page_of(*number)).collect()
    }

    /// The numbers that a page holds (I1).
    fn numbers(&self, first: VolumeNumber) -> Numbers {
        let start = self.before(first).map_or(0, |_| first.0);
        start..self.next(first).map_or(NUMBERS_END, |next| next.0)
    }

    fn to_write(
        &self,
        changed: &BTreeSet<VolumeNumber>,
        is_small: impl Fn(&Numbers) -> bool,
    ) -> Vec<Numbers> {
        if self.0.is_empty() {
            return changed.first().map(|_| 0..NUMBERS_END).into_iter().collect();
        }
        let hit = self.hit(changed);
        let mut pages = hit.clone();
        for first in hit {
            let next = self.next(first);
            if is_small(&self.numbers(first)) {
                pages.extend(next.or_else(|| self.before(first)));
            }
            pages.extend(next.filter(|next| is_small(&self.numbers(*next))));
        }
        let mut ranges: Vec<Numbers> = Vec::new();
        for first in pages {
            let numbers = self.numbers(first);
            match ranges.last_mut() {
                Some(last) if last.end == numbers.start => last.end = numbers.end,
                _ => ranges.push(numbers),
            }
        }
        ranges
    }

    /// Replaces the pages of a range. Returns the first numbers of all that came or went.
    fn replace(&mut self, numbers: &Numbers, pages: Vec<PageRef>) -> BTreeSet<VolumeNumber> {
        let gone = self.0.range(VolumeNumber(numbers.start)..VolumeNumber(numbers.end));
        let gone: Vec<_> = gone.map(|(first, _)| *first).collect();
        for first in &gone {
            self.0.remove(first);
        }
        let come: Vec<_> = pages.iter().map(|page| page.first).collect();
        self.0.extend(pages.into_iter().map(|page| (page.first, page)));
        gone.into_iter().chain(come).collect()
    }
}

/// A page before it has a place: its first number, and its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Draft {
    pub(crate) first: VolumeNumber,
    pub(crate) payload: Vec<u8>,
}

impl Draft {
    /// Fills pages of `max_bytes` with the bytes of each number, in the order of the numbers.
    pub(crate) fn fill(
        items: impl Iterator<Item = (VolumeNumber, Vec<u8>)>,
        max_bytes: usize,
    ) -> Vec<Self> {
        let mut drafts: Vec<Self> = Vec::new();
        for (number, bytes) in items {
            assert!(bytes.len() <= max_bytes, "a number fits into a page");
            match drafts.last_mut() {
                Some(draft) if draft.payload.len() + bytes.len() <= max_bytes => {
                    assert!(number > draft.first, "each number once, in order");
                    draft.payload.extend_from_slice(&bytes);
                }
                _ => drafts.push(Self { first: number, payload: bytes }),
            }
        }
        drafts
    }

    /// The reference to the page in its place.
    pub(crate) fn placed(&self, blocks: u32, checksum: u32, copies: [Address; 2]) -> PageRef {
        PageRef { first: self.first, blocks, checksum, copies }
    }
}

#[cfg(test)]
mod tests;
