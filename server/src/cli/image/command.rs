//! `import` and `export`: disk images into volumes and out of them.

use super::{
    chain::Following,
    format::{Format, Packing},
    qemu_img::{self, Onto},
    source::{Content, Looked, Ready},
    unpack::{Unpacked, untold},
};
use crate::{
    api::{NewVolume, Size, Snapshot, Volume, VolumeFields},
    cli::{
        base::{AdminClient, CliError, ClientError, Context, Interrupt, Progress},
        copy::{
            Device, Partial, Target,
            transfer::{self, Before},
        },
        increment::{self, Since},
        nbd::{blame, connect, reachable_export},
        volume::{
            Temporary, snapshots,
            volumes::{self, VOLUMES, path_of},
        },
    },
    record::{NAME_CHARS_MAX, parse_id},
    show,
};
use clap::Args;
use serde::Serialize;
use std::path::{Path, PathBuf};

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// The image: raw, qcow2, vmdk, vhd, vhdx or vdi, also packed with gzip, xz, zstd or bzip2
    /// where its name ends so
    image: PathBuf,
    /// The volume, by id or name; an unused name makes a new one of the image's size
    volume: String,
    /// Format of the image, inside its packing [default: what its name says, raw for other names;
    /// refused where it looks otherwise]
    #[arg(long)]
    format: Option<Format>,
    /// Read the files of this host that the image refers to: backing files, data files, extents.
    /// They are told before
    #[arg(long, conflicts_with = "onto")]
    allow_backing: bool,
    /// Apply an increment that `export --since` made: the volume must hold what the increment
    /// follows
    #[arg(long, conflicts_with = "format")]
    onto: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// The volume, by id or name
    volume: String,
    /// The image to write; an existing file is replaced when the new one is whole
    image: PathBuf,
    /// Copy what this snapshot of the volume holds, by id or name [default: what the volume holds
    /// now]
    #[arg(long)]
    snapshot: Option<String>,
    /// Write only what changed since this snapshot of the volume, by id or name, for `import
    /// --onto`
    #[arg(long, value_name = "SNAPSHOT", conflicts_with = "format")]
    since: Option<String>,
    /// Format of the image [default: what its name says, raw for other names]
    #[arg(long)]
    format: Option<Format>,
}

pub(crate) fn import(args: &ImportArgs, context: &Context) -> Result<(), CliError> {
    if args.onto {
        return increment::import(&args.image, &args.volume, context);
    }
    let following = if args.allow_backing { Following::Allowed } else { Following::Refused };
    let refused = |error| CliError::ImageRefused(args.image.clone(), Box::new(error));
    let looked = Looked::at(&args.image, args.format, following).map_err(refused)?;
    for other in looked.others() {
        eprintln!("{} is read with its {other}", args.image.display());
    }
    let client = context.client()?;
    let found = find(&client, &args.volume)?;
    let image =
        looked.ready(&args.image, found.as_ref().map(|volume| volume.size_bytes), context)?;
    let (volume, origin) = take_or_create(&client, &args.volume, found, image.disk_bytes)?;
    let copied = copy_in(args, &image, &volume, origin, context);
    let imported: Result<Volume, CliError> = copied.and_then(|()| match origin {
        Origin::Found => Ok(client.get(&path_of(&volume))?),
        Origin::Created => Ok(client.patch(&path_of(&volume), &named(&args.volume))?),
    });
    let volume = match (imported, origin) {
        (Ok(volume), _) => volume,
        (Err(error), Origin::Found) => return Err(error),
        (Err(error), Origin::Created) => {
            // What failed counts, not this.
            let _cleaned = client.delete(&format!("{}?force=true", path_of(&volume)));
            return Err(error);
        }
    };
    context.answer(&volume, || {
        format!(
            "Imported {} ({}, {}) into volume {}, which uses {}.",
            args.image.display(),
            image.kind,
            show::rounded(image.disk_bytes),
            args.volume,
            show::rounded(volume.used_bytes)
        )
    })
}

pub(crate) fn export(args: &ExportArgs, context: &Context) -> Result<(), CliError> {
    if let Some(from) = &args.since {
        let since = Since { volume: &args.volume, to: args.snapshot.as_deref(), from };
        return increment::export(&since, &args.image, context);
    }
    let format = match (args.format, Packing::of_name(&args.image)) {
        (Some(format), _) => format,
        (None, Some(packing)) => {
            return Err(CliError::PackedExport(args.image.clone(), packing.as_str()));
        }
        (None, None) => Format::of_name(&args.image).unwrap_or(Format::Raw),
    };
    let client = context.client()?;
    let volume = volumes::find(&client, &args.volume)?;
    let snapshot =
        args.snapshot.as_deref().map(|name| snapshots::find(&client, &volume, &args.volume, name));
    let snapshot = snapshot.transpose()?;
    let interrupt = Interrupt::listen()?;
    let job = Export { args, volume: &volume, format, interrupt: &interrupt, context };
    match &snapshot {
        Some(snapshot) => job.run(Some(snapshot))?,
        None => match Temporary::take(&client, &volume, "export") {
            Ok(still) => {
                let exported = job.run(Some(still.snapshot()));
                let deleted = still.delete();
                // Of two failures the first counts.
                exported.and(deleted)?;
            }
            // A store that takes no change is still to be read.
            Err(CliError::Client(ClientError::Refused { status: 503 | 507, .. })) => {
                job.run(None)?
            }
            Err(error) => return Err(error),
        },
    }
    let bytes = snapshot.as_ref().map_or(volume.size_bytes, |snapshot| snapshot.size_bytes);
    let answer = Exported {
        volume: &volume,
        snapshot: snapshot.as_ref(),
        image: &args.image,
        format: format.as_str(),
    };
    context.answer(&answer, || {
        let (size, image) = (show::rounded(bytes), args.image.display());
        let what = match &args.snapshot {
            None => format!("volume {}", args.volume),
            Some(snapshot) => format!("snapshot {snapshot} of volume {}", args.volume),
        };
        format!("Exported {what} ({size}) to {image} ({format}).")
    })
}

/// What an export answers programs with.
#[derive(Serialize)]
struct Exported<'a> {
    volume: &'a Volume,
    snapshot: Option<&'a Snapshot>,
    image: &'a Path,
    format: &'static str,
}

/// An export under way.
struct Export<'a> {
    args: &'a ExportArgs,
    volume: &'a Volume,
    format: Format,
    interrupt: &'a Interrupt,
    context: &'a Context,
}

impl Export<'_> {
    /// Copies a snapshot, which holds still and is in no writer's way, or the volume itself.
    fn run(&self, snapshot: Option<&Snapshot>) -> Result<(), CliError> {
        let ExportArgs { volume: name, image, .. } = self.args;
        let (uris, size_bytes) = match snapshot {
            None => (&self.volume.uris, self.volume.size_bytes),
            Some(snapshot) => (&snapshot.uris, snapshot.size_bytes),
        };
        let address = reachable_export(uris, name)?;
        let progress = Progress::new(size_bytes, self.context.audience());
        let image_failed = |error| CliError::Image(image.clone(), error);
        if self.format == Format::Raw {
            let mut device = connect(&address, name)?;
            let target = Target::create(image, device.size_bytes()).map_err(image_failed)?;
            transfer::export(&mut device, &target, &progress, self.interrupt)
                .map_err(|error| blame(error, image, name))?;
            target.finish().map_err(image_failed)
        } else {
            let partial = Partial::beside(image).map_err(image_failed)?;
            qemu_img::from_export(&address.uri(), self.format, partial.path(), image, &progress)?;
            partial.finish().map_err(image_failed)
        }
    }
}

/// Where the volume of an import came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Found,
    Created,
}

/// The volume of that name, where there is one.
fn find(client: &AdminClient, name: &str) -> Result<Option<Volume>, CliError> {
    match volumes::find(client, name) {
        Ok(volume) => Ok(Some(volume)),
        Err(CliError::NoVolume(_)) if parse_id(name).is_none() => Ok(None),
        Err(error) => Err(error),
    }
}

/// The volume itself where it has room for the image, else a new one.
fn take_or_create(
    client: &AdminClient,
    name: &str,
    found: Option<Volume>,
    disk_bytes: u64,
) -> Result<(Volume, Origin), CliError> {
    match found {
        Some(volume) => {
            let volume_bytes = volume.size_bytes;
            if volume_bytes < disk_bytes {
                return Err(CliError::TooSmall {
                    volume: name.to_owned(),
                    volume_bytes,
                    image_bytes: disk_bytes,
                });
            }
            Ok((volume, Origin::Found))
        }
        None => {
            // Half an image under the name that was asked for would look like a whole one, and a
            // signal in the middle leaves one. The next import takes the next name: the one that
            // was left may be still at work.
            let mut refused = None;
            for try_count in 1..=PARTIALS_MAX {
                let size = Some(Size::Text(disk_bytes.to_string()).into());
                let fields = VolumeFields { size, ..named(&partial_name(name, try_count)) };
                match client.post(VOLUMES, &NewVolume { id: None, fields }) {
                    Err(error @ ClientError::Refused { status: 409, .. }) => refused = Some(error),
                    made => return Ok((made?, Origin::Created)),
                }
            }
            Err(refused.expect("there was at least one try").into())
        }
    }
}

/// Most volumes of imports into one name that were not finished, or still go on.
const PARTIALS_MAX: u32 = 100;

/// The name of a volume until its import is done, no longer than names may be.
fn partial_name(name: &str, try_count: u32) -> String {
    let end = match try_count {
        1 => ".partial".to_owned(),
        count => format!(".partial-{count}"),
    };
    let begin: String = name.chars().take(NAME_CHARS_MAX - end.len()).collect();
    format!("{}{end}", begin.trim_end())
}

fn copy_in(
    args: &ImportArgs,
    image: &Ready,
    volume: &Volume,
    origin: Origin,
    context: &Context,
) -> Result<(), CliError> {
    let progress = Progress::new(image.disk_bytes, context.audience());
    let address = reachable_export(&volume.uris, &args.volume)?;
    let (before, onto) = match origin {
        Origin::Created => (Before::Zeroes, Onto::Zeroes),
        Origin::Found => (Before::Anything, Onto::Anything),
    };
    let blame = |error| blame(error, &args.image, &args.volume);
    match &image.content {
        Content::Raw(source) => {
            let mut device = connect(&address, &args.volume)?;
            transfer::import(source, &mut device, before, &progress).map(drop).map_err(blame)
        }
        Content::Packed(file, packing) => {
            let mut device = connect(&address, &args.volume)?;
            let refused = |error| CliError::ImageRefused(args.image.clone(), Box::new(error));
            let mut reader = Unpacked::new(&file.file, *packing, &untold).map_err(refused)?;
            transfer::import_stream(&mut reader, image.disk_bytes, &mut device, before, &progress)
                .map(drop)
                .map_err(blame)
        }
        Content::Converted(chain) | Content::Spooled(chain, _) => {
            qemu_img::into_export(chain, &args.image, &address.uri(), onto, &progress)
        }
    }
}

/// A volume's fields of which only the name is said.
fn named(name: &str) -> VolumeFields {
    VolumeFields { name: Some(name.to_owned().into()), ..VolumeFields::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::is_name;

    #[test]
    fn names_until_an_import_is_done_are_names() {
        assert_eq!(partial_name("base", 1), "base.partial");
        assert_eq!(partial_name("base", 2), "base.partial-2");
        for name in ["größe", &"ö".repeat(NAME_CHARS_MAX), &"n ".repeat(64)[..127]] {
            for try_count in [1, 2, PARTIALS_MAX] {
                assert!(is_name(&partial_name(name, try_count)), "{name}");
            }
        }
    }
}
