//! The catalog: the volumes and snapshots of a store.

mod entries;
mod volumes;

pub(crate) use entries::{Catalog, NotChanged};
pub(crate) use volumes::Volumes;
