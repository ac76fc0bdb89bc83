//! The command: asks the server for all there is, and draws it.

use super::{draw, lineage::Lineage};
use crate::cli::{
    base::{Audience, CliError, ClientError, Context, print},
    volume::snapshots,
};
use serde_json::Value;

pub(crate) fn run(context: &Context) -> Result<(), CliError> {
    let client = context.client()?;
    let mut volumes = items(client.get("/sandboxvolumes")?);
    volumes.reverse();
    let mut listed = Vec::with_capacity(volumes.len());
    for volume in volumes {
        let mut snapshots = items(client.get(&snapshots::list_path(&volume)).or_else(deleted_meanwhile)?);
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
fn deleted_meanwhile(error: ClientError) -> Result<Value, CliError> {
    match error {
        ClientError::Refused { status: 404, .. } => Ok(Value::Null),
        error => Err(error.into()),
    }
}

fn items(mut list: Value) -> Vec<Value> {
    list.as_array_mut().map(std::mem::take).unwrap_or_default()
}
