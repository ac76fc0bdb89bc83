//! The server's side of the handshake, as decisions without bytes or sockets.
//!
//! ```text
//!   begin(flags) ─► handle(option) ─► Step { send, next }
//!                     ▲                       │
//!                     ├──── Next::Option ◄────┤
//!                     │   Next::LookUp(l) ────┼─► export_found(l, ..) | export_refused(l, ..) ─► Step
//!                     │   Next::List ─────────┼─► list_found(..) | list_refused(..) ─► Step
//!                     │                       ├─► Next::Transmission(negotiated)
//!                     └                       └─► Next::Close(reason)
//! ```
//!
//! I1  Every option but EXPORT_NAME gets its final reply before the next one is read; EXPORT_NAME
//!     gets the export or the end of the connection, because it cannot carry an error.
//! I2  INFO and GO with the same request get the same replies: both are made by one function.
//! I3  A context selection belongs to one export name, to the letter. Each SET_META_CONTEXT
//!     replaces it, also when it fails, is malformed or too big.
//! I4  Nothing that needs structured replies is granted before them.
//!
//! Source: "Fixed newstyle negotiation", "Termination of the session during option haggling",
//! "Option types".

use crate::check::Terms;
use crate::escape::escaped;
use crate::export::{ExportInfo, ExportNameReply, TransmissionFlags, Zeroes};
use crate::greeting::{ClientFlags, Greeting};
use crate::info::{Info, InfoType};
use crate::limits::{
    HANDSHAKE_OPTIONS_MAX, LIST_EXPORTS_MAX, OPTION_DATA_BYTES_MAX, OPTIONS_PER_LISTED_EXPORT,
};
use crate::lookup::{Asked, Lookup};
use crate::meta_context::{self, SelectedContext};
use crate::option::{InfoRequest, MetaQuery, OptionCode, OptionRequest};
use crate::option_decoder::ReceivedOption;
use crate::option_reply::{OptionError, OptionReply, ReplyBody};
use crate::reply::ReplyMode;
use crate::step::{CloseReason, HandshakeReply, ListedExport, Negotiated, Next, Refusal, Step};
use crate::text::Text;

#[cfg(test)]
mod tests;

/// The state of one handshake.
#[derive(Debug)]
pub struct Negotiation {
    zeroes: Zeroes,
    reply_mode: ReplyMode,
    selection: Option<Selection>,
    options_seen: u32,
    /// Options until the connection ends; grows once a LIST has shown exports that may be asked
    /// for.
    options_max: u32,
    availability: Availability,
}

/// What the last SET_META_CONTEXT selected, and for which export.
#[derive(Debug)]
struct Selection {
    export: Text,
    contexts: Vec<SelectedContext>,
}

#[derive(Debug)]
enum Availability {
    Serving,
    ShuttingDown,
}

impl Negotiation {
    /// What to send as soon as a client has connected.
    pub const GREETING: Greeting = Greeting::FIXED_NEWSTYLE;

    /// Begins with the client's flags. A client without FIXED_NEWSTYLE is served as if it had set
    /// the flag, as "Client flags" permits: all it may send is EXPORT_NAME.
    ///
    /// # Errors
    /// `UnknownClientFlags`: the connection must end without a word.
    pub fn begin(flags: ClientFlags) -> Result<Negotiation, CloseReason> {
        if !flags.unknown().is_empty() {
            return Err(CloseReason::UnknownClientFlags(flags.unknown().bits()));
        }
        let zeroes =
            if flags.contains(ClientFlags::NO_ZEROES) { Zeroes::Omitted } else { Zeroes::Sent };
        Ok(Negotiation {
            zeroes,
            reply_mode: ReplyMode::Simple,
            selection: None,
            options_seen: 0,
            options_max: HANDSHAKE_OPTIONS_MAX,
            availability: Availability::Serving,
        })
    }

    /// From now on every option but ABORT is refused with ERR_SHUTDOWN ("Termination of the session
    /// during option haggling"). A look-up under way may still be answered either way.
    pub fn shut_down(&mut self) {
        self.availability = Availability::ShuttingDown;
    }

    /// Decides on an option.
    pub fn handle(&mut self, received: ReceivedOption) -> Step {
        self.options_seen += 1;
        if self.options_seen > self.options_max {
            return close(CloseReason::TooManyOptions(self.options_max));
        }
        let code = received.code();
        if code == OptionCode::SetMetaContext {
            self.selection = None; // keeps I3
        }
        if code == OptionCode::Abort {
            return abort();
        }
        if let Availability::ShuttingDown = self.availability {
            return refuse(
                code,
                Refusal::new(OptionError::Shutdown, "the server is shutting down"),
            );
        }
        match received {
            ReceivedOption::Request(request) => self.decide(request),
            ReceivedOption::Malformed { code: OptionCode::ExportName, flaw } => {
                close(CloseReason::ExportNameMalformed(flaw))
            }
            ReceivedOption::Malformed { code, flaw } => {
                refuse(code, Refusal::new(OptionError::Invalid, flaw.to_string()))
            }
            ReceivedOption::TooBig { code, len } => {
                let text = format!(
                    "the option has {len} bytes of data, at most {OPTION_DATA_BYTES_MAX} are taken"
                );
                refuse(code, Refusal::new(OptionError::TooBig, text))
            }
        }
    }

    fn decide(&mut self, request: OptionRequest) -> Step {
        let code = request.code();
        match request {
            OptionRequest::ExportName(name) => look_up(name, Asked::ExportName),
            OptionRequest::Info(InfoRequest { name, facts }) => look_up(name, Asked::Info(facts)),
            OptionRequest::Go(InfoRequest { name, facts }) => look_up(name, Asked::Go(facts)),
            OptionRequest::List => Step { send: vec![], next: Next::List },
            OptionRequest::StructuredReply => {
                self.reply_mode = ReplyMode::Structured;
                acknowledge(code, vec![])
            }
            OptionRequest::ListMetaContext(query) => {
                self.decide_meta(code, query, Asked::ListMetaContext)
            }
            OptionRequest::SetMetaContext(query) => {
                self.decide_meta(code, query, Asked::SetMetaContext)
            }
            // "NOTLS mode": a server without TLS answers UNSUP, and TLS_REQD to nothing.
            OptionRequest::StartTls => {
                refuse(code, Refusal::new(OptionError::Unsup, "TLS is not supported"))
            }
            OptionRequest::ExtendedHeaders => {
                refuse(code, Refusal::new(OptionError::Unsup, "extended headers are not supported"))
            }
            OptionRequest::Unknown { code: number, .. } => refuse(
                code,
                Refusal::new(OptionError::Unsup, format!("option {number} is not known here")),
            ),
            OptionRequest::Abort => abort(),
        }
    }

    fn decide_meta(
        &self,
        code: OptionCode,
        query: MetaQuery,
        asked: fn(Vec<Text>) -> Asked,
    ) -> Step {
        if self.reply_mode == ReplyMode::Simple {
            // keeps I4. A SHOULD for SET, a MAY for LIST; the same for both is easier to
            // understand.
            let text = "structured replies must be negotiated first";
            return refuse(code, Refusal::new(OptionError::Invalid, text));
        }
        if let Some(bad) = query.queries.iter().find(|query| !meta_context::is_well_formed(query)) {
            let text =
                format!("the query {} must begin with a namespace and a colon", escaped(bad));
            return refuse(code, Refusal::new(OptionError::Invalid, text));
        }
        look_up(query.name, asked(query.queries))
    }

    /// Goes on with an export that was found.
    pub fn export_found(&mut self, lookup: Lookup, export: &ExportInfo) -> Step {
        let code = lookup.option();
        let Lookup { name, asked } = lookup;
        match asked {
            Asked::ExportName => {
                let negotiated = self.agree(name, export);
                let Terms { size_bytes, flags, .. } = negotiated.terms;
                let reply = ExportNameReply { size_bytes, flags, zeroes: self.zeroes };
                let send = vec![HandshakeReply::ExportName(reply)];
                Step { send, next: Next::Transmission(negotiated) }
            }
            Asked::Info(facts) => acknowledge(code, self.facts(export, &facts)),
            Asked::Go(facts) => {
                let Step { send, .. } = acknowledge(code, self.facts(export, &facts));
                Step { send, next: Next::Transmission(self.agree(name, export)) }
            }
            Asked::ListMetaContext(queries) => {
                // "The metadata context ID in these replies is reserved and SHOULD be set to zero".
                let names = meta_context::listed(&queries, &export.snapshots);
                let body = |name| ReplyBody::MetaContext { id: 0, name };
                acknowledge(code, names.into_iter().map(body).collect())
            }
            Asked::SetMetaContext(queries) => {
                let contexts = meta_context::selected(&queries, &export.snapshots);
                let body = |&SelectedContext { id, context }: &SelectedContext| {
                    ReplyBody::MetaContext { id, name: context.name() }
                };
                let bodies = contexts.iter().map(body).collect();
                self.selection = Some(Selection { export: name, contexts });
                acknowledge(code, bodies)
            }
        }
    }

    /// Goes on without the export: it is not there, or not for this client.
    pub fn export_refused(&mut self, lookup: Lookup, refusal: Refusal) -> Step {
        refuse(lookup.option(), refusal)
    }

    /// Answers LIST.
    pub fn list_found(&mut self, exports: Vec<ListedExport>) -> Step {
        if exports.len() > LIST_EXPORTS_MAX {
            let text = format!(
                "there are {} exports, a list shows at most {LIST_EXPORTS_MAX}",
                exports.len()
            );
            return self.list_refused(Refusal::new(OptionError::TooBig, text));
        }
        let listed = exports.len() as u32; // at most LIST_EXPORTS_MAX
        self.options_max =
            self.options_max.max(HANDSHAKE_OPTIONS_MAX + OPTIONS_PER_LISTED_EXPORT * listed);
        let server = |ListedExport { name, description }| ReplyBody::Server { name, description };
        acknowledge(OptionCode::List, exports.into_iter().map(server).collect())
    }

    /// Answers LIST with an error.
    pub fn list_refused(&mut self, refusal: Refusal) -> Step {
        refuse(OptionCode::List, refusal)
    }

    /// The facts that INFO and GO tell. Keeps I2.
    ///
    /// EXPORT is a MUST. BLOCK_SIZE is told unasked, too, as the specification allows: our maximum
    /// payload is not the default, and a client that reads it avoids an error. One that does not
    /// read it gets a clean error for a longer request, so ERR_BLOCK_SIZE_REQD is never called for.
    /// An empty description is none.
    fn facts(&self, export: &ExportInfo, asked: &[InfoType]) -> Vec<ReplyBody> {
        let mut facts = vec![
            Info::Export { size_bytes: export.size_bytes, flags: self.flags(export) },
            Info::BlockSize(export.block_sizes),
        ];
        if asked.contains(&InfoType::Name) {
            facts.push(Info::Name(export.name.clone()));
        }
        if asked.contains(&InfoType::Description) && !export.description.is_empty() {
            facts.push(Info::Description(export.description.clone()));
        }
        facts.into_iter().map(ReplyBody::Info).collect()
    }

    /// "The server [...] MUST leave this flag clear if structured replies have not been negotiated"
    /// (SEND_DF).
    fn flags(&self, export: &ExportInfo) -> TransmissionFlags {
        match self.reply_mode {
            ReplyMode::Simple => export.flags.without(TransmissionFlags::SEND_DF),
            ReplyMode::Structured => export.flags,
        }
    }

    fn agree(&mut self, name: Text, export: &ExportInfo) -> Negotiated {
        let contexts = match self.selection.take() {
            Some(selection) if selection.export == name => selection.contexts, // keeps I3
            Some(_) | None => vec![],
        };
        let terms = Terms {
            size_bytes: export.size_bytes,
            flags: self.flags(export),
            payload_bytes_max: export.block_sizes.maximum_payload,
            block_status: !contexts.is_empty(),
        };
        Negotiated { name, terms, reply_mode: self.reply_mode, contexts }
    }
}

fn reply(option: OptionCode, body: ReplyBody) -> HandshakeReply {
    HandshakeReply::Option(OptionReply { option, body })
}

fn look_up(name: Text, asked: Asked) -> Step {
    Step { send: vec![], next: Next::LookUp(Lookup { name, asked }) }
}

fn acknowledge(option: OptionCode, bodies: Vec<ReplyBody>) -> Step {
    let send = bodies.into_iter().chain([ReplyBody::Ack]).map(|body| reply(option, body)).collect();
    Step { send, next: Next::Option }
}

/// Keeps I1.
fn refuse(option: OptionCode, refusal: Refusal) -> Step {
    if option == OptionCode::ExportName {
        return close(CloseReason::ExportNameRefused(refusal));
    }
    let Refusal { error, text } = refusal;
    Step { send: vec![reply(option, ReplyBody::Error { error, text })], next: Next::Option }
}

/// The reply is a MUST; the client may be gone already, so failing to send it is no event.
fn abort() -> Step {
    Step {
        send: vec![reply(OptionCode::Abort, ReplyBody::Ack)],
        next: Next::Close(CloseReason::Aborted),
    }
}

fn close(reason: CloseReason) -> Step {
    Step { send: vec![], next: Next::Close(reason) }
}
