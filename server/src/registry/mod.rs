//! The volumes and snapshots as the server knows them: by id, by name, with their records and
//! attachments.
//!
//! The store owns what is durable; this is its shadow in memory, made at start and changed only
//! after the store has changed. Looking up takes a shard lock for the length of a hash look-up and
//! never waits, so connections may do it while they are accepted.
//!
//! I1  A volume made under the id of one that is just being deleted is another one: to forget the
//!     old does not touch it.

mod entry;
mod names;
mod table;

pub(crate) use entry::{Entry, Export, SnapshotEntry};
pub(crate) use names::NameClaim;
pub(crate) use table::{ExclusiveGuard, Registry, SharedGuard, UnreadableRecord, Unresolved};
