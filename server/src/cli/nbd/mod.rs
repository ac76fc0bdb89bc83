//! The NBD client of the commands.

mod attach;
mod client;
mod handshake;
mod stream;

pub(crate) use attach::{blame, connect, reachable_export};
