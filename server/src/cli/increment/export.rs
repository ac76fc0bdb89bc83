//! Writing an increment.

use super::{
    checksums::checksums,
    format::{Header, Now, Record, Totals, Writer},
};
use crate::{
    api::{Diff, DiffRange, RangeState, Snapshot, Volume},
    cli::{
        base::{AdminClient, CliError, Context, Interrupt, Progress},
        copy::{CHUNK_BYTES, CopyError, Device, Partial, Span, ZERO_BYTES_MAX},
        nbd::{blame, connect, reachable_export},
        volume::{Temporary, snapshots, volumes},
    },
    show,
};
use bytes::Bytes;
use serde::Serialize;
use std::{collections::HashMap, io::BufWriter, path::Path};

/// Ranges that are asked for at a time.
const RANGES_MAX: usize = 1000;

/// Most data in memory at a time, bytes. A guess: several requests' worth, so that the server
/// always has some to do.
const BATCH_BYTES_MAX: u64 = 16 << 20;
/// Most pieces at a time: what changed here and there is small.
const BATCH_PIECES_MAX: usize = 4096;

/// What is exported.
pub(crate) struct Since<'a> {
    /// As its user calls it.
    pub(crate) volume: &'a str,
    /// The snapshot that is exported; none is what the volume holds now.
    pub(crate) to: Option<&'a str>,
    /// The snapshot that is followed.
    pub(crate) from: &'a str,
}

/// Writes what changed to a file.
pub(crate) fn export(since: &Since<'_>, file: &Path, context: &Context) -> Result<(), CliError> {
    let client = context.client()?;
    let volume = volumes::find(&client, since.volume)?;
    let find = |name| snapshots::find(&client, &volume, since.volume, name);
    let from = find(since.from)?;
    let interrupt = Interrupt::listen()?;
    let export = |to: &Snapshot| {
        let job = Job { client: &client, volume: &volume, from: &from, to, since, file };
        job.run(&interrupt, context)
    };
    let totals = match since.to {
        Some(name) => export(&find(name)?),
        None => {
            let still = Temporary::take(&client, &volume, "export")?;
            let exported = export(still.snapshot());
            let deleted = still.delete();
            // Of two failures the first counts.
            exported.and_then(|totals| deleted.map(|()| totals))
        }
    }?;
    let answer = Exported {
        volume: &volume,
        from: &from,
        file,
        format: "increment",
        ranges: totals.records,
        data_bytes: totals.data_bytes,
    };
    context.answer(&answer, || {
        format!(
            "Exported what changed in volume {} since snapshot {} to {}: {} of data in {} ranges.",
            since.volume,
            since.from,
            file.display(),
            show::rounded(totals.data_bytes),
            totals.records
        )
    })
}

/// What an export answers programs with.
#[derive(Serialize)]
struct Exported<'a> {
    volume: &'a Volume,
    from: &'a Snapshot,
    file: &'a Path,
    format: &'static str,
    ranges: u64,
    data_bytes: u64,
}

/// A range, or a part of it, that becomes a record.
#[derive(Clone, Copy)]
struct Piece {
    span: Span,
    state: RangeState,
}

fn pieces(range: &DiffRange) -> impl Iterator<Item = Piece> + use<> {
    let DiffRange { offset, length, state } = *range;
    let len_max = match state {
        RangeState::Data => CHUNK_BYTES,
        RangeState::Zero | RangeState::Hole => ZERO_BYTES_MAX,
    };
    let span = Span { offset, len: length };
    span.pieces(len_max).map(move |span| Piece { span, state })
}

impl Piece {
    fn data_bytes(self) -> u64 {
        match self.state {
            RangeState::Data => self.span.len,
            RangeState::Zero | RangeState::Hole => 0,
        }
    }
}

struct Job<'a> {
    client: &'a AdminClient,
    volume: &'a Volume,
    from: &'a Snapshot,
    to: &'a Snapshot,
    since: &'a Since<'a>,
    file: &'a Path,
}

impl Job<'_> {
    fn run(&self, interrupt: &Interrupt, context: &Context) -> Result<Totals, CliError> {
        let place = |snapshot: &Snapshot| reachable_export(&snapshot.uris, self.since.volume);
        let mut from = connect(&place(self.from)?, self.since.volume)?;
        let mut to = connect(&place(self.to)?, self.since.volume)?;
        let mut diff = self.diff(0)?;
        let header = Header {
            volume: self.volume.id,
            from: self.from.id,
            to: self.to.id,
            size_bytes: diff.size_bytes,
        };
        let file_failed = |error| CliError::Image(self.file.to_path_buf(), error);
        let blame = |error| blame(error, self.file, self.since.volume);
        let partial = Partial::beside(self.file).map_err(file_failed)?;
        let output = BufWriter::with_capacity(CHUNK_BYTES as usize, partial.file());
        let mut writer = Writer::begin(output, &header).map_err(file_failed)?;
        let progress = Progress::new(diff.size_bytes, context.audience());
        let mut done = 0;
        loop {
            let pieces: Vec<Piece> = diff.ranges.iter().flat_map(pieces).collect();
            for batch in batches(&pieces) {
                interrupt.check()?;
                write_batch(batch, &mut from, &mut to, &mut writer).map_err(blame)?;
                if let Some(last) = batch.last() {
                    progress.advance(last.span.end() - done);
                    done = last.span.end();
                }
            }
            match diff.next_offset {
                Some(next) => diff = self.diff(next)?,
                None => break,
            }
        }
        let totals = writer.finish().map_err(file_failed)?;
        partial.file().sync_all().and_then(|()| partial.finish()).map_err(file_failed)?;
        Ok(totals)
    }

    fn diff(&self, offset: u64) -> Result<Diff, CliError> {
        let path = format!(
            "{}/diff?from={}&to={}&offset={offset}&limit={RANGES_MAX}",
            volumes::path_of(self.volume),
            self.from.id,
            self.to.id,
        );
        Ok(self.client.get(&path)?)
    }
}

/// Pieces in parts of a size that memory has room for.
fn batches(pieces: &[Piece]) -> impl Iterator<Item = &[Piece]> {
    let mut rest = pieces;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = rest.iter().take(BATCH_PIECES_MAX).take_while(|piece| {
            bytes += piece.data_bytes();
            bytes <= BATCH_BYTES_MAX
        });
        let (batch, others) = rest.split_at(fits.count());
        rest = others;
        (!batch.is_empty()).then_some(batch)
    })
}

fn write_batch<W: std::io::Write>(
    pieces: &[Piece],
    from: &mut impl Device,
    to: &mut impl Device,
    writer: &mut Writer<W>,
) -> Result<(), CopyError> {
    let spans: Vec<Span> = pieces.iter().map(|piece| piece.span).collect();
    let before = checksums(from, &spans)?;
    let mut data: HashMap<u64, Bytes> = HashMap::with_capacity(pieces.len());
    let with_data = pieces.iter().filter(|piece| piece.state == RangeState::Data);
    to.read(&mut with_data.map(|piece| piece.span), &mut |offset, bytes| {
        data.insert(offset, bytes);
        Ok(())
    })?;
    for (piece, before) in pieces.iter().zip(before) {
        let now = match piece.state {
            RangeState::Data => {
                Now::Data(data.remove(&piece.span.offset).expect("all of them were read"))
            }
            RangeState::Zero => Now::Zero,
            RangeState::Hole => Now::Hole,
        };
        writer.record(&Record { span: piece.span, before, now }).map_err(CopyError::Image)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_batched_by_bytes_and_by_number() {
        let pieces = |state, length| pieces(&DiffRange { offset: 0, length, state });
        let large: Vec<Piece> = pieces(RangeState::Data, 40 << 20).collect();
        let sizes: Vec<usize> = batches(&large).map(<[Piece]>::len).collect();
        assert_eq!(sizes, [16, 16, 8]);
        let small = vec![
            Piece { span: Span { offset: 0, len: 4096 }, state: RangeState::Hole };
            BATCH_PIECES_MAX + 1
        ];
        let sizes: Vec<usize> = batches(&small).map(<[Piece]>::len).collect();
        assert_eq!(sizes, [BATCH_PIECES_MAX, 1]);
        assert_eq!(pieces(RangeState::Hole, 3 << 30).count(), 3);
        assert_eq!(batches(&[]).count(), 0);
    }
}
