//! The handshake of one connection: bytes from the socket to the negotiation and back, look-ups in the registry.

use super::wire::Wire;
use crate::{
    attachments::{self, AttachedGuard, Connection},
    record::{self, AccessMode},
    registry::{Entry, Registry},
};
use bytes::BytesMut;
use sandstone_protocol::{
    Access, BlockSizes, ClientFlags, CloseReason, ExportInfo, ListedExport, Lookup, Negotiated, Negotiation,
    Next, OptionDecoder, OptionError, Purpose, Refusal, Step, Text, TransmissionFlags,
};
use sandstone_storage::Volume;
use std::{fmt, io, sync::Arc};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// A finished handshake.
pub(super) struct Attached {
    pub(super) negotiated: Negotiated,
    pub(super) volume: Volume,
    pub(super) guard: AttachedGuard,
    /// Bytes of the first requests.
    pub(super) received: BytesMut,
}

/// Why there is none.
#[derive(Debug)]
pub(super) enum Ended {
    Closed(CloseReason),
    /// The client closed the connection.
    Gone,
    Io(io::Error),
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed(reason) => reason.fmt(f),
            Self::Gone => f.write_str("the client closed the connection"),
            Self::Io(error) => error.fmt(f),
        }
    }
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Gone,
            _ => Self::Io(error),
        }
    }
}

impl From<CloseReason> for Ended {
    fn from(reason: CloseReason) -> Self {
        Self::Closed(reason)
    }
}

/// Leads the handshake on `stream` to its end. `peer` names the client to others.
pub(super) async fn shake_hands<S>(
    stream: &mut S,
    registry: &Registry,
    wire: &Arc<Wire>,
    peer: &str,
) -> Result<Attached, Ended>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut received, mut out) = (BytesMut::with_capacity(4096), BytesMut::new());
    Negotiation::GREETING.encode(&mut out);
    stream.write_all(&out).await?;
    let flags = loop {
        match ClientFlags::decode(&mut received) {
            Some(flags) => break flags,
            None => more(stream, &mut received).await?,
        }
    };
    let mut negotiation = Negotiation::begin(flags)?;
    let mut decoder = OptionDecoder::new();
    let mut granted = None;
    let mut step = Step { send: Vec::new(), next: Next::Option };
    loop {
        out.clear();
        step.encode(&mut out);
        stream.write_all(&out).await?;
        step = match step.next {
            Next::Option => loop {
                match decoder.decode(&mut received).map_err(CloseReason::from)? {
                    Some(option) => break negotiation.handle(option),
                    None => more(stream, &mut received).await?,
                }
            },
            Next::LookUp(lookup) => match look_up(&lookup, registry, wire, peer) {
                Ok((info, grant)) => {
                    granted = grant.or(granted);
                    negotiation.export_found(lookup, &info)
                }
                Err(refusal) => negotiation.export_refused(lookup, refusal),
            },
            Next::List => negotiation.list_found(list(registry)),
            Next::Transmission(negotiated) => {
                let (volume, guard) = granted.expect("transmission follows a grant");
                return Ok(Attached { negotiated, volume, guard, received });
            }
            Next::Close(reason) => return Err(reason.into()),
        };
    }
}

async fn more<S: AsyncRead + Unpin>(stream: &mut S, received: &mut BytesMut) -> io::Result<()> {
    match stream.read_buf(received).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

type Grant = (Volume, AttachedGuard);

fn look_up(
    lookup: &Lookup,
    registry: &Registry,
    wire: &Arc<Wire>,
    peer: &str,
) -> Result<(ExportInfo, Option<Grant>), Refusal> {
    let entry =
        registry.resolve(lookup.name().as_str()).ok_or_else(|| Refusal::unknown_export(lookup.name()))?;
    let access = access(&entry);
    let info = ExportInfo {
        name: text(&entry.volume.id().to_string()),
        description: text(entry.record.name.as_deref().unwrap_or_default()),
        size_bytes: entry.volume.size_bytes(),
        flags: TransmissionFlags::for_export(match access {
            attachments::Access::ReadWrite => Access::ReadWrite,
            attachments::Access::ReadOnly => Access::ReadOnly,
        }),
        block_sizes: BlockSizes::BYTE_ALIGNED,
    };
    match lookup.purpose() {
        Purpose::Inspect => Ok((info, None)),
        Purpose::Attach => {
            let wire = Arc::clone(wire);
            let connection = Connection {
                holder: peer.into(),
                export_name: lookup.name().as_str().into(),
                access,
                since: record::now(),
                cut_off: Arc::new(move || wire.cut_off()),
            };
            let guard = entry
                .attachments
                .attach(connection)
                .map_err(|closing| Refusal::new(OptionError::Policy, closing.to_string()))?;
            Ok((info, Some((entry.volume.clone(), guard))))
        }
    }
}

fn access(entry: &Entry) -> attachments::Access {
    match entry.record.access_mode {
        AccessMode::Rwo | AccessMode::Rwx => attachments::Access::ReadWrite,
        AccessMode::Rox => attachments::Access::ReadOnly,
    }
}

fn list(registry: &Registry) -> Vec<ListedExport> {
    let listed = |entry: &Arc<Entry>| ListedExport {
        name: text(&entry.volume.id().to_string()),
        description: text(entry.record.name.as_deref().unwrap_or_default()),
    };
    registry.list().iter().map(listed).collect()
}

/// Ids and names are short and printable, so nothing is cut or escaped here.
fn text(text: &str) -> Text {
    Text::message(text)
}
