//! The caches that all volumes share.

mod account;
mod blocks;
mod extent;
mod s3_fifo;
mod shard;
#[cfg(test)]
mod tests;

pub(crate) use account::Account;
pub(crate) use blocks::BlockCache;
pub(crate) use extent::{EXTENT_BLOCKS, Look, blocks_to_border, extent_of};
pub(crate) use s3_fifo::{NodeCache, Origin};
