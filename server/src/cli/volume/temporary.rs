//! A snapshot for as long as a command runs.

use super::snapshots;
use crate::{
    api::{Snapshot, Volume},
    cli::base::{AdminClient, CliError, ClientError},
};
use std::{process, thread, time::Duration};

/// Looks at a volume that is still in use by a connection that was closed a moment ago, and the
/// time between them.
const LOOKS_MAX: usize = 20;
const LOOK_TIME: Duration = Duration::from_millis(50);

/// A snapshot that is deleted when the work is done. Where we are killed it stays, with a
/// description that says why.
pub(crate) struct Temporary<'a> {
    client: &'a AdminClient,
    snapshot: Snapshot,
    /// Its path in the API.
    path: String,
}

impl<'a> Temporary<'a> {
    pub(crate) fn take(
        client: &'a AdminClient,
        volume: &Volume,
        command: &str,
    ) -> Result<Temporary<'a>, CliError> {
        let name = format!("{command}-{}", process::id());
        let description =
            format!("made by `{command}` for as long as it runs; delete it if that was killed");
        let snapshot = snapshots::create(client, volume, &name, Some(description))?;
        let path = snapshots::path_of(volume, &snapshot);
        Ok(Temporary { client, snapshot, path })
    }

    pub(crate) fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    pub(crate) fn name(&self) -> String {
        self.snapshot.name.clone()
    }

    pub(crate) fn delete(self) -> Result<(), CliError> {
        self.client.delete(&format!("{}?force=true", self.path))?;
        Ok(())
    }

    /// Makes its volume what it was. The command's own connection must be closed.
    pub(crate) fn restore(&self) -> Result<(), CliError> {
        for _ in 1..LOOKS_MAX {
            match snapshots::restore(self.client, &self.path, false) {
                Err(ClientError::InUse { .. }) => thread::sleep(LOOK_TIME),
                answer => return Ok(answer.map(drop)?),
            }
        }
        Ok(snapshots::restore(self.client, &self.path, false).map(drop)?)
    }
}
