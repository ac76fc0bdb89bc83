//! Volumes over HTTP: their lifecycle, their lineage, and what changed in them.

mod diff;
mod exclusive_bytes;
mod lifecycle;
mod lineage;
mod request;
mod routes;
mod view;

pub(super) use diff::routes as diff_routes;
pub(super) use exclusive_bytes::exclusive_bytes;
pub(super) use lineage::{delete_snapshot, fork, restore, snapshot, snapshot_of};
pub(super) use request::check_new;
pub(super) use routes::routes;
pub(super) use view::newborn;
