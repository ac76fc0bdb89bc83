//! Sandstone: copy-on-write block volumes for sandboxes, served over NBD.
//!
//! ```text
//!   cli            the commands; `serve` runs the server, the others talk to a running one
//!   serve          start and stop: configuration, token, threads, registry, listeners
//!   runtime_thread a thread with a storage runtime: one owns the store, the others serve clients
//!   registry       which volumes and snapshots exist, by id and name, and who is attached to them
//!   mounts         the attachments that outlive connections and restarts
//!   traffic        what passes between them and their clients: counted, and limited
//!   watchdog       what hangs, and for how long
//!   nbd            clients: accept, handshake, and the workers with the data path
//!   api            the types of the HTTP API, for the server and for its clients
//!   admin          the HTTP API over registry and store
//! ```
//!
//! The storage engine, the NBD protocol and the configuration are crates of their own that know
//! nothing of each other; they meet here.

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
mod runtime_thread;
mod serve;
mod show;
mod token;
mod traffic;
mod watchdog;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
