//! What all commands share: the configuration, the server, and ways to answer and to fail.

mod client;
mod context;
mod error;
mod interrupt;
pub(crate) mod output;
mod progress;

pub(crate) use client::{AdminClient, ClientError};
pub(crate) use context::{Audience, Context, Global, json, print};
pub(crate) use error::CliError;
pub(crate) use interrupt::Interrupt;
pub(crate) use progress::{Activity, Progress};
