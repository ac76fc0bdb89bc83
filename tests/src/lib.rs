//! End-to-end harness: starts the real server in a directory of its own and holds foreign clients
//! against it.
//!
//! Nothing here knows the project's crates: [`raw`] speaks NBD from the specification alone, so
//! that a misunderstanding in our protocol crate cannot hide in its own tests. A failing step
//! panics with the command, its output and the server's log; every process and directory goes away
//! with the value that owns it.
//!
//! Environment: `SANDSTONE_BIN` (the binary under test; without it cargo builds one),
//! `SANDSTONE_LONG` (longer kill loops), `SANDSTONE_SEED` (repeat a printed seed),
//! `SANDSTONE_PYTHON` (a Python with the `sandbox0` client), `CI` (a missing client fails instead
//! of being skipped).

mod admin;
mod binary;
mod disk;
mod family;
pub mod filling;
mod image;
mod journal;
mod ledger;
mod process;
mod program;
mod random;
pub mod raw;
mod rot;
mod server;
mod skip;
mod turn;
mod witness;

pub use admin::{Admin, Answer};
pub use binary::sandstone;
pub use disk::{Disk, Mount, needs_disks, needs_mounts};
pub use family::{Churn, Family};
pub use image::{Image, Tree};
pub use journal::{Ended, Writer};
pub use ledger::{BLOCK_BYTES, Floor, Ledger, Stored};
pub use process::{Home, Process};
pub use program::{Finished, Program, Running};
pub use random::Random;
pub use rot::rot;
pub use server::{Builder, MountedVolume, Server, StartError, Volume};
pub use skip::{ci, find_program, long, needs, skip};
pub use turn::take as take_turn;
pub use witness::Witness;
