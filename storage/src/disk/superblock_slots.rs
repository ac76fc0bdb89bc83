//! The superblock slots: reading them, choosing the valid one, judging damage, and writing.
//!
//! I1  A slot is never torn: only its first sector counts. So a slot that cannot be read, or holds
//!     what does not belong there, is damage, and may have been the newer one. Then the store is
//!     opened with the other slot, for reading only.
//! I2  A superblock counts as written when it was synced and read again: slots that it frees are
//!     reused only then, so a write that the disk lost or misdirected is found while everything
//!     that the superblock before names is still there.

use super::space_wait;
use crate::{
    base::{BLOCK_BYTES, Blindness, Error, HealthCell, Result, is_blind_to},
    format::{Malformed, SECTOR_BYTES, SUPERBLOCK_SLOTS, Superblock, superblock_offset},
};
use sandstone_ring::{File, WriteBuf, aligned};
use std::{fmt, io};

/// A superblock slot as read from disk.
pub(crate) struct SuperblockSlot {
    number: u64,
    pub(crate) content: Content,
}

/// The content of a superblock slot.
pub(crate) enum Content {
    /// A superblock that belongs into this slot.
    Superblock(Superblock),
    /// A superblock that belongs into another slot.
    Misplaced(Superblock),
    /// Zeroes.
    Blank,
    /// Something else.
    Malformed(Malformed),
    /// The device cannot read it.
    Unreadable(io::Error),
}

/// The result of choosing a superblock.
pub(crate) enum Counts {
    /// There is no store yet.
    None,
    /// The store's creation was interrupted before its first use.
    HalfMade,
    /// This superblock counts. With damage to the slots, the store is for reading only.
    This(Box<Superblock>, Option<String>),
}

impl SuperblockSlot {
    /// The superblock in it, whether or not it belongs there.
    pub(crate) fn superblock(&self) -> Option<&Superblock> {
        match &self.content {
            Content::Superblock(superblock) | Content::Misplaced(superblock) => Some(superblock),
            Content::Blank | Content::Malformed(_) | Content::Unreadable(_) => None,
        }
    }

    /// The slot's damage, if any.
    pub(crate) fn damage(&self) -> Option<String> {
        match &self.content {
            Content::Superblock(_) => None,
            _ => Some(format!("superblock slot {}: {}", self.number, self.content)),
        }
    }
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Superblock(superblock) => {
                write!(f, "the superblock of generation {}", superblock.generation)
            }
            Self::Misplaced(superblock) => {
                let (generation, slot) = (superblock.generation, superblock.slot());
                write!(
                    f,
                    "it holds the superblock of generation {generation}, \
                     which belongs into slot {slot}"
                )
            }
            Self::Blank => f.write_str("it is blank"),
            Self::Malformed(why) => f.write_str(why.0),
            Self::Unreadable(error) => write!(f, "it cannot be read ({error})"),
        }
    }
}

/// All superblock slots, whatever they hold.
pub(crate) async fn read_superblock_slots(file: &File) -> Vec<SuperblockSlot> {
    let mut slots = Vec::new();
    for number in 0..SUPERBLOCK_SLOTS {
        let content = match read_slot(file, number).await {
            Err(error) => Content::Unreadable(error),
            Ok(block) if block.iter().all(|byte| *byte == 0) => Content::Blank,
            Ok(block) => match Superblock::decode(&block) {
                Ok(superblock) if superblock.slot() == number => Content::Superblock(superblock),
                Ok(superblock) => Content::Misplaced(superblock),
                Err(why) => Content::Malformed(why),
            },
        };
        slots.push(SuperblockSlot { number, content });
    }
    slots
}

/// Reads a slot; again where that fails; and where it fails again, only its first sector, which is
/// all that counts.
async fn read_slot(file: &File, number: u64) -> io::Result<Vec<u8>> {
    let offset = superblock_offset(number);
    let mut failed = None;
    for len in [BLOCK_BYTES, BLOCK_BYTES, SECTOR_BYTES] {
        match file.read(offset, aligned(len), len).await {
            Ok(bytes) => {
                let mut block = bytes.to_vec();
                block.resize(BLOCK_BYTES, 0);
                return Ok(block);
            }
            // The whole read's error says more than a misaligned part's.
            Err(error) => failed = Some(failed.unwrap_or(error)),
        }
    }
    Err(failed.unwrap_or_else(|| io::ErrorKind::Other.into()))
}

/// The superblock that counts: the newest one that can be read.
///
/// # Errors
/// [`crate::Kind::Corrupt`] where the slots hold something and no readable superblock.
pub(crate) fn choose(slots: &[SuperblockSlot]) -> Result<Counts> {
    let newest = slots.iter().filter_map(SuperblockSlot::superblock).max_by_key(|s| s.generation);
    let Some(newest) = newest else {
        if slots.iter().all(|slot| matches!(slot.content, Content::Blank)) {
            return Ok(Counts::None);
        }
        let what: Vec<_> = slots.iter().filter_map(SuperblockSlot::damage).collect();
        return Err(Error::corrupt(format!(
            "this is no store that can be read: {}",
            what.join("; ")
        )));
    };
    if let [SuperblockSlot { content: Content::Superblock(first), .. }, second] = slots
        && first.generation == 0
        && matches!(second.content, Content::Blank)
    {
        return Ok(Counts::HalfMade);
    }
    let damage = damage(slots, newest).filter(|_| !is_blind_to(Blindness::SuperblockDamage));
    Ok(Counts::This(Box::new(newest.clone()), damage))
}

/// The damage to the slots of a store, if any (I1).
fn damage(slots: &[SuperblockSlot], newest: &Superblock) -> Option<String> {
    let wrong: Vec<_> = slots.iter().filter_map(SuperblockSlot::damage).collect();
    if !wrong.is_empty() {
        let what = format!(
            "{}; it may have been newer than the one of generation {}, which is read instead",
            wrong.join("; "),
            newest.generation
        );
        return Some(what);
    }
    // The slots are written in turn, each after the one before was synced.
    let follows = |s: &Superblock| {
        s.generation.abs_diff(newest.generation) < SUPERBLOCK_SLOTS && s.identity == newest.identity
    };
    let odd = slots.iter().filter_map(SuperblockSlot::superblock).find(|s| !follows(s))?;
    let (slot, generation) = (odd.slot(), odd.generation);
    Some(format!(
        "superblock slot {slot} holds generation {generation} beside generation {}: \
         a later one was not kept there",
        newest.generation
    ))
}

/// Writes a superblock into its slot, and waits until it counts: it is written, `sync` has covered
/// it, and the disk gives it back (I2). While the file system has no room, the write waits as
/// [`super::space_wait`] does.
///
/// # Errors
/// The device's errors, those of `sync`, and [`crate::Kind::Corrupt`] where the disk does not have
/// the superblock then.
pub(crate) async fn write_superblock(
    file: &File,
    health: &HealthCell,
    superblock: &Superblock,
    sync: impl AsyncFnOnce() -> Result<()>,
) -> Result<()> {
    put_superblock(file, health, superblock).await?;
    sync().await?;
    read_back(file, superblock).await
}

/// Writes a superblock into its slot. It counts once it is synced.
///
/// # Errors
/// The device's errors.
pub(crate) async fn put_superblock(
    file: &File,
    health: &HealthCell,
    superblock: &Superblock,
) -> Result<()> {
    let mut block = aligned(BLOCK_BYTES);
    block.extend_from_slice(&superblock.encode());
    let offset = superblock_offset(superblock.slot());
    let written = space_wait::write(file, health, offset, WriteBuf::Owned(block)).await;
    written.map_err(|e| Error::io("writing the superblock", e))
}

/// Keeps I2.
///
/// # Errors
/// [`crate::Kind::Corrupt`] where something else is there, twice; [`crate::Kind::Io`].
async fn read_back(file: &File, superblock: &Superblock) -> Result<()> {
    if is_blind_to(Blindness::SuperblockDamage) {
        return Ok(());
    }
    for _ in 0..2 {
        let block = read_slot(file, superblock.slot()).await;
        let block =
            block.map_err(|e| Error::io("reading the superblock that was just written", e))?;
        if Superblock::decode(&block).as_ref() == Ok(superblock) {
            return Ok(());
        }
    }
    let (slot, generation) = (superblock.slot(), superblock.generation);
    Err(Error::corrupt(format!(
        "the disk has not kept the superblock of generation {generation} \
         that was written into slot {slot}"
    )))
}
