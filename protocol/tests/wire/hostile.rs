//! Every decoder against bytes that no sane peer sends: random ones, and valid ones with some bytes
//! changed.
//!
//! What holds for each: it does not panic; it takes bytes only for what it returns; once it has the
//! most that a message may have, it decides and does not wait for more; and it gives up or finishes
//! in a bounded number of turns.

use bytes::{BufMut, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use sandstone_protocol::limits::*;
use sandstone_protocol::*;

use crate::values;

type Changes = Vec<(Index, u8)>;

fn mutated(encode: impl Fn(&mut BytesMut), changes: &Changes) -> BytesMut {
    let mut bytes = BytesMut::new();
    encode(&mut bytes);
    for (at, byte) in changes {
        let at = at.index(bytes.len());
        bytes[at] = *byte;
    }
    bytes
}

/// Decodes until nothing more comes; every value must have cost bytes.
fn exhaust<T>(
    mut bytes: BytesMut,
    mut decode: impl FnMut(&mut BytesMut) -> Result<Option<T>, DecodeError>,
) {
    loop {
        let before = bytes.clone();
        match decode(&mut bytes) {
            Ok(Some(_)) => assert!(bytes.len() < before.len(), "a value out of nothing"),
            Ok(None) => {
                assert!(before.ends_with(&bytes));
                return;
            }
            Err(_) => return,
        }
    }
}

fn exhaust_all(bytes: &BytesMut) {
    exhaust(bytes.clone(), Greeting::decode);
    exhaust(bytes.clone(), |buf| Ok(ClientFlags::decode(buf)));
    exhaust(bytes.clone(), |buf| ExportNameReply::decode(buf, Zeroes::Sent));
    exhaust(bytes.clone(), OptionReply::decode);
    exhaust(bytes.clone(), Request::decode);
    exhaust(bytes.clone(), Reply::decode);
    let mut decoder = OptionDecoder::new();
    exhaust(bytes.clone(), |buf| decoder.decode(buf));
}

fn changes() -> impl Strategy<Value = Changes> {
    vec((any::<Index>(), any::<u8>()), 1..6)
}

proptest! {
    #[test]
    fn random_bytes(bytes in vec(any::<u8>(), 0..400)) {
        exhaust_all(&BytesMut::from(&bytes[..]));
    }

    /// A right magic number takes random bytes further in.
    #[test]
    fn random_bytes_behind_a_magic_number(bytes in vec(any::<u8>(), 0..400), len in 0..400u32) {
        let headers: [&[u8]; 6] = [
            b"NBDMAGICIHAVEOPT",
            b"IHAVEOPT\0\0\0\x07",
            b"IHAVEOPT\0\0\0\x0a",
            &[0x00, 0x03, 0xe8, 0x89, 0x04, 0x55, 0x65, 0xa9, 0, 0, 0, 7, 0, 0, 0, 3],
            &[0x25, 0x60, 0x95, 0x13],
            &[0x66, 0x8e, 0x33, 0xef, 0, 1, 0x80, 0x02, 0, 0, 0, 0, 0, 0, 0, 0],
        ];
        for header in headers {
            let mut whole = BytesMut::from(header);
            whole.put_u32(len);
            whole.extend_from_slice(&bytes);
            exhaust_all(&whole);
        }
    }

    #[test]
    fn mutated_option(value in values::option_request(), changes in changes()) {
        exhaust_all(&mutated(|out| value.encode(out), &changes));
    }

    /// Whatever is asked for, only what is offered is selected, once, under an id of its own.
    #[test]
    fn mutated_meta_contexts_that_are_then_selected(
        query in values::meta_query(), changes in changes(), offered in 0..8u128,
    ) {
        let mut bytes = mutated(|out| OptionRequest::SetMetaContext(query.clone()).encode(out), &changes);
        let received = OptionDecoder::new().decode(&mut bytes);
        let Ok(Some(ReceivedOption::Request(OptionRequest::SetMetaContext(query)))) = received else {
            return Ok(());
        };
        let snapshots: Vec<_> = (0..offered).map(values::snapshot).collect();
        let export = ExportInfo {
            name: query.name.clone(),
            description: Text::default(),
            size_bytes: 0,
            flags: TransmissionFlags::EMPTY,
            block_sizes: BlockSizes::BYTE_ALIGNED,
            snapshots,
        };
        let mut negotiation = Negotiation::begin(ClientFlags::NAMED).unwrap();
        let go = InfoRequest { name: query.name.clone(), facts: vec![] };
        for option in [
            OptionRequest::StructuredReply,
            OptionRequest::ListMetaContext(query.clone()),
            OptionRequest::SetMetaContext(query),
            OptionRequest::Go(go),
        ] {
            let Next::LookUp(lookup) = negotiation.handle(ReceivedOption::Request(option)).next else {
                continue;
            };
            let Next::Transmission(agreed) = negotiation.export_found(lookup, &export).next else { continue };
            prop_assert_eq!(agreed.terms.block_status, !agreed.contexts.is_empty());
            prop_assert!(agreed.contexts.len() <= SELECTED_CONTEXTS_MAX);
            for (index, SelectedContext { id, context }) in agreed.contexts.iter().enumerate() {
                prop_assert!(*id != 0);
                let earlier = &agreed.contexts[..index];
                prop_assert!(earlier.iter().all(|other| other.id != *id && other.context != *context));
                match context {
                    MetaContext::BaseAllocation => {}
                    MetaContext::ChangedSince(snapshot) => prop_assert!(export.snapshots.contains(snapshot)),
                }
            }
        }
    }

    #[test]
    fn mutated_option_reply(value in values::option_reply(), changes in changes()) {
        exhaust_all(&mutated(|out| value.encode(out), &changes));
    }

    #[test]
    fn mutated_request_that_is_then_judged(
        value in values::request(), changes in changes(), size_bytes: u64,
    ) {
        let mut bytes = mutated(|out| value.encode(out), &changes);
        if let Ok(Some(request)) = Request::decode(&mut bytes) {
            let flags = TransmissionFlags::from_bits(changes[0].1.into());
            let terms = Terms { size_bytes, flags, payload_bytes_max: PAYLOAD_BYTES_MAX, block_status: true };
            match request.check(&terms) {
                Ok(_) => {}
                Err(reject) => prop_assert!(reject.drain <= PAYLOAD_BYTES_MAX.into()),
            }
        }
    }

    #[test]
    fn mutated_reply(value in values::reply(), changes in changes()) {
        exhaust_all(&mutated(|out| value.encode(out), &changes));
    }

    /// However an option is cut into reads, the handshake does the same.
    #[test]
    fn mutated_options_arrive_alike_in_one_piece_and_in_many(
        sent in vec(values::option_request(), 1..4), changes in changes(), step in 1..70usize,
    ) {
        let bytes = mutated(|out| sent.iter().for_each(|option| option.encode(out)), &changes);
        let run = |step: usize| {
            let (mut decoder, mut buf, mut received) = (OptionDecoder::new(), BytesMut::new(), vec![]);
            for part in bytes.chunks(step) {
                buf.extend_from_slice(part);
                loop {
                    match decoder.decode(&mut buf) {
                        Ok(Some(option)) => received.push(option),
                        Ok(None) => break,
                        Err(error) => return (received, Some(error)),
                    }
                }
            }
            (received, None)
        };
        prop_assert_eq!(run(step), run(bytes.len()));
    }
}

fn option_header(code: u32, len: u32) -> BytesMut {
    let mut bytes = BytesMut::from(&b"IHAVEOPT"[..]);
    bytes.put_u32(code);
    bytes.put_u32(len);
    bytes
}

#[test]
fn an_option_of_4_gib_ends_the_connection_at_its_header() {
    for len in [OPTION_DRAIN_BYTES_MAX + 1, u32::MAX] {
        let error = OptionDecoder::new().decode(&mut option_header(7, len)).unwrap_err();
        assert!(matches!(error, DecodeError::TooLong { .. }), "{error}");
    }
}

#[test]
fn an_option_over_the_limit_is_thrown_away_as_it_arrives_and_the_next_one_is_read() {
    let len = OPTION_DRAIN_BYTES_MAX;
    let mut buf = option_header(99, len);
    let mut decoder = OptionDecoder::new();
    for _ in 0..len / 1024 {
        assert_eq!(decoder.decode(&mut buf), Ok(None));
        assert!(buf.is_empty(), "the data was kept");
        buf.put_bytes(b'x', 1024);
    }
    OptionRequest::List.encode(&mut buf);
    let code = OptionCode::Unknown(99);
    assert_eq!(decoder.decode(&mut buf), Ok(Some(ReceivedOption::TooBig { code, len })));
    assert_eq!(decoder.decode(&mut buf), Ok(Some(ReceivedOption::Request(OptionRequest::List))));
}

#[test]
fn an_option_at_the_limit_is_waited_for_and_no_longer() {
    let len = OPTION_DATA_BYTES_MAX;
    let mut buf = option_header(99, len);
    buf.put_bytes(b'x', len as usize - 1);
    let mut decoder = OptionDecoder::new();
    assert_eq!(decoder.decode(&mut buf), Ok(None));
    buf.put_u8(b'x');
    assert!(matches!(
        decoder.decode(&mut buf),
        Ok(Some(ReceivedOption::Request(OptionRequest::Unknown { code: 99, .. })))
    ));
}

#[test]
fn wrong_magic_ends_the_connection() {
    let mut http = BytesMut::from(&b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"[..]);
    let flags = ClientFlags::decode(&mut http.clone()).unwrap();
    assert!(Negotiation::begin(flags).is_err());
    assert!(OptionDecoder::new().decode(&mut http).is_err());
    assert!(Request::decode(&mut http).is_err());
    assert!(Reply::decode(&mut http).is_err());
    assert!(Greeting::decode(&mut http).is_err());
    assert!(OptionReply::decode(&mut http).is_err());
}

/// Options whose inner lengths lie: (option, data, flaw).
#[test]
fn lying_lengths_are_found_and_the_stream_goes_on() {
    const GO: u32 = 7;
    const SET: u32 = 10;
    let too_long = [&5000_u32.to_be_bytes()[..], &[b'n'; 5000], &[0, 0]].concat();
    let cases: &[(u32, &[u8], Flaw)] = &[
        (GO, b"", Flaw::Truncated),
        (GO, b"\0\0\0", Flaw::Truncated),
        (GO, b"\0\0\0\0", Flaw::Truncated),             // no count
        (GO, b"\0\0\0\x05name\x01\0", Flaw::Truncated), // the name takes a byte of the count
        (GO, b"\xff\xff\xff\xffname\0\0", Flaw::Truncated),
        (GO, b"\0\0\0\x04name\0\x02\0\x03", Flaw::Truncated), // two facts, one there
        (GO, b"\0\0\0\x04name\0\0\0\x03", Flaw::TrailingData),
        (GO, b"\0\0\0\x01\xff\0\0", Flaw::BadText(TextError::NotUtf8)),
        (GO, b"\0\0\0\x02a\0\0\0", Flaw::BadText(TextError::Nul)),
        (GO, &too_long, Flaw::BadText(TextError::TooLong(5000))),
        (SET, b"\0\0\0\x01n", Flaw::Truncated),
        (SET, b"\0\0\0\x01n\xff\xff\xff\xff", Flaw::Truncated),
        (SET, b"\0\0\0\x01n\0\0\0\x01\0\0\0\x09base:", Flaw::Truncated),
        (SET, b"\0\0\0\x01n\0\0\0\0base:", Flaw::TrailingData),
        (1, &[b'n'; 4097], Flaw::BadText(TextError::TooLong(4097))),
        (3, b"?", Flaw::DataNotAllowed),
        (5, b"?", Flaw::DataNotAllowed),
        (8, b"?", Flaw::DataNotAllowed),
        (11, b"?", Flaw::DataNotAllowed),
    ];
    for (code, data, flaw) in cases {
        let mut buf = option_header(*code, data.len() as u32);
        buf.extend_from_slice(data);
        OptionRequest::List.encode(&mut buf);
        let mut decoder = OptionDecoder::new();
        let code = OptionCode::from_wire(*code);
        let expected = ReceivedOption::Malformed { code, flaw: *flaw };
        assert_eq!(decoder.decode(&mut buf), Ok(Some(expected)));
        assert_eq!(
            decoder.decode(&mut buf),
            Ok(Some(ReceivedOption::Request(OptionRequest::List)))
        );
    }
}

#[test]
fn an_abort_with_data_is_an_abort() {
    let mut buf = option_header(2, 3);
    buf.extend_from_slice(b"bye");
    let received = OptionDecoder::new().decode(&mut buf);
    assert_eq!(received, Ok(Some(ReceivedOption::Request(OptionRequest::Abort))));
}

#[test]
fn a_server_that_announces_too_much_ends_the_connection() {
    let mut buf = BytesMut::new();
    OptionReply { option: OptionCode::Go, body: ReplyBody::Ack }.encode(&mut buf);
    buf[16..20].copy_from_slice(&(OPTION_REPLY_BYTES_MAX + 1).to_be_bytes());
    assert!(matches!(OptionReply::decode(&mut buf), Err(DecodeError::TooLong { .. })));

    let mut buf = BytesMut::new();
    encode_offset_data(&mut buf, Cookie(1), 0, PAYLOAD_BYTES_MAX, More::Done);
    assert_eq!(Reply::decode(&mut buf), Ok(None), "the longest chunk is waited for");
    let mut buf = BytesMut::new();
    encode_offset_data(&mut buf, Cookie(1), 0, PAYLOAD_BYTES_MAX + 1, More::Done);
    assert!(matches!(Reply::decode(&mut buf), Err(DecodeError::TooLong { .. })));
}

/// Chunks that break "Structured reply types": (flags, type, payload).
#[test]
fn chunks_that_contradict_themselves_end_the_connection() {
    let cases: &[(u16, u16, &[u8])] = &[
        (0, 0, b""),                                        // NONE, but not the last
        (1, 0, b"x"),                                       // NONE with a payload
        (1, 1, &[0; 8]),                                    // data without data
        (1, 2, &[0; 12]),                                   // a hole of nothing
        (1, 2, &[1; 13]),                                   // a hole too long
        (1, 5, &[1; 4]),                                    // no descriptor
        (1, 5, &[1; 11]),                                   // a broken descriptor
        (1, 5, &[0; 12]),                                   // an empty descriptor
        (1, 3, &[1; 12]),                                   // unknown type, no error
        (1, 0x8001, &[0, 0, 0, 5, 0]),                      // error too short
        (1, 0x8001, &[0, 0, 0, 0, 0, 0]),                   // error that says success
        (1, 0x8001, &[0, 0, 0, 5, 0, 1]),                   // text longer than the chunk
        (1, 0x8002, &[0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0]), // offset cut short
        (1, 0x9999, &[0, 0, 0, 5, 0, 9]), // unknown error, text longer than the chunk
    ];
    for (flags, code, payload) in cases {
        let mut buf = BytesMut::new();
        buf.put_u32(0x668e_33ef);
        buf.put_u16(*flags);
        buf.put_u16(*code);
        buf.put_u64(1);
        buf.put_u32(payload.len() as u32);
        buf.extend_from_slice(payload);
        let result = Reply::decode(&mut buf);
        assert!(
            matches!(result, Err(DecodeError::Malformed { .. })),
            "{code:#x} {payload:?}: {result:?}"
        );
    }
}

#[test]
fn an_error_chunk_with_an_unreadable_text_is_still_an_error() {
    let mut buf = BytesMut::new();
    let text = Text::new("ab").unwrap();
    let body = ChunkBody::Error { error: WireError::Eio, text };
    Chunk { cookie: Cookie(1), more: More::Done, body }.encode(&mut buf);
    let at = buf.len() - 2;
    buf[at..].copy_from_slice(b"\xff\0");
    match Reply::decode(&mut buf) {
        Ok(Some(Reply::Chunk(Chunk { body: ChunkBody::Error { error, text }, .. }))) => {
            assert_eq!((error, text.as_str()), (WireError::Eio, "\u{fffd}\\u{0}"));
        }
        other => panic!("{other:?}"),
    }
}
