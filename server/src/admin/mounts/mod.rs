//! Mounts over HTTP.

mod mounting;
mod routes;

pub(super) use routes::routes;
