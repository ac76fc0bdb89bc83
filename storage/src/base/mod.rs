//! Units, values and small shared cells that every room above uses.

mod address;
pub(crate) mod bitmap;
#[cfg_attr(
    not(feature = "blindness"),
    allow(unreachable_pub, reason = "it is exported with the feature")
)]
mod blindness;
pub(crate) mod checksum;
mod distribution;
mod error;
mod health;
mod progress;
mod settings;
mod shutdown;
mod usage;

pub use address::{BLOCK_BYTES, VOLUME_BYTES_MAX};
#[cfg(feature = "blindness")]
pub use blindness::while_blind_to;
pub use distribution::Distribution;
pub use error::{Error, Kind, Result};
pub use health::Health;
pub use settings::{ATTRIBUTES_BYTES_MAX, Durability, Settings, SettingsOverride};
pub use usage::VolumeStats;

#[cfg_attr(
    not(feature = "blindness"),
    allow(unreachable_pub, reason = "it is exported with the feature")
)]
pub use blindness::Blindness;

pub(crate) use address::{
    Address, LEAF_BLOCKS, Lsn, SEGMENT_BLOCKS_MAX, SegmentId, Slot, VolumeNumber, blocks_for,
};
pub(crate) use bitmap::Bitmap;
pub(crate) use blindness::is_blind_to;
pub(crate) use checksum::Secret;
pub(crate) use distribution::Counting;
pub(crate) use health::HealthCell;
pub(crate) use progress::Progress;
pub(crate) use shutdown::Shutdown;
pub(crate) use usage::Usage;
