//! A snapshot for as long as a command runs.

use super::snapshots;
use crate::cli::base::{AdminClient, CliError, ClientError};
use serde_json::{Value, json};
use std::{process, thread, time::Duration};

/// Looks at a volume that is still in use by a connection that was closed a moment ago, and the time between them.
const LOOKS_MAX: usize = 20;
const LOOK_TIME: Duration = Duration::from_millis(50);

/// A snapshot that is deleted when the work is done. Where we are killed it stays, with a description that says why.
pub(crate) struct Temporary<'a> {
    client: &'a AdminClient,
    snapshot: Value,
    /// Its path in the API.
    path: String,
}

impl<'a> Temporary<'a> {
    pub(crate) fn take(
        client: &'a AdminClient,
        volume: &Value,
        command: &str,
    ) -> Result<Temporary<'a>, CliError> {
        let name = format!("{command}-{}", process::id());
        let description = format!("made by `{command}` for as long as it runs; delete it if that was killed");
        let snapshot = snapshots::create(client, volume, &name, Some(&description))?;
        let path = snapshots::path_of(volume, &snapshot);
        Ok(Temporary { client, snapshot, path })
    }

    pub(crate) fn snapshot(&self) -> &Value {
        &self.snapshot
    }

    pub(crate) fn name(&self) -> String {
        self.snapshot["name"].as_str().unwrap_or_default().to_owned()
    }

    pub(crate) fn delete(self) -> Result<(), CliError> {
        self.client.delete(&format!("{}?force=true", self.path))?;
        Ok(())
    }

    /// Makes its volume what it was. Our own connection must be closed.
    pub(crate) fn restore(&self) -> Result<(), CliError> {
        let path = format!("{}/restore", self.path);
        for _ in 1..LOOKS_MAX {
            match self.client.post(&path, &json!({})) {
                Err(ClientError::InUse { .. }) => thread::sleep(LOOK_TIME),
                answer => return answer.map(drop).map_err(CliError::Client),
            }
        }
        self.client.post(&path, &json!({})).map(drop).map_err(CliError::Client)
    }
}
