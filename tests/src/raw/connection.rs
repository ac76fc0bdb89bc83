//! The transmission phase: one request at a time for plain tests, many in flight for the others.

use std::collections::HashMap;
use std::io::{self, Write};

use super::{
    REQUEST_MAGIC, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC, Stream, command, flag, protocol,
    read_bytes, read_u16, read_u32, read_u64,
};

/// Chunk types, section "Structured reply types".
mod chunk {
    pub(super) const NONE: u16 = 0;
    pub(super) const OFFSET_DATA: u16 = 1;
    pub(super) const OFFSET_HOLE: u16 = 2;
    pub(super) const BLOCK_STATUS: u16 = 5;
    pub(super) const ERROR: u16 = 0x8001;
    pub(super) const ERROR_OFFSET: u16 = 0x8002;
    /// The flag of a reply's last chunk.
    pub(super) const DONE: u16 = 1;
}

/// Why a request has no good answer.
#[derive(Debug)]
pub enum Failure {
    /// The server answered with this error.
    Errno(u32),
    /// The connection is gone or speaks something else.
    Broken(io::Error),
}

impl Failure {
    /// The server's error; panics where the connection broke instead.
    pub fn errno(&self) -> u32 {
        match self {
            Failure::Errno(errno) => *errno,
            Failure::Broken(error) => panic!("no error reply but a broken connection: {error}"),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::Broken(error)
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Errno(errno) => write!(f, "the server answered error {errno}"),
            Failure::Broken(error) => write!(f, "the connection broke: {error}"),
        }
    }
}

impl std::error::Error for Failure {}

/// One whole reply, gathered from its chunks where it had several.
#[derive(Debug)]
pub struct Reply {
    /// The request it answers.
    pub cookie: u64,
    /// 0, or the error.
    pub errno: u32,
    /// What a READ gave.
    pub data: Vec<u8>,
    /// What a BLOCK_STATUS gave: length and state bits.
    pub extents: Vec<(u32, u32)>,
    /// Whether some of the data came as OFFSET_HOLE.
    pub had_hole: bool,
}

/// What is known of a request in flight.
#[derive(Debug)]
struct Pending {
    command: u16,
    offset: u64,
    reply: Reply,
}

/// A connection in transmission.
#[derive(Debug)]
pub struct Connection {
    /// The connection itself, for bytes of the test's own.
    pub stream: Stream,
    /// The export's size.
    pub size_bytes: u64,
    /// The transmission flags.
    pub flags: u16,
    structured: bool,
    cookie: u64,
    pending: HashMap<u64, Pending>,
}

impl Connection {
    pub(super) fn new(stream: Stream, size_bytes: u64, flags: u16, structured: bool) -> Self {
        Self { stream, size_bytes, flags, structured, cookie: 0, pending: HashMap::new() }
    }

    /// Reads.
    ///
    /// # Errors
    /// The server's error, or a broken connection.
    pub fn read(&mut self, offset: u64, len: u32) -> Result<Vec<u8>, Failure> {
        Ok(self.one(0, command::READ, offset, len, &[])?.data)
    }

    /// Writes.
    ///
    /// # Errors
    /// The server's error, or a broken connection.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), Failure> {
        self.one(0, command::WRITE, offset, data.len() as u32, data).map(drop)
    }

    /// Writes with FUA.
    ///
    /// # Errors
    /// The server's error, or a broken connection.
    pub fn write_fua(&mut self, offset: u64, data: &[u8]) -> Result<(), Failure> {
        self.one(flag::FUA, command::WRITE, offset, data.len() as u32, data).map(drop)
    }

    /// Flushes.
    ///
    /// # Errors
    /// The server's error, or a broken connection.
    pub fn flush(&mut self) -> Result<(), Failure> {
        self.one(0, command::FLUSH, 0, 0, &[]).map(drop)
    }

    /// Trims.
    ///
    /// # Errors
    /// The server's error, or a broken connection.
    pub fn trim(&mut self, offset: u64, len: u32) -> Result<(), Failure> {
        self.one(0, command::TRIM, offset, len, &[]).map(drop)
    }

    /// Writes zeroes; `flags` may hold NO_HOLE.
    ///
    /// # Errors
    /// The server's error, or a broken connection.
    pub fn write_zeroes(&mut self, flags: u16, offset: u64, len: u32) -> Result<(), Failure> {
        self.one(flags, command::WRITE_ZEROES, offset, len, &[]).map(drop)
    }

    /// Asks for block status; `flags` may hold REQ_ONE. Gives lengths and state bits.
    ///
    /// # Errors
    /// The server's error, or a broken connection.
    pub fn block_status(
        &mut self,
        flags: u16,
        offset: u64,
        len: u32,
    ) -> Result<Vec<(u32, u32)>, Failure> {
        Ok(self.one(flags, command::BLOCK_STATUS, offset, len, &[])?.extents)
    }

    /// Sends DISC and waits for the server to close.
    ///
    /// # Errors
    /// When the server does not close.
    pub fn disconnect(mut self) -> io::Result<()> {
        self.send(0, command::DISC, 0, 0, &[])?;
        match self.stream.read_to_close()? {
            rest if rest.is_empty() => Ok(()),
            rest => Err(protocol(format!("{} bytes after DISC", rest.len()))),
        }
    }

    /// One request and its reply.
    ///
    /// # Errors
    /// The server's error, or a broken connection.
    pub fn one(
        &mut self,
        flags: u16,
        cmd: u16,
        offset: u64,
        len: u32,
        data: &[u8],
    ) -> Result<Reply, Failure> {
        let cookie = self.send(flags, cmd, offset, len, data)?;
        let reply = self.receive()?;
        match reply {
            r if r.cookie != cookie => {
                Err(protocol(format!("a reply to {} instead of {cookie}", r.cookie)).into())
            }
            Reply { errno: 0, .. } => Ok(reply),
            Reply { errno, .. } => Err(Failure::Errno(errno)),
        }
    }

    /// Sends a request and does not wait; `len` need not match `data`.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn send(
        &mut self,
        flags: u16,
        cmd: u16,
        offset: u64,
        len: u32,
        data: &[u8],
    ) -> io::Result<u64> {
        self.cookie += 1;
        let cookie = self.cookie;
        let mut bytes = Vec::with_capacity(28 + data.len());
        bytes.extend_from_slice(&REQUEST_MAGIC.to_be_bytes());
        bytes.extend_from_slice(&flags.to_be_bytes());
        bytes.extend_from_slice(&cmd.to_be_bytes());
        bytes.extend_from_slice(&cookie.to_be_bytes());
        bytes.extend_from_slice(&offset.to_be_bytes());
        bytes.extend_from_slice(&len.to_be_bytes());
        bytes.extend_from_slice(data);
        let reply =
            Reply { cookie, errno: 0, data: Vec::new(), extents: Vec::new(), had_hole: false };
        let mut pending = Pending { command: cmd, offset, reply };
        if cmd == command::READ && self.structured {
            pending.reply.data = vec![0; len as usize];
        } else if cmd == command::READ {
            // Remembered for the reply, which does not say how much follows.
            pending.reply.extents.push((len, 0));
        }
        self.pending.insert(cookie, pending);
        self.stream.write_all(&bytes)?;
        Ok(cookie)
    }

    /// How many requests have no reply yet.
    pub fn in_flight(&self) -> usize {
        self.pending.len()
    }

    /// Waits for the next whole reply, whichever request it answers.
    ///
    /// # Errors
    /// When the connection is gone or speaks something else.
    pub fn receive(&mut self) -> io::Result<Reply> {
        loop {
            match read_u32(&mut self.stream)? {
                SIMPLE_REPLY_MAGIC => return self.simple(),
                STRUCTURED_REPLY_MAGIC if self.structured => {
                    if let Some(reply) = self.chunk()? {
                        return Ok(reply);
                    }
                }
                magic => return Err(protocol(format!("a reply that begins with {magic:#x}"))),
            }
        }
    }

    fn simple(&mut self) -> io::Result<Reply> {
        let errno = read_u32(&mut self.stream)?;
        let cookie = read_u64(&mut self.stream)?;
        let Some(Pending { command, mut reply, .. }) = self.pending.remove(&cookie) else {
            return Err(protocol(format!("a reply to {cookie}, which was not asked")));
        };
        reply.errno = errno;
        if command == command::READ {
            if self.structured {
                return Err(protocol(
                    "a simple reply to READ after structured replies were agreed".to_owned(),
                ));
            }
            let len = reply.extents.pop().map_or(0, |(len, _)| len);
            if errno == 0 {
                reply.data = read_bytes(&mut self.stream, len)?;
            }
        }
        Ok(reply)
    }

    /// Reads one chunk; gives the reply when it was the last.
    fn chunk(&mut self) -> io::Result<Option<Reply>> {
        let flags = read_u16(&mut self.stream)?;
        let kind = read_u16(&mut self.stream)?;
        let cookie = read_u64(&mut self.stream)?;
        let len = read_u32(&mut self.stream)?;
        let payload = read_bytes(&mut self.stream, len)?;
        let Some(pending) = self.pending.get_mut(&cookie) else {
            return Err(protocol(format!("a chunk for {cookie}, which was not asked")));
        };
        let malformed = || protocol(format!("a chunk of type {kind} with {len} bytes"));
        let mut rest = payload.as_slice();
        match kind {
            chunk::NONE => {}
            chunk::OFFSET_DATA => {
                let at = read_u64(&mut rest)?.wrapping_sub(pending.offset) as usize;
                let place =
                    at.checked_add(rest.len()).and_then(|end| pending.reply.data.get_mut(at..end));
                place.ok_or_else(malformed)?.copy_from_slice(rest);
            }
            chunk::OFFSET_HOLE => {
                let at = read_u64(&mut rest)?.wrapping_sub(pending.offset) as usize;
                let end = at.checked_add(read_u32(&mut rest)? as usize);
                let place = end.and_then(|end| pending.reply.data.get_mut(at..end));
                place.ok_or_else(malformed)?.fill(0);
                pending.reply.had_hole = true;
            }
            chunk::BLOCK_STATUS => {
                read_u32(&mut rest)?; // the context's id: only one was chosen
                while !rest.is_empty() {
                    pending.reply.extents.push((read_u32(&mut rest)?, read_u32(&mut rest)?));
                }
            }
            chunk::ERROR | chunk::ERROR_OFFSET => pending.reply.errno = read_u32(&mut rest)?,
            _ => return Err(malformed()),
        }
        if flags & chunk::DONE == 0 {
            return Ok(None);
        }
        Ok(self.pending.remove(&cookie).map(|p| p.reply))
    }
}
