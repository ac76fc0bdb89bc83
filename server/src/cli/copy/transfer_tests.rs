//! The loops against a volume in memory.

use super::*;
use crate::cli::{
    base::Audience,
    copy::{raw_image::open, span::Extent},
};
use std::{
    fs,
    os::unix::fs::{FileExt, MetadataExt},
    path::PathBuf,
};

const BLOCK: u64 = BLOCK_BYTES as u64;

/// A volume in memory that notes what was asked of it.
pub(crate) struct Memory {
    pub(crate) bytes: Vec<u8>,
    writes: Vec<Span>,
    zeroes: Vec<Span>,
    flushes: usize,
}

impl Memory {
    pub(crate) fn filled(len: u64, byte: u8) -> Memory {
        Memory {
            bytes: vec![byte; len as usize],
            writes: Vec::new(),
            zeroes: Vec::new(),
            flushes: 0,
        }
    }
}

impl Device for Memory {
    fn size_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// One entry a call, as `NBD_CMD_FLAG_REQ_ONE` would give, and past the span where the run goes
    /// on.
    fn extents(&mut self, span: Span) -> io::Result<Vec<Extent>> {
        let run = runs(&self.bytes[span.offset as usize..])[0];
        Ok(vec![Extent { len: run.len as u64, content: run.content }])
    }

    fn read(
        &mut self,
        spans: &mut dyn Iterator<Item = Span>,
        take: &mut dyn FnMut(u64, Bytes) -> Result<(), CopyError>,
    ) -> Result<(), CopyError> {
        let mut spans: Vec<Span> = spans.collect();
        spans.reverse();
        for span in spans {
            assert!(span.len <= CHUNK_BYTES);
            take(
                span.offset,
                Bytes::copy_from_slice(&self.bytes[span.offset as usize..span.end() as usize]),
            )?;
        }
        Ok(())
    }

    fn write(&mut self, offset: u64, data: Bytes) -> io::Result<()> {
        self.writes.push(Span { offset, len: data.len() as u64 });
        self.bytes[offset as usize..offset as usize + data.len()].copy_from_slice(&data);
        Ok(())
    }

    fn zero(&mut self, span: Span) -> io::Result<()> {
        self.zeroes.push(span);
        self.bytes[span.offset as usize..span.end() as usize].fill(0);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.flushes += 1;
        Ok(())
    }
}

fn quiet(len: u64) -> Progress {
    Progress::new(len, Audience::Programs)
}

/// An image with data at its beginning, a written block of zeroes, a hole of 3 MiB, and a ragged
/// end.
fn image() -> (tempfile::TempDir, PathBuf, Vec<u8>) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image.raw");
    let len = 4 * CHUNK_BYTES + 1000;
    let mut bytes = vec![0; len as usize];
    bytes[..10_000].fill(7);
    bytes[(4 * CHUNK_BYTES) as usize..].fill(9);
    let file = fs::File::create(&path).unwrap();
    file.set_len(len).unwrap();
    file.write_all_at(&bytes[..5 * BLOCK_BYTES], 0).unwrap();
    file.write_all_at(&bytes[(4 * CHUNK_BYTES) as usize..], 4 * CHUNK_BYTES).unwrap();
    (directory, path, bytes)
}

#[test]
fn import_into_a_new_volume_writes_only_data() {
    let (_directory, path, bytes) = image();
    let mut device = Memory::filled(8 * CHUNK_BYTES, 0);
    let source = open(&path).map(Source::of).unwrap();
    let copied = import(&source, &mut device, Before::Zeroes, &quiet(source.len_bytes())).unwrap();
    assert_eq!(device.bytes[..bytes.len()], bytes);
    assert_eq!(
        device.writes,
        [Span { offset: 0, len: 3 * BLOCK }, Span { offset: 4 * CHUNK_BYTES, len: 1000 }]
    );
    assert_eq!(copied.data_bytes, 3 * BLOCK + 1000);
    assert!(device.zeroes.is_empty());
    assert_eq!(device.flushes, 1);
}

#[test]
fn import_over_old_data_zeroes_the_holes_and_leaves_the_rest_behind_the_image() {
    let (_directory, path, bytes) = image();
    let mut device = Memory::filled(8 * CHUNK_BYTES, 0xee);
    let source = open(&path).map(Source::of).unwrap();
    import(&source, &mut device, Before::Anything, &quiet(source.len_bytes())).unwrap();
    assert_eq!(device.bytes[..bytes.len()], bytes);
    assert!(device.bytes[bytes.len()..].iter().all(|byte| *byte == 0xee));
    assert_eq!(device.zeroes, [Span { offset: 3 * BLOCK, len: 4 * CHUNK_BYTES - 3 * BLOCK }]);
}

#[test]
fn export_makes_a_sparse_file_of_the_volumes_size() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("out.raw");
    let len = 64 * CHUNK_BYTES;
    let mut device = Memory::filled(len, 0);
    device.bytes[(3 * BLOCK) as usize..(5 * BLOCK) as usize].fill(1);
    device.bytes[(10 * CHUNK_BYTES) as usize..(12 * CHUNK_BYTES) as usize].fill(2);
    let target = Target::create(&path, len).unwrap();
    let copied = export(&mut device, &target, &quiet(len), &Interrupt::default()).unwrap();
    assert!(!path.exists(), "nothing stands in its place before it is whole");
    target.finish().unwrap();

    assert_eq!(copied.data_bytes, 2 * BLOCK + 2 * CHUNK_BYTES);
    assert_eq!(fs::read(&path).unwrap(), device.bytes);
    let allocated = fs::metadata(&path).unwrap().blocks() * 512;
    assert!(allocated <= 3 * CHUNK_BYTES, "{allocated} bytes are allocated");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing is left over");
}

#[test]
fn an_export_that_is_given_up_leaves_the_old_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("out.raw");
    fs::write(&path, "old").unwrap();
    drop(Target::create(&path, CHUNK_BYTES).unwrap());
    assert_eq!(fs::read(&path).unwrap(), b"old");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn what_goes_in_comes_out() {
    let (directory, path, bytes) = image();
    let mut device = Memory::filled(5 * CHUNK_BYTES, 0);
    let source = open(&path).map(Source::of).unwrap();
    import(&source, &mut device, Before::Zeroes, &quiet(0)).unwrap();
    let out = directory.path().join("out.raw");
    let target = Target::create(&out, device.size_bytes()).unwrap();
    export(&mut device, &target, &quiet(0), &Interrupt::default()).unwrap();
    target.finish().unwrap();
    assert_eq!(fs::read(&out).unwrap()[..bytes.len()], bytes);
}

#[test]
fn a_block_status_without_entries_ends_the_export() {
    struct Silent;
    impl Device for Silent {
        fn size_bytes(&self) -> u64 {
            BLOCK
        }
        fn extents(&mut self, _span: Span) -> io::Result<Vec<Extent>> {
            Ok(Vec::new())
        }
        fn read(
            &mut self,
            _spans: &mut dyn Iterator<Item = Span>,
            _take: &mut dyn FnMut(u64, Bytes) -> Result<(), CopyError>,
        ) -> Result<(), CopyError> {
            Ok(())
        }
        fn write(&mut self, _offset: u64, _data: Bytes) -> io::Result<()> {
            Ok(())
        }
        fn zero(&mut self, _span: Span) -> io::Result<()> {
            Ok(())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let directory = tempfile::tempdir().unwrap();
    let target = Target::create(&directory.path().join("out.raw"), BLOCK).unwrap();
    assert!(matches!(
        export(&mut Silent, &target, &quiet(0), &Interrupt::default()),
        Err(CopyError::Device(_))
    ));
}

#[test]
fn pieces_cover_a_span_without_gaps() {
    let pieces: Vec<Span> = Span { offset: 5, len: 25 }.pieces(10).collect();
    assert_eq!(
        pieces,
        [Span { offset: 5, len: 10 }, Span { offset: 15, len: 10 }, Span { offset: 25, len: 5 }]
    );
    assert_eq!(Span { offset: 5, len: 0 }.pieces(10).count(), 0);
}

#[test]
fn a_single_set_byte_anywhere_makes_data() {
    for at in [0, 1, 15, 16, 4095] {
        let mut block = [0; BLOCK_BYTES];
        block[at] = 1;
        assert!(!is_zero(&block), "{at}");
    }
    assert!(is_zero(&[0; 4096]) && is_zero(&[0; 3]) && is_zero(&[]));
    assert!(!is_zero(&[0, 0, 1]));
}
