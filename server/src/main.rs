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
mod api;
mod attachments;
mod cli;
mod mounts;
mod nbd;
mod net;
mod process;
mod record;
mod registry;
mod serve;
mod show;
mod store_thread;
mod token;
mod traffic;
mod watchdog;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
