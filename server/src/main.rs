//! Sandstone: copy-on-write block volumes for sandboxes, served over NBD.
//!
//! ```text
//!   cli      the commands; `serve` runs the server, the others talk to a running one through `client`
//!   serve    start and stop: configuration, token, keeper, registry, listeners
//!   keeper   the thread whose runtime owns the open store
//!   registry which volumes and snapshots there are, by id and name, and who is attached to them
//!   mounts   the attachments that outlive connections and restarts
//!   traffic  what passes between them and their clients: counted, and limited
//!   watchdog what hangs, and for how long
//!   nbd      clients: accept, handshake, and the workers with the data path
//!   admin    the HTTP API over registry and keeper
//! ```
//!
//! The storage engine, the NBD wire and the configuration are crates of their own that know nothing of each other; they
//! meet here.

mod admin;
mod allocator;
mod attachments;
mod cli;
mod client;
mod endpoints;
mod keeper;
mod limits;
mod logging;
mod mounts;
mod names;
mod nbd;
mod panic;
mod record;
mod registry;
mod serve;
mod show;
mod signals;
mod socket_file;
mod startup;
mod token;
mod traffic;
mod watchdog;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
