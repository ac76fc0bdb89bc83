//! Requests of the wire as operations on a volume, and their results as replies. The only place
//! where the words of the two meet.

use super::{errno::wire_error, payload::Payload, reply_queue::Reply};
use bytes::{Bytes, BytesMut};
use sandstone_protocol::{
    AllocationFlags, BlockDescriptor, ChangeFlags, Checked, Cookie, MetaContext, More, Negotiated,
    ReplyMode, SelectedContext, WireError, encode_block_status, encode_failure, encode_hole,
    encode_none, encode_offset_data, encode_success, limits,
};
use sandstone_storage::{
    Allocation, Begun, BegunRead, Changes, Durability, Error, Extent, ExtentState, Piece,
    Readahead, Receipt, Unfinished, UnfinishedRead, Volume,
};
use std::{borrow::Borrow, rc::Rc};
use uuid::Uuid;

/// Zeroes for simple replies, which have no holes.
static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

/// Most bytes that a CACHE holds at a time: the store reads it in steps of this many.
const CACHE_BYTES_MAX: u64 = 1 << 20;

/// Bytes of a WRITE's payload for which there is room before they come. The rest gets it as it
/// comes.
pub(super) const FIRST_PART_BYTES: usize = 256 << 10;

/// What the books of a request take: its task, and its place in the reply queue. Measured: 1 to 3
/// KiB.
const REQUEST_BYTES: u64 = 3 << 10;

/// Most bytes of a block status reply for one context: the extents, their descriptors, and those
/// encoded.
const BLOCK_STATUS_BYTES_MAX: u64 = ((16 + 8 + 8) * limits::BLOCK_DESCRIPTORS_MAX) as u64;

/// What was agreed with the client, as far as replies depend on it.
pub(super) struct Agreed {
    pub(super) mode: ReplyMode,
    contexts: Vec<Context>,
}

/// A context to report in each reply to BLOCK_STATUS.
struct Context {
    id: u32,
    reports: Reports,
}

enum Reports {
    Allocation,
    /// What differs from that snapshot.
    Changes {
        since: Volume,
    },
    /// What differs from a snapshot that was deleted after it was selected.
    Nothing {
        deleted: Uuid,
    },
}

impl Agreed {
    /// `older` are the snapshots of the selected contexts that are there.
    pub(super) fn new(negotiated: &Negotiated, older: Vec<Volume>) -> Self {
        let context = |selected: &SelectedContext| {
            let reports = match selected.context {
                MetaContext::BaseAllocation => Reports::Allocation,
                MetaContext::ChangedSince(id) => {
                    match older.iter().find(|snapshot| snapshot.id() == id) {
                        Some(snapshot) => Reports::Changes { since: snapshot.clone() },
                        None => Reports::Nothing { deleted: id },
                    }
                }
            };
            Context { id: selected.id, reports }
        };
        let contexts = negotiated.contexts.iter().map(context).collect();
        Self { mode: negotiated.reply_mode, contexts }
    }
}

/// What came of a request.
pub(super) enum Outcome {
    Done,
    Read {
        offset: u64,
        df: bool,
        pieces: Vec<Piece>,
    },
    /// For each context of [`Agreed`], in that order.
    Status(Vec<Vec<BlockDescriptor>>),
    Failed {
        error: WireError,
        text: String,
    },
}

impl Outcome {
    /// Of a request that is answered with success alone.
    pub(super) fn of<T, E: Borrow<Error>>(done: Result<T, E>) -> Self {
        done.map_or_else(|error| error.borrow().into(), |_| Self::Done)
    }
}

impl From<&Error> for Outcome {
    fn from(error: &Error) -> Self {
        Self::Failed { error: wire_error(error.kind()), text: error.to_string() }
    }
}

fn durability(fua: bool) -> Durability {
    if fua { Durability::Fua } else { Durability::Volatile }
}

/// Executes the requests of one connection on its volume.
pub(super) struct Executor {
    volume: Volume,
    readahead: Readahead,
    agreed: Agreed,
}

/// How far executing a request came at once.
pub(super) enum Execution {
    /// It is done.
    Ready(Outcome),
    /// It is a write in the log, which is done when its batch is in the store.
    Logged(Receipt),
    /// It goes on in a task of its own.
    Pending(Pending),
}

/// The rest of a request that has to wait.
pub(super) struct Pending {
    pub(super) without_client: WithoutClient,
    rest: Rest,
}

/// What becomes of a request when its client has disconnected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WithoutClient {
    /// It is finished: it changes the volume.
    Finished,
    /// It is dropped: it only makes an answer.
    Dropped,
    /// It is dropped as soon as the connection takes in no more: it promises nothing, and may read
    /// gigabytes.
    DroppedEarly,
}

enum Rest {
    Read {
        rest: UnfinishedRead,
        offset: u64,
        df: bool,
    },
    Write(Unfinished),
    /// All of the request, from its beginning.
    Whole {
        executor: Rc<Executor>,
        request: Checked,
        payload: Vec<Bytes>,
    },
}

impl Pending {
    /// Waits for the outcome. Dropping the future ends what only makes an answer.
    pub(super) async fn finish(self) -> Outcome {
        match self.rest {
            Rest::Read { rest, offset, df } => match rest.finish().await {
                Ok(pieces) => Outcome::Read { offset, df, pieces },
                Err(error) => (&error).into(),
            },
            Rest::Write(rest) => Outcome::of(rest.finish().await),
            // In memory of its own: it is larger than what the others need, which are many.
            Rest::Whole { executor, request, payload } => {
                Box::pin(async move { executor.serve(request, payload).await }).await
            }
        }
    }
}

impl Executor {
    pub(super) fn new(volume: Volume, agreed: Agreed) -> Rc<Self> {
        Rc::new(Self { readahead: Readahead::new(volume.clone()), volume, agreed })
    }

    pub(super) fn volume(&self) -> &Volume {
        &self.volume
    }

    pub(super) fn agreed(&self) -> &Agreed {
        &self.agreed
    }

    /// Begins a request. What needs no wait needs no task, which would cost as much again; and what
    /// does need one goes on in it. `payload` is the data of a WRITE, and empty for the others.
    pub(super) fn execute(self: &Rc<Self>, request: Checked, payload: Payload) -> Execution {
        let pending = |without_client, rest| Execution::Pending(Pending { without_client, rest });
        match request {
            Checked::Read { offset, len, df } => match self.readahead.read_now(offset, len) {
                Some(BegunRead::Done(pieces)) => {
                    return Execution::Ready(Outcome::Read { offset, df, pieces });
                }
                Some(BegunRead::Started(rest)) => {
                    return pending(WithoutClient::Dropped, Rest::Read { rest, offset, df });
                }
                None => {}
            },
            Checked::Write { offset, fua: false, .. } if let Payload::One(data) = &payload => {
                match self.volume.write_now(offset, data) {
                    Some(Begun::Done) => return Execution::Ready(Outcome::Done),
                    Some(Begun::Logged(receipt)) => return Execution::Logged(receipt),
                    Some(Begun::Started(rest)) => {
                        return pending(WithoutClient::Finished, Rest::Write(rest));
                    }
                    None => {}
                }
            }
            _ => {}
        }
        let without_client = match request {
            Checked::Cache { .. } => WithoutClient::DroppedEarly,
            _ if is_question(&request) => WithoutClient::Dropped,
            _ => WithoutClient::Finished,
        };
        let (executor, payload) = (Rc::clone(self), payload.into_parts());
        pending(without_client, Rest::Whole { executor, request, payload })
    }

    /// Does what a request asks for, from its beginning.
    async fn serve(&self, request: Checked, payload: Vec<Bytes>) -> Outcome {
        let Self { volume, readahead, agreed } = self;
        let done = match request {
            Checked::Read { offset, len, df } => {
                return match readahead.read(offset, len).await {
                    Ok(pieces) => Outcome::Read { offset, df, pieces },
                    Err(error) => (&error).into(),
                };
            }
            Checked::BlockStatus { offset, len, req_one } => {
                let entries_max = if req_one { 1 } else { limits::BLOCK_DESCRIPTORS_MAX };
                let mut lists = Vec::with_capacity(agreed.contexts.len());
                for context in &agreed.contexts {
                    let list = match &context.reports {
                        Reports::Allocation => allocation(volume, offset, len, entries_max).await,
                        Reports::Changes { since } => {
                            changes(volume, since, offset, len, entries_max).await
                        }
                        Reports::Nothing { deleted } => {
                            let text = format!("snapshot {deleted} was deleted");
                            return Outcome::Failed { error: WireError::Eio, text };
                        }
                    };
                    match list {
                        Ok(list) => lists.push(list),
                        Err(error) => return (&error).into(),
                    }
                }
                return Outcome::Status(lists);
            }
            Checked::Write { offset, fua, .. } => {
                volume.write_parts(offset, payload, durability(fua)).await
            }
            Checked::Flush => volume.flush().await,
            Checked::Trim { offset, len, fua } => {
                volume.trim(offset, u64::from(len), durability(fua)).await
            }
            // Zeroing is always as fast as it gets, so FAST_ZERO is never refused.
            Checked::WriteZeroes { offset, len, no_hole, fua, fast_zero: _ } => {
                let allocation = if no_hole { Allocation::Reserve } else { Allocation::Hole };
                volume.write_zeroes(offset, u64::from(len), allocation, durability(fua)).await
            }
            Checked::Cache { offset, len } => volume.prefetch(offset, u64::from(len)).await,
            Checked::Disconnect => Ok(()),
        };
        Outcome::of(done)
    }
}

/// The range in the context `base:allocation`.
async fn allocation(
    volume: &Volume,
    offset: u64,
    len: u32,
    entries_max: usize,
) -> Result<Vec<BlockDescriptor>, Error> {
    let extents = volume.block_status(offset, u64::from(len), entries_max).await?;
    Ok(extents.iter().map(descriptor).collect())
}

fn descriptor(extent: &Extent) -> BlockDescriptor {
    let flags = match extent.state {
        ExtentState::Data => AllocationFlags::EMPTY,
        ExtentState::Zero => AllocationFlags::ZERO,
        ExtentState::Hole => AllocationFlags::HOLE.with(AllocationFlags::ZERO),
    };
    let len = u32::try_from(extent.len_bytes).expect("a request is below 4 GiB");
    BlockDescriptor { len, flags: flags.into() }
}

/// The range in the context `x-sandstone:changed-since:`.
async fn changes(
    volume: &Volume,
    since: &Volume,
    offset: u64,
    len: u32,
    entries_max: usize,
) -> Result<Vec<BlockDescriptor>, Error> {
    let changes = volume.changes_since(since, offset, u64::from(len), entries_max).await?;
    Ok(changed_or_not(offset, &changes, entries_max))
}

/// What was looked at from `offset` on, changes and what lies between them, but for what is behind
/// `entries_max` entries.
fn changed_or_not(offset: u64, found: &Changes, entries_max: usize) -> Vec<BlockDescriptor> {
    let mut list: Vec<BlockDescriptor> = Vec::new();
    let mut at = offset;
    let mut push = |to: u64, flags: ChangeFlags| {
        let len = u32::try_from(to - at).expect("a request is below 4 GiB");
        at = to;
        match list.last_mut() {
            _ if len == 0 => {}
            // What was written and what was trimmed are both changes.
            Some(last) if last.flags == flags.into() => last.len += len,
            _ => list.push(BlockDescriptor { len, flags: flags.into() }),
        }
    };
    for change in &found.changes {
        push(change.offset, ChangeFlags::EMPTY);
        push(change.offset + change.len_bytes, ChangeFlags::CHANGED);
    }
    push(found.looked_to, ChangeFlags::EMPTY);
    list.truncate(entries_max);
    list
}

/// Encodes the reply.
pub(super) fn answer(reply: &mut Reply<'_>, agreed: &Agreed, cookie: Cookie, outcome: Outcome) {
    match outcome {
        Outcome::Done => encode_success(reply.head(), cookie),
        Outcome::Failed { error, text } => {
            encode_failure(reply.head(), cookie, agreed.mode, error, &text)
        }
        Outcome::Status(lists) => status(reply.head(), &agreed.contexts, cookie, &lists),
        Outcome::Read { offset, df, pieces } => match agreed.mode {
            ReplyMode::Simple => {
                encode_success(reply.head(), cookie);
                pieces.into_iter().for_each(|piece| append(reply, piece));
            }
            ReplyMode::Structured => structured_read(reply, cookie, offset, df, pieces),
        },
    }
}

/// A chunk for each context.
fn status(
    out: &mut BytesMut,
    contexts: &[Context],
    cookie: Cookie,
    lists: &[Vec<BlockDescriptor>],
) {
    assert_eq!(lists.len(), contexts.len(), "a list for each context");
    for (i, (context, descriptors)) in contexts.iter().zip(lists).enumerate() {
        let more = if i + 1 == contexts.len() { More::Done } else { More::Follows };
        encode_block_status(out, cookie, context.id, descriptors, more);
    }
}

fn append(reply: &mut Reply<'_>, piece: Piece) {
    match piece {
        Piece::Data(data) => reply.data(data),
        Piece::Zero { len } => {
            let mut left = len as usize;
            while left > 0 {
                let step = left.min(ZEROES.len());
                reply.data(Bytes::from_static(&ZEROES[..step]));
                left -= step;
            }
        }
    }
}

fn piece_len(piece: &Piece) -> u32 {
    match piece {
        Piece::Data(data) => u32::try_from(data.len()).expect("a request is below 4 GiB"),
        Piece::Zero { len } => *len,
    }
}

/// Neighbouring data goes into one chunk, each stretch of zeroes into a hole; with DF all is one
/// chunk.
fn structured_read(
    reply: &mut Reply<'_>,
    cookie: Cookie,
    offset: u64,
    df: bool,
    pieces: Vec<Piece>,
) {
    if pieces.is_empty() {
        return encode_none(reply.head(), cookie);
    }
    let is_zero = |piece: &Piece| matches!(piece, Piece::Zero { .. });
    let mut at = offset;
    let mut pieces = pieces.into_iter().peekable();
    let all_zero = pieces.len() == 1 && pieces.peek().is_some_and(is_zero);
    if df && !all_zero {
        let pieces: Vec<_> = pieces.collect();
        let len = pieces.iter().map(piece_len).sum();
        encode_offset_data(reply.head(), cookie, at, len, More::Done);
        return pieces.into_iter().for_each(|piece| append(reply, piece));
    }
    let mut run = Vec::new();
    while let Some(first) = pieces.next() {
        let zero = is_zero(&first);
        let mut len = piece_len(&first);
        run.push(first);
        while let Some(next) = pieces.next_if(|piece| is_zero(piece) == zero) {
            len += piece_len(&next);
            run.push(next);
        }
        let more = if pieces.peek().is_none() { More::Done } else { More::Follows };
        if zero {
            encode_hole(reply.head(), cookie, at, len, more);
            run.clear();
        } else {
            encode_offset_data(reply.head(), cookie, at, len, more);
            run.drain(..).for_each(|piece| append(reply, piece));
        }
        at += u64::from(len);
    }
}

/// Whether a request only makes an answer, which is worth nothing once the client is gone.
pub(super) fn is_question(request: &Checked) -> bool {
    match request {
        Checked::Read { .. } | Checked::Cache { .. } | Checked::BlockStatus { .. } => true,
        Checked::Write { .. }
        | Checked::Flush
        | Checked::Trim { .. }
        | Checked::WriteZeroes { .. }
        | Checked::Disconnect => false,
    }
}

/// Bytes of memory that a request takes, at most: those of its reply, or of its payload as far as
/// it is waited for at first, and its books.
pub(super) fn room_bytes(request: &Checked, agreed: &Agreed) -> u64 {
    REQUEST_BYTES + data_bytes(request, agreed)
}

fn data_bytes(request: &Checked, agreed: &Agreed) -> u64 {
    match request {
        // Where each block of it lies elsewhere, each has its books.
        Checked::Read { len, .. } => u64::from(*len) / 4 * 5,
        Checked::Write { len, .. } => u64::from(*len).min(FIRST_PART_BYTES as u64),
        Checked::Cache { len, .. } => u64::from(*len).min(CACHE_BYTES_MAX),
        Checked::BlockStatus { req_one: false, .. } => {
            BLOCK_STATUS_BYTES_MAX * agreed.contexts.len() as u64
        }
        Checked::BlockStatus { req_one: true, .. }
        | Checked::Flush
        | Checked::Trim { .. }
        | Checked::WriteZeroes { .. }
        | Checked::Disconnect => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sandstone_protocol::{Chunk, ChunkBody, Reply};
    use sandstone_storage::Change;

    fn two_contexts() -> Vec<Context> {
        let allocation = Context { id: 1, reports: Reports::Allocation };
        vec![allocation, Context { id: 2, reports: Reports::Nothing { deleted: Uuid::nil() } }]
    }

    #[test]
    fn changes_and_what_lies_between_them_cover_what_was_looked_at() {
        let change = |offset, len_bytes, state| Change { offset, len_bytes, state };
        let (data, hole) = (ExtentState::Data, ExtentState::Hole);
        let check =
            |found: &[Change], looked_to: u64, entries_max: usize, expected: &[(u32, bool)]| {
                let found = Changes { changes: found.to_vec(), looked_to };
                let list = changed_or_not(100, &found, entries_max);
                let list: Vec<_> =
                    list.iter().map(|d| (d.len, d.flags == ChangeFlags::CHANGED.into())).collect();
                assert_eq!(list, expected, "{found:?}");
            };
        check(&[], 500, 1, &[(400, false)]);
        check(&[change(100, 50, data)], 150, 1, &[(50, true)]);
        check(&[change(200, 50, data)], 250, 1, &[(100, false)]);
        let touching = [change(200, 50, data), change(250, 10, hole), change(300, 100, data)];
        check(&touching, 400, 9, &[(100, false), (60, true), (40, false), (100, true)]);
        check(
            &touching,
            500,
            9,
            &[(100, false), (60, true), (40, false), (100, true), (100, false)],
        );
        check(&touching, 500, 3, &[(100, false), (60, true), (40, false)]);
    }

    #[test]
    fn each_context_gets_its_own_list_and_the_last_one_ends_the_reply() {
        let holes = vec![BlockDescriptor { len: 8192, flags: AllocationFlags::HOLE.into() }];
        let changes = vec![BlockDescriptor { len: 4096, flags: ChangeFlags::CHANGED.into() }];
        let mut out = BytesMut::new();
        status(&mut out, &two_contexts(), Cookie(7), &[holes.clone(), changes.clone()]);
        for (context_id, descriptors, more) in [(1, holes, More::Follows), (2, changes, More::Done)]
        {
            let body = ChunkBody::BlockStatus { context_id, descriptors };
            let chunk = Chunk { cookie: Cookie(7), more, body };
            assert_eq!(Reply::decode(&mut out), Ok(Some(Reply::Chunk(chunk))));
        }
        assert!(out.is_empty());
    }

    #[test]
    fn what_takes_memory_counts_as_in_flight() {
        let agreed = Agreed { mode: ReplyMode::Structured, contexts: two_contexts() };
        let (offset, len) = (0, u32::MAX);
        for (request, bytes) in [
            (Checked::Read { offset, len: 4096, df: true }, 4096 + 1024),
            (Checked::Write { offset, len: 4096, fua: true }, 4096),
            (Checked::Write { offset, len, fua: true }, 256 << 10),
            (Checked::Cache { offset, len }, 1 << 20),
            (Checked::Cache { offset, len: 5 }, 5),
            (Checked::BlockStatus { offset, len, req_one: false }, 2 * (256 << 10)),
            (Checked::BlockStatus { offset, len, req_one: true }, 0),
            (Checked::Trim { offset, len, fua: true }, 0),
        ] {
            assert_eq!(room_bytes(&request, &agreed), REQUEST_BYTES + bytes, "{request:?}");
        }
    }
}
