//! The HTTP contract: the types of requests and answers, once, for the handlers and for the
//! commands.
//!
//! ```text
//!   handlers ─serialize─► answers ─deserialize─► commands
//!   handlers ◄─deserialize─ requests ◄─serialize─ commands        OpenAPI description: derived
//! ```
//!
//! A field that an answer leaves out is absent, not `null`, unless its documentation says
//! otherwise. Of a request, `null` means absent, and unknown fields are ignored.

mod envelope;
mod field;
mod maintenance;
mod mount;
mod outcome;
mod snapshot;
mod stats;
mod store;
mod tuning;
mod volume;

pub(crate) use envelope::{Code, Details, Envelope, Failure};
pub(crate) use field::{Field, Size};
pub(crate) use maintenance::{CorruptRange, CorruptWhat, Reclaim, ReclaimPhase, Scrub};
pub(crate) use mount::{Attachment, Mount, MountState, NewMount, SandboxMounts, Unmount};
pub(crate) use outcome::{
    Deleted, Health, HealthStatus, Readiness, ReadinessStatus, ReadinessStore, Restored,
    RestoredStatus, Unmounted,
};
pub(crate) use snapshot::{Diff, DiffRange, NewSnapshot, RangeState, Snapshot};
pub(crate) use stats::{CommandStats, Stats, StoreStats, VolumeStats};
pub(crate) use store::{Store, StoreState};
pub(crate) use tuning::Tuning;
pub(crate) use volume::{AccessMode, Backend, NewVolume, Volume, VolumeFields, VolumeState};
