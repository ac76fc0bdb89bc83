//! The end that a connection came to by itself: its socket failed, or its client stood still for
//! too long.
//!
//! I1  Once a connection is lost nothing is waited for that only makes an answer: each waiter hears
//!     of it at once.
//!
//! It belongs to one thread, as its connection does.

use slab::Slab;
use std::{
    cell::{Cell, RefCell},
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};
use thiserror::Error;

/// Why a connection is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum AbortReason {
    /// It was reset, or closed in both directions.
    #[error("the connection was closed or reset")]
    HungUp,
    /// The client has not sent what it announced.
    #[error("cut off: the client did not send what it announced (nbd.stall)")]
    PayloadStalled,
    /// It has not taken its replies.
    #[error("cut off: the client did not take its replies (nbd.stall)")]
    ReplyStalled,
}

/// Whether a connection is lost, and who wants to know.
#[derive(Debug, Default)]
pub(super) struct AbortSignal {
    why: Cell<Option<AbortReason>>,
    waiting: RefCell<Slab<Waker>>,
}

impl AbortSignal {
    pub(super) fn why(&self) -> Option<AbortReason> {
        self.why.get()
    }

    /// The connection is lost. Whether it was not before.
    pub(super) fn set(&self, why: AbortReason) -> bool {
        if self.why.get().is_some() {
            return false;
        }
        self.why.set(Some(why));
        let waiting = std::mem::take(&mut *self.waiting.borrow_mut());
        waiting.into_iter().for_each(|(_, waker)| waker.wake());
        true
    }

    /// What comes of `future`; `None` where the connection is lost before.
    pub(super) async fn or_aborted<F: Future>(&self, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        let mut waiter = Waiter { abort: self, key: None };
        std::future::poll_fn(|cx| waiter.poll(future.as_mut(), cx)).await
    }
}

/// Of one who waits.
struct Waiter<'a> {
    abort: &'a AbortSignal,
    key: Option<usize>,
}

impl Waiter<'_> {
    fn poll<F: Future>(
        &mut self,
        future: Pin<&mut F>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<F::Output>> {
        if self.abort.why.get().is_some() {
            return Poll::Ready(None);
        }
        if let Poll::Ready(output) = future.poll(cx) {
            return Poll::Ready(Some(output));
        }
        // Polling may have been what ended it.
        if self.abort.why.get().is_some() {
            return Poll::Ready(None);
        }
        let mut waiting = self.abort.waiting.borrow_mut();
        match self.key {
            Some(key) => waiting[key].clone_from(cx.waker()),
            None => self.key = Some(waiting.insert(cx.waker().clone())),
        }
        Poll::Pending
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            let _waker = self.abort.waiting.borrow_mut().try_remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use std::future::{pending, ready};

    #[test]
    fn who_waits_hears_of_the_loss_and_who_comes_later_does_not_begin() {
        let signal = AbortSignal::default();
        assert_eq!(signal.or_aborted(ready(1)).now_or_never(), Some(Some(1)));
        let mut waiting = Box::pin(signal.or_aborted(pending::<()>()));
        assert_eq!((&mut waiting).now_or_never(), None);
        assert!(signal.set(AbortReason::ReplyStalled) && !signal.set(AbortReason::HungUp));
        assert_eq!(waiting.now_or_never(), Some(None));
        assert_eq!(signal.or_aborted(ready(1)).now_or_never(), Some(None));
        assert_eq!(signal.why(), Some(AbortReason::ReplyStalled));
    }

    #[test]
    fn who_is_done_waits_no_longer() {
        let signal = AbortSignal::default();
        let mut waiting = Box::pin(signal.or_aborted(pending::<()>()));
        assert_eq!((&mut waiting).now_or_never(), None);
        assert_eq!(signal.waiting.borrow().len(), 1);
        drop(waiting);
        assert!(signal.waiting.borrow().is_empty());
    }
}
