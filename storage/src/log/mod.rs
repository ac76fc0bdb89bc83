//! The log: records with their data, in segments, through the staging buffer.

mod append;
mod batch;
mod fairness;
mod place;
mod staging;
mod submit;
mod sync;

pub(crate) use append::{Append, Log, Refused, STREAM_BATCH_BYTES, Start};
pub(crate) use batch::{Batch, Gauge};
pub(crate) use staging::{HEADER_BYTES as STAGING_HEADER_BYTES, Leftover, Staging, check_header};
