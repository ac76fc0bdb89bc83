//! The caches that all volumes share.

mod account;
mod s3_fifo;
mod shard;
#[cfg(test)]
mod tests;

pub(crate) use account::Account;
pub(crate) use s3_fifo::{BlockCache, Cache, NodeCache, Origin};
