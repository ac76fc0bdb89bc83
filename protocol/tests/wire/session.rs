//! A client and a server made of this crate, joined by two byte queues: what one encodes, the other
//! understands.

use bytes::{Buf, BytesMut};
use sandstone_protocol::*;

const DISK: &[u8] = b"0123456789abcdef";

fn text(s: &str) -> Text {
    Text::new(s).unwrap()
}

fn export() -> ExportInfo {
    ExportInfo {
        name: text("disk"),
        description: text(""),
        size_bytes: DISK.len() as u64,
        flags: TransmissionFlags::for_export(Access::ReadOnly),
        block_sizes: BlockSizes::BYTE_ALIGNED,
        snapshots: vec![],
    }
}

/// Serves one handshake from bytes that are already there; what is left in `input` are requests.
fn serve_handshake(input: &mut BytesMut, output: &mut BytesMut) -> Result<Negotiated, CloseReason> {
    Negotiation::GREETING.encode(output);
    let mut negotiation = Negotiation::begin(ClientFlags::decode(input).expect("client flags"))?;
    let mut decoder = OptionDecoder::new();
    let mut step = Step { send: vec![], next: Next::Option };
    loop {
        step.encode(output);
        step = match step.next {
            Next::Option => negotiation.handle(decoder.decode(input)?.expect("a whole option")),
            Next::LookUp(lookup) if lookup.name().as_str() == "disk" => {
                negotiation.export_found(lookup, &export())
            }
            Next::LookUp(lookup) => {
                let refusal = Refusal::unknown_export(lookup.name());
                negotiation.export_refused(lookup, refusal)
            }
            Next::List => negotiation
                .list_found(vec![ListedExport { name: text("disk"), description: text("") }]),
            Next::Transmission(negotiated) => return Ok(negotiated),
            Next::Close(reason) => return Err(reason),
        }
    }
}

fn serve_requests(negotiated: &Negotiated, input: &mut BytesMut, output: &mut BytesMut) {
    while let Some(request) = Request::decode(input).unwrap() {
        let cookie = request.cookie;
        match request.check(&negotiated.terms) {
            Ok(Checked::Read { offset, len, .. }) => {
                match negotiated.reply_mode {
                    ReplyMode::Simple => encode_success(output, cookie),
                    ReplyMode::Structured => {
                        encode_offset_data(output, cookie, offset, len, More::Done)
                    }
                }
                output.extend_from_slice(&DISK[offset as usize..][..len as usize]);
            }
            Ok(Checked::Disconnect) => return,
            Ok(_) => encode_success(output, cookie),
            Err(reject) => {
                assert!(!reject.fatal);
                input.advance(reject.drain as usize);
                encode_failure(output, cookie, negotiated.reply_mode, reject.error, reject.reason);
            }
        }
    }
}

fn request(command: Command, cookie: u64, offset: u64, len: u32) -> Request {
    Request { flags: CommandFlags::EMPTY, command, cookie: Cookie(cookie), offset, len }
}

#[test]
fn go_with_structured_replies_then_requests_in_one_flight() {
    let (mut to_server, mut to_client) = (BytesMut::new(), BytesMut::new());
    ClientFlags::NAMED.encode(&mut to_server);
    let meta = MetaQuery { name: text("disk"), queries: vec![text("base:allocation")] };
    let info = InfoRequest { name: text("disk"), facts: vec![] };
    for option in [
        OptionRequest::StructuredReply,
        OptionRequest::List,
        OptionRequest::SetMetaContext(meta),
        OptionRequest::Go(info),
    ] {
        option.encode(&mut to_server);
    }
    request(Command::Write, 1, 0, 4).encode(&mut to_server);
    to_server.extend_from_slice(b"\x25\x60\x95\x13"); // payload that looks like a request
    request(Command::Read, 2, 10, 6).encode(&mut to_server);
    request(Command::Disconnect, 3, 0, 0).encode(&mut to_server);

    let negotiated = serve_handshake(&mut to_server, &mut to_client).unwrap();
    assert!(negotiated.terms.block_status);
    serve_requests(&negotiated, &mut to_server, &mut to_client);

    assert_eq!(Greeting::decode(&mut to_client), Ok(Some(Greeting::FIXED_NEWSTYLE)));
    let mut acks = 0;
    while acks < 4 {
        let reply = OptionReply::decode(&mut to_client).unwrap().expect("a reply");
        assert!(!matches!(reply.body, ReplyBody::Error { .. }), "{reply:?}");
        acks += usize::from(reply.body == ReplyBody::Ack);
    }
    let refused =
        ChunkBody::Error { error: WireError::Eperm, text: text("the export is read-only") };
    let data = ChunkBody::OffsetData { offset: 10, data: DISK[10..].into() };
    for (cookie, body) in [(1, refused), (2, data)] {
        let chunk = Chunk { cookie: Cookie(cookie), more: More::Done, body };
        assert_eq!(Reply::decode(&mut to_client), Ok(Some(Reply::Chunk(chunk))));
    }
    assert!(to_client.is_empty() && to_server.is_empty());
}

#[test]
fn export_name_from_an_old_client_then_a_simple_read() {
    let (mut to_server, mut to_client) = (BytesMut::new(), BytesMut::new());
    ClientFlags::EMPTY.encode(&mut to_server);
    OptionRequest::ExportName(text("disk")).encode(&mut to_server);
    request(Command::Read, 1, 0, 3).encode(&mut to_server);

    let negotiated = serve_handshake(&mut to_server, &mut to_client).unwrap();
    serve_requests(&negotiated, &mut to_server, &mut to_client);

    to_client.advance(Greeting::BYTES);
    let reply = ExportNameReply::decode(&mut to_client, Zeroes::Sent).unwrap().unwrap();
    assert_eq!(reply.size_bytes, 16);
    assert!(!reply.flags.contains(TransmissionFlags::SEND_DF));
    let simple = SimpleReply { cookie: Cookie(1), result: Ok(()) };
    assert_eq!(Reply::decode(&mut to_client), Ok(Some(Reply::Simple(simple))));
    assert_eq!(&to_client[..], b"012");
}

#[test]
fn a_client_that_names_no_export_learns_why_and_may_abort() {
    let (mut to_server, mut to_client) = (BytesMut::new(), BytesMut::new());
    ClientFlags::NAMED.encode(&mut to_server);
    OptionRequest::Go(InfoRequest { name: text(""), facts: vec![] }).encode(&mut to_server);
    OptionRequest::Abort.encode(&mut to_server);

    assert_eq!(serve_handshake(&mut to_server, &mut to_client), Err(CloseReason::Aborted));

    to_client.advance(Greeting::BYTES);
    let reply = OptionReply::decode(&mut to_client).unwrap().unwrap();
    assert!(
        matches!(reply.body, ReplyBody::Error { error: OptionError::UnknownExport, .. }),
        "{reply:?}"
    );
    let reply = OptionReply::decode(&mut to_client).unwrap().unwrap();
    assert_eq!(reply, OptionReply { option: OptionCode::Abort, body: ReplyBody::Ack });
}
