//! Bytes as they stand in the specification, one field a line: encoding gives them, decoding takes
//! them.

use bytes::{Bytes, BytesMut};
use sandstone_protocol::*;
use uuid::Uuid;

fn text(s: &str) -> Text {
    Text::new(s).unwrap()
}

fn encoded(encode: impl FnOnce(&mut BytesMut)) -> Vec<u8> {
    let mut out = BytesMut::new();
    encode(&mut out);
    out.to_vec()
}

#[track_caller]
fn check_option(bytes: &[u8], option: OptionRequest) {
    assert_eq!(encoded(|out| option.encode(out)), bytes);
    let decoded = OptionDecoder::new().decode(&mut BytesMut::from(bytes));
    assert_eq!(decoded, Ok(Some(ReceivedOption::Request(option))));
}

#[track_caller]
fn check_option_reply(bytes: &[u8], option: OptionCode, body: ReplyBody) {
    let reply = OptionReply { option, body };
    assert_eq!(encoded(|out| reply.encode(out)), bytes);
    assert_eq!(OptionReply::decode(&mut BytesMut::from(bytes)), Ok(Some(reply)));
}

#[track_caller]
fn check_request(bytes: &[u8], request: Request) {
    assert_eq!(encoded(|out| request.encode(out)), bytes);
    assert_eq!(Request::decode(&mut BytesMut::from(bytes)), Ok(Some(request)));
}

#[track_caller]
fn check_reply(bytes: &[u8], reply: Reply) {
    assert_eq!(encoded(|out| reply.encode(out)), bytes);
    assert_eq!(Reply::decode(&mut BytesMut::from(bytes)), Ok(Some(reply)));
}

#[track_caller]
fn check_chunk(bytes: &[u8], more: More, body: ChunkBody) {
    check_reply(bytes, Reply::Chunk(Chunk { cookie: COOKIE, more, body }));
}

const COOKIE: Cookie = Cookie(0x0102_0304_0506_0708);

#[test]
fn greeting() {
    #[rustfmt::skip]
    let bytes = [
        b'N', b'B', b'D', b'M', b'A', b'G', b'I', b'C', // magic INIT_PASSWD
        b'I', b'H', b'A', b'V', b'E', b'O', b'P', b'T', // magic of newstyle
        0x00, 0x03,                                     // handshake flags: FIXED_NEWSTYLE, NO_ZEROES
    ];
    assert_eq!(encoded(|out| Negotiation::GREETING.encode(out)), bytes);
    assert_eq!(Greeting::decode(&mut BytesMut::from(&bytes[..])), Ok(Some(Negotiation::GREETING)));
}

#[test]
fn client_flags() {
    #[rustfmt::skip]
    let bytes = [
        0x00, 0x00, 0x00, 0x03, // client flags: FIXED_NEWSTYLE, NO_ZEROES
    ];
    assert_eq!(encoded(|out| ClientFlags::NAMED.encode(out)), bytes);
    assert_eq!(ClientFlags::decode(&mut BytesMut::from(&bytes[..])), Some(ClientFlags::NAMED));
}

#[test]
fn option_export_name() {
    #[rustfmt::skip]
    check_option(&[
        b'I', b'H', b'A', b'V', b'E', b'O', b'P', b'T', // magic
        0x00, 0x00, 0x00, 0x01,                         // option: EXPORT_NAME
        0x00, 0x00, 0x00, 0x04,                         // length
        b'd', b'i', b's', b'k',                         // name
    ], OptionRequest::ExportName(text("disk")));
}

#[test]
fn option_go() {
    let request =
        InfoRequest { name: text("disk"), facts: vec![InfoType::Name, InfoType::BlockSize] };
    #[rustfmt::skip]
    check_option(&[
        b'I', b'H', b'A', b'V', b'E', b'O', b'P', b'T', // magic
        0x00, 0x00, 0x00, 0x07,                         // option: GO
        0x00, 0x00, 0x00, 0x0e,                         // length
        0x00, 0x00, 0x00, 0x04,                         // length of name
        b'd', b'i', b's', b'k',                         // name
        0x00, 0x02,                                     // number of information requests
        0x00, 0x01,                                     // NAME
        0x00, 0x03,                                     // BLOCK_SIZE
    ], OptionRequest::Go(request));
}

#[test]
fn option_set_meta_context() {
    let query =
        MetaQuery { name: text("disk"), queries: vec![text("base:allocation"), text("x-a:b")] };
    #[rustfmt::skip]
    check_option(&[
        b'I', b'H', b'A', b'V', b'E', b'O', b'P', b'T', // magic
        0x00, 0x00, 0x00, 0x0a,                         // option: SET_META_CONTEXT
        0x00, 0x00, 0x00, 0x28,                         // length
        0x00, 0x00, 0x00, 0x04,                         // length of name
        b'd', b'i', b's', b'k',                         // name
        0x00, 0x00, 0x00, 0x02,                         // number of queries
        0x00, 0x00, 0x00, 0x0f,                         // length of query
        b'b', b'a', b's', b'e', b':', b'a', b'l', b'l', b'o', b'c', b'a', b't', b'i', b'o', b'n', // query
        0x00, 0x00, 0x00, 0x05,                         // length of query
        b'x', b'-', b'a', b':', b'b',                   // query
    ], OptionRequest::SetMetaContext(query));
}

#[test]
fn options_without_data() {
    for (code, option) in [
        (2, OptionRequest::Abort),
        (3, OptionRequest::List),
        (5, OptionRequest::StartTls),
        (8, OptionRequest::StructuredReply),
        (11, OptionRequest::ExtendedHeaders),
    ] {
        #[rustfmt::skip]
        check_option(&[
            b'I', b'H', b'A', b'V', b'E', b'O', b'P', b'T', // magic
            0x00, 0x00, 0x00, code,                         // option
            0x00, 0x00, 0x00, 0x00,                         // length
        ], option);
    }
}

#[test]
fn option_reply_ack() {
    #[rustfmt::skip]
    check_option_reply(&[
        0x00, 0x03, 0xe8, 0x89, 0x04, 0x55, 0x65, 0xa9, // magic
        0x00, 0x00, 0x00, 0x08,                         // option: STRUCTURED_REPLY
        0x00, 0x00, 0x00, 0x01,                         // type: ACK
        0x00, 0x00, 0x00, 0x00,                         // length
    ], OptionCode::StructuredReply, ReplyBody::Ack);
}

#[test]
fn option_reply_server() {
    let body = ReplyBody::Server { name: text("disk"), description: text("big") };
    #[rustfmt::skip]
    check_option_reply(&[
        0x00, 0x03, 0xe8, 0x89, 0x04, 0x55, 0x65, 0xa9, // magic
        0x00, 0x00, 0x00, 0x03,                         // option: LIST
        0x00, 0x00, 0x00, 0x02,                         // type: SERVER
        0x00, 0x00, 0x00, 0x0b,                         // length
        0x00, 0x00, 0x00, 0x04,                         // length of name
        b'd', b'i', b's', b'k',                         // name
        b'b', b'i', b'g',                               // description
    ], OptionCode::List, body);
}

#[test]
fn option_reply_info_export() {
    let flags = TransmissionFlags::for_export(Access::ReadWrite);
    #[rustfmt::skip]
    check_option_reply(&[
        0x00, 0x03, 0xe8, 0x89, 0x04, 0x55, 0x65, 0xa9, // magic
        0x00, 0x00, 0x00, 0x07,                         // option: GO
        0x00, 0x00, 0x00, 0x03,                         // type: INFO
        0x00, 0x00, 0x00, 0x0c,                         // length
        0x00, 0x00,                                     // information type: EXPORT
        0x00, 0x00, 0x10, 0x00, 0x00, 0x00, 0x00, 0x00, // size: 16 TiB
        0x0d, 0xed,                                     // FAST_ZERO CACHE MULTI_CONN DF ZEROES TRIM FUA FLUSH HAS
    ], OptionCode::Go, ReplyBody::Info(Info::Export { size_bytes: 16 << 40, flags }));
}

#[test]
fn option_reply_info_name_and_description() {
    for (info_type, info) in [(1, Info::Name(text("disk"))), (2, Info::Description(text("disk")))] {
        #[rustfmt::skip]
        check_option_reply(&[
            0x00, 0x03, 0xe8, 0x89, 0x04, 0x55, 0x65, 0xa9, // magic
            0x00, 0x00, 0x00, 0x06,                         // option: INFO
            0x00, 0x00, 0x00, 0x03,                         // type: INFO
            0x00, 0x00, 0x00, 0x06,                         // length
            0x00, info_type,                                // information type
            b'd', b'i', b's', b'k',                         // words
        ], OptionCode::Info, ReplyBody::Info(info));
    }
}

#[test]
fn option_reply_info_block_size() {
    #[rustfmt::skip]
    check_option_reply(&[
        0x00, 0x03, 0xe8, 0x89, 0x04, 0x55, 0x65, 0xa9, // magic
        0x00, 0x00, 0x00, 0x07,                         // option: GO
        0x00, 0x00, 0x00, 0x03,                         // type: INFO
        0x00, 0x00, 0x00, 0x0e,                         // length
        0x00, 0x03,                                     // information type: BLOCK_SIZE
        0x00, 0x00, 0x00, 0x01,                         // minimum: 1
        0x00, 0x00, 0x10, 0x00,                         // preferred: 4096
        0x04, 0x00, 0x00, 0x00,                         // maximum payload: 64 MiB
    ], OptionCode::Go, ReplyBody::Info(Info::BlockSize(BlockSizes::BYTE_ALIGNED)));
}

#[test]
fn option_reply_meta_context() {
    #[rustfmt::skip]
    check_option_reply(&[
        0x00, 0x03, 0xe8, 0x89, 0x04, 0x55, 0x65, 0xa9, // magic
        0x00, 0x00, 0x00, 0x0a,                         // option: SET_META_CONTEXT
        0x00, 0x00, 0x00, 0x04,                         // type: META_CONTEXT
        0x00, 0x00, 0x00, 0x13,                         // length
        0x00, 0x00, 0x00, 0x01,                         // context id
        b'b', b'a', b's', b'e', b':', b'a', b'l', b'l', b'o', b'c', b'a', b't', b'i', b'o', b'n', // name
    ], OptionCode::SetMetaContext, ReplyBody::MetaContext { id: 1, name: text("base:allocation") });
}

/// What the negotiation answers to a SET_META_CONTEXT that selects two contexts.
#[test]
fn option_replies_to_set_meta_context() {
    const SNAPSHOT: Uuid = Uuid::from_u128(0x0123_4567_89ab_4def_8000_0000_0000_00ff);
    const SINCE: &[u8; 62] = b"x-sandstone:changed-since:01234567-89ab-4def-8000-0000000000ff";
    #[rustfmt::skip]
    let allocation = [
        0x00, 0x03, 0xe8, 0x89, 0x04, 0x55, 0x65, 0xa9, // magic
        0x00, 0x00, 0x00, 0x0a,                         // option: SET_META_CONTEXT
        0x00, 0x00, 0x00, 0x04,                         // type: META_CONTEXT
        0x00, 0x00, 0x00, 0x13,                         // length
        0x00, 0x00, 0x00, 0x01,                         // context id
        b'b', b'a', b's', b'e', b':', b'a', b'l', b'l', b'o', b'c', b'a', b't', b'i', b'o', b'n', // name
    ];
    #[rustfmt::skip]
    let since = [&[
        0x00, 0x03, 0xe8, 0x89, 0x04, 0x55, 0x65, 0xa9, // magic
        0x00, 0x00, 0x00, 0x0a,                         // option: SET_META_CONTEXT
        0x00, 0x00, 0x00, 0x04,                         // type: META_CONTEXT
        0x00, 0x00, 0x00, 0x42,                         // length
        0x00, 0x00, 0x00, 0x02,                         // context id
    ][..],
        SINCE,                                          // name
    ].concat();
    #[rustfmt::skip]
    let ack = [
        0x00, 0x03, 0xe8, 0x89, 0x04, 0x55, 0x65, 0xa9, // magic
        0x00, 0x00, 0x00, 0x0a,                         // option: SET_META_CONTEXT
        0x00, 0x00, 0x00, 0x01,                         // type: ACK
        0x00, 0x00, 0x00, 0x00,                         // length
    ];
    let context = |id, context: MetaContext| ReplyBody::MetaContext { id, name: context.name() };
    let code = OptionCode::SetMetaContext;
    check_option_reply(&allocation, code, context(1, MetaContext::BaseAllocation));
    check_option_reply(&since, code, context(2, MetaContext::ChangedSince(SNAPSHOT)));

    let mut negotiation = Negotiation::begin(ClientFlags::NAMED).unwrap();
    let _ = negotiation.handle(ReceivedOption::Request(OptionRequest::StructuredReply));
    let queries = ["base:allocation", std::str::from_utf8(SINCE).unwrap()].map(text).to_vec();
    let option = OptionRequest::SetMetaContext(MetaQuery { name: text("disk"), queries });
    let Next::LookUp(lookup) = negotiation.handle(ReceivedOption::Request(option)).next else {
        panic!("no look-up")
    };
    let export = ExportInfo {
        name: text("disk"),
        description: text(""),
        size_bytes: 0,
        flags: TransmissionFlags::EMPTY,
        block_sizes: BlockSizes::BYTE_ALIGNED,
        snapshots: vec![SNAPSHOT],
    };
    let step = negotiation.export_found(lookup, &export);
    assert_eq!(encoded(|out| step.encode(out)), [&allocation[..], &since, &ack].concat());
}

#[test]
fn option_reply_errors() {
    for (number, error) in [
        (0x01, OptionError::Unsup),
        (0x02, OptionError::Policy),
        (0x03, OptionError::Invalid),
        (0x04, OptionError::Platform),
        (0x05, OptionError::TlsReqd),
        (0x06, OptionError::UnknownExport),
        (0x07, OptionError::Shutdown),
        (0x08, OptionError::BlockSizeReqd),
        (0x09, OptionError::TooBig),
        (0x0a, OptionError::ExtHeaderReqd),
        (0x0b, OptionError::Unknown(0x8000_000b)),
    ] {
        #[rustfmt::skip]
        check_option_reply(&[
            0x00, 0x03, 0xe8, 0x89, 0x04, 0x55, 0x65, 0xa9, // magic
            0x00, 0x00, 0x00, 0x07,                         // option: GO
            0x80, 0x00, 0x00, number,                       // type: an error
            0x00, 0x00, 0x00, 0x02,                         // length
            b'n', b'o',                                     // text
        ], OptionCode::Go, ReplyBody::Error { error, text: text("no") });
    }
}

#[test]
fn export_name_reply_with_and_without_zeroes() {
    #[rustfmt::skip]
    let head = [
        0x00, 0x00, 0x00, 0x00, 0x40, 0x00, 0x00, 0x00, // size: 1 GiB
        0x05, 0x0f,                                     // CACHE MULTI_CONN FUA FLUSH READ_ONLY HAS_FLAGS
    ];
    let flags = TransmissionFlags::for_export(Access::ReadOnly).without(TransmissionFlags::SEND_DF);
    for (zeroes, tail) in [(Zeroes::Omitted, 0), (Zeroes::Sent, 124)] {
        let bytes = [&head[..], &vec![0; tail]].concat();
        let reply = ExportNameReply { size_bytes: 1 << 30, flags, zeroes };
        assert_eq!(encoded(|out| reply.encode(out)), bytes);
        assert_eq!(
            ExportNameReply::decode(&mut BytesMut::from(&bytes[..]), zeroes),
            Ok(Some(reply))
        );
    }
}

#[test]
fn request_write() {
    #[rustfmt::skip]
    check_request(&[
        0x25, 0x60, 0x95, 0x13,                         // magic NBD_REQUEST_MAGIC
        0x00, 0x01,                                     // command flags: FUA
        0x00, 0x01,                                     // type: WRITE
        0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, // cookie
        0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x10, 0x00, // offset
        0x00, 0x00, 0x02, 0x00,                         // length
    ], Request {
        flags: CommandFlags::FUA,
        command: Command::Write,
        cookie: COOKIE,
        offset: (4 << 30) + 4096,
        len: 512,
    });
}

#[test]
fn request_commands_and_flags() {
    use CommandFlags as F;
    for (number, command, bits, flags) in [
        (0, Command::Read, 0x04, F::DF),
        (2, Command::Disconnect, 0x00, F::EMPTY),
        (3, Command::Flush, 0x00, F::EMPTY),
        (4, Command::Trim, 0x01, F::FUA),
        (5, Command::Cache, 0x00, F::EMPTY),
        (6, Command::WriteZeroes, 0x12, F::NO_HOLE.with(F::FAST_ZERO)),
        (7, Command::BlockStatus, 0x08, F::REQ_ONE),
        (8, Command::Unknown(8), 0x20, F::PAYLOAD_LEN),
    ] {
        #[rustfmt::skip]
        check_request(&[
            0x25, 0x60, 0x95, 0x13,                         // magic NBD_REQUEST_MAGIC
            0x00, bits,                                     // command flags
            0x00, number,                                   // type
            0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, // cookie
            0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, // offset
            0xff, 0xff, 0xfe, 0x00,                         // length: 4 GiB - 512
        ], Request { flags, command, cookie: COOKIE, offset: 0, len: 0u32.wrapping_sub(512) });
    }
}

#[test]
fn simple_replies() {
    for (number, result) in [
        (0, Ok(())),
        (1, Err(WireError::Eperm)),
        (5, Err(WireError::Eio)),
        (12, Err(WireError::Enomem)),
        (22, Err(WireError::Einval)),
        (28, Err(WireError::Enospc)),
        (75, Err(WireError::Eoverflow)),
        (95, Err(WireError::Enotsup)),
        (108, Err(WireError::Eshutdown)),
    ] {
        #[rustfmt::skip]
        let bytes = [
            0x67, 0x44, 0x66, 0x98,                         // magic NBD_SIMPLE_REPLY_MAGIC
            0x00, 0x00, 0x00, number,                       // error
            0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, // cookie
        ];
        check_reply(&bytes, Reply::Simple(SimpleReply { cookie: COOKIE, result }));
        let short = encoded(|out| match result {
            Ok(()) => encode_success(out, COOKIE),
            Err(error) => encode_failure(out, COOKIE, ReplyMode::Simple, error, "not sent"),
        });
        assert_eq!(short, bytes);
    }
}

#[test]
fn chunk_none() {
    #[rustfmt::skip]
    let bytes = [
        0x66, 0x8e, 0x33, 0xef,                         // magic NBD_STRUCTURED_REPLY_MAGIC
        0x00, 0x01,                                     // flags: DONE
        0x00, 0x00,                                     // type: NONE
        0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, // cookie
        0x00, 0x00, 0x00, 0x00,                         // length
    ];
    check_chunk(&bytes, More::Done, ChunkBody::None);
    assert_eq!(encoded(|out| encode_none(out, COOKIE)), bytes);
}

#[test]
fn chunk_offset_data() {
    #[rustfmt::skip]
    let bytes = [
        0x66, 0x8e, 0x33, 0xef,                         // magic NBD_STRUCTURED_REPLY_MAGIC
        0x00, 0x00,                                     // flags
        0x00, 0x01,                                     // type: OFFSET_DATA
        0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, // cookie
        0x00, 0x00, 0x00, 0x0b,                         // length
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x10, 0x00, // offset
        0xaa, 0xbb, 0xcc,                               // data
    ];
    let data = Bytes::from_static(&[0xaa, 0xbb, 0xcc]);
    check_chunk(&bytes, More::Follows, ChunkBody::OffsetData { offset: 4096, data });
    assert_eq!(encoded(|out| encode_offset_data(out, COOKIE, 4096, 3, More::Follows)), bytes[..28]);
}

#[test]
fn chunk_offset_hole() {
    #[rustfmt::skip]
    let bytes = [
        0x66, 0x8e, 0x33, 0xef,                         // magic NBD_STRUCTURED_REPLY_MAGIC
        0x00, 0x01,                                     // flags: DONE
        0x00, 0x02,                                     // type: OFFSET_HOLE
        0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, // cookie
        0x00, 0x00, 0x00, 0x0c,                         // length
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x10, 0x00, // offset
        0x00, 0x00, 0x02, 0x00,                         // hole size
    ];
    check_chunk(&bytes, More::Done, ChunkBody::OffsetHole { offset: 4096, len: 512 });
}

#[test]
fn chunk_block_status() {
    let hole = BlockDescriptor {
        len: 65536,
        flags: AllocationFlags::HOLE.with(AllocationFlags::ZERO).into(),
    };
    let data = BlockDescriptor { len: 4096, flags: AllocationFlags::EMPTY.into() };
    #[rustfmt::skip]
    let bytes = [
        0x66, 0x8e, 0x33, 0xef,                         // magic NBD_STRUCTURED_REPLY_MAGIC
        0x00, 0x01,                                     // flags: DONE
        0x00, 0x05,                                     // type: BLOCK_STATUS
        0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, // cookie
        0x00, 0x00, 0x00, 0x14,                         // length
        0x00, 0x00, 0x00, 0x01,                         // context id
        0x00, 0x01, 0x00, 0x00,                         // length of descriptor
        0x00, 0x00, 0x00, 0x03,                         // status: HOLE, ZERO
        0x00, 0x00, 0x10, 0x00,                         // length of descriptor
        0x00, 0x00, 0x00, 0x00,                         // status: data
    ];
    check_chunk(
        &bytes,
        More::Done,
        ChunkBody::BlockStatus { context_id: 1, descriptors: vec![hole, data] },
    );
}

#[test]
fn chunks_block_status_of_two_contexts() {
    let data = BlockDescriptor { len: 69632, flags: AllocationFlags::EMPTY.into() };
    let unchanged = BlockDescriptor { len: 65536, flags: ChangeFlags::EMPTY.into() };
    let changed = BlockDescriptor { len: 4096, flags: ChangeFlags::CHANGED.into() };
    #[rustfmt::skip]
    let bytes = [
        0x66, 0x8e, 0x33, 0xef,                         // magic NBD_STRUCTURED_REPLY_MAGIC
        0x00, 0x00,                                     // flags
        0x00, 0x05,                                     // type: BLOCK_STATUS
        0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, // cookie
        0x00, 0x00, 0x00, 0x0c,                         // length
        0x00, 0x00, 0x00, 0x01,                         // context id: base:allocation
        0x00, 0x01, 0x10, 0x00,                         // length of descriptor
        0x00, 0x00, 0x00, 0x00,                         // status: data
        0x66, 0x8e, 0x33, 0xef,                         // magic NBD_STRUCTURED_REPLY_MAGIC
        0x00, 0x01,                                     // flags: DONE
        0x00, 0x05,                                     // type: BLOCK_STATUS
        0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, // cookie
        0x00, 0x00, 0x00, 0x14,                         // length
        0x00, 0x00, 0x00, 0x02,                         // context id: x-sandstone:changed-since:...
        0x00, 0x01, 0x00, 0x00,                         // length of descriptor
        0x00, 0x00, 0x00, 0x00,                         // status: unchanged
        0x00, 0x00, 0x10, 0x00,                         // length of descriptor
        0x00, 0x00, 0x00, 0x01,                         // status: CHANGED
    ];
    let (allocation, changes) = bytes.split_at(32);
    check_chunk(
        allocation,
        More::Follows,
        ChunkBody::BlockStatus { context_id: 1, descriptors: vec![data] },
    );
    let descriptors = vec![unchanged, changed];
    check_chunk(changes, More::Done, ChunkBody::BlockStatus { context_id: 2, descriptors });
    let whole = encoded(|out| {
        encode_block_status(out, COOKIE, 1, &[data], More::Follows);
        encode_block_status(out, COOKIE, 2, &[unchanged, changed], More::Done);
    });
    assert_eq!(whole, bytes);
}

#[test]
fn chunk_error() {
    #[rustfmt::skip]
    let bytes = [
        0x66, 0x8e, 0x33, 0xef,                         // magic NBD_STRUCTURED_REPLY_MAGIC
        0x00, 0x01,                                     // flags: DONE
        0x80, 0x01,                                     // type: ERROR
        0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, // cookie
        0x00, 0x00, 0x00, 0x0a,                         // length
        0x00, 0x00, 0x00, 0x1c,                         // error: ENOSPC
        0x00, 0x04,                                     // length of text
        b'f', b'u', b'l', b'l',                         // text
    ];
    check_chunk(
        &bytes,
        More::Done,
        ChunkBody::Error { error: WireError::Enospc, text: text("full") },
    );
    let short = encoded(|out| {
        encode_failure(out, COOKIE, ReplyMode::Structured, WireError::Enospc, "full")
    });
    assert_eq!(short, bytes);
}

#[test]
fn chunk_error_offset() {
    let body = ChunkBody::ErrorOffset { error: WireError::Eio, text: text("bad"), offset: 4096 };
    #[rustfmt::skip]
    check_chunk(&[
        0x66, 0x8e, 0x33, 0xef,                         // magic NBD_STRUCTURED_REPLY_MAGIC
        0x00, 0x00,                                     // flags
        0x80, 0x02,                                     // type: ERROR_OFFSET
        0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, // cookie
        0x00, 0x00, 0x00, 0x11,                         // length
        0x00, 0x00, 0x00, 0x05,                         // error: EIO
        0x00, 0x03,                                     // length of text
        b'b', b'a', b'd',                               // text
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x10, 0x00, // offset
    ], More::Follows, body);
}
