use super::*;
use proptest::{collection::vec, prelude::*};
use std::{fs, io::Write};

const PACKINGS: [Packing; 4] = [Packing::Gzip, Packing::Xz, Packing::Zstd, Packing::Bzip2];
const BOUND: Bound = Bound { bytes_max: 1 << 30, by: LimitedBy::AnyVolume };

fn packed(packing: Packing, bytes: &[u8]) -> Vec<u8> {
    fn write(mut encoder: impl Write, bytes: &[u8]) {
        encoder.write_all(bytes).unwrap();
    }
    match packing {
        Packing::Gzip => {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            write(&mut encoder, bytes);
            encoder.finish().unwrap()
        }
        Packing::Bzip2 => {
            let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
            write(&mut encoder, bytes);
            encoder.finish().unwrap()
        }
        Packing::Zstd => {
            let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
            encoder.include_checksum(true).unwrap();
            write(&mut encoder, bytes);
            encoder.finish().unwrap()
        }
        Packing::Xz => {
            let mut encoder =
                lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(0))
                    .unwrap();
            write(&mut encoder, bytes);
            encoder.finish().unwrap()
        }
    }
}

fn file(bytes: &[u8]) -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    fs::write(file.path(), bytes).unwrap();
    file
}

fn measure(packing: Packing, bytes: &[u8], bound: Bound) -> Result<u64, ImageError> {
    Unpacked::new(file(bytes).as_file(), packing, &untold)
        .and_then(|unpacked| unpacked.measure(bound))
}

/// Neither all zero nor all alike, and larger than any buffer on the way.
fn disk() -> Vec<u8> {
    let mut disk = vec![0; 3 << 20];
    for (i, byte) in disk.iter_mut().enumerate().skip(1 << 20).take(1 << 20) {
        *byte = (i * 31 / 7) as u8;
    }
    disk.truncate(disk.len() - 100);
    disk
}

#[test]
fn what_was_packed_comes_out_with_holes_where_it_is_zero() {
    use std::os::unix::fs::MetadataExt;
    let disk = disk();
    for packing in PACKINGS {
        let image = file(&packed(packing, &disk));
        let unpacked = || Unpacked::new(image.as_file(), packing, &untold).unwrap();
        assert_eq!(unpacked().begin().unwrap(), disk[..LOOK_BYTES]);
        assert_eq!(unpacked().measure(BOUND).unwrap(), disk.len() as u64);
        let out = NamedTempFile::new().unwrap();
        assert_eq!(unpacked().spool(&out, BOUND).unwrap(), disk.len() as u64);
        assert!(fs::read(out.path()).unwrap() == disk, "{}", packing.as_str());
        assert!(out.as_file().metadata().unwrap().blocks() * 512 < 2 << 20, "{}", packing.as_str());
    }
}

/// Programs that pack in parallel write many streams behind each other.
#[test]
fn streams_behind_each_other_are_one_image() {
    let disk = disk();
    for packing in PACKINGS {
        let (first, second) = disk.split_at(1 << 20);
        let both = [packed(packing, first), packed(packing, second)].concat();
        assert_eq!(
            measure(packing, &both, BOUND).unwrap(),
            disk.len() as u64,
            "{}",
            packing.as_str()
        );
    }
}

#[test]
fn what_is_cut_off_or_damaged_is_refused() {
    let disk = disk();
    for packing in PACKINGS {
        let whole = packed(packing, &disk);
        for len in [whole.len() - 1, whole.len() - 10, whole.len() / 2, 20] {
            let cut = measure(packing, &whole[..len], BOUND);
            assert!(
                matches!(cut, Err(ImageError::Damaged { .. })),
                "{} of {len}: {cut:?}",
                packing.as_str()
            );
        }
        let mut damaged = whole.clone();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 0x10;
        let damaged = measure(packing, &damaged, BOUND);
        assert!(
            matches!(damaged, Err(ImageError::Damaged { .. })),
            "{}: {damaged:?}",
            packing.as_str()
        );
    }
}

#[test]
fn more_bytes_than_there_is_room_for_are_not_unpacked() {
    let bomb = vec![0; 64 << 20];
    for packing in PACKINGS {
        let image = packed(packing, &bomb);
        assert!(image.len() < 1 << 20);
        let bound = Bound { bytes_max: 5 << 20, by: LimitedBy::Volume };
        let refused = measure(packing, &image, bound);
        assert!(
            matches!(refused, Err(ImageError::Unpacked { bytes_max: 0x50_0000, .. })),
            "{refused:?}"
        );
        assert_eq!(
            measure(packing, &image, Bound { bytes_max: 64 << 20, by: LimitedBy::Volume }).unwrap(),
            64 << 20
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn damaged_streams_are_answered(
        which in 0..PACKINGS.len(),
        changes in vec((any::<proptest::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let packing = PACKINGS[which];
        let mut image = packed(packing, &disk()[(1 << 20) - 5000..(1 << 20) + 5000]);
        for (at, byte) in changes {
            let at = at.index(image.len());
            image[at] = byte;
        }
        let _any = measure(packing, &image, Bound { bytes_max: 1 << 20, by: LimitedBy::Volume });
    }
}
