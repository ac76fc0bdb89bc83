//! What a volume may hold after a crash: every version of every block, and which of them were
//! promised.
//!
//! A block's history is the list of versions that were sent to it, oldest first. Three marks move
//! along it: `durable <= acknowledged <= newest`. After the server's death the block holds a
//! version between `acknowledged` and `newest`; after the host's crash, where acknowledging is not
//! yet durable, one between `durable` and `newest`. Nothing older, nothing torn, nothing else, and
//! never again a version that an earlier recovery had dropped.
//!
//! At most one request is in flight for a block, since the order of two would be the server's to
//! choose.

use crate::random::Random;

/// The grain of the ledger, the server's own block.
pub const BLOCK_BYTES: usize = 4096;

/// What one block can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// Zeroes: never written, trimmed or zeroed.
    Zero,
    /// The write with this sequence number.
    Write(u64),
}

impl Stored {
    /// The bytes of this version of block `block`. They name version and place, so that a block
    /// that turns up in the wrong place or with a wrong half is seen.
    pub fn bytes(self, block: u64) -> Vec<u8> {
        match self {
            Stored::Zero => vec![0; BLOCK_BYTES],
            Stored::Write(number) => {
                let mut out = Vec::with_capacity(BLOCK_BYTES);
                out.extend_from_slice(&number.to_le_bytes());
                out.extend_from_slice(&block.to_le_bytes());
                let mut random = Random::new(number ^ block.rotate_left(40));
                out.extend_from_slice(&random.bytes(BLOCK_BYTES - out.len()));
                out
            }
        }
    }

    /// Which version of block `block` these bytes are; none where they are no version at all.
    pub fn of(bytes: &[u8], block: u64) -> Option<Self> {
        if bytes.iter().all(|b| *b == 0) {
            return Some(Stored::Zero);
        }
        let number = u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?);
        let version = Stored::Write(number);
        (version.bytes(block) == bytes).then_some(version)
    }
}

/// Which promise is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Floor {
    /// All that was acknowledged is there.
    Acknowledged,
    /// All that was flushed, or written with FUA, is there.
    Durable,
}

#[derive(Clone, Debug)]
struct Block {
    history: Vec<Stored>,
    durable: usize,
    acknowledged: usize,
    in_flight: bool,
}

/// The record of one volume.
#[derive(Clone, Debug)]
pub struct Ledger {
    blocks: Vec<Block>,
    next: u64,
}

impl Ledger {
    /// A volume of `blocks` zero blocks.
    pub fn new(blocks: usize) -> Self {
        let empty =
            || Block { history: vec![Stored::Zero], durable: 0, acknowledged: 0, in_flight: false };
        Self { blocks: (0..blocks).map(|_| empty()).collect(), next: 1 }
    }

    /// How many blocks it has.
    pub fn len(&self) -> u64 {
        self.blocks.len() as u64
    }

    /// Whether it has no blocks.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Whether no request is in flight for any of `count` blocks from `first`.
    pub fn is_idle(&self, first: u64, count: u64) -> bool {
        self.range(first, count).iter().all(|b| !b.in_flight)
    }

    /// Notes a write about to be sent and gives its version.
    pub fn write(&mut self, first: u64, count: u64) -> Stored {
        let version = Stored::Write(self.next);
        self.next += 1;
        self.begin(first, count, version);
        version
    }

    /// Notes a trim or zeroing about to be sent.
    pub fn zero(&mut self, first: u64, count: u64) {
        self.begin(first, count, Stored::Zero);
    }

    fn begin(&mut self, first: u64, count: u64, version: Stored) {
        for block in self.range_mut(first, count) {
            assert!(!block.in_flight, "two requests in flight for one block");
            block.in_flight = true;
            block.history.push(version);
        }
    }

    /// Notes the reply of a request; `floor` is `Durable` when it carried FUA.
    pub fn acknowledge(&mut self, first: u64, count: u64, floor: Floor) {
        for block in self.range_mut(first, count) {
            block.in_flight = false;
            block.acknowledged = block.history.len() - 1;
            match floor {
                Floor::Acknowledged => {}
                Floor::Durable => block.durable = block.acknowledged,
            }
        }
    }

    /// Forgets what was promised since `then`, an earlier copy: the machine went down at that
    /// moment. What was sent since may be there all the same.
    pub fn promised_by(&mut self, then: &Ledger) {
        for (block, then) in self.blocks.iter_mut().zip(&then.blocks) {
            (block.acknowledged, block.durable) = (then.acknowledged, then.durable);
        }
    }

    /// What a flush sent now will make durable.
    pub fn flush_begins(&self) -> Vec<usize> {
        self.blocks.iter().map(|b| b.acknowledged).collect()
    }

    /// Notes the reply of that flush.
    pub fn flush_ends(&mut self, begun: &[usize]) {
        for (block, acknowledged) in self.blocks.iter_mut().zip(begun) {
            block.durable = block.durable.max(*acknowledged);
        }
    }

    /// Holds what `read` gives for each stretch of `count` blocks against the promise, then goes on
    /// from what is there: versions that did not survive must never be seen again.
    ///
    /// # Errors
    /// Every block that breaks the promise, the first ten in words.
    pub fn check(
        &mut self,
        floor: Floor,
        mut read: impl FnMut(u64, u64) -> Vec<u8>,
    ) -> Result<(), String> {
        const STRETCH: u64 = 256;
        let mut wrong = Vec::new();
        let mut first = 0;
        while first < self.len() {
            let count = STRETCH.min(self.len() - first);
            let bytes = read(first, count);
            assert_eq!(bytes.len(), count as usize * BLOCK_BYTES, "a read of another length");
            for (number, stored) in (first..).zip(bytes.chunks(BLOCK_BYTES)) {
                if let Err(why) =
                    self.blocks[number as usize].settle(floor, Stored::of(stored, number))
                {
                    wrong.push(format!("block {number}: {why}, begins {:02x?}", &stored[..24]));
                }
            }
            first += count;
        }
        match wrong.len() {
            0 => Ok(()),
            n => Err(format!(
                "{n} of {} blocks are wrong:\n{}",
                self.len(),
                wrong[..n.min(10)].join("\n")
            )),
        }
    }

    fn range(&self, first: u64, count: u64) -> &[Block] {
        &self.blocks[first as usize..(first + count) as usize]
    }

    fn range_mut(&mut self, first: u64, count: u64) -> &mut [Block] {
        &mut self.blocks[first as usize..(first + count) as usize]
    }
}

impl Block {
    fn settle(&mut self, floor: Floor, found: Option<Stored>) -> Result<(), String> {
        let oldest = match floor {
            Floor::Acknowledged => self.acknowledged,
            Floor::Durable => self.durable,
        };
        let allowed = &self.history[oldest..];
        let Some(found) = found else {
            return Err(format!("holds no version of itself, should be one of {allowed:?}"));
        };
        let Some(at) = allowed.iter().rposition(|v| *v == found) else {
            let known = self.history.contains(&found);
            return Err(format!(
                "{floor:?} promises one of {allowed:?}, found {}{found:?}",
                if known { "older " } else { "unknown " }
            ));
        };
        let survived = oldest + at;
        // What came through a host's crash was read back from the store; what came through the
        // server's death may have been replayed from the staging buffer, and a host's crash may
        // still take it.
        let durable = match floor {
            Floor::Acknowledged => self.durable,
            Floor::Durable => survived,
        };
        self.history.truncate(survived + 1);
        self.history.drain(..durable);
        self.durable = 0;
        self.acknowledged = self.history.len() - 1;
        self.in_flight = false;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holding(versions: &[Stored]) -> impl FnMut(u64, u64) -> Vec<u8> {
        move |first, count| {
            (first..first + count).flat_map(|b| versions[b as usize].bytes(b)).collect::<Vec<u8>>()
        }
    }

    #[test]
    fn in_flight_write_may_or_may_not_be_there() {
        for survivor in [Stored::Zero, Stored::Write(1)] {
            let mut ledger = Ledger::new(1);
            ledger.write(0, 1);
            assert_eq!(ledger.check(Floor::Acknowledged, holding(&[survivor])), Ok(()));
        }
    }

    #[test]
    fn acknowledged_write_must_be_there() {
        let mut ledger = Ledger::new(1);
        ledger.write(0, 1);
        ledger.acknowledge(0, 1, Floor::Acknowledged);
        assert!(ledger.check(Floor::Acknowledged, holding(&[Stored::Zero])).is_err());
    }

    #[test]
    fn unflushed_write_may_be_lost_with_the_host() {
        let mut ledger = Ledger::new(1);
        ledger.write(0, 1);
        ledger.acknowledge(0, 1, Floor::Acknowledged);
        let begun = ledger.flush_begins();
        ledger.write(0, 1);
        ledger.acknowledge(0, 1, Floor::Acknowledged);
        ledger.flush_ends(&begun);
        assert!(ledger.check(Floor::Durable, holding(&[Stored::Zero])).is_err());
        assert_eq!(ledger.check(Floor::Durable, holding(&[Stored::Write(1)])), Ok(()));
    }

    #[test]
    fn promise_after_the_end_does_not_count() {
        let mut ledger = Ledger::new(1);
        ledger.write(0, 1);
        ledger.acknowledge(0, 1, Floor::Acknowledged);
        let then = ledger.clone();
        ledger.write(0, 1);
        ledger.acknowledge(0, 1, Floor::Durable);
        ledger.promised_by(&then);
        assert!(ledger.clone().check(Floor::Acknowledged, holding(&[Stored::Zero])).is_err());
        for survivor in [Stored::Write(1), Stored::Write(2)] {
            assert_eq!(ledger.clone().check(Floor::Acknowledged, holding(&[survivor])), Ok(()));
        }
    }

    #[test]
    fn dropped_version_must_not_come_back() {
        let mut ledger = Ledger::new(1);
        ledger.write(0, 1);
        assert_eq!(ledger.check(Floor::Acknowledged, holding(&[Stored::Zero])), Ok(()));
        assert!(ledger.check(Floor::Acknowledged, holding(&[Stored::Write(1)])).is_err());
    }

    #[test]
    fn torn_and_misplaced_blocks_are_no_version() {
        let mut torn = Stored::Write(7).bytes(3);
        assert_eq!(Stored::of(&torn, 3), Some(Stored::Write(7)));
        assert_eq!(Stored::of(&torn, 4), None);
        torn[4000] ^= 1;
        assert_eq!(Stored::of(&torn, 3), None);
    }
}
