//! The command line, and what runs for each command.

use super::{
    base::{CliError, Context, Global},
    check_config,
    image::{self, ExportArgs, ImportArgs},
    maintenance::{reclaim, scrub, store},
    offline::{check, inspect},
    top::{self, TopArgs},
    tree,
    volume::{fork, mounts, snapshots, volumes},
};
use crate::{process::logging, serve, show};
use clap::{Parser, Subcommand};
use std::process::ExitCode;

const EXAMPLES: &str = "\
Examples:
  sandstone                                        Serve with all defaults, data in ./sandstone-data
  sandstone volume create --name disk --size 10G   Make a volume
  sandstone volume list                            See all volumes
  sandstone import debian.qcow2 base               Make a volume from an image
  sandstone export base base.raw                   Write a volume to a sparse file
  sandstone fork base --name agent-1               Make a copy of it, in no time and no space
  sandstone snapshot create agent-1 --name before  Keep what a volume holds now
  sandstone snapshot restore agent-1 before        Go back to it
  sandstone tree                                   See which volume came from where
  sandstone top                                    See what the volumes do now
  sandstone mount agent-1 --sandbox a1 --at /work  Attach it for one sandbox, under a secret name
  sandstone export base mon.inc --since sunday     Write what changed since a snapshot
  sandstone import mon.inc base-copy --onto        Apply that to a copy elsewhere
  sandstone check --data                           Read all of a stopped server's store
  nbd-client -unix sandstone-data/nbd.sock -name disk /dev/nbd0
                                                   Attach a volume to this host (as root)

The commands find the server's socket and its token by its configuration: --config FILE, else
./sandstone.toml where it exists and is yours or root's, else the defaults.";

/// Copy-on-write block volumes for sandboxes, served over NBD
#[derive(Debug, Parser)]
#[command(name = "sandstone", version, after_help = EXAMPLES, max_term_width = 110)]
struct Cli {
    #[command(flatten)]
    global: Global,
    /// What to do; `serve` when nothing is said.
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server (the default)
    Serve,
    /// Check the configuration and show every key with its value and range
    CheckConfig,
    /// Make, list, change and delete volumes
    #[command(subcommand)]
    Volume(volumes::VolumeCommand),
    /// Take, list, delete and go back to snapshots of a volume
    #[command(subcommand)]
    Snapshot(snapshots::SnapshotCommand),
    /// Make a volume that begins as a copy of another, or of a snapshot
    Fork(fork::ForkArgs),
    /// Draw which volumes and snapshots came from which
    Tree,
    /// Let a sandbox attach a volume, and say under which export name
    Mount(mounts::MountArgs),
    /// End a mount; its clients are cut off
    Unmount(mounts::UnmountArgs),
    /// List all mounts, newest first
    Mounts(mounts::MountsArgs),
    /// Copy a disk image into a volume
    Import(ImportArgs),
    /// Copy a volume, or a snapshot of it, into a disk image
    Export(ExportArgs),
    /// Show what the store has room for, and what takes it
    Store,
    /// Give the space of what was deleted back to the host, now
    Reclaim,
    /// Have the server read everything, and say what is not what was written
    Scrub,
    /// Watch what the volumes do
    Top(TopArgs),
    /// Read all that a stopped store holds, and say what is wrong with it
    Check(check::CheckArgs),
    /// Show what lies in a stopped store, field by field
    Inspect(inspect::InspectArgs),
    /// Print the version
    Version,
}

/// Runs the command line of this process.
pub(crate) fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => {
            logging::finish();
            ExitCode::SUCCESS
        }
        // The reader of the output has seen enough.
        Err(CliError::OutputClosed) => ExitCode::SUCCESS,
        Err(error) => {
            logging::say(&format!("sandstone: {}", show::with_causes(&error)));
            logging::finish();
            error.exit_code()
        }
    }
}

fn run(cli: Cli) -> Result<(), CliError> {
    let context = Context::new(cli.global);
    match cli.command.unwrap_or(Command::Serve) {
        Command::Serve => Ok(serve::run(context.config()?)?),
        Command::CheckConfig => check_config::run(&context),
        Command::Volume(command) => volumes::run(command, &context),
        Command::Snapshot(command) => snapshots::run(command, &context),
        Command::Fork(args) => fork::run(&args, &context),
        Command::Tree => tree::run(&context),
        Command::Mount(args) => mounts::mount(&args, &context),
        Command::Unmount(args) => mounts::unmount(&args, &context),
        Command::Mounts(args) => mounts::mounts(&args, &context),
        Command::Import(args) => image::import(&args, &context),
        Command::Export(args) => image::export(&args, &context),
        Command::Store => store::run(&context),
        Command::Reclaim => reclaim::run(&context),
        Command::Scrub => scrub::run(&context),
        Command::Top(args) => top::run(&args, &context),
        Command::Check(args) => check::run(&args, &context),
        Command::Inspect(args) => inspect::run(&args, &context),
        Command::Version => {
            let version = env!("CARGO_PKG_VERSION");
            context.answer(&serde_json::json!({ "version": version }), || {
                format!("sandstone {version}")
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_of_all_commands_stand_before_or_after_the_command() {
        for words in
            [["sandstone", "--json", "volume", "list"], ["sandstone", "volume", "list", "--json"]]
        {
            assert!(Cli::try_parse_from(words).unwrap().global.json);
        }
    }

    #[test]
    fn no_command_means_serve_and_a_wrong_size_is_a_wrong_command_line() {
        assert!(Cli::try_parse_from(["sandstone"]).unwrap().command.is_none());
        let error =
            Cli::try_parse_from(["sandstone", "volume", "create", "--size", "much"]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("not a size"), "{error}");
    }
}
