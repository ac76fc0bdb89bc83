//! Which volumes and snapshots there are.

mod entries;
mod volumes;

pub(crate) use entries::{Catalog, NotChanged};
pub(crate) use volumes::Volumes;
