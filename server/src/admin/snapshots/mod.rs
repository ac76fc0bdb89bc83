//! Snapshots over HTTP, forks of them, and restore.

mod request;
mod routes;
mod view;

pub(super) use routes::routes;
