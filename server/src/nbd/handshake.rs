//! The handshake of one connection: bytes from the socket to the negotiation and back, look-ups in
//! the registry.

use super::socket_handle::SocketHandle;
use crate::{
    attachments::{self, AttachedGuard, Connection, ConnectionHandle, Holder, Refused},
    record,
    registry::{Export, Registry, Unresolved},
};
use bytes::BytesMut;
use futures_util::StreamExt;
use sandstone_protocol::{
    Access, BlockSizes, ClientFlags, CloseReason, ExportInfo, ListedExport, Lookup, MetaContext,
    Negotiated, Negotiation, Next, OptionDecoder, OptionError, Purpose, ReceivedOption, Refusal,
    SelectedContext, Step, Text, TransmissionFlags, limits,
};
use sandstone_storage::Volume;
use std::{io, sync::Arc};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio_util::codec::{Decoder, FramedRead};

/// A finished handshake.
pub(super) struct Attached {
    pub(super) negotiated: Negotiated,
    pub(super) volume: Volume,
    pub(super) guard: AttachedGuard,
    pub(super) holder: Holder,
    /// The snapshots of the selected contexts, but for those that were deleted since.
    pub(super) older: Vec<Volume>,
    /// Bytes of the first requests.
    pub(super) received: BytesMut,
}

/// Why there is none.
#[derive(Debug, Error)]
pub(super) enum HandshakeError {
    #[error(transparent)]
    Closed(#[from] CloseReason),
    #[error("the client closed the connection")]
    Gone,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Leads the handshake on `stream` to its end. `peer` names the client to others.
pub(super) async fn shake_hands<S>(
    stream: &mut S,
    registry: &Registry,
    handle: &Arc<SocketHandle>,
    peer: &str,
) -> Result<Attached, HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let exports = Exports::Of { registry, handle, peer };
    let (negotiated, (volume, guard, holder), received) = negotiate(stream, &exports).await?;
    let older = older(&negotiated, registry);
    Ok(Attached { negotiated, volume, guard, holder, older, received })
}

/// Answers a client that cannot be served whatever it asks for: each export is refused, for the
/// reason told.
pub(super) async fn turn_away<S>(stream: &mut S, why: &str) -> HandshakeError
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    match negotiate(stream, &Exports::None { why }).await {
        Ok(_) => unreachable!("no export was granted"),
        Err(ended) => ended,
    }
}

/// What a client may find.
enum Exports<'a> {
    Of { registry: &'a Registry, handle: &'a Arc<SocketHandle>, peer: &'a str },
    None { why: &'a str },
}

impl Exports<'_> {
    async fn look_up(&self, lookup: &Lookup) -> Result<(ExportInfo, Option<Grant>), Refusal> {
        match self {
            Exports::Of { registry, handle, peer } => look_up(lookup, registry, handle, peer).await,
            Exports::None { why } => Err(Refusal::new(OptionError::Policy, why)),
        }
    }

    fn list(&self) -> Vec<ListedExport> {
        match self {
            Exports::Of { registry, .. } => list(registry),
            Exports::None { .. } => Vec::new(),
        }
    }
}

async fn negotiate<S>(
    stream: &mut S,
    exports: &Exports<'_>,
) -> Result<(Negotiated, Grant, BytesMut), HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut out = BytesMut::new();
    let (reader, mut writer) = tokio::io::split(stream);
    let mut said = FramedRead::new(reader, Codec::Flags);
    Negotiation::GREETING.encode(&mut out);
    writer.write_all(&out).await?;
    let Received::Flags(flags) = next(&mut said).await? else { unreachable!("flags come first") };
    let mut negotiation = Negotiation::begin(flags)?;
    let mut granted = None;
    let mut step = Step { send: Vec::new(), next: Next::Option };
    loop {
        out.clear();
        step.encode(&mut out);
        writer.write_all(&out).await?;
        step = match step.next {
            Next::Option => match next(&mut said).await? {
                Received::Option(option) => negotiation.handle(option),
                Received::Flags(_) => unreachable!("flags come once"),
            },
            Next::LookUp(lookup) => match exports.look_up(&lookup).await {
                Ok((info, grant)) => {
                    granted = grant.or(granted);
                    negotiation.export_found(lookup, &info)
                }
                Err(refusal) => negotiation.export_refused(lookup, refusal),
            },
            Next::List => negotiation.list_found(exports.list()),
            Next::Transmission(negotiated) => {
                let grant = granted.expect("transmission follows a grant");
                return Ok((negotiated, grant, said.read_buffer_mut().split()));
            }
            Next::Close(reason) => return Err(reason.into()),
        };
    }
}

/// What a client says in the handshake.
enum Received {
    Flags(ClientFlags),
    Option(ReceivedOption),
}

/// Finds it in the stream: the flags, then options.
enum Codec {
    Flags,
    Options(OptionDecoder),
}

impl Decoder for Codec {
    type Item = Received;
    type Error = HandshakeError;

    fn decode(&mut self, received: &mut BytesMut) -> Result<Option<Received>, HandshakeError> {
        match self {
            Self::Flags => {
                let flags = ClientFlags::decode(received);
                if flags.is_some() {
                    *self = Self::Options(OptionDecoder::new());
                }
                Ok(flags.map(Received::Flags))
            }
            Self::Options(decoder) => {
                let option = decoder.decode(received).map_err(CloseReason::from)?;
                Ok(option.map(Received::Option))
            }
        }
    }

    fn decode_eof(&mut self, received: &mut BytesMut) -> Result<Option<Received>, HandshakeError> {
        // Half an option at the end is as good as none.
        self.decode(received)
    }
}

async fn next<R: AsyncRead + Unpin>(
    said: &mut FramedRead<R, Codec>,
) -> Result<Received, HandshakeError> {
    said.next().await.unwrap_or(Err(HandshakeError::Gone))
}

type Grant = (Volume, AttachedGuard, Holder);

/// What a client is told that asks for a name which several volumes have.
const SEVERAL: &str = "several volumes have that name, from an earlier version: attach by id, or rename all of them but one";

async fn look_up(
    lookup: &Lookup,
    registry: &Registry,
    handle: &Arc<SocketHandle>,
    peer: &str,
) -> Result<(ExportInfo, Option<Grant>), Refusal> {
    let name = lookup.name().as_str();
    let (export, holder) = match registry.resolve_mount(name) {
        Some((export, session)) => (export, Holder::Mount(session)),
        None => {
            let export = registry.resolve(name).map_err(|why| match why {
                Unresolved::Unknown => Refusal::unknown_export(lookup.name()),
                Unresolved::Several => Refusal::new(OptionError::Policy, SEVERAL),
            })?;
            (export, Holder::Peer(peer.to_owned()))
        }
    };
    let attachments = export.attachments();
    match lookup.purpose() {
        Purpose::Inspect => {
            // GO must not refuse what INFO has granted. Source: "NBD_OPT_INFO".
            let access = attachments.would_attach(&holder).await.map_err(|why| refusal(&why))?;
            let snapshots = registry.snapshots_before(&export);
            let snapshots = snapshots.iter().map(|entry| entry.snapshot.id()).collect();
            Ok((ExportInfo { snapshots, ..info(&export, lookup.name(), &holder, access) }, None))
        }
        Purpose::Attach => {
            handle
                .admission()
                .check()
                .map_err(|full| Refusal::new(OptionError::Policy, full.to_string()))?;
            let connection = Connection {
                holder: holder.clone(),
                export_name: without_session(name).to_owned(),
                since: record::now(),
                handle: Arc::clone(handle) as Arc<dyn ConnectionHandle>,
            };
            let guard = attachments.attach(connection).await.map_err(|why| refusal(&why))?;
            let blocks = match &holder {
                Holder::Peer(_) => export.blocks().clone(),
                Holder::Mount(session) => match registry.mounts.get(*session) {
                    Some(mount) => mount.volume.clone(),
                    // It has just ended; its connections are disconnected.
                    None => return Err(refusal(&Refused::NoMount)),
                },
            };
            Ok((
                info(&export, lookup.name(), &holder, guard.access()),
                Some((blocks, guard, holder)),
            ))
        }
    }
}

fn info(export: &Export, asked: &Text, holder: &Holder, access: attachments::Access) -> ExportInfo {
    let ListedExport { name, description } = listed(export);
    let name = match holder {
        Holder::Peer(_) => name,
        // Who comes again under the name that it is told is still the same attachment.
        Holder::Mount(_) => asked.clone(),
    };
    ExportInfo {
        name,
        description,
        size_bytes: export.blocks().size_bytes(),
        flags: TransmissionFlags::for_export(match access {
            attachments::Access::ReadWrite => Access::ReadWrite,
            attachments::Access::ReadOnly => Access::ReadOnly,
        }),
        block_sizes: BlockSizes::BYTE_ALIGNED,
        snapshots: Vec::new(),
    }
}

fn refusal(why: &Refused) -> Refusal {
    Refusal::new(OptionError::Policy, why.to_string())
}

/// What others may see of an export name.
fn without_session(name: &str) -> &str {
    name.split_once('/').map_or(name, |(volume, _)| volume)
}

fn older(negotiated: &Negotiated, registry: &Registry) -> Vec<Volume> {
    let snapshot = |selected: &SelectedContext| match selected.context {
        MetaContext::BaseAllocation => None,
        MetaContext::ChangedSince(id) => registry.snapshot(id).map(|entry| entry.snapshot.clone()),
    };
    negotiated.contexts.iter().filter_map(snapshot).collect()
}

/// All volumes, and as many snapshots behind them as a list may show.
fn list(registry: &Registry) -> Vec<ListedExport> {
    let volumes = registry.list();
    let snapshots = registry.list_snapshots(limits::LIST_EXPORTS_MAX.saturating_sub(volumes.len()));
    let volumes = volumes.into_iter().map(Export::Volume);
    let snapshots = snapshots.into_iter().map(Export::Snapshot);
    volumes.chain(snapshots).map(|export| listed(&export)).collect()
}

fn listed(export: &Export) -> ListedExport {
    ListedExport {
        name: text(&export.blocks().id().to_string()),
        description: text(&export.description()),
    }
}

/// Ids and names are short and printable, so nothing is cut or escaped here.
fn text(text: &str) -> Text {
    Text::message(text)
}
