//! Start and stop of the server.
//!
//! ```text
//!   start   log ─► limits ─► signals ─► data directory, token ─► store's thread ─► listeners bound
//!           ─► store (recovery) ─► registry, mounts ─► workers ─► start-up lines ─► NBD and admin served
//!   stop    readiness red ─► no new client ─► what has arrived over NBD is answered ─► admin ends
//!           ─► store closed (a reclaim ended, flush, checkpoint) ─► workers end ─► store's thread ends
//!           ─► exit 0
//! ```
//!
//! What starts later leans on what started earlier, so stopping goes the other way round. A signal
//! before the store is open, and a second one while stopping, ends the process at once; the store
//! then recovers at its next start as after any other death. Which signals mean that, `signals`
//! says.

mod error;
mod server;
mod startup;

pub(crate) use error::ServeError;
pub(crate) use server::{engine, run, staging_dir};
