//! The connection of the NBD client: messages in, messages out.
//!
//! The two directions never wait for each other. A thread of its own sends, so that the owner of
//! the [`Receiver`] can always receive: a server may stop reading requests until its replies are
//! read, and then goes on.

use crate::{cli::copy::CHUNK_BYTES, net::Place};
use bytes::{Buf, Bytes, BytesMut};
use sandstone_protocol::DecodeError;
use std::{
    io::{self, IoSlice, Read, Write},
    net::{Shutdown, TcpStream},
    os::{fd::OwnedFd, unix::net::UnixStream},
    sync::mpsc::{self, SyncSender},
    thread::{self, JoinHandle},
};

/// Most bytes of one receive. Below the room of a message, because each receive has to clear its
/// part of the buffer first.
const RECEIVE_BYTES: usize = 256 << 10;

/// Room that is made when a buffer is full: the reply to the longest read, with its headers, and
/// one more receive.
const BUFFER_BYTES: usize = CHUNK_BYTES as usize + 2 * RECEIVE_BYTES;

/// Connects. Either kind of stream is a socket, and nothing is done here that tells them apart: one
/// type will do.
pub(super) fn open(place: &Place) -> io::Result<UnixStream> {
    let (opened, name) = match place {
        Place::Tcp(address) => (open_tcp(address), address.clone()),
        Place::Unix(path) => (UnixStream::connect(path), path.display().to_string()),
    };
    opened
        .map_err(|error| io::Error::new(error.kind(), format!("no connection to {name}: {error}")))
}

fn open_tcp(address: &str) -> io::Result<UnixStream> {
    let stream = TcpStream::connect(address)?;
    // A small request would wait for the acknowledgement of the one before.
    stream.set_nodelay(true)?;
    Ok(UnixStream::from(OwnedFd::from(stream)))
}

/// The end of the connection where messages come in.
pub(super) struct Receiver {
    socket: UnixStream,
    buffer: BytesMut,
}

impl Receiver {
    pub(super) fn new(socket: UnixStream) -> Receiver {
        Receiver { socket, buffer: BytesMut::new() }
    }

    pub(super) fn socket(&self) -> &UnixStream {
        &self.socket
    }

    /// Waits for a message.
    ///
    /// # Errors
    /// Any: the connection is of no use any more.
    pub(super) fn message<T>(
        &mut self,
        decode: impl Fn(&mut BytesMut) -> Result<Option<T>, DecodeError>,
    ) -> io::Result<T> {
        loop {
            if let Some(message) = decode(&mut self.buffer).map_err(nonsense)? {
                return Ok(message);
            }
            self.receive()?;
        }
    }

    fn receive(&mut self) -> io::Result<()> {
        let len = self.buffer.len();
        if self.buffer.capacity() - len < RECEIVE_BYTES {
            self.buffer.reserve(BUFFER_BYTES);
        }
        self.buffer.resize(len + RECEIVE_BYTES, 0);
        let received = retried(|| (&self.socket).read(&mut self.buffer[len..]));
        self.buffer.truncate(len + received.as_ref().map_or(0, |received| *received));
        match received {
            Ok(0) => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the server closed the connection",
            )),
            Ok(_) => Ok(()),
            // A socket whose timeout is over says that it would block.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Err(io::Error::new(io::ErrorKind::TimedOut, "the server does not answer"))
            }
            Err(error) => {
                Err(io::Error::new(error.kind(), format!("the connection broke: {error}")))
            }
        }
    }
}

/// What the server sent cannot be: the connection must end.
pub(super) fn nonsense(flaw: impl std::fmt::Display) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the server breaks the NBD protocol: {flaw}"),
    )
}

/// A request's header, and the data of a write.
type Message = bytes::buf::Chain<Bytes, Bytes>;

/// The end of the connection where requests go out, in the order they were given.
pub(super) struct Sender {
    queue: Option<SyncSender<Message>>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Sender {
    /// A sender that keeps `messages_max` in its queue.
    pub(super) fn start(socket: UnixStream, messages_max: usize) -> io::Result<Sender> {
        let (queue, messages) = mpsc::sync_channel::<Message>(messages_max);
        let send = move || {
            let sent = messages.iter().try_for_each(|message| send(&socket, message));
            if sent.is_err() {
                // Wakes the receiver. It fails where there is none.
                let _closed = socket.shutdown(Shutdown::Both);
            }
            sent
        };
        let thread = thread::Builder::new().name("nbd-send".to_owned()).spawn(send)?;
        Ok(Sender { queue: Some(queue), thread: Some(thread) })
    }

    /// Begins to send; waits only where the queue is full. A failure is heard by the receiver.
    pub(super) fn send(&self, header: Bytes, data: Bytes) {
        if let Some(queue) = &self.queue {
            let _ended = queue.send(header.chain(data));
        }
    }

    /// Waits until all is sent, and says whether it was.
    pub(super) fn end(&mut self) -> io::Result<()> {
        self.queue = None;
        let ended = self.thread.take().map(JoinHandle::join);
        ended
            .unwrap_or(Ok(Ok(())))
            .unwrap_or_else(|_| Err(io::Error::other("the sending thread panicked")))
    }
}

fn send(mut socket: &UnixStream, mut message: Message) -> io::Result<()> {
    while message.has_remaining() {
        let mut slices = [IoSlice::new(&[]); 2];
        let count = message.chunks_vectored(&mut slices);
        match retried(|| socket.write_vectored(&slices[..count]))? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            sent => message.advance(sent),
        }
    }
    Ok(())
}

fn retried(mut operation: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match operation() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
