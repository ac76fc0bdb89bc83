//! The client against a peer that does what a test says, on the other end of a socket pair.

use super::*;
use crate::{
    cli::{
        base::{Audience, Interrupt, Progress},
        copy::{
            Source, Target, open,
            transfer::{self, Before},
        },
    },
    net::Place,
};
use sandstone_protocol::{
    Access, BlockSizes, Chunk, ClientFlags, ExportInfo, MetaContext, Negotiation, Next, OptionCode,
    OptionDecoder, OptionError, OptionReply, OptionRequest, ReceivedOption, ReplyBody,
    SelectedContext, SimpleReply, StatusFlags, Step,
};
use std::{
    fs,
    io::{Read, Write},
    os::unix::fs::FileExt,
    thread,
    time::Duration,
};

const READ_WRITE: TransmissionFlags = TransmissionFlags::for_export(Access::ReadWrite);
const SIZE: u64 = 64 * CHUNK_BYTES;

/// What the client selects.
const ALLOCATION: SelectedContext = SelectedContext { id: 1, context: MetaContext::BaseAllocation };

/// Long enough for what must not come to come.
const A_WHILE: Duration = Duration::from_millis(50);

/// Lets `client` talk to `peer`, and hands back what the client made of it.
fn talk<T>(peer: impl FnOnce(Peer) + Send, client: impl FnOnce(UnixStream) -> T) -> T {
    let (ours, theirs) = UnixStream::pair().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| peer(Peer { socket: theirs, received: BytesMut::new() }));
        client(ours)
    })
}

/// As `talk`, from the end of an honest handshake on.
fn transmit<T>(peer: impl FnOnce(Peer) + Send, client: impl FnOnce(NbdClient) -> T) -> T {
    let shaken = |mut at: Peer| {
        at.shake_hands(READ_WRITE);
        peer(at);
    };
    talk(shaken, |socket| client(NbdClient::over(socket, "disk").unwrap()))
}

struct Peer {
    socket: UnixStream,
    received: BytesMut,
}

impl Peer {
    /// False at the end of the stream.
    fn receive(&mut self) -> bool {
        let mut bytes = [0; 1 << 16];
        let len = self.socket.read(&mut bytes).unwrap_or(0);
        self.received.extend_from_slice(&bytes[..len]);
        len > 0
    }

    fn wait<T>(&mut self, mut decode: impl FnMut(&mut BytesMut) -> Option<T>) -> T {
        loop {
            match decode(&mut self.received) {
                Some(value) => return value,
                None => assert!(self.receive(), "the client closed the connection"),
            }
        }
    }

    fn send(&mut self, encode: impl FnOnce(&mut BytesMut)) {
        let mut bytes = BytesMut::new();
        encode(&mut bytes);
        self.socket.write_all(&bytes).unwrap();
    }

    fn greet(&mut self) {
        self.send(|out| Negotiation::GREETING.encode(out));
        assert_eq!(self.wait(ClientFlags::decode), ClientFlags::FIXED_NEWSTYLE);
    }

    fn option(&mut self) -> OptionRequest {
        let mut decoder = OptionDecoder::new();
        match self.wait(|bytes| decoder.decode(bytes).unwrap()) {
            ReceivedOption::Request(request) => request,
            flawed => panic!("{flawed:?}"),
        }
    }

    fn reply(&mut self, option: OptionCode, body: ReplyBody) {
        self.send(|out| OptionReply { option, body }.encode(out));
    }

    fn refuse(&mut self, option: OptionCode, error: OptionError, text: &str) {
        self.reply(option, ReplyBody::Error { error, text: Text::message(text) });
    }

    fn shake_hands(&mut self, flags: TransmissionFlags) {
        self.greet();
        let mut negotiation = Negotiation::begin(ClientFlags::FIXED_NEWSTYLE).unwrap();
        loop {
            let mut step = negotiation.handle(ReceivedOption::Request(self.option()));
            if let Next::LookUp(lookup) = step.next {
                let info = ExportInfo {
                    name: lookup.name().clone(),
                    description: Text::default(),
                    size_bytes: SIZE,
                    flags,
                    block_sizes: BlockSizes::BYTE_ALIGNED,
                    snapshots: Vec::new(),
                };
                step = negotiation.export_found(lookup, &info);
            }
            let Step { send, next } = step;
            self.send(|out| Step { send, next: Next::Option }.encode(out));
            if let Next::Transmission(agreed) = next {
                assert_eq!(agreed.contexts, [ALLOCATION]);
                return;
            }
        }
    }

    fn request(&mut self) -> (Request, Bytes) {
        let request = self.wait(|bytes| Request::decode(bytes).unwrap());
        let len = request.payload_len() as usize;
        let data = self.wait(|bytes| (bytes.len() >= len).then(|| bytes.split_to(len).freeze()));
        (request, data)
    }

    fn expect_silence(&mut self) {
        self.socket.set_read_timeout(Some(A_WHILE)).unwrap();
        assert!(self.received.is_empty() && !self.receive(), "a request came too early");
        self.socket.set_read_timeout(None).unwrap();
    }

    fn chunk(&mut self, cookie: Cookie, more: More, body: ChunkBody) {
        self.send(|out| Chunk { cookie, more, body }.encode(out));
    }

    fn succeed(&mut self, cookie: Cookie) {
        self.send(|out| SimpleReply { cookie, result: Ok(()) }.encode(out));
    }

    fn fail(&mut self, cookie: Cookie, error: WireError, text: &str) {
        self.chunk(cookie, More::Done, ChunkBody::Error { error, text: Text::message(text) });
    }

    fn expect_goodbye(&mut self) {
        assert_eq!(self.request().0.command, Command::Disconnect);
        assert!(!self.receive());
    }
}

fn span(offset: u64, len: u64) -> Span {
    Span { offset, len }
}

fn data(offset: u64, bytes: &'static [u8]) -> ChunkBody {
    ChunkBody::OffsetData { offset, data: Bytes::from_static(bytes) }
}

/// Reads spans and notes what came, in the order it came.
fn read_all(device: &mut NbdClient, spans: &[Span]) -> Result<Vec<(u64, Bytes)>, CopyError> {
    let mut taken = Vec::new();
    let mut take = |offset, data| {
        taken.push((offset, data));
        Ok(())
    };
    device.read(&mut spans.iter().copied(), &mut take)?;
    Ok(taken)
}

#[test]
fn the_handshake_ends_with_the_export_and_the_connection_with_a_goodbye() {
    let peer = |mut peer: Peer| peer.expect_goodbye();
    let export = transmit(peer, |device| device.export);
    assert_eq!(export, Export { size_bytes: SIZE, flags: READ_WRITE, context_id: ALLOCATION.id });
}

/// What the client says to a server that refuses `refused` and acknowledges what comes before.
fn refused_at(refused: OptionCode, error: OptionError, text: &str) -> String {
    let peer = |mut peer: Peer| {
        peer.greet();
        loop {
            let option = peer.option();
            if option.code() == refused {
                peer.refuse(refused, error, text);
                assert_eq!(peer.option(), OptionRequest::Abort);
                return;
            }
            if let OptionRequest::SetMetaContext(query) = &option {
                peer.reply(
                    option.code(),
                    ReplyBody::MetaContext { id: 7, name: query.queries[0].clone() },
                );
            }
            peer.reply(option.code(), ReplyBody::Ack);
        }
    };
    talk(peer, |socket| NbdClient::over(socket, "disk").err().unwrap().to_string())
}

#[test]
fn a_refusal_is_shown_with_the_servers_words() {
    assert_eq!(
        refused_at(OptionCode::Go, OptionError::Policy, "the volume is\nclosing"),
        "the server refuses export \"disk\": the server's policy forbids it (it says \"the volume is\\\\nclosing\")"
    );
    assert_eq!(
        refused_at(OptionCode::SetMetaContext, OptionError::UnknownExport, ""),
        "the server refuses the block status of export \"disk\": there is no such export"
    );
    assert_eq!(
        refused_at(OptionCode::StructuredReply, OptionError::Unsup, ""),
        "the server refuses structured replies: the option is not supported"
    );
}

#[test]
fn a_server_without_block_status_is_told_apart() {
    let peer = |mut peer: Peer| {
        peer.greet();
        for _ in 0..2 {
            let code = peer.option().code();
            peer.reply(code, ReplyBody::Ack);
        }
    };
    let error = talk(peer, |socket| NbdClient::over(socket, "disk").err().unwrap());
    assert_eq!(error.to_string(), "the server has no base:allocation");
}

#[test]
fn a_server_that_goes_away_during_the_handshake_is_told() {
    let error =
        talk(|mut peer| peer.greet(), |socket| NbdClient::over(socket, "disk").err().unwrap());
    // Which of the two depends on who is faster.
    let told = [
        "the server closed the connection (during the handshake)",
        "Broken pipe (os error 32) (during the handshake)",
    ];
    assert!(told.contains(&error.to_string().as_str()), "{error}");
}

#[test]
fn what_does_not_speak_nbd_is_told() {
    let peer =
        |mut peer: Peer| peer.send(|out| out.extend_from_slice(b"HTTP/1.1 400 Bad Request\r\n"));
    let error = talk(peer, |socket| NbdClient::over(socket, "disk").err().unwrap());
    assert!(
        error.to_string().starts_with("the server breaks the NBD protocol: greeting"),
        "{error}"
    );
}

#[test]
fn a_place_where_nobody_listens_is_named() {
    let place = Place::Unix("/nowhere/at/all.sock".into());
    let error = connect(&ExportAddress { place, export_name: "disk".to_owned() }).err().unwrap();
    assert!(
        error.to_string().starts_with("no connection to /nowhere/at/all.sock: No such file"),
        "{error}"
    );
}

#[test]
fn reads_are_in_flight_together_and_come_in_any_order_and_in_pieces() {
    let peer = |mut peer: Peer| {
        let (first, second) = (peer.request().0, peer.request().0);
        assert_eq!((first.command, first.offset, first.len), (Command::Read, 10, 6));
        assert!(first.flags.is_empty());
        peer.chunk(first.cookie, More::Follows, data(14, b"ef"));
        peer.chunk(second.cookie, More::Done, data(100, b"xyz"));
        peer.chunk(first.cookie, More::Follows, data(10, b"a"));
        peer.chunk(first.cookie, More::Follows, ChunkBody::OffsetHole { offset: 11, len: 3 });
        peer.chunk(first.cookie, More::Done, ChunkBody::None);
        peer.expect_goodbye();
    };
    let taken =
        transmit(peer, |mut device| read_all(&mut device, &[span(10, 6), span(100, 3)])).unwrap();
    assert_eq!(taken, [(100, Bytes::from_static(b"xyz")), (10, Bytes::from_static(b"a\0\0\0ef"))]);
}

/// What the client says when it reads 6 bytes at 10 and the last of these chunks is the end.
fn read_error(chunks: Vec<ChunkBody>) -> String {
    let peer = |mut peer: Peer| {
        let cookie = peer.request().0.cookie;
        let last = chunks.len() - 1;
        for (i, body) in chunks.into_iter().enumerate() {
            peer.chunk(cookie, if i == last { More::Done } else { More::Follows }, body);
        }
    };
    let failed = |mut device: NbdClient| match read_all(&mut device, &[span(10, 6)]) {
        Err(CopyError::Device(error)) => error.to_string(),
        other => panic!("{other:?}"),
    };
    transmit(peer, failed)
}

#[test]
fn data_that_does_not_fill_a_read_exactly_is_an_error() {
    let hole = |offset, len| ChunkBody::OffsetHole { offset, len };
    for chunks in [
        vec![data(10, b"abc")],
        vec![hole(10, 3)],
        vec![data(10, b"ab"), data(14, b"ef")],
        vec![data(10, b"abc"), data(11, b"bcd")],
        vec![data(10, b"abcdefg")],
        vec![data(9, b"abcdef")],
        vec![hole(u64::MAX, 6)],
        vec![hole(10, 6), hole(10, 6)],
        vec![ChunkBody::None],
    ] {
        let text = format!("{chunks:?}");
        let error = read_error(chunks);
        assert!(error.starts_with("the server breaks the NBD protocol: "), "{text}: {error}");
    }
}

#[test]
fn a_failed_read_says_where_and_why() {
    let (error, text) = (WireError::Eio, Text::message("checksum"));
    assert_eq!(
        read_error(vec![data(10, b"abc"), ChunkBody::ErrorOffset { error, text, offset: 13 }]),
        "reading 6 bytes at 10 failed: input/output error (EIO) (it says \"checksum\")"
    );
}

#[test]
fn an_answer_to_nothing_ends_the_connection() {
    let peer = |mut peer: Peer| {
        let cookie = peer.request().0.cookie;
        peer.succeed(Cookie(cookie.0 + 1));
        assert!(!peer.receive());
    };
    let error = transmit(peer, |mut device| device.flush().unwrap_err());
    assert_eq!(
        error.to_string(),
        "the server breaks the NBD protocol: it answers a request that is not under way \
         (requests without an answer: 1)"
    );
}

#[test]
fn a_simple_reply_to_a_read_is_not_taken_for_data() {
    let peer = |mut peer: Peer| {
        let cookie = peer.request().0.cookie;
        peer.succeed(cookie);
    };
    let error = transmit(peer, |mut device| read_all(&mut device, &[span(0, 4)]).unwrap_err());
    assert!(error.to_string().contains("a simple reply where a structured one is due"), "{error}");
}

#[test]
fn sixteen_writes_are_in_flight_and_the_next_waits() {
    let peer = |mut peer: Peer| {
        let cookies: Vec<Cookie> = (0..REQUESTS_MAX).map(|_| peer.request().0.cookie).collect();
        peer.expect_silence();
        peer.succeed(cookies[7]);
        let (last, data) = peer.request();
        assert_eq!((last.offset, &data[..]), (REQUESTS_MAX as u64, &b"x"[..]));
        peer.expect_silence();
    };
    transmit(peer, |mut device| {
        for offset in 0..=REQUESTS_MAX as u64 {
            device.write(offset, Bytes::from_static(b"x")).unwrap();
        }
        assert_eq!(device.finish_all().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    });
}

#[test]
fn data_in_flight_is_bounded() {
    let len = BYTES_MAX / 2 + 1;
    let peer = |mut peer: Peer| {
        let first = peer.request().0;
        peer.expect_silence();
        peer.succeed(first.cookie);
        let second = peer.request().0;
        peer.succeed(second.cookie);
        peer.expect_goodbye();
    };
    transmit(peer, |mut device| {
        device.write(0, Bytes::from(vec![1; len as usize])).unwrap();
        device.write(len, Bytes::from(vec![2; len as usize])).unwrap();
        device.finish_all().unwrap();
    });
}

/// The peer reads one write and then nothing until its long answer is taken, while the client has
/// megabytes to send.
#[test]
fn a_server_that_waits_for_its_replies_to_be_read_does_not_stall() {
    let peer = |mut peer: Peer| {
        let (first, _) = peer.request();
        let offset = 1 << 40;
        let long = ChunkBody::OffsetData { offset, data: Bytes::from(vec![0; 8 << 20]) };
        let mut bytes = BytesMut::new();
        Chunk { cookie: first.cookie, more: More::Follows, body: long }.encode(&mut bytes);
        bytes[6..8].copy_from_slice(&0x8003_u16.to_be_bytes()); // an error of an unknown type
        bytes[20..26].copy_from_slice(&[0, 0, 0, 5, 0, 0]); // EIO, no text, and then something
        peer.socket.write_all(&bytes).unwrap();
        for _ in 1..REQUESTS_MAX {
            let cookie = peer.request().0.cookie;
            peer.succeed(cookie);
        }
        peer.chunk(first.cookie, More::Done, ChunkBody::None);
        assert!(!peer.receive());
    };
    let error = transmit(peer, |mut device| {
        let data = Bytes::from(vec![1; CHUNK_BYTES as usize]);
        for i in 0..REQUESTS_MAX as u64 {
            device.write(i * CHUNK_BYTES, data.clone()).unwrap();
        }
        device.finish_all().unwrap_err()
    });
    assert_eq!(error.to_string(), "writing 1048576 bytes at 0 failed: input/output error (EIO)");
}

#[test]
fn a_failed_write_is_told_by_a_later_call_and_stays_failed() {
    let peer = |mut peer: Peer| {
        let (first, second) = (peer.request().0, peer.request().0);
        peer.succeed(second.cookie);
        peer.fail(first.cookie, WireError::Enospc, "the store is full");
        assert!(!peer.receive(), "nothing more is sent, no goodbye either");
    };
    transmit(peer, |mut device| {
        device.write(0, Bytes::from_static(b"one")).unwrap();
        device.write(8192, Bytes::from_static(b"two")).unwrap();
        let told =
            "writing 3 bytes at 0 failed: no space left (ENOSPC) (it says \"the store is full\")";
        assert_eq!(device.flush().unwrap_err().to_string(), told);
        assert_eq!(device.flush().unwrap_err().to_string(), "an earlier request failed");
        assert!(device.write(0, Bytes::from_static(b"one")).is_err());
        assert!(device.extents(span(0, 1)).is_err());
    });
}

#[test]
fn a_flush_follows_the_last_reply_and_waits_for_its_own() {
    let peer = |mut peer: Peer| {
        let (write, data) = peer.request();
        assert_eq!((write.command, write.offset, &data[..]), (Command::Write, 5, &b"data"[..]));
        let zero = peer.request().0;
        let wanted = (Command::WriteZeroes, CommandFlags::EMPTY, 1 << 40, 1 << 30);
        assert_eq!((zero.command, zero.flags, zero.offset, zero.len), wanted);
        peer.expect_silence();
        peer.succeed(zero.cookie);
        peer.succeed(write.cookie);
        let flush = peer.request().0;
        assert_eq!((flush.command, flush.offset, flush.len), (Command::Flush, 0, 0));
        peer.fail(flush.cookie, WireError::Eio, "");
    };
    let error = transmit(peer, |mut device| {
        device.write(5, Bytes::from_static(b"data")).unwrap();
        device.zero(span(1 << 40, 1 << 30)).unwrap();
        device.flush().unwrap_err()
    });
    assert_eq!(error.to_string(), "making all durable failed: input/output error (EIO)");
}

#[test]
fn only_what_is_said_to_be_zero_is_not_read() {
    let peer = |mut peer: Peer| {
        let request = peer.request().0;
        assert_eq!((request.command, request.flags), (Command::BlockStatus, CommandFlags::EMPTY));
        assert_eq!((request.offset, request.len), (4096, u32::MAX));
        let descriptors = [0, 1, 2, 3]
            .map(|bits| BlockDescriptor { len: 10 + bits, flags: StatusFlags::from_bits(bits) })
            .to_vec();
        let context_id = ALLOCATION.id;
        peer.chunk(request.cookie, More::Done, ChunkBody::BlockStatus { context_id, descriptors });
        peer.expect_goodbye();
    };
    let extents = transmit(peer, |mut device| device.extents(span(4096, 1 << 40)).unwrap());
    let lens: Vec<u64> = extents.iter().map(|extent| extent.len).collect();
    let contents: Vec<Content> = extents.iter().map(|extent| extent.content).collect();
    assert_eq!(lens, [10, 11, 12, 13]);
    assert_eq!(contents, [Content::Data, Content::Data, Content::Zero, Content::Zero]);
}

#[test]
fn a_read_only_export_is_not_written_to() {
    let peer = |mut peer: Peer| {
        peer.shake_hands(TransmissionFlags::for_export(Access::ReadOnly));
        peer.expect_goodbye();
    };
    talk(peer, |socket| {
        let mut device = NbdClient::over(socket, "disk").unwrap();
        let error = device.write(0, Bytes::from_static(b"data")).unwrap_err();
        assert_eq!(error.to_string(), "the export is read-only");
        assert!(device.zero(span(0, 1)).is_err());
    });
}

#[test]
fn a_server_that_goes_away_is_told_with_what_it_owes() {
    let peer = |mut peer: Peer| drop((peer.request(), peer.request()));
    let error = transmit(peer, |mut device| {
        device.write(0, Bytes::from_static(b"one")).unwrap();
        device.write(8192, Bytes::from_static(b"two")).unwrap();
        device.flush().unwrap_err()
    });
    assert_eq!(
        error.to_string(),
        "the server closed the connection (requests without an answer: 2)"
    );
}

/// Serves `disk` from memory until the goodbye, each answer in its turn.
fn serve(peer: &mut Peer, disk: &mut [u8]) {
    loop {
        let (request, data) = peer.request();
        let (cookie, start) = (request.cookie, request.offset as usize);
        let range = start..start + request.len as usize;
        match request.command {
            Command::Read => {
                let data = Bytes::copy_from_slice(&disk[range]);
                peer.chunk(
                    cookie,
                    More::Done,
                    ChunkBody::OffsetData { offset: request.offset, data },
                );
            }
            Command::BlockStatus => {
                let block = &disk[start..start + 4096];
                let zero = block.iter().all(|byte| *byte == 0);
                let flags =
                    if zero { AllocationFlags::ZERO } else { AllocationFlags::EMPTY }.into();
                let descriptors = vec![BlockDescriptor { len: 4096, flags }];
                let context_id = ALLOCATION.id;
                peer.chunk(cookie, More::Done, ChunkBody::BlockStatus { context_id, descriptors });
            }
            Command::Write => {
                disk[range].copy_from_slice(&data);
                peer.succeed(cookie);
            }
            Command::WriteZeroes => {
                disk[range].fill(0);
                peer.succeed(cookie);
            }
            Command::Flush => peer.succeed(cookie),
            Command::Disconnect => return,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn an_image_goes_in_and_comes_out_over_the_wire() {
    let directory = tempfile::tempdir().unwrap();
    let (path, out) = (directory.path().join("in.raw"), directory.path().join("out.raw"));
    let image = fs::File::create(&path).unwrap();
    image.set_len(SIZE - 1000).unwrap();
    for (i, at) in [0, 5 * CHUNK_BYTES - 7, 40 * CHUNK_BYTES].into_iter().enumerate() {
        image.write_all_at(&vec![i as u8 + 1; 3 * CHUNK_BYTES as usize / 2], at).unwrap();
    }
    let mut disk = vec![0xee; SIZE as usize];
    let peer = |mut peer: Peer| serve(&mut peer, &mut disk);
    transmit(peer, |mut device| {
        let progress = Progress::new(SIZE, Audience::Programs);
        transfer::import(
            &open(&path).map(Source::of).unwrap(),
            &mut device,
            Before::Anything,
            &progress,
        )
        .unwrap();
        let target = Target::create(&out, device.size_bytes()).unwrap();
        transfer::export(&mut device, &target, &progress, &Interrupt::default()).unwrap();
        target.finish().unwrap();
    });
    let (wanted, came) = (fs::read(&path).unwrap(), fs::read(&out).unwrap());
    assert!(
        came[..wanted.len()] == wanted[..] && came[wanted.len()..].iter().all(|byte| *byte == 0xee)
    );
    assert!(came == disk);
}
