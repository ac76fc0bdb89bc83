//! The client's side of the handshake: structured replies, then `base:allocation`, then the export.
//!
//! All of it is insisted on. The server is our own and has it, and an export without block status
//! would read every hole.
//!
//! Source: "Fixed newstyle negotiation", "Option types", "Size constraints".

use super::stream::{Receiver, nonsense};
use crate::cli::copy::CHUNK_BYTES;
use bytes::BytesMut;
use sandstone_protocol::{
    BlockSizes, ClientFlags, DecodeError, Greeting, HandshakeFlags, Info, InfoRequest, InfoType,
    MetaContext, MetaQuery, OptionError, OptionReply, OptionRequest, ReplyBody, Text,
    TransmissionFlags, escaped,
};
use std::{
    io::{self, Write},
    time::Duration,
};

/// How long a server may be silent during the handshake, in which it has nothing to do that takes
/// time. A guess.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Sizes of a server that does not tell any ("Size constraints").
const SIZES_UNTOLD: BlockSizes =
    BlockSizes { minimum: 1, preferred: 4096, maximum_payload: 32 << 20 };

/// An export in transmission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Export {
    pub(super) size_bytes: u64,
    pub(super) flags: TransmissionFlags,
    /// Stands for `base:allocation` in block status replies.
    pub(super) context_id: u32,
}

/// Asks for an export on a new connection.
pub(super) fn shake_hands(receiver: &mut Receiver, export_name: &str) -> io::Result<Export> {
    let name = Text::new(export_name).map_err(|flaw| {
        io::Error::new(io::ErrorKind::InvalidInput, format!("the export's name is {flaw}"))
    })?;
    receiver.socket().set_read_timeout(Some(SILENCE_MAX))?;
    let export = Handshake { receiver }.lead(name)?;
    // From here on a reply takes as long as it takes: a flush waits for disks.
    receiver.socket().set_read_timeout(None)?;
    Ok(export)
}

struct Handshake<'a> {
    receiver: &'a mut Receiver,
}

impl Handshake<'_> {
    fn lead(&mut self, name: Text) -> io::Result<Export> {
        let greeting = self.message(Greeting::decode)?;
        if !greeting.flags.contains(HandshakeFlags::FIXED_NEWSTYLE) {
            return Err(io::Error::other("the server speaks an NBD that is too old"));
        }
        let mut flags = BytesMut::new();
        ClientFlags::FIXED_NEWSTYLE.encode(&mut flags);
        self.write(&flags)?;

        self.ask(&OptionRequest::StructuredReply, || "structured replies".to_owned())?;
        let context_id = self.select_allocation(&name)?;
        let (size_bytes, flags) = self.go(name)?;
        Ok(Export { size_bytes, flags, context_id })
    }

    fn select_allocation(&mut self, name: &Text) -> io::Result<u32> {
        let wanted = MetaContext::BaseAllocation.name();
        let query = MetaQuery { name: name.clone(), queries: vec![wanted.clone()] };
        let what = || format!("the block status of export {}", escaped(name));
        let replies = self.ask(&OptionRequest::SetMetaContext(query), what)?;
        let selected = replies.into_iter().find_map(|reply| match reply {
            ReplyBody::MetaContext { id, name } if name == wanted => Some(id),
            _ => None,
        });
        selected.ok_or_else(|| io::Error::other(format!("the server has no {wanted}")))
    }

    fn go(&mut self, name: Text) -> io::Result<(u64, TransmissionFlags)> {
        let what = {
            let name = name.clone();
            move || format!("export {}", escaped(&name))
        };
        let request = InfoRequest { name, facts: vec![InfoType::BlockSize] };
        let (mut export, mut sizes) = (None, SIZES_UNTOLD);
        for reply in self.ask(&OptionRequest::Go(request), what)? {
            match reply {
                ReplyBody::Info(Info::Export { size_bytes, flags }) => {
                    export = Some((size_bytes, flags))
                }
                ReplyBody::Info(Info::BlockSize(told)) => sizes = told,
                _ => {} // "the client MUST ignore information types that it does not recognize"
            }
        }
        // Images end anywhere, and are cut without regard to the server.
        if sizes.minimum > 1 || u64::from(sizes.maximum_payload) < CHUNK_BYTES {
            return Err(io::Error::other(format!(
                "the server takes requests only in units of {} and up to {} bytes",
                sizes.minimum, sizes.maximum_payload
            )));
        }
        export.ok_or_else(|| nonsense("it says nothing about the export"))
    }

    /// Sends an option and collects what comes before its ACK. `what` names the wish in the error
    /// of a refusal.
    fn ask(
        &mut self,
        option: &OptionRequest,
        what: impl Fn() -> String,
    ) -> io::Result<Vec<ReplyBody>> {
        /// More than any server has to say about one export. A guess.
        const REPLIES_MAX: usize = 64;

        self.send(option)?;
        let mut replies = Vec::new();
        loop {
            let reply = self.message(OptionReply::decode)?;
            if reply.option != option.code() {
                return Err(nonsense("it answers an option that was not asked"));
            }
            match reply.body {
                ReplyBody::Ack => return Ok(replies),
                ReplyBody::Error { error, text } => {
                    // A courtesy; the refusal is what counts.
                    let _said = self.send(&OptionRequest::Abort);
                    return Err(refusal(&what(), error, &text));
                }
                _ if replies.len() == REPLIES_MAX => {
                    return Err(nonsense("it answers an option for ever"));
                }
                body => replies.push(body),
            }
        }
    }

    fn message<T>(
        &mut self,
        decode: impl Fn(&mut BytesMut) -> Result<Option<T>, DecodeError>,
    ) -> io::Result<T> {
        self.receiver.message(decode).map_err(during)
    }

    /// Waits for the socket, which cannot block for long: the server has read what came before.
    fn send(&mut self, option: &OptionRequest) -> io::Result<()> {
        let mut bytes = BytesMut::new();
        option.encode(&mut bytes);
        self.write(&bytes)
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        self.receiver.socket().write_all(bytes).map_err(during)
    }
}

fn during(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{error} (during the handshake)"))
}

fn refusal(what: &str, error: OptionError, text: &Text) -> io::Error {
    io::Error::other(format!("the server refuses {what}: {error}{}", said(text)))
}

/// What the server said, for the end of an error.
pub(super) fn said(text: &Text) -> String {
    if text.is_empty() { String::new() } else { format!(" (it says {})", escaped(text)) }
}
