//! Mounts over HTTP.

mod mounting;
mod request;
mod routes;

pub(super) use routes::routes;
