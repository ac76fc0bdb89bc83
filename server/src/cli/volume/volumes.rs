//! `volume …`: the admin API from the command line.

use crate::{
    cli::base::{AdminClient, CliError, ClientError, Context, output},
    record::parse_id,
};
use clap::{Args, Subcommand};
use sandstone_config::{ByteSize, ByteSizeError};
use serde_json::{Map, Value, json};

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
            let volume = client.post("/sandboxvolumes", &fields.fields())?;
            context.answer(&volume, || output::volume_details(&volume))
        }
        VolumeCommand::List => {
            let volumes = client.get("/sandboxvolumes")?;
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
            let volume = client.patch(&path, &json!({ "size": size }))?;
            context.answer(&volume, || output::volume_details(&volume))
        }
        VolumeCommand::Limit { volume, limits } => {
            let path = path_of(&find(&client, &volume)?);
            let volume = client.patch(&path, &Value::Object(limits.fields()))?;
            context.answer(&volume, || output::volume_details(&volume))
        }
    }
}

impl VolumeFields {
    /// What was said; what was not said is the server's to choose.
    pub(crate) fn fields(&self) -> Value {
        let mut fields = Map::new();
        let texts = [
            ("name", &self.name),
            ("size", &self.size),
            ("id", &self.id),
            ("access_mode", &self.access_mode),
            ("cache_size", &self.cache_size),
            ("buffer_size", &self.buffer_size),
        ];
        for (field, value) in texts {
            if let Some(value) = value {
                fields.insert(field.to_owned(), json!(value));
            }
        }
        if let Some(prefetch) = self.prefetch {
            fields.insert("prefetch".to_owned(), json!(prefetch));
        }
        if self.writeback {
            fields.insert("writeback".to_owned(), json!(true));
        }
        fields.append(&mut self.limits.fields());
        Value::Object(fields)
    }
}

impl Limits {
    fn fields(&self) -> Map<String, Value> {
        let iops_max = self.iops_max.map(|iops| ("iops_max".to_owned(), json!(iops)));
        let bytes = self.bytes_per_second_max.as_ref();
        let bytes_per_second_max = bytes.map(|size| ("bytes_per_second_max".to_owned(), json!(size)));
        iops_max.into_iter().chain(bytes_per_second_max).collect()
    }
}

/// The volume of that id, or the only one of that name.
pub(crate) fn find(client: &AdminClient, name: &str) -> Result<Value, CliError> {
    if let Some(id) = parse_id(name) {
        return match client.get(&format!("/sandboxvolumes/{id}")) {
            Err(ClientError::Refused { status: 404, .. }) => Err(CliError::NoVolume(name.to_owned())),
            answer => Ok(answer?),
        };
    }
    let mut volumes = client.get("/sandboxvolumes")?;
    let list = volumes.as_array_mut().map(std::mem::take).unwrap_or_default();
    only_named(list, name)
}

fn only_named(volumes: Vec<Value>, name: &str) -> Result<Value, CliError> {
    let mut named: Vec<Value> = volumes.into_iter().filter(|volume| volume["name"] == name).collect();
    match (named.pop(), named.is_empty()) {
        (None, _) => Err(CliError::NoVolume(name.to_owned())),
        (Some(only), true) => Ok(only),
        (Some(last), false) => {
            named.push(last);
            let ids = named.iter().filter_map(|volume| volume["id"].as_str()).map(str::to_owned).collect();
            Err(CliError::AmbiguousName(name.to_owned(), ids))
        }
    }
}

/// Its path in the API.
pub(crate) fn path_of(volume: &Value) -> String {
    format!("/sandboxvolumes/{}", volume["id"].as_str().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_found_by_name_only_while_the_name_is_unique() {
        let volumes = || {
            vec![
                json!({"id": "1", "name": "a"}),
                json!({"id": "2", "name": "b"}),
                json!({"id": "3", "name": "b"}),
            ]
        };
        assert_eq!(only_named(volumes(), "a").unwrap()["id"], "1");
        assert!(matches!(only_named(volumes(), "c"), Err(CliError::NoVolume(_))));
        match only_named(volumes(), "b") {
            Err(CliError::AmbiguousName(_, ids)) => assert_eq!(ids, ["2", "3"]),
            other => panic!("{other:?}"),
        }
    }
}
