//! NBD from the specification, byte by byte and blocking: a client that may misbehave.
//!
//! Written a second time on purpose. The numbers below are copied from doc/proto.md of the
//! NetworkBlockDevice project, "Values", not from our protocol crate.

mod connection;
mod handshake;

pub use connection::{Connection, Failure, Reply};
pub use handshake::{Handshake, OptionReply, go_data, meta_context_data};

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// "NBDMAGIC".
pub const INIT_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// "IHAVEOPT".
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// Before each option reply.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Before each request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Before each simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Before each structured reply chunk.
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;

/// Options, section "Option types".
pub mod option {
    /// Names the export and ends the handshake, the old way.
    pub const EXPORT_NAME: u32 = 1;
    /// Ends the handshake.
    pub const ABORT: u32 = 2;
    /// Asks for the exports.
    pub const LIST: u32 = 3;
    /// Asks for TLS.
    pub const STARTTLS: u32 = 5;
    /// Asks about an export.
    pub const INFO: u32 = 6;
    /// Asks about an export and begins transmission.
    pub const GO: u32 = 7;
    /// Asks for structured replies.
    pub const STRUCTURED_REPLY: u32 = 8;
    /// Asks which metadata contexts there are.
    pub const LIST_META_CONTEXT: u32 = 9;
    /// Chooses metadata contexts.
    pub const SET_META_CONTEXT: u32 = 10;
    /// Asks for 64-bit requests.
    pub const EXTENDED_HEADERS: u32 = 11;
}

/// Option replies, section "Option reply types".
pub mod reply {
    /// The option is done.
    pub const ACK: u32 = 1;
    /// One export of a list.
    pub const SERVER: u32 = 2;
    /// One information item.
    pub const INFO: u32 = 3;
    /// One metadata context.
    pub const META_CONTEXT: u32 = 4;
    /// The option is not known.
    pub const ERR_UNSUP: u32 = 0x8000_0001;
    /// The administrator forbids it.
    pub const ERR_POLICY: u32 = 0x8000_0002;
    /// The option is malformed.
    pub const ERR_INVALID: u32 = 0x8000_0003;
    /// There is no such export.
    pub const ERR_UNKNOWN: u32 = 0x8000_0006;
    /// The request is too large.
    pub const ERR_TOO_BIG: u32 = 0x8000_0009;
    /// The bit that marks errors.
    pub const ERROR_BIT: u32 = 0x8000_0000;
}

/// Commands, section "Request types".
pub mod command {
    /// Read.
    pub const READ: u16 = 0;
    /// Write, with payload.
    pub const WRITE: u16 = 1;
    /// Disconnect.
    pub const DISC: u16 = 2;
    /// Flush.
    pub const FLUSH: u16 = 3;
    /// Trim.
    pub const TRIM: u16 = 4;
    /// Cache.
    pub const CACHE: u16 = 5;
    /// Write zeroes.
    pub const WRITE_ZEROES: u16 = 6;
    /// Block status.
    pub const BLOCK_STATUS: u16 = 7;
}

/// Command flags, section "Command flags".
pub mod flag {
    /// Durable before the reply.
    pub const FUA: u16 = 1;
    /// Keep the range allocated.
    pub const NO_HOLE: u16 = 1 << 1;
    /// One extent is enough.
    pub const REQ_ONE: u16 = 1 << 3;
}

/// Errors of requests, section "Error values".
pub mod errno {
    /// Not permitted.
    pub const EPERM: u32 = 1;
    /// I/O error.
    pub const EIO: u32 = 5;
    /// Invalid argument.
    pub const EINVAL: u32 = 22;
    /// No space left.
    pub const ENOSPC: u32 = 28;
    /// Value too large.
    pub const EOVERFLOW: u32 = 75;
    /// Server is stopping.
    pub const ESHUTDOWN: u32 = 108;
}

/// State bits of `base:allocation`.
pub mod state {
    /// Not allocated.
    pub const HOLE: u32 = 1;
    /// Reads as zeroes.
    pub const ZERO: u32 = 2;
}

/// No read or write of a test blocks longer: it is an error then.
const IO_LIMIT: Duration = Duration::from_secs(30);

/// The byte stream below, Unix or TCP.
#[derive(Debug)]
pub enum Stream {
    /// Over the Unix socket.
    Unix(UnixStream),
    /// Over TCP.
    Tcp(TcpStream),
}

impl Stream {
    fn limited(self) -> io::Result<Self> {
        match &self {
            Stream::Unix(s) => {
                s.set_read_timeout(Some(IO_LIMIT))?;
                s.set_write_timeout(Some(IO_LIMIT))?;
            }
            Stream::Tcp(s) => {
                s.set_read_timeout(Some(IO_LIMIT))?;
                s.set_write_timeout(Some(IO_LIMIT))?;
                s.set_nodelay(true)?;
            }
        }
        Ok(self)
    }

    /// A second handle of the same connection, for a thread of its own.
    ///
    /// # Errors
    /// When the process has no more file descriptors.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Stream::Unix(s) => Stream::Unix(s.try_clone()?),
            Stream::Tcp(s) => Stream::Tcp(s.try_clone()?),
        })
    }

    /// Says that nothing more will be sent; replies can still come.
    ///
    /// # Errors
    /// When the connection is gone already.
    pub fn finish_sending(&self) -> io::Result<()> {
        match self {
            Stream::Unix(s) => s.shutdown(Shutdown::Write),
            Stream::Tcp(s) => s.shutdown(Shutdown::Write),
        }
    }

    /// Reads until the server closes the connection and gives what still came. A reset counts as
    /// closed.
    ///
    /// # Errors
    /// When the server does not close it within half a minute.
    pub fn read_to_close(&mut self) -> io::Result<Vec<u8>> {
        let mut rest = Vec::new();
        match self.read_to_end(&mut rest) {
            Ok(_) => Ok(rest),
            Err(e) if is_closed(&e) => Ok(rest),
            Err(e) => Err(e),
        }
    }
}

/// Whether an error means that the peer closed the connection, as opposed to silence.
pub fn is_closed(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(s) => s.read(buf),
            Stream::Tcp(s) => s.read(buf),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(s) => s.write(buf),
            Stream::Tcp(s) => s.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn protocol(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn read_u16(from: &mut impl Read) -> io::Result<u16> {
    let mut bytes = [0; 2];
    from.read_exact(&mut bytes)?;
    Ok(u16::from_be_bytes(bytes))
}

fn read_u32(from: &mut impl Read) -> io::Result<u32> {
    let mut bytes = [0; 4];
    from.read_exact(&mut bytes)?;
    Ok(u32::from_be_bytes(bytes))
}

fn read_u64(from: &mut impl Read) -> io::Result<u64> {
    let mut bytes = [0; 8];
    from.read_exact(&mut bytes)?;
    Ok(u64::from_be_bytes(bytes))
}

fn read_bytes(from: &mut impl Read, len: u32) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len as usize];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}
