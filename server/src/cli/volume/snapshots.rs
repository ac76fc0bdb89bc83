//! `snapshot …`: states of a volume that are kept.

use super::volumes;
use crate::{
    api::{Field, NewSnapshot, Restored, Snapshot, Volume},
    cli::base::{AdminClient, CliError, ClientError, Context, output},
    record::parse_id,
};
use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotCommand {
    /// Keep what a volume holds now, attached or not
    Create {
        /// The volume, by id or name
        volume: String,
        /// A name for it
        #[arg(long)]
        name: String,
        /// What it is for
        #[arg(long, value_name = "TEXT")]
        description: Option<String>,
    },
    /// List a volume's snapshots, newest first
    List {
        /// The volume, by id or name
        volume: String,
    },
    /// Show one snapshot
    Get(SnapshotArgs),
    /// Delete a snapshot; its volume and its forks stay as they are
    Delete {
        #[command(flatten)]
        which: SnapshotArgs,
        /// Cut off clients that read it
        #[arg(long)]
        force: bool,
    },
    /// Make a volume what it was when the snapshot was taken; what was written since is lost
    Restore {
        #[command(flatten)]
        which: SnapshotArgs,
        /// Cut off clients that use the volume
        #[arg(long)]
        force: bool,
    },
}

/// Which snapshot.
#[derive(Debug, Args)]
pub(crate) struct SnapshotArgs {
    /// The volume, by id or name
    volume: String,
    /// The snapshot, by id, or by name where no other snapshot of the volume has the same
    snapshot: String,
}

impl SnapshotArgs {
    /// The snapshot, and its path in the API.
    fn find(&self, client: &AdminClient) -> Result<(Snapshot, String), CliError> {
        let volume = volumes::find(client, &self.volume)?;
        let snapshot = find(client, &volume, &self.volume, &self.snapshot)?;
        let path = path_of(&volume, &snapshot);
        Ok((snapshot, path))
    }
}

pub(crate) fn run(command: SnapshotCommand, context: &Context) -> Result<(), CliError> {
    let client = context.client()?;
    match command {
        SnapshotCommand::Create { volume, name, description } => {
            let snapshot = create(&client, &volumes::find(&client, &volume)?, &name, description)?;
            context.answer(&snapshot, || output::snapshot_details(&snapshot))
        }
        SnapshotCommand::List { volume } => {
            let snapshots: Vec<Snapshot> =
                client.get(&list_path(&volumes::find(&client, &volume)?))?;
            context.answer(&snapshots, || output::snapshot_list(&snapshots, &volume))
        }
        SnapshotCommand::Get(which) => {
            let (snapshot, _) = which.find(&client)?;
            context.answer(&snapshot, || output::snapshot_details(&snapshot))
        }
        SnapshotCommand::Delete { which, force } => {
            let (_, path) = which.find(&client)?;
            let answer = client.delete(&format!("{path}?force={force}"))?;
            context.answer(&answer, || {
                format!("Deleted snapshot {} of volume {}.", which.snapshot, which.volume)
            })
        }
        SnapshotCommand::Restore { which, force } => {
            let (_, path) = which.find(&client)?;
            let answer = restore(&client, &path, force)?;
            context.answer(&answer, || {
                format!("Volume {} is what it was at snapshot {}.", which.volume, which.snapshot)
            })
        }
    }
}

/// Takes a snapshot of a volume.
pub(crate) fn create(
    client: &AdminClient,
    volume: &Volume,
    name: &str,
    description: Option<String>,
) -> Result<Snapshot, CliError> {
    let name = Some(name.to_owned().into());
    let request = NewSnapshot { name, description: description.map(Field::from) };
    Ok(client.post(&list_path(volume), &request)?)
}

/// Makes a volume what its snapshot at that path is.
pub(crate) fn restore(
    client: &AdminClient,
    path: &str,
    force: bool,
) -> Result<Restored, ClientError> {
    client.post(&format!("{path}/restore?force={force}"), &())
}

/// The snapshot of that id, or the only one of that name, of a volume that its user calls
/// `volume_name`.
pub(crate) fn find(
    client: &AdminClient,
    volume: &Volume,
    volume_name: &str,
    name: &str,
) -> Result<Snapshot, CliError> {
    let missing =
        || CliError::NoSnapshot { volume: volume_name.to_owned(), snapshot: name.to_owned() };
    if let Some(id) = parse_id(name) {
        return match client.get(&format!("{}/{id}", list_path(volume))) {
            Err(ClientError::Refused { status: 404, .. }) => Err(missing()),
            answer => Ok(answer?),
        };
    }
    let mut named: Vec<Snapshot> = client.get(&list_path(volume))?;
    named.retain(|snapshot| snapshot.name == name);
    match named.as_slice() {
        [] => Err(missing()),
        [only] => Ok(only.clone()),
        several => {
            let ids = several.iter().map(|snapshot| snapshot.id.to_string()).collect();
            Err(CliError::AmbiguousSnapshot { snapshot: name.to_owned(), ids })
        }
    }
}

/// The path of a volume's snapshots in the API.
pub(crate) fn list_path(volume: &Volume) -> String {
    format!("{}/snapshots", volumes::path_of(volume))
}

/// The path of one of them.
pub(crate) fn path_of(volume: &Volume, snapshot: &Snapshot) -> String {
    format!("{}/{}", list_path(volume), snapshot.id)
}
