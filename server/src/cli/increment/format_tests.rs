//! The bytes of the format, and what becomes of any that were changed.

use super::*;

const HEADER: Header = Header {
    volume: Uuid::from_u128(0x1111_1111_1111_4111_8111_1111_1111_1111),
    from: Uuid::from_u128(0x2222_2222_2222_4222_8222_2222_2222_2222),
    to: Uuid::from_u128(0x3333_3333_3333_4333_8333_3333_3333_3333),
    size_bytes: 1 << 20,
};

fn records() -> Vec<Record> {
    let record = |offset, len, now| Record { span: Span { offset, len }, before: 0x0102_0304, now };
    vec![
        record(0, 8, Now::Data(Bytes::from_static(b"contents"))),
        record(4096, 4096, Now::Zero),
        record(8192, (1 << 20) - 8192, Now::Hole),
    ]
}

fn written() -> Vec<u8> {
    let mut file = Vec::new();
    let mut writer = Writer::begin(&mut file, &HEADER).unwrap();
    records().iter().for_each(|record| writer.record(record).unwrap());
    assert_eq!(writer.finish().unwrap(), Totals { records: 3, data_bytes: 8 });
    file
}

fn read(file: &[u8]) -> Result<(Header, Vec<Record>), ReadError> {
    let mut reader = Reader::open(file)?;
    let mut records = Vec::new();
    while let Some(record) = reader.next()? {
        records.push(record);
    }
    Ok((reader.header(), records))
}

#[test]
fn what_is_written_reads_back() {
    assert_eq!(read(&written()).unwrap(), (HEADER, records()));
}

/// Later versions must read this.
#[test]
#[rustfmt::skip]
fn the_bytes_are_those_of_version_1() {
    let mut golden: Vec<u8> = vec![
        b's', b'a', b'n', b'd', b'i', b'n', b'c', b'r',
        1, 0, 0, 0,             // version
        0x00, 0x10, 0, 0,       // block bytes
    ];
    golden.extend(HEADER.volume.as_bytes());
    golden.extend(HEADER.from.as_bytes());
    golden.extend(HEADER.to.as_bytes());
    golden.extend([
        0, 0, 0x10, 0, 0, 0, 0, 0, // size
        0, 0, 0, 0,
    ]);
    golden.extend(crc32fast::hash(&golden).to_le_bytes());
    let record = [
        0, 0, 0, 0, 0, 0, 0, 0, // offset
        8, 0, 0, 0, 0, 0, 0, 0, // length
        1, 0, 0, 0,             // data
        4, 3, 2, 1,             // checksum of what was there
        0x77, 0x11, 0xfa, 0xb4, // checksum of the data
    ];
    golden.extend(record);
    golden.extend(crc32fast::hash(&record).to_le_bytes());
    golden.extend(b"contents");
    let file = written();
    assert_eq!(file[..golden.len()], golden);
    let trailer = &file[file.len() - RECORD_BYTES..];
    assert_eq!(trailer[..20], [3, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(trailer[20..24], crc32fast::hash(&file[..file.len() - RECORD_BYTES]).to_le_bytes());
}

#[test]
fn a_file_cut_off_anywhere_is_noticed() {
    let file = written();
    for len in 0..file.len() {
        assert!(
            matches!(read(&file[..len]), Err(ReadError::CutOff)),
            "{len} of {} bytes",
            file.len()
        );
    }
}

#[test]
fn any_changed_bit_is_noticed() {
    let file = written();
    for bit in 0..file.len() * 8 {
        let mut damaged = file.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(read(&damaged).is_err(), "bit {} of byte {}", bit % 8, bit / 8);
    }
}

#[test]
fn more_behind_the_end_or_a_record_too_many_or_out_of_order_is_noticed() {
    let mut longer = written();
    longer.push(0);
    assert!(matches!(read(&longer), Err(ReadError::Damaged { .. })));

    let mut repeated = written();
    let end = repeated.len() - RECORD_BYTES;
    let last = repeated[end - RECORD_BYTES..end].to_vec();
    repeated.splice(end..end, last);
    assert!(matches!(read(&repeated), Err(ReadError::Damaged { .. })));
}

#[test]
fn other_files_and_later_versions_are_told_apart_from_damage() {
    assert!(matches!(read(&[7; 200]), Err(ReadError::Foreign)));
    let mut later = written();
    later[8] = 2;
    assert!(matches!(read(&later), Err(ReadError::Version(2))));
}
