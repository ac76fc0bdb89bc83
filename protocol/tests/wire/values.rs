//! Generators of every value that goes over the wire.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use sandstone_protocol::*;
use uuid::Uuid;

pub(crate) fn text() -> impl Strategy<Value = Text> {
    // Short and odd ones mostly, now and then one at the limit.
    prop_oneof![
        9 => "[^\\x00]{0,40}".prop_map(|s| Text::new(s).unwrap()),
        1 => Just(Text::new("n".repeat(limits::STRING_BYTES_MAX)).unwrap()),
    ]
}

fn data(max: usize) -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..max).prop_map(Bytes::from)
}

fn info_request() -> impl Strategy<Value = InfoRequest> {
    let fact = prop_oneof![0..5u16, any::<u16>()].prop_map(InfoType::from_wire);
    (text(), vec(fact, 0..6)).prop_map(|(name, facts)| InfoRequest { name, facts })
}

/// Queries and names of contexts: of ours mostly, of few snapshots so that they meet.
fn meta_context() -> impl Strategy<Value = Text> {
    let ours = (0..8u128).prop_map(|n| MetaContext::ChangedSince(snapshot(n)).name());
    let fixed = ["base:", "base:allocation", "x-sandstone:", "x-sandstone:changed-since:"];
    let fixed = prop::sample::select(fixed.to_vec()).prop_map(|s| Text::new(s).unwrap());
    prop_oneof![2 => ours, 1 => fixed, 1 => text()]
}

pub(crate) fn snapshot(n: u128) -> Uuid {
    Uuid::from_u128(n << 64 | 0xabcdef)
}

pub(crate) fn meta_query() -> impl Strategy<Value = MetaQuery> {
    (text(), vec(meta_context(), 0..4)).prop_map(|(name, queries)| MetaQuery { name, queries })
}

pub(crate) fn option_request() -> impl Strategy<Value = OptionRequest> {
    prop_oneof![
        text().prop_map(OptionRequest::ExportName),
        Just(OptionRequest::Abort),
        Just(OptionRequest::List),
        Just(OptionRequest::StartTls),
        info_request().prop_map(OptionRequest::Info),
        info_request().prop_map(OptionRequest::Go),
        Just(OptionRequest::StructuredReply),
        meta_query().prop_map(OptionRequest::ListMetaContext),
        meta_query().prop_map(OptionRequest::SetMetaContext),
        Just(OptionRequest::ExtendedHeaders),
        (12..=u32::MAX, data(300)).prop_map(|(code, data)| OptionRequest::Unknown { code, data }),
    ]
}

fn transmission_flags() -> impl Strategy<Value = TransmissionFlags> {
    any::<u16>().prop_map(TransmissionFlags::from_bits)
}

fn info() -> impl Strategy<Value = Info> {
    prop_oneof![
        (any::<u64>(), transmission_flags())
            .prop_map(|(size_bytes, flags)| Info::Export { size_bytes, flags }),
        text().prop_map(Info::Name),
        text().prop_map(Info::Description),
        any::<[u32; 3]>().prop_map(|[minimum, preferred, maximum_payload]| {
            Info::BlockSize(BlockSizes { minimum, preferred, maximum_payload })
        }),
        (4..=u16::MAX, data(100)).prop_map(|(code, data)| Info::Unknown { code, data }),
    ]
}

pub(crate) fn option_reply() -> impl Strategy<Value = OptionReply> {
    let body = prop_oneof![
        Just(ReplyBody::Ack),
        (text(), text()).prop_map(|(name, description)| ReplyBody::Server { name, description }),
        info().prop_map(ReplyBody::Info),
        (any::<u32>(), meta_context()).prop_map(|(id, name)| ReplyBody::MetaContext { id, name }),
        (prop_oneof![0..12u32, 0..1u32 << 31], text()).prop_map(|(number, text)| {
            ReplyBody::Error { error: OptionError::from_wire(1 << 31 | number), text }
        }),
        (5..1u32 << 31, data(300)).prop_map(|(code, data)| ReplyBody::Unknown { code, data }),
    ];
    let option = prop_oneof![0..13u32, any::<u32>()].prop_map(OptionCode::from_wire);
    (option, body).prop_map(|(option, body)| OptionReply { option, body })
}

pub(crate) fn greeting() -> impl Strategy<Value = Greeting> {
    any::<u16>().prop_map(|bits| Greeting { flags: HandshakeFlags::from_bits(bits) })
}

pub(crate) fn export_name_reply() -> impl Strategy<Value = ExportNameReply> {
    let zeroes = prop_oneof![Just(Zeroes::Sent), Just(Zeroes::Omitted)];
    (any::<u64>(), transmission_flags(), zeroes)
        .prop_map(|(size_bytes, flags, zeroes)| ExportNameReply { size_bytes, flags, zeroes })
}

pub(crate) fn request() -> impl Strategy<Value = Request> {
    let flags = any::<u16>().prop_map(CommandFlags::from_bits);
    let command = prop_oneof![0..9u16, any::<u16>()].prop_map(Command::from_wire);
    (flags, command, any::<u64>().prop_map(Cookie), any::<u64>(), any::<u32>()).prop_map(
        |(flags, command, cookie, offset, len)| Request { flags, command, cookie, offset, len },
    )
}

fn wire_error() -> impl Strategy<Value = WireError> {
    prop_oneof![1..120u32, 1..=u32::MAX].prop_map(|number| WireError::from_wire(number).unwrap())
}

fn descriptor() -> impl Strategy<Value = BlockDescriptor> {
    (1..=u32::MAX, any::<u32>())
        .prop_map(|(len, bits)| BlockDescriptor { len, flags: StatusFlags::from_bits(bits) })
}

fn chunk() -> impl Strategy<Value = Chunk> {
    let more = prop_oneof![Just(More::Follows), Just(More::Done)];
    let body = prop_oneof![
        Just(ChunkBody::None),
        (any::<u64>(), vec(any::<u8>(), 1..600))
            .prop_map(|(offset, data)| ChunkBody::OffsetData { offset, data: data.into() }),
        (any::<u64>(), 1..=u32::MAX)
            .prop_map(|(offset, len)| ChunkBody::OffsetHole { offset, len }),
        (any::<u32>(), vec(descriptor(), 1..20)).prop_map(|(context_id, descriptors)| {
            ChunkBody::BlockStatus { context_id, descriptors }
        }),
        (wire_error(), text()).prop_map(|(error, text)| ChunkBody::Error { error, text }),
        (wire_error(), text(), any::<u64>())
            .prop_map(|(error, text, offset)| ChunkBody::ErrorOffset { error, text, offset }),
        (0x8003..=u16::MAX, wire_error(), text())
            .prop_map(|(code, error, text)| ChunkBody::UnknownError { code, error, text }),
    ];
    (any::<u64>().prop_map(Cookie), more, body).prop_map(|(cookie, more, body)| {
        let more = if body == ChunkBody::None { More::Done } else { more };
        Chunk { cookie, more, body }
    })
}

pub(crate) fn reply() -> impl Strategy<Value = Reply> {
    let result = prop_oneof![Just(Ok(())), wire_error().prop_map(Err)];
    let simple = (any::<u64>().prop_map(Cookie), result)
        .prop_map(|(cookie, result)| Reply::Simple(SimpleReply { cookie, result }));
    prop_oneof![1 => simple, 3 => chunk().prop_map(Reply::Chunk)]
}
