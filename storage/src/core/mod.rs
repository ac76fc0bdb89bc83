//! The state that all volumes of an open store share.

mod admitted;
mod backing;
mod dirty;
mod engine;
mod fragmented;
mod read_pins;
mod reclaim_demand;
mod space;

pub(crate) use admitted::Admitted;
pub(crate) use dirty::DirtyNodes;
pub(crate) use engine::Engine;
pub(crate) use fragmented::{Fragmented, LeafId};
pub(crate) use read_pins::{ReadPin, ReadPins};
pub(crate) use reclaim_demand::{ReclaimDemand, RoundResult};
pub(crate) use space::Space;
