//! Options: what a client asks for during the handshake, as values, and their bytes.
//!
//! ```text
//!   | IHAVEOPT u64 | option u32 | length u32 | data ... |
//! ```
//!
//! Source: "Newstyle negotiation" (the frame), "Option types" (the data of each).

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::constants::OPTION_MAGIC;
use crate::flaw::Flaw;
use crate::info::InfoType;
use crate::text::Text;

wire_enum! {
    /// Which option ("Option types").
    pub enum OptionCode: u32 {
        /// `NBD_OPT_EXPORT_NAME`: use an export, old form.
        ExportName = 1,
        /// `NBD_OPT_ABORT`: end the session.
        Abort = 2,
        /// `NBD_OPT_LIST`: which exports there are.
        List = 3,
        /// `NBD_OPT_STARTTLS`: go on encrypted.
        StartTls = 5,
        /// `NBD_OPT_INFO`: tell what GO would.
        Info = 6,
        /// `NBD_OPT_GO`: use an export.
        Go = 7,
        /// `NBD_OPT_STRUCTURED_REPLY`: reply in chunks.
        StructuredReply = 8,
        /// `NBD_OPT_LIST_META_CONTEXT`: which contexts there are.
        ListMetaContext = 9,
        /// `NBD_OPT_SET_META_CONTEXT`: choose contexts for block status.
        SetMetaContext = 10,
        /// `NBD_OPT_EXTENDED_HEADERS`: 64-bit lengths.
        ExtendedHeaders = 11,
    }
}

/// A well-formed option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OptionRequest {
    /// Use this export; answered by [`ExportNameReply`](crate::ExportNameReply), or not at all.
    ExportName(Text),
    /// End the session. Data that comes with it is ignored, as the specification asks.
    Abort,
    /// Which exports there are.
    List,
    /// Go on encrypted.
    StartTls,
    /// Tell what `Go` would.
    Info(InfoRequest),
    /// Use this export.
    Go(InfoRequest),
    /// Reply in chunks.
    StructuredReply,
    /// Which contexts there are.
    ListMetaContext(MetaQuery),
    /// Choose contexts for block status; replaces an earlier choice.
    SetMetaContext(MetaQuery),
    /// 64-bit lengths.
    ExtendedHeaders,
    /// An option that this crate does not know.
    Unknown {
        /// Its number, none of [`OptionCode`]'s.
        code: u32,
        /// Its data.
        data: Bytes,
    },
}

/// The data of INFO and GO.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InfoRequest {
    /// Which export; empty for the default one.
    pub name: Text,
    /// Which facts the client would like to have.
    pub facts: Vec<InfoType>,
}

/// The data of LIST_META_CONTEXT and SET_META_CONTEXT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetaQuery {
    /// For which export.
    pub name: Text,
    /// What contexts to list or select, each a namespace, a colon, and what the namespace
    /// understands.
    pub queries: Vec<Text>,
}

impl OptionRequest {
    /// Which option this is.
    pub fn code(&self) -> OptionCode {
        match self {
            OptionRequest::ExportName(_) => OptionCode::ExportName,
            OptionRequest::Abort => OptionCode::Abort,
            OptionRequest::List => OptionCode::List,
            OptionRequest::StartTls => OptionCode::StartTls,
            OptionRequest::Info(_) => OptionCode::Info,
            OptionRequest::Go(_) => OptionCode::Go,
            OptionRequest::StructuredReply => OptionCode::StructuredReply,
            OptionRequest::ListMetaContext(_) => OptionCode::ListMetaContext,
            OptionRequest::SetMetaContext(_) => OptionCode::SetMetaContext,
            OptionRequest::ExtendedHeaders => OptionCode::ExtendedHeaders,
            OptionRequest::Unknown { code, .. } => OptionCode::from_wire(*code),
        }
    }

    /// Appends the option. Its inverse is [`OptionDecoder`](crate::OptionDecoder).
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_u64(OPTION_MAGIC);
        out.put_u32(self.code().to_wire());
        let len_at = out.len();
        out.put_u32(0);
        match self {
            OptionRequest::ExportName(name) => out.put_slice(name.as_bytes()),
            OptionRequest::Info(request) | OptionRequest::Go(request) => request.encode(out),
            OptionRequest::ListMetaContext(query) | OptionRequest::SetMetaContext(query) => {
                query.encode(out)
            }
            OptionRequest::Unknown { data, .. } => out.put_slice(data),
            OptionRequest::Abort
            | OptionRequest::List
            | OptionRequest::StartTls
            | OptionRequest::StructuredReply
            | OptionRequest::ExtendedHeaders => {}
        }
        let len = u32::try_from(out.len() - len_at - 4).expect("option data beyond 4 GiB");
        out[len_at..len_at + 4].copy_from_slice(&len.to_be_bytes());
    }

    /// `data` is all that follows the header of an option.
    pub(crate) fn parse(code: OptionCode, data: Bytes) -> Result<OptionRequest, Flaw> {
        let without_data =
            |request| if data.is_empty() { Ok(request) } else { Err(Flaw::DataNotAllowed) };
        match code {
            OptionCode::ExportName => Ok(OptionRequest::ExportName(Text::from_utf8(&data)?)),
            OptionCode::Abort => Ok(OptionRequest::Abort),
            OptionCode::List => without_data(OptionRequest::List),
            OptionCode::StartTls => without_data(OptionRequest::StartTls),
            OptionCode::Info => Ok(OptionRequest::Info(InfoRequest::parse(&data)?)),
            OptionCode::Go => Ok(OptionRequest::Go(InfoRequest::parse(&data)?)),
            OptionCode::StructuredReply => without_data(OptionRequest::StructuredReply),
            OptionCode::ListMetaContext => {
                Ok(OptionRequest::ListMetaContext(MetaQuery::parse(&data)?))
            }
            OptionCode::SetMetaContext => {
                Ok(OptionRequest::SetMetaContext(MetaQuery::parse(&data)?))
            }
            OptionCode::ExtendedHeaders => without_data(OptionRequest::ExtendedHeaders),
            OptionCode::Unknown(code) => Ok(OptionRequest::Unknown { code, data }),
        }
    }
}

impl InfoRequest {
    fn encode(&self, out: &mut BytesMut) {
        put_text(out, &self.name);
        out.put_u16(u16::try_from(self.facts.len()).expect("more than 65535 information requests"));
        for fact in &self.facts {
            out.put_u16(fact.to_wire());
        }
    }

    fn parse(mut data: &[u8]) -> Result<InfoRequest, Flaw> {
        let name = take_text(&mut data)?;
        let count = usize::from(data.try_get_u16()?);
        if data.len() / 2 < count {
            return Err(Flaw::Truncated);
        }
        let facts = (0..count).map(|_| InfoType::from_wire(data.get_u16())).collect();
        if data.is_empty() { Ok(InfoRequest { name, facts }) } else { Err(Flaw::TrailingData) }
    }
}

impl MetaQuery {
    fn encode(&self, out: &mut BytesMut) {
        put_text(out, &self.name);
        out.put_u32(u32::try_from(self.queries.len()).expect("more than 2^32 queries"));
        for query in &self.queries {
            put_text(out, query);
        }
    }

    fn parse(mut data: &[u8]) -> Result<MetaQuery, Flaw> {
        let name = take_text(&mut data)?;
        let count = data.try_get_u32()?;
        // Nothing is reserved for `count`: it is the client's word, and a flaw ends the loop.
        let queries = (0..count).map(|_| take_text(&mut data)).collect::<Result<_, Flaw>>()?;
        if data.is_empty() { Ok(MetaQuery { name, queries }) } else { Err(Flaw::TrailingData) }
    }
}

/// A string behind its length in 32 bits.
fn put_text(out: &mut BytesMut, text: &Text) {
    out.put_u32(text.len() as u32); // at most STRING_BYTES_MAX
    out.put_slice(text.as_bytes());
}

fn take_text(data: &mut &[u8]) -> Result<Text, Flaw> {
    let len = data.try_get_u32()? as usize;
    let (text, rest) = data.split_at_checked(len).ok_or(Flaw::Truncated)?;
    *data = rest;
    Ok(Text::from_utf8(text)?)
}
