//! The handshake phase, one step at a time.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::connection::Connection;
use super::{
    INIT_MAGIC, OPTION_MAGIC, OPTION_REPLY_MAGIC, Stream, option, protocol, read_bytes, read_u16,
    read_u32, read_u64, reply,
};

/// Fixed newstyle, and no 124 zeroes after EXPORT_NAME.
const CLIENT_FLAGS: u32 = 0b11;

/// One reply to an option.
#[derive(Debug)]
pub struct OptionReply {
    /// The option it answers.
    pub option: u32,
    /// Its type.
    pub kind: u32,
    /// Its data.
    pub data: Vec<u8>,
}

impl OptionReply {
    /// Whether it is an error.
    pub fn is_error(&self) -> bool {
        self.kind & reply::ERROR_BIT != 0
    }

    /// The text of an error.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.data).into_owned()
    }
}

/// A connection that has seen the greeting.
#[derive(Debug)]
pub struct Handshake {
    /// The connection itself, for bytes of the test's own.
    pub stream: Stream,
    /// The handshake flags of the greeting.
    pub flags: u16,
    flags_sent: bool,
    structured: bool,
}

impl Handshake {
    /// Connects over a Unix socket and reads the greeting.
    ///
    /// # Errors
    /// When there is no connection or no greeting.
    pub fn unix(path: &Path) -> io::Result<Self> {
        Self::greeted(Stream::Unix(UnixStream::connect(path)?))
    }

    /// Connects over TCP and reads the greeting.
    ///
    /// # Errors
    /// When there is no connection or no greeting.
    pub fn tcp(address: SocketAddr) -> io::Result<Self> {
        Self::greeted(Stream::Tcp(TcpStream::connect(address)?))
    }

    fn greeted(stream: Stream) -> io::Result<Self> {
        let mut stream = stream.limited()?;
        let (init, options) = (read_u64(&mut stream)?, read_u64(&mut stream)?);
        if (init, options) != (INIT_MAGIC, OPTION_MAGIC) {
            return Err(protocol(format!("a greeting of {init:#x} {options:#x}")));
        }
        let flags = read_u16(&mut stream)?;
        Ok(Self { stream, flags, flags_sent: false, structured: false })
    }

    /// Sends client flags; without this the first option sends the usual ones.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn send_flags(&mut self, flags: u32) -> io::Result<()> {
        self.flags_sent = true;
        self.stream.write_all(&flags.to_be_bytes())
    }

    /// Sends an option.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn send_option(&mut self, option: u32, data: &[u8]) -> io::Result<()> {
        self.send_option_head(option, data.len() as u32)?;
        self.stream.write_all(data)
    }

    /// Sends an option's header that promises `len` bytes of data.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn send_option_head(&mut self, option: u32, len: u32) -> io::Result<()> {
        if !self.flags_sent {
            self.send_flags(CLIENT_FLAGS)?;
        }
        let mut head = Vec::with_capacity(16);
        head.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
        head.extend_from_slice(&option.to_be_bytes());
        head.extend_from_slice(&len.to_be_bytes());
        self.stream.write_all(&head)
    }

    /// Reads one reply.
    ///
    /// # Errors
    /// When the connection is gone or speaks something else.
    pub fn read_reply(&mut self) -> io::Result<OptionReply> {
        let magic = read_u64(&mut self.stream)?;
        if magic != OPTION_REPLY_MAGIC {
            return Err(protocol(format!("an option reply that begins with {magic:#x}")));
        }
        let option = read_u32(&mut self.stream)?;
        let kind = read_u32(&mut self.stream)?;
        let len = read_u32(&mut self.stream)?;
        Ok(OptionReply { option, kind, data: read_bytes(&mut self.stream, len)? })
    }

    /// Sends an option and reads replies until one that ends it: ACK or an error.
    ///
    /// # Errors
    /// When the connection is gone or speaks something else.
    pub fn ask(&mut self, option: u32, data: &[u8]) -> io::Result<Vec<OptionReply>> {
        self.send_option(option, data)?;
        let mut replies = Vec::new();
        loop {
            let one = self.read_reply()?;
            if one.option != option {
                return Err(protocol(format!("{one:?} answers another option than {option}")));
            }
            let last = one.kind == reply::ACK || one.is_error();
            replies.push(one);
            if last {
                return Ok(replies);
            }
        }
    }

    /// Agrees on structured replies and `base:allocation` for this export.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn structured(&mut self, export: &str) -> io::Result<()> {
        let replies = self.ask(option::STRUCTURED_REPLY, &[])?;
        if replies.iter().any(OptionReply::is_error) {
            return Err(protocol(format!("no structured replies: {replies:?}")));
        }
        let data = meta_context_data(export, &["base:allocation"]);
        let replies = self.ask(option::SET_META_CONTEXT, &data)?;
        if replies.len() != 2 || replies[0].kind != reply::META_CONTEXT {
            return Err(protocol(format!("no base:allocation: {replies:?}")));
        }
        self.structured = true;
        Ok(())
    }

    /// Begins transmission with GO and no information request, as nbd-client does.
    ///
    /// # Errors
    /// When the server refuses or does not name the size.
    pub fn go(mut self, export: &str) -> io::Result<Connection> {
        let replies = self.ask(option::GO, &go_data(export))?;
        let info = replies.iter().find(|r| r.kind == reply::INFO && r.data.starts_with(&[0, 0]));
        match info.map(|r| r.data.as_slice()) {
            Some([_, _, size @ .., f1, f2])
                if size.len() == 8 && !replies.iter().any(OptionReply::is_error) =>
            {
                let size = size.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
                Ok(Connection::new(
                    self.stream,
                    size,
                    u16::from_be_bytes([*f1, *f2]),
                    self.structured,
                ))
            }
            Some(_) | None => Err(protocol(format!("GO was answered {replies:?}"))),
        }
    }
}

/// The data of INFO and GO for this export, without information requests.
pub fn go_data(export: &str) -> Vec<u8> {
    let mut data = name_data(export);
    data.extend_from_slice(&0u16.to_be_bytes());
    data
}

/// The data of LIST_META_CONTEXT and SET_META_CONTEXT.
pub fn meta_context_data(export: &str, queries: &[&str]) -> Vec<u8> {
    let mut data = name_data(export);
    data.extend_from_slice(&(queries.len() as u32).to_be_bytes());
    for query in queries {
        data.extend_from_slice(&(query.len() as u32).to_be_bytes());
        data.extend_from_slice(query.as_bytes());
    }
    data
}

fn name_data(export: &str) -> Vec<u8> {
    let mut data = Vec::with_capacity(export.len() + 32);
    data.extend_from_slice(&(export.len() as u32).to_be_bytes());
    data.extend_from_slice(export.as_bytes());
    data
}
