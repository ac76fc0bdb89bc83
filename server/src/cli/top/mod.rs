//! `top`: what the volumes do now, as rates between two looks at the server.
//!
//! ```text
//!   sample   two answers of the server ─► rates and percentiles
//!   table    rates ─► lines
//!   screen   the terminal, and the keys
//! ```

mod command;
mod sample;
mod screen;
mod table;
#[cfg(test)]
mod tests;

pub(super) use command::{TopArgs, run};
