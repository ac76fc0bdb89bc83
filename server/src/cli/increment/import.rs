//! Applying an increment.

use super::{
    checksums::checksums,
    format::{Now, ReadError, Reader, Record, Totals},
};
use crate::{
    api::Volume,
    cli::{
        base::{AdminClient, CliError, Context, Interrupt, Progress},
        copy::{CHUNK_BYTES, CopyError, Device, Span, ZERO_BYTES_MAX, refuse_others},
        nbd::{blame, connect, reachable_export},
        volume::{Temporary, volumes},
    },
    show,
};
use std::{
    cmp::Ordering,
    fs::{self, File},
    io::BufReader,
    path::Path,
};

/// Ranges that are compared at a time.
const BATCH_SPANS_MAX: usize = 1024;

/// Times that the volume is gone through: compared, then written.
const PASSES: u64 = 2;

type FileReader = Reader<BufReader<File>>;

/// Applies the increment in `file` to a volume that its user calls `name`.
pub(crate) fn import(file: &Path, name: &str, context: &Context) -> Result<(), CliError> {
    let client = context.client()?;
    let volume = volumes::find(&client, name)?;
    let volume_bytes = volume.size_bytes;
    let increment = Increment { file, volume: name };
    let totals = increment.check_whole()?;
    let header = increment.open()?.header();

    let interrupt = Interrupt::listen()?;
    // One connection for both: where a volume takes one writer, no other writes in between.
    let mut device = connect(&reachable_export(&volume.uris, name)?, name)?;
    let progress = Progress::new(PASSES * header.size_bytes, context.audience());
    increment.compare(&mut device, &interrupt, &progress)?;
    let before = Temporary::take(&client, &volume, "import")?;
    let written = grow(&client, &volume, header.size_bytes)
        .and_then(|()| increment.write(&mut device, &interrupt, &progress));
    drop(device);
    if let Err(error) = written {
        let restored = before.restore();
        return Err(match restored {
            Ok(()) => {
                // What failed counts, not that the snapshot stays.
                let _deleted = before.delete();
                error
            }
            Err(_) => CliError::HalfApplied {
                volume: name.to_owned(),
                snapshot: before.name(),
                source: Box::new(error),
            },
        });
    }
    before.delete()?;
    drop(progress);
    let volume: Volume = client.get(&volumes::path_of(&volume))?;
    context.answer(&volume, || outcome(file, name, totals, header.size_bytes, volume_bytes))
}

fn grow(client: &AdminClient, volume: &Volume, size_bytes: u64) -> Result<(), CliError> {
    if size_bytes > volume.size_bytes {
        let request = volumes::resized(&size_bytes.to_string());
        client.patch::<Volume>(&volumes::path_of(volume), &request)?;
    }
    Ok(())
}

fn outcome(file: &Path, name: &str, totals: Totals, size_bytes: u64, volume_bytes: u64) -> String {
    let applied = format!(
        "Applied {} to volume {name}: {} of data in {} ranges.",
        file.display(),
        show::rounded(totals.data_bytes),
        totals.records
    );
    let [size, was] = [size_bytes, volume_bytes].map(show::rounded);
    match size_bytes.cmp(&volume_bytes) {
        Ordering::Equal => applied,
        Ordering::Greater => format!("{applied} It grew from {was} to {size}."),
        Ordering::Less => format!(
            "{applied} It keeps its {was}, where the source has {size}; what lies behind them stays as it was."
        ),
    }
}

struct Increment<'a> {
    file: &'a Path,
    volume: &'a str,
}

impl Increment<'_> {
    fn open(&self) -> Result<FileReader, CliError> {
        let opened = fs::metadata(self.file).and_then(|found| refuse_others(&found));
        let file = opened
            .and_then(|()| File::open(self.file))
            .map_err(|error| self.flaw(ReadError::Io(error)))?;
        Reader::open(BufReader::with_capacity(CHUNK_BYTES as usize, file))
            .map_err(|error| self.flaw(error))
    }

    fn next(&self, reader: &mut FileReader) -> Result<Option<Record>, CliError> {
        reader.next().map_err(|error| self.flaw(error))
    }

    fn check_whole(&self) -> Result<Totals, CliError> {
        let mut reader = self.open()?;
        while self.next(&mut reader)?.is_some() {}
        Ok(reader.totals())
    }

    /// Whether the volume has in every range what the increment follows.
    fn compare(
        &self,
        device: &mut impl Device,
        interrupt: &Interrupt,
        progress: &Progress,
    ) -> Result<(), CliError> {
        let mut reader = self.open()?;
        let mut done = 0;
        loop {
            interrupt.check()?;
            let (mut spans, mut expected): (Vec<Span>, Vec<u32>) = (Vec::new(), Vec::new());
            while spans.len() < BATCH_SPANS_MAX
                && let Some(record) = self.next(&mut reader)?
            {
                spans.push(record.span);
                expected.push(record.before);
            }
            let Some(last) = spans.last() else { break };
            let found = checksums(device, &spans).map_err(|error| self.blame(error))?;
            if let Some(i) = (0..spans.len()).find(|i| found[*i] != expected[*i]) {
                return Err(CliError::OtherState {
                    volume: self.volume.to_owned(),
                    offset: spans[i].offset,
                    from: reader.header().from.to_string(),
                });
            }
            progress.advance(last.end() - done);
            done = last.end();
            if spans.len() < BATCH_SPANS_MAX {
                break;
            }
        }
        progress.advance(reader.header().size_bytes - done);
        Ok(())
    }

    fn write(
        &self,
        device: &mut impl Device,
        interrupt: &Interrupt,
        progress: &Progress,
    ) -> Result<(), CliError> {
        let failed = |error| self.blame(CopyError::Device(error));
        let mut reader = self.open()?;
        let mut done = 0;
        while let Some(Record { span, now, .. }) = self.next(&mut reader)? {
            interrupt.check()?;
            match now {
                Now::Data(data) => device.write(span.offset, data),
                Now::Zero | Now::Hole => {
                    span.pieces(ZERO_BYTES_MAX).try_for_each(|piece| device.zero(piece))
                }
            }
            .map_err(failed)?;
            progress.advance(span.end() - done);
            done = span.end();
        }
        device.flush().map_err(failed)
    }

    fn flaw(&self, error: ReadError) -> CliError {
        CliError::Increment(self.file.to_path_buf(), Box::new(error))
    }

    fn blame(&self, error: CopyError) -> CliError {
        blame(error, self.file, self.volume)
    }
}
