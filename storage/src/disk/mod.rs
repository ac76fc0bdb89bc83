//! The store file: its segments and slots, reads by address, superblock and catalog, and waiting
//! for space below it.

mod catalog_pages;
mod checked_reads;
mod checkpoint_image;
mod data_reads;
mod demand;
pub(crate) mod salvage;
mod segments;
mod single_flight;
pub(crate) mod space_wait;
mod superblock_slots;

pub(crate) use catalog_pages::{CatalogPages, Draft, Numbers};
pub(crate) use checked_reads::{Disk, Fill, NodesInHand};
pub(crate) use checkpoint_image::{
    CheckpointDamage, CheckpointImage, checkpoint_damage, misplaced,
};
pub(crate) use data_reads::{Pieces, Run};
pub(crate) use demand::{Demand, Demanded};
pub(crate) use segments::{
    Container, MAPS_PART, Move, Need, PREPARED_KEPT, Readiness, Retired, Segments, SlotBacking,
    SlotPreparation, Taken, Writing,
};
pub(crate) use superblock_slots::{
    Content, Counts, SuperblockSlot, choose, put_superblock, read_superblock_slots,
    write_superblock,
};
