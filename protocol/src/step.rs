//! What the negotiation tells the server to do: first send, then go on.

use bytes::BytesMut;
use thiserror::Error;

use crate::check::Terms;
use crate::error::DecodeError;
use crate::escape::escaped;
use crate::export::ExportNameReply;
use crate::flaw::Flaw;
use crate::lookup::Lookup;
use crate::meta_context::SelectedContext;
use crate::option_reply::{OptionError, OptionReply};
use crate::reply::ReplyMode;
use crate::text::Text;

/// One turn of the handshake: send all of `send`, then do `next`.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct Step {
    /// In this order; may be empty.
    pub send: Vec<HandshakeReply>,
    /// Only after everything was sent.
    pub next: Next,
}

/// A message from the server during the handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HandshakeReply {
    /// To any option but EXPORT_NAME.
    Option(OptionReply),
    /// To EXPORT_NAME.
    ExportName(ExportNameReply),
}

/// How the handshake goes on.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Read the next option and [`handle`](crate::Negotiation::handle) it.
    Option,
    /// Look the export up, then give the look-up back with
    /// [`export_found`](crate::Negotiation::export_found) or
    /// [`export_refused`](crate::Negotiation::export_refused).
    LookUp(Lookup),
    /// Collect the exports, then [`list_found`](crate::Negotiation::list_found) or
    /// [`list_refused`](crate::Negotiation::list_refused).
    List,
    /// The handshake is over: serve requests. Bytes behind the last option are the first request.
    Transmission(Negotiated),
    /// End the connection.
    Close(CloseReason),
}

/// What both sides agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// The export's name as the client gave it.
    pub name: Text,
    /// What requests are checked against.
    pub terms: Terms,
    /// How READ is answered.
    pub reply_mode: ReplyMode,
    /// Contexts to report in each reply to BLOCK_STATUS, one chunk each; empty unless selected for
    /// this very export, at most [`SELECTED_CONTEXTS_MAX`](crate::limits::SELECTED_CONTEXTS_MAX). A
    /// snapshot of a context was there when it was selected, and may be gone since.
    pub contexts: Vec<SelectedContext>,
}

/// Why a server does not give what was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// For programs.
    pub error: OptionError,
    /// For people.
    pub text: Text,
}

/// One entry in the answer to LIST.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedExport {
    /// Its name.
    pub name: Text,
    /// A sentence for people, may be empty.
    pub description: Text,
}

/// Why a handshake ends without an export. Display is a sentence for the log.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CloseReason {
    /// The client said ABORT.
    #[error("the client ended the handshake")]
    Aborted,
    /// The client's flags have bits that we do not know: these. "The server MUST drop the TCP
    /// connection if the client sets an unknown flag" ("Client flags").
    #[error("the client set unknown flags {0:#x}")]
    UnknownClientFlags(u32),
    /// EXPORT_NAME cannot be answered with an error ("Option types").
    #[error("EXPORT_NAME was refused: {}", .0.text)]
    ExportNameRefused(Refusal),
    /// EXPORT_NAME is malformed.
    #[error("EXPORT_NAME was malformed: {0}")]
    ExportNameMalformed(#[source] Flaw),
    /// More options than this; see [`HANDSHAKE_OPTIONS_MAX`](crate::limits::HANDSHAKE_OPTIONS_MAX).
    #[error("the client sent more than {0} options")]
    TooManyOptions(u32),
    /// Bytes that are no option. For the server's own use: the negotiation never sees them.
    #[error("the client's bytes make no sense: {0}")]
    Garbage(#[from] DecodeError),
}

impl Step {
    /// Appends all that is to be sent.
    pub fn encode(&self, out: &mut BytesMut) {
        for reply in &self.send {
            match reply {
                HandshakeReply::Option(reply) => reply.encode(out),
                HandshakeReply::ExportName(reply) => reply.encode(out),
            }
        }
    }
}

impl Refusal {
    /// A refusal with a text; what the client must not inject is escaped, what is too long is cut.
    pub fn new(error: OptionError, text: impl AsRef<str>) -> Refusal {
        Refusal { error, text: Text::message(text.as_ref()) }
    }

    /// There is no export of that name.
    pub fn unknown_export(name: &Text) -> Refusal {
        let text = match name.as_str() {
            "" => "there is no default export, name one".to_owned(),
            name => format!("there is no export {}", escaped(name)),
        };
        Refusal::new(OptionError::UnknownExport, text)
    }
}
