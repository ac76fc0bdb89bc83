//! `fork`: a new volume that begins as a copy of another, or of a snapshot.

use super::{
    snapshots,
    volumes::{self, VolumeFields},
};
use crate::cli::base::{CliError, Context, output};
use clap::Args;

#[derive(Debug, Args)]
#[command(
    after_help = "Not said: all is as in the source, but the mode is RWO and there is no name."
)]
pub(crate) struct ForkArgs {
    /// The volume to copy, by id or name
    source: String,
    /// Copy what this snapshot of it holds, by id or name [default: what the volume holds now]
    #[arg(long)]
    snapshot: Option<String>,
    #[command(flatten)]
    fields: VolumeFields,
}

pub(crate) fn run(args: &ForkArgs, context: &Context) -> Result<(), CliError> {
    let client = context.client()?;
    let source = volumes::find(&client, &args.source)?;
    let copied = match &args.snapshot {
        None => volumes::path_of(&source),
        Some(name) => {
            snapshots::path_of(&source, &snapshots::find(&client, &source, &args.source, name)?)
        }
    };
    let fork = client.post(&format!("{copied}/fork"), &args.fields.request())?;
    context.answer(&fork, || output::volume_details(&fork))
}
