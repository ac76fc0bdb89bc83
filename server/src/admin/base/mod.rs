//! What all handlers share: the state, what a request brings along, and the form of answers.

mod abortable;
mod attachment_view;
mod description;
mod envelope;
mod error;
mod extract;
mod fields;
mod reclaim_run;
mod state;
mod steps;

pub(super) use abortable::abortable;
pub(super) use attachment_view::{attachment_view, in_use_details};
pub(super) use description::{Changes, Description, OPENAPI, STATS};
pub(super) use envelope::Success;
pub(super) use error::{ApiError, LoggedError};
#[cfg(test)]
pub(super) use extract::BODY_BYTES_MAX;
pub(super) use extract::{Body, Force, ForceQuery, SandboxId, SnapshotId, VolumeId, query};
pub(super) use fields::{GivenSize, GivenTuning, bytes_of, optional, required, size_allowed};
pub(crate) use reclaim_run::Reclaim;
pub(super) use reclaim_run::phase;
pub(crate) use state::Admin;
pub(super) use state::Shared;
pub(super) use steps::{
    DISCONNECT_TIME_MAX, blocking_deletion, close, finished, lock_exclusive, lock_shared, not_kept,
};
