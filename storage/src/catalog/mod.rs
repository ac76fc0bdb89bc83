//! The catalog: the volumes and snapshots of a store.

mod entries;
mod volumes;

pub(crate) use entries::{Catalog, Family, NotChanged};
pub(crate) use volumes::Volumes;
