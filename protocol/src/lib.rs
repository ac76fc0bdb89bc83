//! The NBD wire: values to bytes, bytes to values, and the decisions that need no I/O.
//!
//! ```text
//!            handshake                                          transmission
//!  Greeting ─► ClientFlags                               Request ─► Request::check ─► Checked | Reject
//!  OptionDecoder ─► Negotiation ─► Step{send, next}      encode_* / Chunk ─► SimpleReply | chunks
//!                    ▲ look-ups │                        (OFFSET_DATA: header only, the data follows as is)
//!                    └──────────┘ the server answers
//! ```
//!
//! Three things stay apart: *decode* (bytes to values: `decode` functions take what they understand
//! from the front of a `BytesMut` and give `Ok(None)` when more bytes are needed), *decide*
//! (`Negotiation`, `Request::check`), and *encode*. Every value that has a `decode` has an inverse
//! `encode`, so a client and a server are built from the same code.
//!
//! Big-endian throughout. Lengths and offsets are bytes. Limits have names and reasons in `limits`.
//!
//! Source: the NBD specification, `doc/proto.md` of the NetworkBlockDevice/nbd project; section
//! titles are cited where a rule is applied.
#![forbid(unsafe_code)]

#[macro_use]
mod numbers;

mod check;
mod chunk;
mod chunk_head;
mod constants;
mod error;
mod escape;
mod export;
mod flaw;
mod greeting;
mod info;
pub mod limits;
mod lookup;
mod meta_context;
mod negotiation;
mod option;
mod option_decoder;
mod option_reply;
mod reply;
mod request;
mod status_flags;
mod step;
mod text;

pub use check::{Checked, Reject, Terms};
pub use chunk::{Chunk, ChunkBody};
pub use chunk_head::{
    BlockDescriptor, More, encode_block_status, encode_hole, encode_none, encode_offset_data,
};
pub use error::{DecodeError, WireError};
pub use escape::{Escaped, escaped};
pub use export::{Access, BlockSizes, ExportInfo, ExportNameReply, TransmissionFlags, Zeroes};
pub use flaw::Flaw;
pub use greeting::{ClientFlags, Greeting, HandshakeFlags};
pub use info::{Info, InfoType};
pub use lookup::{Lookup, Purpose};
pub use meta_context::{MetaContext, SelectedContext};
pub use negotiation::Negotiation;
pub use option::{InfoRequest, MetaQuery, OptionCode, OptionRequest};
pub use option_decoder::{OptionDecoder, ReceivedOption};
pub use option_reply::{OptionError, OptionReply, ReplyBody};
pub use reply::{Reply, ReplyMode, SimpleReply, encode_failure, encode_success};
pub use request::{Command, CommandFlags, Cookie, REQUEST_BYTES, Request};
pub use status_flags::{AllocationFlags, ChangeFlags, StatusFlags};
pub use step::{CloseReason, HandshakeReply, ListedExport, Negotiated, Next, Refusal, Step};
pub use text::{Text, TextError};
