//! What may survive of the changes that are not durable.

use super::lines::CELL;
use crate::world::Random;
use sandstone_ring::{sim::Kept, sim::Unsynced};

/// Up to as many changes all subsets are tried.
const ALL_MAX: usize = 10;
/// Subsets that are tried of more.
const SAMPLES: u64 = 256;

/// In how many ways the last change of a subset is torn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tears {
    /// One of all.
    One,
    /// Behind its first sector, in the middle, before its last, and any sectors.
    All,
}

/// Each way in which these changes may have survived: every subset, and every subset with its last
/// change torn.
pub(crate) fn fates(changes: &[Unsynced], tears: Tears, random: &mut Random) -> Vec<Vec<Kept>> {
    let subsets: Vec<u64> = if changes.len() <= ALL_MAX {
        (0..1 << changes.len()).collect()
    } else {
        (0..SAMPLES).map(|_| random.next()).collect()
    };
    let mut all = Vec::new();
    for subset in subsets {
        let kept = |i: usize| if subset >> (i % 64) & 1 == 1 { Kept::Whole } else { Kept::Nothing };
        let whole: Vec<Kept> = (0..changes.len()).map(kept).collect();
        if let Some(last) = whole.iter().rposition(|kept| *kept == Kept::Whole) {
            let sectors = changes[last].len_bytes / CELL;
            let mut cuts = vec![1, sectors / 2, sectors - 1];
            cuts.dedup();
            let beginnings =
                cuts.into_iter().filter(|cut| (1..sectors).contains(cut)).map(Kept::Beginning);
            // A write of a sector cannot be torn.
            let scattered = (sectors > 1).then(|| Kept::Sectors(random.next()));
            let mut torn: Vec<Kept> = beginnings.chain(scattered).collect();
            if tears == Tears::One && !torn.is_empty() {
                torn = vec![random.pick(&torn)];
            }
            for torn in torn {
                let mut fate = whole.clone();
                fate[last] = torn;
                all.push(fate);
            }
        }
        all.push(whole);
    }
    all
}
