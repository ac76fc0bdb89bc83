//! `mount`, `unmount` and `mounts`: who may attach which volume.

use super::volumes::{self, field};
use crate::{
    api::{Field, Mount, NewMount, Tuning, Unmount, Unmounted},
    cli::base::{CliError, Context, output},
    net::escaped_segment,
};
use clap::Args;

#[derive(Debug, Args)]
#[command(after_help = "Not said: the tuning is the volume's, also when that is changed later.")]
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
    /// Whether this mount's writes are acknowledged from the staging buffer, which a host crash may
    /// lose
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
    let config = Tuning {
        cache_size: field(&args.cache_size),
        buffer_size: field(&args.buffer_size),
        prefetch: args.prefetch.map(Field::from),
        writeback: args.writeback.map(Field::from),
    };
    let request = NewMount {
        sandboxvolume_id: Some(volume.id.to_string().into()),
        mount_point: Some(args.at.clone().into()),
        sandbox_id: None,
        volume_config: Some(config.into()),
    };
    let mount = client.post(&path_of(&args.sandbox, "mount"), &request)?;
    context.answer(&mount, || output::mount_details(&mount))
}

pub(crate) fn unmount(args: &UnmountArgs, context: &Context) -> Result<(), CliError> {
    let client = context.client()?;
    let mounts: Vec<Mount> = client.get(ALL)?;
    let mount = mounts.iter().find(|mount| mount.mount_session_id.to_string() == args.session);
    let mount = mount.ok_or_else(|| CliError::NoMount(args.session.clone()))?;
    let request = Unmount {
        sandboxvolume_id: Some(mount.sandboxvolume_id.to_string().into()),
        mount_session_id: Some(args.session.clone().into()),
    };
    let answer: Unmounted = client.post(&path_of(&mount.sandbox_id, "unmount"), &request)?;
    context.answer(&answer, || {
        format!("Unmounted volume {} of sandbox {}.", mount.sandboxvolume_id, mount.sandbox_id)
    })
}

pub(crate) fn mounts(args: &MountsArgs, context: &Context) -> Result<(), CliError> {
    let mut mounts: Vec<Mount> = context.client()?.get(ALL)?;
    if let Some(sandbox) = &args.sandbox {
        mounts.retain(|mount| mount.sandbox_id == *sandbox);
    }
    context.answer(&mounts, || output::mount_list(&mounts))
}

/// All mounts, in the API.
const ALL: &str = "/admin/mounts";

/// What a sandbox does with its mounts, in the API.
fn path_of(sandbox: &str, what: &str) -> String {
    format!("/sandboxes/{}/sandboxvolumes/{what}", escaped_segment(sandbox))
}
