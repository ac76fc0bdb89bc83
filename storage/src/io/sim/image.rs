//! What a simulated medium holds: pages, shared between the disk and its copies until one of them changes.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Unit of sharing and of allocation, in bytes.
pub(super) const PAGE_BYTES: u64 = 4096;

type Page = [u8; PAGE_BYTES as usize];

/// Absent pages read as zeroes.
#[derive(Clone, Debug, Default)]
pub(super) struct Image {
    pages: BTreeMap<u64, Arc<Page>>,
}

impl Image {
    pub(super) fn read(&self, offset: u64, out: &mut [u8]) {
        for (page, at, part) in split(offset, out.len()) {
            match self.pages.get(&page) {
                Some(content) => out[part.clone()].copy_from_slice(&content[at..at + part.len()]),
                None => out[part].fill(0),
            }
        }
    }

    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        for (page, at, part) in split(offset, data.len()) {
            let content = self.pages.entry(page).or_insert_with(|| Arc::new([0; PAGE_BYTES as usize]));
            Arc::make_mut(content)[at..at + part.len()].copy_from_slice(&data[part]);
        }
    }

    pub(super) fn zero(&mut self, offset: u64, len: u64) {
        let end = offset + len;
        let whole = offset.div_ceil(PAGE_BYTES)..end / PAGE_BYTES;
        if whole.start < whole.end {
            let gone: Vec<u64> = self.pages.range(whole.clone()).map(|(page, _)| *page).collect();
            for page in gone {
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
                Arc::make_mut(content)[from as usize..to as usize].fill(0);
            }
        }
    }

    pub(super) fn flip_bit(&mut self, offset: u64, bit: u8) {
        let mut byte = [0];
        self.read(offset, &mut byte);
        self.write(offset, &[byte[0] ^ 1 << bit]);
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
