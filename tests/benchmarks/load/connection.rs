//! One connection that keeps a number of requests in flight, in turns that never wait for the
//! server to take bytes.
//!
//! ```text
//!   receive: as much as there is ─► each reply: record it, put its slot's next request in line ─► send: the whole line
//! ```
//! A slot is one place of the queue depth; its number is the cookie. Received data is counted and
//! not looked at.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::time::Instant;

use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, sendmsg};
use sandstone_tests::Random;
use sandstone_tests::raw::{
    Handshake, OptionReply, REQUEST_MAGIC, SIMPLE_REPLY_MAGIC, Stream, command, go_data, option,
    reply,
};

use crate::histogram::Histogram;
use crate::pattern::Pattern;

const REQUEST_BYTES: usize = 28;
const REPLY_BYTES: usize = 16;
/// Requests of one send: two slices each stay below IOV_MAX.
const REQUESTS_MAX: usize = 128;

/// What a slot waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waits {
    Nothing,
    Read,
    Write,
    /// The flush that ends a write.
    Flush,
}

#[derive(Debug)]
struct Slot {
    waits: Waits,
    begun: Instant,
    /// Writes since its last flush.
    unflushed: u32,
}

/// A request in line.
#[derive(Debug)]
struct Request {
    head: [u8; REQUEST_BYTES],
    /// Where its payload lies in the common bytes.
    payload: Range<usize>,
}

/// Where in the stream of replies we are.
#[derive(Debug)]
enum Inbound {
    /// In a reply's head, of which so many bytes are here.
    Head(usize),
    /// In the data of this slot's read, of which so many bytes are to come.
    Data { slot: usize, left: usize },
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: Stream,
    pattern: Pattern,
    random: Random,
    /// Bytes of the export that are used, and where the next sequential request goes.
    size_bytes: u64,
    next: u64,
    /// Requests that may still begin.
    quota: u64,
    slots: Vec<Slot>,
    line: VecDeque<Request>,
    /// Bytes sent of the first request in line.
    sent: usize,
    payloads: Rc<[u8]>,
    inbound: Inbound,
    head: [u8; REPLY_BYTES],
    in_flight: usize,
    pub(crate) latencies: Histogram,
}

impl Connection {
    /// Connects and begins transmission. `place` of `places` on the same export begins its sequence
    /// at its share of it.
    ///
    /// # Errors
    /// When the server refuses, or the export is smaller than one request.
    pub(crate) fn open(
        uri: &str,
        pattern: Pattern,
        (place, places): (usize, usize),
        seed: u64,
        payloads: Rc<[u8]>,
    ) -> io::Result<Self> {
        let (export, socket) = uri
            .strip_prefix("nbd+unix:///")
            .and_then(|rest| rest.split_once("?socket="))
            .ok_or_else(|| io::Error::other("not nbd+unix:///EXPORT?socket=PATH"))?;
        let mut handshake = Handshake::unix(socket.as_ref())?;
        let replies = handshake.ask(option::GO, &go_data(export))?;
        let size_bytes = export_bytes(&replies)
            .ok_or_else(|| io::Error::other(format!("GO was answered {replies:?}")))?
            .min(pattern.size_bytes.unwrap_or(u64::MAX));
        let block = pattern.block_bytes as u64;
        if size_bytes < block {
            return Err(io::Error::other(format!("an export of {size_bytes} bytes")));
        }
        let now = Instant::now();
        Ok(Self {
            stream: handshake.stream,
            random: Random::new(seed),
            size_bytes,
            next: size_bytes / block * place as u64 / places as u64 * block,
            quota: pattern.quota_bytes.map_or(u64::MAX, |bytes| bytes / block),
            slots: (0..pattern.depth)
                .map(|_| Slot { waits: Waits::Nothing, begun: now, unflushed: 0 })
                .collect(),
            line: VecDeque::with_capacity(pattern.depth),
            sent: 0,
            payloads,
            inbound: Inbound::Head(0),
            head: [0; REPLY_BYTES],
            in_flight: 0,
            latencies: Histogram::new(),
            pattern,
        })
    }

    /// Fills the queue.
    ///
    /// # Errors
    /// When the connection is gone.
    pub(crate) fn begin(&mut self) -> io::Result<()> {
        let now = Instant::now();
        (0..self.slots.len()).for_each(|slot| self.issue(slot, now));
        self.send()
    }

    /// No further request begins; those in flight are still answered.
    pub(crate) fn stop(&mut self) {
        self.quota = 0;
    }

    /// Whether nothing is in flight any more.
    pub(crate) fn is_idle(&self) -> bool {
        self.in_flight == 0
    }

    /// Whether the server's side takes no more bytes for now.
    pub(crate) fn is_blocked(&self) -> bool {
        !self.line.is_empty()
    }

    /// Receives what is there, and sends what follows from it.
    ///
    /// # Errors
    /// When the connection is gone, or the server answered with an error.
    pub(crate) fn turn(&mut self, buffer: &mut [u8], flags: RecvFlags) -> io::Result<()> {
        match recv(self.stream_fd(), &mut *buffer, flags) {
            Ok((0, _)) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok((count, _)) => self.received(&buffer[..count])?,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        self.send()
    }

    fn stream_fd(&self) -> BorrowedFd<'_> {
        match &self.stream {
            Stream::Unix(stream) => stream.as_fd(),
            Stream::Tcp(stream) => stream.as_fd(),
        }
    }

    fn received(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let now = Instant::now();
        while !bytes.is_empty() {
            match &mut self.inbound {
                Inbound::Head(have) => {
                    let count = bytes.len().min(REPLY_BYTES - *have);
                    self.head[*have..*have + count].copy_from_slice(&bytes[..count]);
                    bytes = &bytes[count..];
                    *have += count;
                    if *have == REPLY_BYTES {
                        self.answered(now)?;
                    }
                }
                Inbound::Data { slot, left } => {
                    let count = bytes.len().min(*left);
                    bytes = &bytes[count..];
                    *left -= count;
                    if *left == 0 {
                        let slot = *slot;
                        self.inbound = Inbound::Head(0);
                        self.done(slot, now);
                    }
                }
            }
        }
        Ok(())
    }

    /// A reply's head is here.
    fn answered(&mut self, now: Instant) -> io::Result<()> {
        let (magic, rest) = self.head.split_at(4);
        let (errno, cookie) = rest.split_at(4);
        let slot = u64::from_be_bytes(cookie.try_into().expect("8 bytes")) as usize;
        if magic != SIMPLE_REPLY_MAGIC.to_be_bytes() || slot >= self.slots.len() || errno != [0; 4]
        {
            return Err(io::Error::other(format!("a reply that begins {:x?}", self.head)));
        }
        self.inbound = Inbound::Head(0);
        match self.slots[slot].waits {
            Waits::Nothing => return Err(io::Error::other("a reply that nothing waits for")),
            Waits::Read => self.inbound = Inbound::Data { slot, left: self.pattern.block_bytes },
            Waits::Write if self.slots[slot].unflushed == self.pattern.flush_every => {
                self.slots[slot].unflushed = 0;
                self.slots[slot].waits = Waits::Flush;
                self.put_in_line(command::FLUSH, slot, 0, 0);
            }
            Waits::Write | Waits::Flush => self.done(slot, now),
        }
        Ok(())
    }

    /// What a slot waited for is done.
    fn done(&mut self, slot: usize, now: Instant) {
        let took = now.duration_since(self.slots[slot].begun);
        self.latencies.record(took.as_nanos() as u64);
        self.slots[slot].waits = Waits::Nothing;
        self.in_flight -= 1;
        self.issue(slot, now);
    }

    /// The next request of a slot, if there shall be one.
    fn issue(&mut self, slot: usize, now: Instant) {
        if self.quota == 0 {
            return;
        }
        self.quota -= 1;
        self.in_flight += 1;
        let block = self.pattern.block_bytes as u64;
        let offset = if self.pattern.sequential {
            let offset = self.next;
            self.next = if offset + 2 * block <= self.size_bytes { offset + block } else { 0 };
            offset
        } else {
            self.random.below(self.size_bytes / block) * block
        };
        self.slots[slot].begun = now;
        if self.random.below(100) < u64::from(self.pattern.reads_percent) {
            self.slots[slot].waits = Waits::Read;
            self.put_in_line(command::READ, slot, offset, 0);
        } else {
            self.slots[slot].waits = Waits::Write;
            self.slots[slot].unflushed += 1;
            self.put_in_line(command::WRITE, slot, offset, self.pattern.block_bytes);
        }
    }

    fn put_in_line(&mut self, command: u16, slot: usize, offset: u64, payload_bytes: usize) {
        let length = if command == command::FLUSH { 0 } else { self.pattern.block_bytes as u32 };
        let mut head = [0; REQUEST_BYTES];
        head[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
        head[6..8].copy_from_slice(&command.to_be_bytes());
        head[8..16].copy_from_slice(&(slot as u64).to_be_bytes());
        head[16..24].copy_from_slice(&offset.to_be_bytes());
        head[24..].copy_from_slice(&length.to_be_bytes());
        // Another piece of the common bytes each time, so that no two writes are alike for long.
        let start = self.random.below((self.payloads.len() - payload_bytes) as u64 + 1) as usize;
        self.line.push_back(Request { head, payload: start..start + payload_bytes });
    }

    /// Sends what is in line, as far as the server's side takes it now.
    fn send(&mut self) -> io::Result<()> {
        while !self.line.is_empty() {
            let mut slices = [IoSlice::new(&[]); 2 * REQUESTS_MAX];
            for (pair, request) in slices.chunks_exact_mut(2).zip(&self.line) {
                pair[0] = IoSlice::new(&request.head);
                pair[1] = IoSlice::new(&self.payloads[request.payload.clone()]);
            }
            let mut left = &mut slices[..2 * self.line.len().min(REQUESTS_MAX)];
            IoSlice::advance_slices(&mut left, self.sent);
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match sendmsg(self.stream_fd(), left, &mut SendAncillaryBuffer::default(), flags) {
                Ok(count) => self.sent += count,
                Err(rustix::io::Errno::AGAIN) => return Ok(()),
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            while let Some(whole) = self.line.front().map(|r| REQUEST_BYTES + r.payload.len())
                && self.sent >= whole
            {
                self.sent -= whole;
                self.line.pop_front();
            }
        }
        Ok(())
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream_fd()
    }
}

/// The size that GO's answer names.
fn export_bytes(replies: &[OptionReply]) -> Option<u64> {
    if replies.iter().any(OptionReply::is_error) {
        return None;
    }
    let export = replies.iter().find(|r| r.kind == reply::INFO && r.data.starts_with(&[0, 0]))?;
    Some(u64::from_be_bytes(export.data.get(2..10)?.try_into().ok()?))
}
