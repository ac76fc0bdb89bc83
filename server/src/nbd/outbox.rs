//! The replies of a connection on their way out: those of one turn leave in one vectored send.

use super::budget::Share;
use crate::traffic::{Meter, Operation, Success, Traffic};
use bytes::{Bytes, BytesMut};
use sandstone_storage::{Socket, runtime};
use std::{
    cell::{Cell, RefCell},
    io,
    rc::Rc,
    sync::Arc,
    time::Duration,
};
use tokio::sync::Notify;

/// Room for reply heads in one allocation.
const HEADS_BYTES: usize = 4096;

/// Replies that wait to be sent.
pub(super) struct Outbox {
    waiting: RefCell<Waiting>,
    filled: Notify,
    closed: Cell<bool>,
    traffic: Arc<Traffic>,
}

#[derive(Default)]
struct Waiting {
    chunks: Vec<Bytes>,
    heads: BytesMut,
    answered: Vec<Answered>,
}

/// A request whose reply waits to be sent.
pub(super) struct Answered {
    /// Given back when the reply was sent.
    pub(super) _share: Share,
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
        if !self.waiting.heads.is_empty() {
            let head = self.waiting.heads.split().freeze();
            self.waiting.chunks.push(head);
        }
        self.waiting.chunks.push(data);
    }
}

impl Outbox {
    /// For a connection whose answers `traffic` counts.
    pub(super) fn new(traffic: Arc<Traffic>) -> Self {
        Self { waiting: RefCell::default(), filled: Notify::new(), closed: Cell::new(false), traffic }
    }

    /// Puts one whole reply in.
    pub(super) fn put(&self, answered: Answered, encode: impl FnOnce(&mut Reply<'_>)) {
        let mut waiting = self.waiting.borrow_mut();
        waiting.heads.reserve(HEADS_BYTES / 8);
        encode(&mut Reply { waiting: &mut waiting });
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

    /// Sends replies until closed.
    ///
    /// # Errors
    /// Those of the connection. Replies put in later go nowhere; their shares are given back.
    pub(super) async fn send(self: Rc<Self>, socket: Rc<Socket>) -> io::Result<()> {
        loop {
            if self.waiting.borrow().answered.is_empty() {
                if self.closed.get() {
                    return Ok(());
                }
                // Woken by the first reply of a turn, this runs behind the tasks that were ready with it.
                self.filled.notified().await;
            }
            let (chunks, answered) = {
                let mut waiting = self.waiting.borrow_mut();
                if !waiting.heads.is_empty() {
                    let head = waiting.heads.split().freeze();
                    waiting.chunks.push(head);
                }
                if waiting.heads.capacity() < HEADS_BYTES / 8 {
                    waiting.heads = BytesMut::with_capacity(HEADS_BYTES);
                }
                (std::mem::take(&mut waiting.chunks), std::mem::take(&mut waiting.answered))
            };
            if chunks.is_empty() {
                continue;
            }
            count(&self.traffic.meter, &answered);
            let sent = socket.send_all(chunks).await;
            drop(answered);
            if let Err(error) = sent {
                // The receiver ends too, and nothing waits for shares that nobody will give back.
                socket.shutdown();
                self.discard().await;
                return Err(error);
            }
        }
    }

    /// Gives back the shares of replies that cannot be sent, until closed.
    async fn discard(&self) {
        loop {
            let gone = std::mem::take(&mut *self.waiting.borrow_mut());
            count(&self.traffic.meter, &gone.answered);
            drop(gone);
            if self.closed.get() {
                return;
            }
            self.filled.notified().await;
        }
    }
}

/// Counts requests whose replies leave now.
fn count(meter: &Meter, answered: &[Answered]) {
    let now = runtime::now();
    for Answered { operation, len, success, arrived, .. } in answered {
        meter.answered(*operation, *len, now.saturating_sub(*arrived), *success);
    }
}
