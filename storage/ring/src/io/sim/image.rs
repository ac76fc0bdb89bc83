//! The content of a simulated medium: pages, shared between the disk and its copies until one of
//! them changes.

use std::collections::BTreeMap;
use std::hash::BuildHasher;
use std::sync::{Arc, OnceLock};

use foldhash::quality::FixedState;

/// Unit of sharing and of allocation, in bytes.
pub(super) const PAGE_BYTES: u64 = 4096;

/// A page and, once computed, a hash of its content.
#[derive(Clone, Debug)]
pub(super) struct Page {
    bytes: [u8; PAGE_BYTES as usize],
    hash: OnceLock<u64>,
}

impl Page {
    fn zero() -> Arc<Page> {
        Arc::new(Page { bytes: [0; PAGE_BYTES as usize], hash: OnceLock::new() })
    }

    /// The content, to be changed: no other copy sees it.
    fn change(page: &mut Arc<Page>) -> &mut [u8] {
        let page = Arc::make_mut(page);
        page.hash = OnceLock::new();
        &mut page.bytes
    }

    /// Hash of the content; zero where all bytes are.
    fn hash(&self) -> u64 {
        *self.hash.get_or_init(|| match self.bytes.iter().any(|byte| *byte != 0) {
            true => FixedState::default().hash_one(&self.bytes[..]),
            false => 0,
        })
    }
}

/// Absent pages read as zeroes.
#[derive(Clone, Debug, Default)]
pub(super) struct Image {
    pages: BTreeMap<u64, Arc<Page>>,
}

impl Image {
    pub(super) fn read(&self, offset: u64, out: &mut [u8]) {
        for (page, at, part) in split(offset, out.len()) {
            match self.pages.get(&page) {
                Some(content) => {
                    out[part.clone()].copy_from_slice(&content.bytes[at..at + part.len()])
                }
                None => out[part].fill(0),
            }
        }
    }

    /// A page; `None` where it is all zeroes.
    pub(super) fn page(&self, page: u64) -> Option<Arc<Page>> {
        self.pages.get(&page).cloned()
    }

    pub(super) fn put(&mut self, page: u64, content: Option<Arc<Page>>) {
        match content {
            Some(content) => drop(self.pages.insert(page, content)),
            None => drop(self.pages.remove(&page)),
        }
    }

    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        for (page, at, part) in split(offset, data.len()) {
            let content = self.pages.entry(page).or_insert_with(Page::zero);
            Page::change(content)[at..at + part.len()].copy_from_slice(&data[part]);
        }
    }

    pub(super) fn zero(&mut self, offset: u64, len: u64) {
        let end = offset + len;
        let whole = offset.div_ceil(PAGE_BYTES)..end / PAGE_BYTES;
        if whole.start < whole.end {
            let removed: Vec<u64> =
                self.pages.range(whole.clone()).map(|(page, _)| *page).collect();
            for page in removed {
                self.pages.remove(&page);
            }
        }
        for edge in [offset / PAGE_BYTES, end / PAGE_BYTES] {
            if !whole.contains(&edge)
                && let Some(content) = self.pages.get_mut(&edge)
            {
                let page_at = edge * PAGE_BYTES;
                let from = offset.max(page_at) - page_at;
                let to = end.min(page_at + PAGE_BYTES) - page_at;
                Page::change(content)[from as usize..to as usize].fill(0);
            }
        }
    }

    /// Hash of the content. Pages that did not change since the last call cost nothing.
    pub(super) fn content_hash(&self) -> u64 {
        let pages = self.pages.iter().map(|(number, page)| (number, page.hash()));
        let hashes =
            pages.filter(|(_, hash)| *hash != 0).map(|page| FixedState::default().hash_one(page));
        hashes.fold(0, u64::wrapping_add)
    }

    pub(super) fn flip_bit(&mut self, offset: u64, bit: u8) {
        let mut byte = [0];
        self.read(offset, &mut byte);
        self.write(offset, &[byte[0] ^ 1 << bit]);
    }
}

/// Content of changed pages before their last change; `None` is all zeroes.
#[derive(Clone, Debug, Default)]
pub(super) struct History(BTreeMap<u64, Option<Arc<Page>>>);

impl History {
    /// A write over a range of `image` is about to take effect.
    pub(super) fn before_write(&mut self, image: &Image, offset: u64, len: u64) {
        for page in offset / PAGE_BYTES..(offset + len).div_ceil(PAGE_BYTES) {
            self.0.insert(page, image.pages.get(&page).cloned());
        }
    }

    /// A range of `image`, which may be terabytes of nothing, is about to become zero.
    pub(super) fn before_zero(&mut self, image: &Image, offset: u64, len: u64) {
        let filled = image.pages.range(offset / PAGE_BYTES..(offset + len).div_ceil(PAGE_BYTES));
        self.0.extend(filled.map(|(page, content)| (*page, Some(Arc::clone(content)))));
    }

    /// Applies the earlier content to `out`, which was read from `offset`.
    pub(super) fn read(&self, offset: u64, out: &mut [u8]) {
        for (page, at, part) in split(offset, out.len()) {
            match self.0.get(&page) {
                Some(Some(content)) => {
                    out[part.clone()].copy_from_slice(&content.bytes[at..at + part.len()])
                }
                Some(None) => out[part].fill(0),
                None => {}
            }
        }
    }
}

/// The pages of a range: page number, offset in the page, and the part of the range.
fn split(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let at = offset + done as u64;
        let in_page = (at % PAGE_BYTES) as usize;
        let step = (PAGE_BYTES as usize - in_page).min(len - done);
        let part = done..done + step;
        done += step;
        Some((at / PAGE_BYTES, in_page, part))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_agrees_with_a_plain_array() {
        let mut random = super::super::Random::new(1);
        let mut image = Image::default();
        let mut plain = vec![0; 10 * PAGE_BYTES as usize];
        for round in 0..500u64 {
            let offset = random.below(plain.len() as u64);
            let len = random.below(plain.len() as u64 - offset + 1);
            let range = offset as usize..(offset + len) as usize;
            if random.coin() {
                plain[range.clone()].fill(round as u8);
                image.write(offset, &plain[range]);
            } else {
                plain[range].fill(0);
                image.zero(offset, len);
            }
            let mut read = vec![1; plain.len()];
            image.read(0, &mut read);
            assert_eq!(read, plain);
        }
    }
}
