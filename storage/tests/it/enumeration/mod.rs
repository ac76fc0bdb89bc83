//! All crash states of short runs: what the enumeration and the check for blindness share.
//!
//! ```text
//!   start ─► operation … operation ─► moments ─► fates of what is not durable ─► crash states ─► opened and judged
//! ```
//! A run goes through a sequence of operations on a tiny store. Just before each sync of the last
//! one takes effect, and at its end, the disk and the staging memory are kept as a *moment*: the
//! moments of the operations before are those of the shorter sequences. At each moment the power
//! may fail, when any of the changes that are not durable survive; the host may crash, when all
//! that completed survives but for what the file system's journal does not know of; or the process
//! may die, when staging and all that completed survive. Each of these states is opened and judged
//! by the promises P1 to P5, P8 and P9 of the crate.

mod fates;
pub(crate) mod lines;
mod operation;
mod run;
mod search;
mod start;
mod suite;
pub(crate) mod verdict;

pub(crate) use operation::Operation;
pub(crate) use run::run;
pub(crate) use search::{Search, sequences};
pub(crate) use start::Start;
