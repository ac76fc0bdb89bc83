//! `import` and `export`: disk images into volumes and out of them.

use super::{
    context::Context,
    error::CliError,
    export_place::{blame, connect, reachable_export, reachable_snapshot},
    increment::{self, Since},
    interrupt::Interrupt,
    progress::Progress,
    qemu_img::{self, ImageInfo, Onto},
    raw_image::{Partial, Source, Target},
    snapshot,
    temporary::Temporary,
    transfer::{self, Before, Device},
    volume::{self, path_of},
};
use crate::{
    client::{AdminClient, ClientError},
    record::parse_id,
    show,
};
use clap::Args;
use sandstone_config::ranges;
use serde_json::{Value, json};
use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

const RAW: &str = "raw";

#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    /// The image: raw, or any format that qemu-img reads
    image: PathBuf,
    /// The volume, by id or name; an unused name makes a new one of the image's size
    volume: String,
    /// Format of the image [default: what it looks like]. Say raw for an image whose inside you do not trust
    #[arg(long)]
    format: Option<String>,
    /// Apply an increment that `export --since` made: the volume must hold what the increment follows
    #[arg(long, conflicts_with = "format")]
    onto: bool,
}

#[derive(Debug, Args)]
pub(super) struct ExportArgs {
    /// The volume, by id or name
    volume: String,
    /// The image to write; an existing file is replaced when the new one is whole
    image: PathBuf,
    /// Copy what this snapshot of the volume holds, by id or name [default: what the volume holds now]
    #[arg(long)]
    snapshot: Option<String>,
    /// Write only what changed since this snapshot of the volume, by id or name, for `import --onto`
    #[arg(long, value_name = "SNAPSHOT", conflicts_with = "format")]
    since: Option<String>,
    /// Format of the image, in qemu-img's words [default: by the image's name, raw for unknown ones]
    #[arg(long)]
    format: Option<String>,
}

pub(super) fn import(args: &ImportArgs, context: &Context) -> Result<(), CliError> {
    if args.onto {
        return increment::import(&args.image, &args.volume, context);
    }
    let image = look_at(&args.image, args.format.as_deref())?;
    let client = context.client()?;
    let (volume, origin) = find_or_create(&client, &args.volume, image.disk_bytes)?;
    let copied = copy_in(args, &image, &volume, origin, context);
    let imported = copied.and_then(|()| match origin {
        Origin::Found => Ok(client.get(&path_of(&volume))?),
        Origin::Created => Ok(client.patch(&path_of(&volume), &json!({ "name": args.volume }))?),
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
            image.format,
            show::rounded(image.disk_bytes),
            args.volume,
            show::rounded(volume["used_bytes"].as_u64().unwrap_or(0))
        )
    })
}

pub(super) fn export(args: &ExportArgs, context: &Context) -> Result<(), CliError> {
    if let Some(from) = &args.since {
        let since = Since { volume: &args.volume, to: args.snapshot.as_deref(), from };
        return increment::export(&since, &args.image, context);
    }
    let format = args.format.as_deref().unwrap_or_else(|| qemu_img::format_of_name(&args.image));
    let client = context.client()?;
    let volume = volume::find(&client, &args.volume)?;
    let snapshot = args.snapshot.as_deref().map(|name| snapshot::find(&client, &volume, &args.volume, name));
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
            Err(CliError::Client(ClientError::Refused { status: 503 | 507, .. })) => job.run(None)?,
            Err(error) => return Err(error),
        },
    }
    let bytes = size_of(snapshot.as_ref().unwrap_or(&volume));
    let answer = json!({ "volume": volume, "snapshot": snapshot, "image": args.image, "format": format });
    context.answer(&answer, || {
        let (size, image) = (show::rounded(bytes), args.image.display());
        let what = match &args.snapshot {
            None => format!("volume {}", args.volume),
            Some(snapshot) => format!("snapshot {snapshot} of volume {}", args.volume),
        };
        format!("Exported {what} ({size}) to {image} ({format}).")
    })
}

/// An export under way.
struct Export<'a> {
    args: &'a ExportArgs,
    volume: &'a Value,
    format: &'a str,
    interrupt: &'a Interrupt,
    context: &'a Context,
}

impl Export<'_> {
    /// Copies a snapshot, which holds still and is in no writer's way, or the volume itself.
    fn run(&self, snapshot: Option<&Value>) -> Result<(), CliError> {
        let ExportArgs { volume: name, image, .. } = self.args;
        let address = match snapshot {
            None => reachable_export(self.volume, name)?,
            Some(snapshot) => reachable_snapshot(self.volume, name, snapshot)?,
        };
        let progress = Progress::new(size_of(snapshot.unwrap_or(self.volume)), self.context.audience());
        let image_failed = |error| CliError::Image(image.clone(), error);
        if self.format == RAW {
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

/// What an image is, by its `--format`, by qemu-img, or by its first bytes.
fn look_at(path: &Path, format: Option<&str>) -> Result<ImageInfo, CliError> {
    let failed = |error| CliError::Image(path.to_path_buf(), error);
    // Opened first, so that a missing image is told in our words.
    let disk_bytes = Source::open(path).map_err(failed)?.len_bytes();
    let as_raw = ImageInfo { format: RAW.to_owned(), disk_bytes };
    if format == Some(RAW) {
        return Ok(as_raw);
    }
    if is_increment(path).map_err(failed)? {
        return Err(CliError::IsIncrement(path.to_path_buf()));
    }
    if let Some(info) = qemu_img::info(path, format)? {
        return Ok(if info.format == RAW { as_raw } else { info });
    }
    let format = match format {
        Some(format) => format,
        None => qemu_img::format_of_magic(path).map_err(failed)?,
    };
    if format == RAW {
        Ok(as_raw)
    } else {
        Err(CliError::QemuImgMissing { what: format!("{} is {format}", path.display()) })
    }
}

/// Whether the file is what `export --since` makes.
fn is_increment(path: &Path) -> std::io::Result<bool> {
    let mut magic = Vec::new();
    File::open(path)?.take(increment::MAGIC.len() as u64).read_to_end(&mut magic)?;
    Ok(magic == increment::MAGIC)
}

/// Where the volume of an import came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Found,
    Created,
}

fn find_or_create(client: &AdminClient, name: &str, disk_bytes: u64) -> Result<(Value, Origin), CliError> {
    match volume::find(client, name) {
        Ok(volume) => {
            let volume_bytes = size_of(&volume);
            if volume_bytes < disk_bytes {
                return Err(CliError::TooSmall {
                    volume: name.to_owned(),
                    volume_bytes,
                    image_bytes: disk_bytes,
                });
            }
            Ok((volume, Origin::Found))
        }
        Err(CliError::NoVolume(_)) if parse_id(name).is_none() => {
            // Half an image under the name that was asked for would look like a whole one, and whoever ends us in the
            // middle leaves one.
            let name = format!("{name}.partial");
            let body = json!({ "name": name, "size": disk_bytes.max(ranges::VOLUME.bytes_min).to_string() });
            Ok((client.post("/sandboxvolumes", &body)?, Origin::Created))
        }
        Err(error) => Err(error),
    }
}

fn copy_in(
    args: &ImportArgs,
    image: &ImageInfo,
    volume: &Value,
    origin: Origin,
    context: &Context,
) -> Result<(), CliError> {
    let progress = Progress::new(image.disk_bytes, context.audience());
    let address = reachable_export(volume, &args.volume)?;
    let (before, onto) = match origin {
        Origin::Created => (Before::Zeroes, Onto::Zeroes),
        Origin::Found => (Before::Anything, Onto::Anything),
    };
    if image.format == RAW {
        let source = Source::open(&args.image).map_err(|error| CliError::Image(args.image.clone(), error))?;
        let mut device = connect(&address, &args.volume)?;
        let copied = transfer::import(&source, &mut device, before, &progress);
        copied.map(drop).map_err(|error| blame(error, &args.image, &args.volume))
    } else {
        qemu_img::into_export(&args.image, &image.format, &address.uri(), onto, &progress)
    }
}

fn size_of(volume: &Value) -> u64 {
    volume["size_bytes"].as_u64().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_that_is_said_to_be_raw_is_not_looked_into() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image");
        std::fs::write(&path, b"QFI\xfb and then something").unwrap();
        assert_eq!(look_at(&path, Some(RAW)).unwrap(), ImageInfo { format: RAW.into(), disk_bytes: 23 });
        let missing = look_at(&directory.path().join("none"), None).unwrap_err().to_string();
        assert!(missing.contains("none"), "{missing}");
    }
}
