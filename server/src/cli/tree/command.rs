//! The command: asks the server for all there is, and draws it.

use super::{draw, lineage::Lineage};
use crate::{
    api::{Snapshot, Volume},
    cli::{
        base::{Audience, CliError, ClientError, Context, print},
        volume::{snapshots, volumes::VOLUMES},
    },
};

pub(crate) fn run(context: &Context) -> Result<(), CliError> {
    let client = context.client()?;
    let mut volumes: Vec<Volume> = client.get(VOLUMES)?;
    volumes.reverse();
    let mut listed = Vec::with_capacity(volumes.len());
    for volume in volumes {
        let snapshots = client.get(&snapshots::list_path(&volume));
        let mut snapshots: Vec<Snapshot> = snapshots.or_else(deleted_meanwhile)?;
        snapshots.reverse();
        listed.push((volume, snapshots));
    }
    let lineage = Lineage::new(listed);
    match context.audience() {
        Audience::People => print(&draw::text(&lineage, draw::terminal_columns())),
        Audience::Programs => print(&draw::json(&lineage)),
    }
}

/// A volume that went between the two requests has no snapshots any more.
fn deleted_meanwhile(error: ClientError) -> Result<Vec<Snapshot>, CliError> {
    match error {
        ClientError::Refused { status: 404, .. } => Ok(Vec::new()),
        error => Err(error.into()),
    }
}
