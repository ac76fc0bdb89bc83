//! Recovery: opens a store, and replays what its last server left.

mod apply;
mod examine;
mod open;
mod options;
mod orphan;
mod private;
mod recover;
mod staging_files;
mod walk;

pub use options::{Parts, RecoveryReport, StagingFate, StoreOptions};

pub(crate) use examine::{Found, examine};
pub(crate) use open::{boot_id, open};
pub(crate) use recover::{Recovered, recover};
pub(crate) use staging_files::{StagingFile, StagingFiles};
