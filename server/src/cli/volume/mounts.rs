//! `mount`, `unmount` and `mounts`: who may attach which volume.

use super::volumes;
use crate::{
    cli::base::{CliError, Context, output},
    net::escaped_segment,
};
use clap::Args;
use serde_json::{Map, Value, json};

#[derive(Debug, Args)]
#[command(after_help = "Not said: the knobs are the volume's, also when that is changed later.")]
pub(crate) struct MountArgs {
    /// The volume, by id or name
    volume: String,
    /// The sandbox that it is for
    #[arg(long, value_name = "ID")]
    sandbox: String,
    /// Where the sandbox mounts the file system, for the record
    #[arg(long, value_name = "PATH")]
    at: String,
    /// Most memory for blocks that this mount brings into the cache
    #[arg(long, value_name = "SIZE", value_parser = volumes::size)]
    cache_size: Option<String>,
    /// Most bytes accepted through this mount but not yet in the store
    #[arg(long, value_name = "SIZE", value_parser = volumes::size)]
    buffer_size: Option<String>,
    /// MiB to read ahead of this mount's sequential reads
    #[arg(long, value_name = "MIB")]
    prefetch: Option<u32>,
    /// Whether this mount's writes are acknowledged from the staging buffer, which a host crash may lose
    #[arg(long, value_name = "BOOL")]
    writeback: Option<bool>,
}

#[derive(Debug, Args)]
pub(crate) struct UnmountArgs {
    /// The mount, by its session as `mounts` shows it
    session: String,
}

#[derive(Debug, Args)]
pub(crate) struct MountsArgs {
    /// Only those of this sandbox
    #[arg(long, value_name = "ID")]
    sandbox: Option<String>,
}

pub(crate) fn mount(args: &MountArgs, context: &Context) -> Result<(), CliError> {
    let client = context.client()?;
    let volume = volumes::find(&client, &args.volume)?;
    let body = json!({
        "sandboxvolume_id": volume["id"],
        "mount_point": args.at,
        "volume_config": args.config(),
    });
    let mount = client.post(&path_of(&args.sandbox, "mount"), &body)?;
    context.answer(&mount, || output::mount_details(&mount))
}

pub(crate) fn unmount(args: &UnmountArgs, context: &Context) -> Result<(), CliError> {
    let client = context.client()?;
    let mounts = client.get(ALL)?;
    let mut mounts = mounts.as_array().map(Vec::as_slice).unwrap_or_default().iter();
    let mount = mounts.find(|mount| mount["mount_session_id"] == args.session.as_str());
    let mount = mount.ok_or_else(|| CliError::NoMount(args.session.clone()))?;
    let body = json!({
        "sandboxvolume_id": mount["sandboxvolume_id"],
        "mount_session_id": args.session,
    });
    let sandbox = output::text(&mount["sandbox_id"]);
    let answer = client.post(&path_of(&sandbox, "unmount"), &body)?;
    context.answer(&answer, || {
        format!("Unmounted volume {} of sandbox {sandbox}.", output::text(&mount["sandboxvolume_id"]))
    })
}

pub(crate) fn mounts(args: &MountsArgs, context: &Context) -> Result<(), CliError> {
    let mut mounts = context.client()?.get(ALL)?;
    if let (Some(sandbox), Some(list)) = (&args.sandbox, mounts.as_array_mut()) {
        list.retain(|mount| mount["sandbox_id"] == sandbox.as_str());
    }
    context.answer(&mounts, || output::mount_list(&mounts))
}

/// All mounts, in the API.
const ALL: &str = "/admin/mounts";

/// What a sandbox does with its mounts, in the API.
fn path_of(sandbox: &str, what: &str) -> String {
    format!("/sandboxes/{}/sandboxvolumes/{what}", escaped_segment(sandbox))
}

impl MountArgs {
    /// What was said of the knobs.
    fn config(&self) -> Value {
        let said = [
            ("cache_size", self.cache_size.as_ref().map(|size| json!(size))),
            ("buffer_size", self.buffer_size.as_ref().map(|size| json!(size))),
            ("prefetch", self.prefetch.map(|mib| json!(mib))),
            ("writeback", self.writeback.map(|writeback| json!(writeback))),
        ];
        let said = said.into_iter().filter_map(|(field, value)| Some((field.to_owned(), value?)));
        Value::Object(said.collect::<Map<_, _>>())
    }
}
