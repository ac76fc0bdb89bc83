//! A volume over NBD, from the client's side.
//!
//! ```text
//!   begin ─► pending ─► sender's thread ─► server ─► receiver ─► finish_one
//!              ▲ waits for room, by finishing others │
//!              └─────────────────────────────────────┘
//! ```
//!
//! I1  What waits, receives: nothing here waits for the sender while a reply may be due (see
//!     `stream`).
//! I2  What is pending is bounded in number and bytes, and so is what a server can make us hold.
//! I3  A flush is sent when nothing is pending: it covers only writes whose replies have been sent.
//! I4  After an error nothing succeeds any more.
//!
//! Source: "Transmission phase", "Structured reply types".

use super::{
    handshake::{self, Export, said},
    stream::{self, Receiver, Sender, nonsense},
};
use crate::{
    cli::copy::{CHUNK_BYTES, Content, CopyError, Device, Extent, Span, buffer},
    net::ExportAddress,
};
use bytes::{Bytes, BytesMut};
use sandstone_protocol::{
    AllocationFlags, BlockDescriptor, ChunkBody, Command, CommandFlags, Cookie, More,
    REQUEST_BYTES, Reply, Request, Text, TransmissionFlags, WireError,
};
use std::{
    collections::{HashMap, hash_map::Entry},
    io,
    net::Shutdown,
    os::unix::net::UnixStream,
};

/// Most requests in flight. A guess: enough of the longest to keep a server on the same host busy.
const REQUESTS_MAX: usize = 16;

/// Most bytes of data in flight.
const BYTES_MAX: u64 = REQUESTS_MAX as u64 * CHUNK_BYTES;

/// A connection in transmission.
pub(super) struct NbdClient {
    receiver: Receiver,
    sender: Sender,
    export: Export,
    pending: HashMap<Cookie, Pending>,
    /// Of all that is pending: the data of reads and writes.
    pending_bytes: u64,
    cookies: u64,
    health: Health,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    Good,
    /// A request failed, or the connection did.
    Failed,
}

/// Connects to an export.
pub(super) fn connect(address: &ExportAddress) -> io::Result<NbdClient> {
    NbdClient::over(stream::open(&address.place)?, &address.export_name)
}

impl NbdClient {
    fn over(socket: UnixStream, export_name: &str) -> io::Result<NbdClient> {
        // One place more for the goodbye, so that sending never waits.
        let sender = Sender::start(socket.try_clone()?, REQUESTS_MAX + 1)?;
        let mut receiver = Receiver::new(socket);
        let export = handshake::shake_hands(&mut receiver, export_name)?;
        Ok(NbdClient {
            receiver,
            sender,
            export,
            pending: HashMap::new(),
            pending_bytes: 0,
            cookies: 0,
            health: Health::Good,
        })
    }

    fn has_room(&self, data_bytes: u64) -> bool {
        self.pending.is_empty()
            || self.pending.len() < REQUESTS_MAX && self.pending_bytes + data_bytes <= BYTES_MAX
    }

    fn begin_when_there_is_room(
        &mut self,
        command: Command,
        span: Span,
        data: Bytes,
    ) -> io::Result<()> {
        while !self.has_room(data.len() as u64) {
            self.finish_one()?;
        }
        self.begin(command, span, data)
    }

    fn begin(&mut self, command: Command, span: Span, data: Bytes) -> io::Result<()> {
        self.check_health()?;
        let cookie = Cookie(self.cookies);
        self.cookies += 1;
        let len = u32::try_from(span.len).expect("a request is below 4 GiB");
        let request =
            Request { flags: CommandFlags::EMPTY, command, cookie, offset: span.offset, len };
        let pending = Pending::new(command, span);
        self.pending_bytes += pending.data_bytes();
        self.pending.insert(cookie, pending);
        let mut header = BytesMut::with_capacity(REQUEST_BYTES);
        request.encode(&mut header);
        self.sender.send(header.freeze(), data);
        Ok(())
    }

    /// Waits until one of the pending requests is done, whichever is first.
    fn finish_one(&mut self) -> io::Result<Done> {
        self.check_health()?;
        let finished = match self.next_answered() {
            Ok(pending) => pending.finish(),
            Err(error) => Err(self.lost(error)),
        };
        finished.inspect_err(|_| self.health = Health::Failed) // keeps I4
    }

    fn finish_all(&mut self) -> io::Result<()> {
        self.check_health()?;
        while !self.pending.is_empty() {
            self.finish_one()?;
        }
        Ok(())
    }

    /// # Errors
    /// The connection is of no use any more.
    fn next_answered(&mut self) -> io::Result<Pending> {
        loop {
            let reply = self.receiver.message(Reply::decode)?;
            let (cookie, more) = match &reply {
                Reply::Simple(reply) => (reply.cookie, More::Done),
                Reply::Chunk(chunk) => (chunk.cookie, chunk.more),
            };
            let Entry::Occupied(mut entry) = self.pending.entry(cookie) else {
                return Err(nonsense("it answers a request that is not under way"));
            };
            match reply {
                Reply::Simple(reply) => entry.get_mut().simple(reply.result)?,
                Reply::Chunk(chunk) => entry.get_mut().chunk(chunk.body, self.export.context_id)?,
            }
            if more == More::Done {
                let pending = entry.remove();
                self.pending_bytes -= pending.data_bytes();
                return Ok(pending);
            }
        }
    }

    /// Ends a connection that is of no use any more, and says why it is not.
    fn lost(&mut self, received: io::Error) -> io::Error {
        // That it fails means that it is down already.
        let _down = self.receiver.socket().shutdown(Shutdown::Both);
        let error = match self.sender.end() {
            // The sender hears the true reason where it was first to touch the broken socket.
            Err(sent) if received.kind() == io::ErrorKind::UnexpectedEof && !is_gone(&sent) => {
                io::Error::new(sent.kind(), format!("the connection broke: {sent}"))
            }
            Ok(()) | Err(_) => received,
        };
        io::Error::new(
            error.kind(),
            format!("{error} (requests without an answer: {})", self.pending.len()),
        )
    }

    fn check_health(&self) -> io::Result<()> {
        match self.health {
            Health::Good => Ok(()),
            Health::Failed => Err(io::Error::other("an earlier request failed")),
        }
    }

    fn check_offered(&self, needed: TransmissionFlags, what: &str) -> io::Result<()> {
        if self.export.flags.contains(needed) {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!("the server cannot {what} this export"),
        ))
    }

    fn check_writable(&self) -> io::Result<()> {
        if self.export.flags.contains(TransmissionFlags::READ_ONLY) {
            return Err(io::Error::new(
                io::ErrorKind::ReadOnlyFilesystem,
                "the export is read-only",
            ));
        }
        Ok(())
    }
}

/// Whether the error says no more than that no server is there.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

impl Device for NbdClient {
    fn size_bytes(&self) -> u64 {
        self.export.size_bytes
    }

    fn extents(&mut self, span: Span) -> io::Result<Vec<Extent>> {
        self.finish_all()?;
        let len = span.len.min(u64::from(u32::MAX));
        self.begin(Command::BlockStatus, Span { len, ..span }, Bytes::new())?;
        match self.finish_one()? {
            Done::Status(extents) => Ok(extents),
            Done::Read(..) | Done::Other => unreachable!("nothing else is pending"),
        }
    }

    /// # Panics
    /// When a span is longer than 4 GiB.
    fn read(
        &mut self,
        spans: &mut dyn Iterator<Item = Span>,
        take: &mut dyn FnMut(u64, Bytes) -> Result<(), CopyError>,
    ) -> Result<(), CopyError> {
        self.finish_all().map_err(CopyError::Device)?;
        let mut next = spans.next();
        loop {
            while let Some(span) = next
                && self.has_room(span.len)
            {
                self.begin(Command::Read, span, Bytes::new()).map_err(CopyError::Device)?;
                next = spans.next();
            }
            if self.pending.is_empty() {
                return Ok(());
            }
            match self.finish_one().map_err(CopyError::Device)? {
                Done::Read(offset, data) => take(offset, data)?,
                Done::Status(_) | Done::Other => unreachable!("nothing else is pending"),
            }
        }
    }

    /// # Panics
    /// When the data is longer than 4 GiB.
    fn write(&mut self, offset: u64, data: Bytes) -> io::Result<()> {
        self.check_writable()?;
        self.begin_when_there_is_room(Command::Write, Span { offset, len: data.len() as u64 }, data)
    }

    fn zero(&mut self, span: Span) -> io::Result<()> {
        self.check_writable()?;
        self.check_offered(TransmissionFlags::SEND_WRITE_ZEROES, "zero parts of")?;
        self.begin_when_there_is_room(Command::WriteZeroes, span, Bytes::new())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.check_offered(TransmissionFlags::SEND_FLUSH, "make durable what is written to")?;
        self.finish_all()?; // keeps I3
        self.begin(Command::Flush, Span { offset: 0, len: 0 }, Bytes::new())?;
        self.finish_all()
    }
}

impl Drop for NbdClient {
    fn drop(&mut self) {
        // Nothing is lost that a flush has not told of, so the ways in which a goodbye fails are no
        // news.
        if self.health == Health::Good && self.pending.is_empty() {
            let _said = self.begin(Command::Disconnect, Span { offset: 0, len: 0 }, Bytes::new());
        } else {
            let _down = self.receiver.socket().shutdown(Shutdown::Both);
        }
        let _ended = self.sender.end();
    }
}

/// A request that was sent, and what has come back of it.
struct Pending {
    command: Command,
    span: Span,
    answer: Answer,
    failure: Option<(WireError, Text)>,
}

enum Answer {
    /// Of a read: in the order they came, together so many bytes, at most those of the span.
    Pieces { pieces: Vec<Piece>, bytes: u64 },
    /// Of a block status.
    Status(Vec<Extent>),
    /// No more than success or failure.
    Nothing,
}

struct Piece {
    span: Span,
    /// None is zeroes.
    data: Option<Bytes>,
}

/// What came of a request.
#[derive(Debug)]
enum Done {
    Read(u64, Bytes),
    Status(Vec<Extent>),
    Other,
}

impl Pending {
    fn new(command: Command, span: Span) -> Pending {
        let answer = match command {
            Command::Read => Answer::Pieces { pieces: Vec::new(), bytes: 0 },
            Command::BlockStatus => Answer::Status(Vec::new()),
            _ => Answer::Nothing,
        };
        Pending { command, span, answer, failure: None }
    }

    /// Bytes that it takes up at most while it is under way.
    fn data_bytes(&self) -> u64 {
        match self.command {
            Command::Read | Command::Write => self.span.len,
            _ => 0,
        }
    }

    /// # Errors
    /// The reply breaks the protocol.
    fn simple(&mut self, result: Result<(), WireError>) -> io::Result<()> {
        match (result, &self.answer) {
            (Err(error), _) => self.fail(error, Text::default()),
            (Ok(()), Answer::Nothing) => {}
            // The data of a read would follow, but chunks were negotiated.
            (Ok(()), Answer::Pieces { .. } | Answer::Status(_)) => {
                return Err(nonsense("a simple reply where a structured one is due"));
            }
        }
        Ok(())
    }

    /// # Errors
    /// The chunk breaks the protocol.
    fn chunk(&mut self, body: ChunkBody, context_id: u32) -> io::Result<()> {
        match (body, &mut self.answer) {
            (ChunkBody::None, _) => Ok(()),
            (
                ChunkBody::Error { error, text }
                | ChunkBody::ErrorOffset { error, text, .. }
                | ChunkBody::UnknownError { error, text, .. },
                _,
            ) => {
                self.fail(error, text);
                Ok(())
            }
            (ChunkBody::OffsetData { offset, data }, Answer::Pieces { .. }) => {
                self.piece(Span { offset, len: data.len() as u64 }, Some(data))
            }
            (ChunkBody::OffsetHole { offset, len }, Answer::Pieces { .. }) => {
                self.piece(Span { offset, len: len.into() }, None)
            }
            (ChunkBody::BlockStatus { context_id: id, descriptors }, Answer::Status(extents))
                if id == context_id && extents.is_empty() =>
            {
                *extents = descriptors.iter().map(extent).collect();
                Ok(())
            }
            (
                ChunkBody::OffsetData { .. }
                | ChunkBody::OffsetHole { .. }
                | ChunkBody::BlockStatus { .. },
                Answer::Pieces { .. } | Answer::Status(_) | Answer::Nothing,
            ) => Err(nonsense("a chunk that does not fit its request")),
        }
    }

    /// Keeps I2: pieces are held only as long as they fit the span.
    fn piece(&mut self, piece: Span, data: Option<Bytes>) -> io::Result<()> {
        let Answer::Pieces { pieces, bytes } = &mut self.answer else { return Ok(()) };
        *bytes += piece.len;
        if *bytes > self.span.len || !(self.span.offset..self.span.end()).contains(&piece.offset) {
            return Err(nonsense("data that was not asked for"));
        }
        pieces.push(Piece { span: piece, data });
        Ok(())
    }

    /// The first failure of a request is the one that is told.
    fn fail(&mut self, error: WireError, text: Text) {
        self.failure.get_or_insert((error, text));
    }

    fn finish(self) -> io::Result<Done> {
        if let Some((error, text)) = self.failure {
            let (doing, Span { offset, len }) = (doing(self.command), self.span);
            let text = said(&text);
            return Err(io::Error::other(match self.command {
                Command::Flush => format!("{doing} failed: {error}{text}"),
                _ => format!("{doing} {len} bytes at {offset} failed: {error}{text}"),
            }));
        }
        match self.answer {
            Answer::Pieces { pieces, .. } => {
                Ok(Done::Read(self.span.offset, joined(self.span, pieces)?))
            }
            Answer::Status(extents) => Ok(Done::Status(extents)),
            Answer::Nothing => Ok(Done::Other),
        }
    }
}

fn doing(command: Command) -> &'static str {
    match command {
        Command::Read => "reading",
        Command::Write => "writing",
        Command::WriteZeroes => "zeroing",
        Command::BlockStatus => "looking for data in",
        Command::Flush => "making all durable",
        Command::Disconnect | Command::Trim | Command::Cache | Command::Unknown(_) => "asking for",
    }
}

fn extent(descriptor: &BlockDescriptor) -> Extent {
    // A hole that does not say that it is zero may hold anything.
    let is_zero = descriptor.flags.allocation().contains(AllocationFlags::ZERO);
    Extent {
        len: descriptor.len.into(),
        content: if is_zero { Content::Zero } else { Content::Data },
    }
}

/// The data of a read whose pieces came in any order. Each byte must be there once: zeroes in the
/// place of one that is missing would look like data.
fn joined(span: Span, mut pieces: Vec<Piece>) -> io::Result<Bytes> {
    pieces.sort_unstable_by_key(|piece| piece.span.offset);
    let mut end = span.offset;
    for piece in &pieces {
        if piece.span.offset != end {
            return Err(nonsense("data with a gap or an overlap"));
        }
        end = piece.span.end();
    }
    if end != span.end() {
        return Err(nonsense("less data than was asked for"));
    }
    if let [Piece { data: Some(data), .. }] = pieces.as_slice() {
        return Ok(data.clone());
    }
    let mut whole = buffer(span.len)?;
    for Piece { span: at, data } in pieces {
        if let Some(data) = data {
            let start = (at.offset - span.offset) as usize; // below 4 GiB
            whole[start..start + data.len()].copy_from_slice(&data);
        }
    }
    Ok(whole.freeze())
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
