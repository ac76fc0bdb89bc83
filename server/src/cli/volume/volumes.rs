//! `volume …`: the admin API from the command line.

use crate::{
    api::{self, Field, NewVolume, Size, Tuning, Volume},
    cli::base::{AdminClient, CliError, ClientError, Context, output},
    record::parse_id,
};
use clap::{Args, Subcommand};
use sandstone_config::{ByteSize, ByteSizeError};

#[derive(Debug, Subcommand)]
pub(crate) enum VolumeCommand {
    /// Make a volume
    #[command(
        after_help = "Not said: the size is the server's defaults.volume_size; the mode RWO, 1G of cache, 32M of \
                            buffer, no reading ahead, no writeback and no limits."
    )]
    Create(VolumeFields),
    /// List all volumes, newest first
    List,
    /// Show one volume
    Get {
        /// Its id or name
        #[arg(value_name = "ID|NAME")]
        volume: String,
    },
    /// Delete a volume
    Delete {
        /// Its id or name
        #[arg(value_name = "ID|NAME")]
        volume: String,
        /// Cut off clients that use it
        #[arg(long)]
        force: bool,
    },
    /// Grow a volume
    Resize {
        /// Its id or name
        #[arg(value_name = "ID|NAME")]
        volume: String,
        /// Its new size, such as 20G
        #[arg(value_parser = size)]
        size: String,
    },
    /// Limit what the clients of a volume may do a second, those too that are connected
    Limit {
        /// Its id or name
        #[arg(value_name = "ID|NAME")]
        volume: String,
        #[command(flatten)]
        limits: Limits,
    },
}

/// What a new volume may be told to be.
#[derive(Debug, Args)]
pub(crate) struct VolumeFields {
    /// A name, for people and as an export name
    #[arg(long)]
    name: Option<String>,
    /// Size, such as 10G
    #[arg(long, value_parser = size)]
    size: Option<String>,
    /// An id of your own choice
    #[arg(long, value_name = "UUID")]
    id: Option<String>,
    /// Who may attach: RWO (one writer), ROX (readers only) or RWX (any number of writers)
    #[arg(long, value_name = "MODE")]
    access_mode: Option<String>,
    /// Most memory for its cached blocks
    #[arg(long, value_name = "SIZE", value_parser = size)]
    cache_size: Option<String>,
    /// Most bytes accepted but not yet in the store
    #[arg(long, value_name = "SIZE", value_parser = size)]
    buffer_size: Option<String>,
    /// MiB to read ahead of sequential reads
    #[arg(long, value_name = "MIB")]
    prefetch: Option<u32>,
    /// Acknowledge writes from the staging buffer, which a host crash may lose
    #[arg(long)]
    writeback: bool,
    #[command(flatten)]
    limits: Limits,
}

/// What a volume may use.
#[derive(Debug, Args)]
pub(crate) struct Limits {
    /// Most operations a second of all its clients; 0 for no limit
    #[arg(long, value_name = "IOPS")]
    iops_max: Option<u64>,
    /// Most bytes that they may read and write a second; 0 for no limit
    #[arg(long, value_name = "SIZE", value_parser = size)]
    bytes_per_second_max: Option<String>,
}

/// Checks a size and keeps its text: the server echoes it as given.
pub(crate) fn size(text: &str) -> Result<String, ByteSizeError> {
    text.parse::<ByteSize>().map(|_| text.to_owned())
}

pub(crate) fn run(command: VolumeCommand, context: &Context) -> Result<(), CliError> {
    let client = context.client()?;
    match command {
        VolumeCommand::Create(fields) => {
            let volume = client.post(VOLUMES, &fields.request())?;
            context.answer(&volume, || output::volume_details(&volume))
        }
        VolumeCommand::List => {
            let volumes: Vec<Volume> = client.get(VOLUMES)?;
            context.answer(&volumes, || output::volume_list(&volumes))
        }
        VolumeCommand::Get { volume } => {
            let volume = find(&client, &volume)?;
            context.answer(&volume, || output::volume_details(&volume))
        }
        VolumeCommand::Delete { volume: name, force } => {
            let path = path_of(&find(&client, &name)?);
            let answer = client.delete(&format!("{path}?force={force}"))?;
            context.answer(&answer, || format!("Deleted volume {name}."))
        }
        VolumeCommand::Resize { volume, size } => {
            let path = path_of(&find(&client, &volume)?);
            let volume = client.patch(&path, &resized(&size))?;
            context.answer(&volume, || output::volume_details(&volume))
        }
        VolumeCommand::Limit { volume, limits } => {
            let path = path_of(&find(&client, &volume)?);
            let volume = client.patch(&path, &limits.request())?;
            context.answer(&volume, || output::volume_details(&volume))
        }
    }
}

impl VolumeFields {
    /// What was said; what was not said is the server's to choose.
    pub(crate) fn request(&self) -> NewVolume {
        NewVolume {
            id: field(&self.id),
            fields: api::VolumeFields {
                name: field(&self.name),
                size: self.size.as_deref().map(|size| Size::from(size).into()),
                access_mode: field(&self.access_mode),
                tuning: Tuning {
                    cache_size: field(&self.cache_size),
                    buffer_size: field(&self.buffer_size),
                    prefetch: self.prefetch.map(Field::from),
                    writeback: self.writeback.then(|| true.into()),
                },
                ..self.limits.request()
            },
        }
    }
}

/// An option of the command line as a field of a request.
pub(crate) fn field(said: &Option<String>) -> Option<Field<String>> {
    said.clone().map(Field::from)
}

impl Limits {
    fn request(&self) -> api::VolumeFields {
        api::VolumeFields {
            iops_max: self.iops_max.map(Field::from),
            bytes_per_second_max: self
                .bytes_per_second_max
                .as_deref()
                .map(|size| Size::from(size).into()),
            ..api::VolumeFields::default()
        }
    }
}

/// A change of a volume's size alone.
pub(crate) fn resized(size: &str) -> api::VolumeFields {
    api::VolumeFields { size: Some(Size::from(size).into()), ..api::VolumeFields::default() }
}

/// The volume of that id, or the only one of that name.
pub(crate) fn find(client: &AdminClient, name: &str) -> Result<Volume, CliError> {
    if let Some(id) = parse_id(name) {
        return match client.get(&format!("{VOLUMES}/{id}")) {
            Err(ClientError::Refused { status: 404, .. }) => {
                Err(CliError::NoVolume(name.to_owned()))
            }
            answer => Ok(answer?),
        };
    }
    only_named(client.get(VOLUMES)?, name)
}

fn only_named(mut volumes: Vec<Volume>, name: &str) -> Result<Volume, CliError> {
    volumes.retain(|volume| volume.name.as_deref() == Some(name));
    match (volumes.pop(), volumes.is_empty()) {
        (None, _) => Err(CliError::NoVolume(name.to_owned())),
        (Some(only), true) => Ok(only),
        (Some(last), false) => {
            volumes.push(last);
            let ids = volumes.iter().map(|volume| volume.id.to_string()).collect();
            Err(CliError::AmbiguousName(name.to_owned(), ids))
        }
    }
}

/// The path of the volumes in the API.
pub(crate) const VOLUMES: &str = "/sandboxvolumes";

/// The path of one of them.
pub(crate) fn path_of(volume: &Volume) -> String {
    format!("{VOLUMES}/{}", volume.id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn volume(id: u128, name: &str) -> Volume {
        serde_json::from_value(json!({
            "id": uuid::Uuid::from_u128(id), "name": name, "team_id": "default", "user_id": "admin",
            "size_bytes": 0, "used_bytes": 0, "access_mode": "RWO", "state": "ready", "attachments": 0,
            "cache_size": "1G", "buffer_size": "32M", "prefetch": 0, "writeback": false,
            "created_at": "2026-01-02T03:04:05Z", "updated_at": "2026-01-02T03:04:05Z", "uris": [],
            "backend": "s0fs", "export_name": "", "mounts": [],
        }))
        .unwrap()
    }

    #[test]
    fn a_volume_is_found_by_name_only_while_the_name_is_unique() {
        let volumes = || vec![volume(1, "a"), volume(2, "b"), volume(3, "b")];
        let id = |id| uuid::Uuid::from_u128(id).to_string();
        assert_eq!(only_named(volumes(), "a").unwrap().id.to_string(), id(1));
        assert!(matches!(only_named(volumes(), "c"), Err(CliError::NoVolume(_))));
        match only_named(volumes(), "b") {
            Err(CliError::AmbiguousName(_, ids)) => assert_eq!(ids, [id(2), id(3)]),
            other => panic!("{other:?}"),
        }
    }
}
