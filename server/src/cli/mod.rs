//! The commands.
//!
//! ```text
//!   serve, check-config, version   here
//!   volume …                       volume      over the admin API
//!   snapshot …, fork, tree         snapshot, fork, tree   the same
//!   mount, unmount, mounts         mount       the same
//!   reclaim, scrub, top            reclaim, scrub, top   the same
//!   check, inspect                 check, inspect   on the store itself, whose server is stopped
//!   import, export                 image       raw images through transfer, packed ones through
//!                                              unpack first, others through qemu-img, once `chain`
//!                                              has looked at all that they refer to
//!   import --onto, export --since  increment   changes alone, in a format of their own
//! ```
//!
//! An error is one sentence on stderr that says what to do. Exit codes: 0 done, 1 failed, 2 the
//! command line is wrong; of `check` 1 when something is wrong with the store, and 2 when that
//! could not be found out.

mod base;
mod check_config;
mod command_line;
mod copy;
mod image;
mod increment;
mod maintenance;
mod nbd;
mod offline;
mod top;
mod tree;
mod volume;

pub(crate) use command_line::main;
