//! The replies of a connection on their way out: those of one turn leave in one vectored send.

use super::budget::Share;
use bytes::{Bytes, BytesMut};
use sandstone_storage::Socket;
use std::{
    cell::{Cell, RefCell},
    io,
    rc::Rc,
};
use tokio::sync::Notify;

/// Room for reply heads in one allocation.
const HEADS_BYTES: usize = 4096;

/// Replies that wait to be sent.
#[derive(Default)]
pub(super) struct Outbox {
    waiting: RefCell<Waiting>,
    filled: Notify,
    closed: Cell<bool>,
}

#[derive(Default)]
struct Waiting {
    chunks: Vec<Bytes>,
    heads: BytesMut,
    shares: Vec<Share>,
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
    /// Puts one whole reply in. Its share of the budget is given back when it was sent.
    pub(super) fn put(&self, share: Share, encode: impl FnOnce(&mut Reply<'_>)) {
        let mut waiting = self.waiting.borrow_mut();
        waiting.heads.reserve(HEADS_BYTES / 8);
        encode(&mut Reply { waiting: &mut waiting });
        waiting.shares.push(share);
        if waiting.shares.len() == 1 {
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
            if self.waiting.borrow().shares.is_empty() {
                if self.closed.get() {
                    return Ok(());
                }
                // Woken by the first reply of a turn, this runs behind the tasks that were ready with it.
                self.filled.notified().await;
            }
            let (chunks, shares) = {
                let mut waiting = self.waiting.borrow_mut();
                if !waiting.heads.is_empty() {
                    let head = waiting.heads.split().freeze();
                    waiting.chunks.push(head);
                }
                if waiting.heads.capacity() < HEADS_BYTES / 8 {
                    waiting.heads = BytesMut::with_capacity(HEADS_BYTES);
                }
                (std::mem::take(&mut waiting.chunks), std::mem::take(&mut waiting.shares))
            };
            if chunks.is_empty() {
                continue;
            }
            let sent = socket.send_all(chunks).await;
            drop(shares);
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
            drop(gone);
            if self.closed.get() {
                return;
            }
            self.filled.notified().await;
        }
    }
}
