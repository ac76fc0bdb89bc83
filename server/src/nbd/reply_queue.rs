//! The replies of a connection on their way out: those of one turn leave in one vectored send, or
//! where they are much in several, so that it is seen whether the client takes them, and what it
//! has taken is free.

use super::{budget::Share, deadline::in_time};
use crate::traffic::{Meter, Operation, Success, Traffic};
use bytes::{Bytes, BytesMut};
use sandstone_ring::{Socket, runtime};
use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    io,
    rc::Rc,
    sync::Arc,
    time::Duration,
};
use tokio::sync::Notify;

/// Room for reply heads in one allocation.
const HEADS_BYTES: usize = 4096;
/// Sent at a time: what a client must take in the time that it is given (`nbd.stall`).
const STEP_BYTES: usize = 1 << 20;

/// Replies that wait to be sent.
pub(super) struct ReplyQueue {
    waiting: RefCell<Waiting>,
    filled: Notify,
    closed: Cell<bool>,
    /// Replies go nowhere any more.
    lost: Cell<bool>,
    traffic: Arc<Traffic>,
}

#[derive(Default)]
struct Waiting {
    chunks: Vec<Bytes>,
    /// All of them together.
    chunks_bytes: usize,
    /// Those that follow the chunks.
    heads: BytesMut,
    answered: Vec<Answered>,
}

/// Why replies were not sent.
#[derive(Debug)]
pub(super) enum Unsent {
    /// The connection failed.
    Failed(io::Error),
    /// The client does not take them.
    Stalled,
}

/// A request whose reply waits to be sent.
pub(super) struct Answered {
    /// Given back when the reply was sent.
    pub(super) _share: Share,
    /// Where the reply ends among those that are sent together, in bytes.
    pub(super) end: usize,
    /// `None` for a request that means nothing.
    pub(super) operation: Option<Operation>,
    /// Bytes concerned.
    pub(super) len: u32,
    pub(super) success: Success,
    /// By the runtime's clock.
    pub(super) arrived: Duration,
}

/// One reply being put together: heads and data in turn.
pub(super) struct Reply<'a> {
    waiting: &'a mut Waiting,
}

impl Reply<'_> {
    /// Where heads are encoded to.
    pub(super) fn head(&mut self) -> &mut BytesMut {
        &mut self.waiting.heads
    }

    /// Data that follows what is encoded so far.
    pub(super) fn data(&mut self, data: Bytes) {
        self.waiting.end_head();
        self.waiting.push(data);
    }
}

impl Waiting {
    fn push(&mut self, chunk: Bytes) {
        self.chunks_bytes += chunk.len();
        self.chunks.push(chunk);
    }

    /// What was encoded last becomes a chunk.
    fn end_head(&mut self) {
        if !self.heads.is_empty() {
            let head = self.heads.split().freeze();
            self.push(head);
        }
    }
}

impl ReplyQueue {
    /// For a connection whose answers `traffic` counts.
    pub(super) fn new(traffic: Arc<Traffic>) -> Self {
        let (closed, lost) = (Cell::new(false), Cell::new(false));
        Self { waiting: RefCell::default(), filled: Notify::new(), closed, lost, traffic }
    }

    /// Puts one whole reply in.
    pub(super) fn put(&self, mut answered: Answered, encode: impl FnOnce(&mut Reply<'_>)) {
        if self.lost.get() {
            return count(&self.traffic.meter, &[answered]);
        }
        let mut waiting = self.waiting.borrow_mut();
        waiting.heads.reserve(HEADS_BYTES / 8);
        encode(&mut Reply { waiting: &mut waiting });
        answered.end = waiting.chunks_bytes + waiting.heads.len();
        waiting.answered.push(answered);
        if waiting.answered.len() == 1 {
            self.filled.notify_one();
        }
    }

    /// No more replies: [`Self::send`] returns when it has sent what there is.
    pub(super) fn close(&self) {
        self.closed.set(true);
        self.filled.notify_one();
    }

    /// The connection is lost: replies that wait, and those put in later, go nowhere, and what they
    /// hold is free.
    pub(super) fn abort(&self) {
        self.lost.set(true);
        let gone = std::mem::take(&mut *self.waiting.borrow_mut());
        count(&self.traffic.meter, &gone.answered);
        self.filled.notify_one();
    }

    /// Sends replies until closed, or lost. The client has `stall` for each step.
    ///
    /// # Errors
    /// Those of the connection, which is lost then; and that of the client who takes nothing.
    pub(super) async fn send(
        self: Rc<Self>,
        socket: Rc<Socket>,
        stall: Duration,
    ) -> Result<(), Unsent> {
        loop {
            if self.lost.get() {
                return Ok(());
            }
            if self.waiting.borrow().answered.is_empty() {
                if self.closed.get() {
                    return Ok(());
                }
                // Woken by the first reply of a turn, this runs behind the tasks that were ready
                // with it.
                self.filled.notified().await;
            }
            let (chunks, answered, len) = {
                let mut waiting = self.waiting.borrow_mut();
                waiting.end_head();
                if waiting.heads.capacity() < HEADS_BYTES / 8 {
                    waiting.heads = BytesMut::with_capacity(HEADS_BYTES);
                }
                let len = std::mem::take(&mut waiting.chunks_bytes);
                (std::mem::take(&mut waiting.chunks), std::mem::take(&mut waiting.answered), len)
            };
            if chunks.is_empty() {
                continue;
            }
            count(&self.traffic.meter, &answered);
            if len <= STEP_BYTES {
                send_step(&socket, chunks, stall).await?;
                continue;
            }
            let mut chunks = chunks.into_iter().collect();
            let (mut answered, mut sent) = (answered.into_iter().peekable(), 0);
            while let Some((step, step_len)) = next_step(&mut chunks) {
                send_step(&socket, step, stall).await?;
                sent += step_len;
                while answered.next_if(|answered| answered.end <= sent).is_some() {}
            }
        }
    }
}

async fn send_step(socket: &Socket, chunks: Vec<Bytes>, stall: Duration) -> Result<(), Unsent> {
    in_time(socket.send_all(chunks), stall).await.ok_or(Unsent::Stalled)?.map_err(Unsent::Failed)
}

/// The next chunks to send, and their bytes.
fn next_step(chunks: &mut VecDeque<Bytes>) -> Option<(Vec<Bytes>, usize)> {
    let (mut step, mut len) = (Vec::new(), 0);
    while len < STEP_BYTES
        && let Some(chunk) = chunks.front_mut()
    {
        if chunk.len() > STEP_BYTES - len {
            step.push(chunk.split_to(STEP_BYTES - len));
            return Some((step, STEP_BYTES));
        }
        len += chunk.len();
        step.extend(chunks.pop_front());
    }
    (!step.is_empty()).then_some((step, len))
}

/// Counts requests whose replies leave now.
fn count(meter: &Meter, answered: &[Answered]) {
    let now = runtime::now();
    for Answered { operation, len, success, arrived, .. } in answered {
        meter.answered(*operation, *len, now.saturating_sub(*arrived), *success);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_hold_all_chunks_in_order_and_no_more_than_they_may() {
        let sizes = [10, STEP_BYTES - 10, 3 * STEP_BYTES + 7, 5, 0, STEP_BYTES];
        let chunks = sizes.iter().enumerate().map(|(i, len)| Bytes::from(vec![i as u8; *len]));
        let mut chunks: VecDeque<Bytes> = chunks.collect();
        let all: Vec<u8> = chunks.iter().flatten().copied().collect();
        let mut sent = Vec::new();
        while let Some((step, len)) = next_step(&mut chunks) {
            assert_eq!(step.iter().map(Bytes::len).sum::<usize>(), len);
            assert!(len == STEP_BYTES || chunks.is_empty(), "{len}");
            step.iter().for_each(|chunk| sent.extend_from_slice(chunk));
        }
        assert!(sent == all);
    }
}
