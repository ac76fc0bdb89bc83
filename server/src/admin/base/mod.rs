//! What all handlers share: the state, what a request brings along, and the form of answers.

mod abortable;
mod attachment_view;
mod envelope;
mod error;
mod extract;
mod fields;
mod reclaim_run;
mod route;
mod state;
mod steps;

pub(super) use abortable::while_wanted;
pub(super) use attachment_view::{attachment_view, in_use_details};
pub(super) use envelope::Success;
pub(super) use error::{ApiError, Code, LoggedError};
#[cfg(test)]
pub(super) use extract::BODY_BYTES_MAX;
pub(super) use extract::{Body, Force, SandboxId, SnapshotId, VolumeId, query};
pub(super) use fields::{GivenSize, MountFields, SnapshotFields, UnmountFields, VolumeFields, id_from_body};
pub(crate) use reclaim_run::Reclaim;
pub(super) use reclaim_run::{Progress, phase_name};
pub(super) use route::Route;
pub(crate) use state::Admin;
pub(super) use state::Shared;
pub(super) use steps::{
    CUT_OFF_TIME_MAX, alone, close, finished, in_the_way_of_deletion, not_kept, together,
};
