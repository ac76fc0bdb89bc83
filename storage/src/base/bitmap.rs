//! Bitmaps with one bit for each block of a segment, and the rank of each bit.

/// A fixed set of blocks of one segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bitmap {
    words: Box<[u64]>,
    /// Bits set before each word.
    before: Box<[u16]>,
}

impl Bitmap {
    /// The set of these blocks, in a segment of `segment_blocks`.
    pub(crate) fn of(blocks: impl Iterator<Item = u32>, segment_blocks: u32) -> Self {
        let mut words = vec![0; (segment_blocks as usize).div_ceil(64)].into_boxed_slice();
        blocks.for_each(|block| words[(block / 64) as usize] |= 1 << (block % 64));
        Self::new(words)
    }

    /// A set from its words, the first block in the lowest bit. A segment has at most 16,384
    /// blocks.
    pub(crate) fn new(words: Box<[u64]>) -> Self {
        let mut count = 0;
        let before = words
            .iter()
            .map(|word| {
                let before = count;
                count += word.count_ones() as u16;
                before
            })
            .collect();
        Self { words, before }
    }

    /// Its words.
    pub(crate) fn words(&self) -> &[u64] {
        &self.words
    }

    /// Number of bits set.
    pub(crate) fn count(&self) -> u32 {
        self.words.iter().map(|word| word.count_ones()).sum()
    }

    /// Number of blocks from `block` on, at most `blocks`, whose bits are all set.
    pub(crate) fn run(&self, block: u32, blocks: u32) -> u32 {
        let set = |block: &u32| {
            self.words.get((block / 64) as usize).is_some_and(|word| word >> (block % 64) & 1 == 1)
        };
        (block..block + blocks).take_while(set).count() as u32
    }

    /// Number of bits set before that of `block`.
    pub(crate) fn rank(&self, block: u32) -> u32 {
        let (word, bit) = ((block / 64) as usize, block % 64);
        u32::from(self.before[word]) + (self.words[word] & ((1 << bit) - 1)).count_ones()
    }
}

/// Sets a bit, and returns whether it was clear before.
pub(crate) fn set(words: &mut [u64], block: u32) -> bool {
    let (word, bit) = (&mut words[(block / 64) as usize], 1 << (block % 64));
    let fresh = *word & bit == 0;
    *word |= bit;
    fresh
}

/// The blocks whose bit is set, in order.
pub(crate) fn ones(words: &[u64]) -> impl Iterator<Item = u32> {
    words.iter().enumerate().flat_map(|(i, word)| {
        let mut left = *word;
        std::iter::from_fn(move || {
            let bit = (left != 0).then(|| left.trailing_zeros())?;
            left &= left - 1;
            Some(i as u32 * 64 + bit)
        })
    })
}

/// Runs of at least `least` blocks whose bit is not set, among the first `blocks`: first block and
/// length.
pub(crate) fn gaps(words: &[u64], blocks: u32, least: u32) -> Vec<(u32, u32)> {
    let mut found = Vec::new();
    let mut from = 0;
    for at in ones(words).chain([blocks]) {
        if at - from >= least {
            found.push((from, at - from));
        }
        from = at + 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn equals_a_list_of_blocks(
            blocks in prop::collection::btree_set(0u32..256, 0..256),
            least in 1u32..9,
        ) {
            let mut words = vec![0u64; 4].into_boxed_slice();
            blocks.iter().for_each(|b| words[(b / 64) as usize] |= 1 << (b % 64));
            let listed = blocks.iter().copied().collect::<Vec<_>>();
            prop_assert_eq!(ones(&words).collect::<Vec<_>>(), listed);
            let mut dead = Vec::new();
            for (first, len) in gaps(&words, 256, least) {
                prop_assert!(len >= least);
                prop_assert!(first == 0 || blocks.contains(&(first - 1)));
                prop_assert!(first + len == 256 || blocks.contains(&(first + len)));
                dead.extend(first..first + len);
            }
            prop_assert!(dead.iter().all(|b| !blocks.contains(b)));
            if least == 1 {
                prop_assert_eq!(dead.len() + blocks.len(), 256);
            }
            let bitmap = Bitmap::new(words);
            prop_assert_eq!(bitmap.count() as usize, blocks.len());
            for block in 0..256 {
                prop_assert_eq!(bitmap.rank(block) as usize, blocks.range(..block).count());
                let run = (block..256).take_while(|b| blocks.contains(b)).count();
                prop_assert_eq!(bitmap.run(block, 300) as usize, run);
                prop_assert_eq!(bitmap.run(block, 3) as usize, run.min(3));
            }
        }
    }
}
