//! Pages against a map of numbers.

use super::*;
use crate::{base::SegmentId, format::ENTRIES_PAGE_BYTES};
use proptest::prelude::*;

/// A catalog: bytes of each number's entry, and what each page holds.
#[derive(Default)]
struct Model {
    entries: BTreeMap<VolumeNumber, usize>,
    pages: CatalogPages,
    held: BTreeMap<VolumeNumber, Vec<VolumeNumber>>,
    next_place: u32,
}

impl Model {
    /// Entries with these numbers, nothing written yet.
    fn with(range: Range<u32>) -> Self {
        let entries = numbers(range).into_iter().map(|number| (number, 280));
        Self { entries: entries.collect(), ..Self::default() }
    }

    /// Writes a checkpoint after `changed` changed. Returns how many pages of entries it wrote.
    fn checkpoint(&mut self, changed: &BTreeSet<VolumeNumber>) -> usize {
        let range = |numbers: &Numbers| {
            self.entries.range(VolumeNumber(numbers.start)..VolumeNumber(numbers.end))
        };
        let ranges = self.pages.to_write(changed, |numbers| range(numbers).count());
        assert!(ranges.windows(2).all(|pair| pair[0].end < pair[1].start), "{ranges:?}");
        let drafts: Vec<Vec<Draft>> = ranges
            .iter()
            .map(|numbers| {
                let items = range(numbers).map(|(number, bytes)| (*number, vec![0; *bytes]));
                Draft::fill(items, ENTRIES_PAGE_BYTES)
            })
            .collect();
        let written = drafts.iter().map(Vec::len).sum();
        let mut touched = BTreeSet::new();
        for (numbers, drafts) in ranges.into_iter().zip(drafts) {
            let (from, to) = (VolumeNumber(numbers.start), VolumeNumber(numbers.end));
            let gone: Vec<_> = self.held.range(from..to).map(|(first, _)| *first).collect();
            gone.iter().for_each(|first| drop(self.held.remove(first)));
            let mut pages = Vec::new();
            for (i, draft) in drafts.iter().enumerate() {
                let end = drafts.get(i + 1).map_or(to, |next| next.first);
                let held = self.entries.range(draft.first..end).map(|(number, _)| *number);
                self.held.insert(draft.first, held.collect());
                pages.push(self.place(draft));
            }
            touched.extend(self.pages.replace_entries(&numbers, pages));
        }
        for (numbers, references) in self.pages.index_to_write(&touched) {
            let drafts = Draft::fill(references.iter().map(|p| (p.first, vec![0; 28])), 280);
            let pages = drafts.iter().map(|draft| self.place(draft)).collect();
            self.pages.replace_index(&numbers, pages);
        }
        written
    }

    fn place(&mut self, draft: &Draft) -> PageRef {
        self.next_place += 1;
        draft.placed(1, 0, [Address::new(SegmentId(1), self.next_place); 2])
    }

    fn check(&self) {
        let held: Vec<_> = self.held.values().flatten().copied().collect();
        assert!(self.entries.keys().eq(&held), "{:?} in {:?}", self.entries, self.held);
        assert!(self.held.keys().eq(self.pages.entries.0.keys()));
        // The index leads to each page, through the page of the index that has its number.
        let index: Vec<_> = self.pages.index().iter().map(|page| page.first).collect();
        assert!(index.is_sorted());
        assert_eq!(index.is_empty(), self.held.is_empty());
        if let (Some(index), Some(held)) = (index.first(), self.held.keys().next()) {
            assert_eq!(index, held);
        }
    }
}

fn numbers(range: Range<u32>) -> BTreeSet<VolumeNumber> {
    range.map(VolumeNumber).collect()
}

#[test]
fn one_change_writes_one_page_of_many() {
    let mut model = Model::with(1..10_001);
    assert_eq!(model.checkpoint(&numbers(1..10_001)), 345, "29 entries a page");
    model.check();
    assert_eq!(model.checkpoint(&numbers(5000..5001)), 1);
    assert_eq!(model.checkpoint(&numbers(0..0)), 0);
    model.check();
}

#[test]
fn pages_that_emptied_are_put_together() {
    let mut model = Model::with(1..2001);
    model.checkpoint(&numbers(1..2001));
    model.entries.retain(|number, _| number.0 % 20 == 0);
    model.checkpoint(&numbers(1..2001));
    model.check();
    assert_eq!(model.held.len(), 4, "100 entries");
    model.entries.clear();
    model.checkpoint(&numbers(1..2001));
    model.check();
    assert_eq!(model.pages, CatalogPages::default());
}

#[test]
fn one_by_one_deleted_entries_leave_no_pages_behind() {
    let mut model = Model::with(1..3001);
    model.checkpoint(&numbers(1..3001));
    for number in (1..3001).filter(|number| number % 100 != 0) {
        model.entries.remove(&VolumeNumber(number));
        model.checkpoint(&numbers(number..number + 1));
    }
    model.check();
    assert!(model.held.len() <= 5, "30 entries in {} pages", model.held.len());
}

proptest! {
    #[test]
    fn pages_hold_what_there_is(
        rounds in prop::collection::vec(
            prop::collection::vec((0u32..400, 0usize..3, 100usize..2300), 1..40), 1..30)
    ) {
        let mut model = Model::default();
        for changes in rounds {
            let mut changed = BTreeSet::new();
            let (half, mut going) = (changes.len() / 2, Vec::new());
            for (i, (number, kind, bytes)) in changes.into_iter().enumerate() {
                let number = VolumeNumber(number);
                match kind {
                    0 => drop(model.entries.remove(&number)),
                    1 => drop(model.entries.insert(number, 300)),
                    _ => drop(model.entries.insert(number, bytes)),
                }
                changed.insert(number);
                if i == half {
                    let lasting: Vec<_> = model.pages.lasting(&changed).collect();
                    let all = model.pages.all();
                    going = all.filter(|page| !lasting.contains(page)).copied().collect();
                }
            }
            model.checkpoint(&changed);
            model.check();
            prop_assert!(model.pages.all().all(|page| !going.contains(page)), "{going:?}");
        }
    }
}
