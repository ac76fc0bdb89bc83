//! The future of one operation.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::io::{Key, Op};
use crate::runtime::Core;

/// Waits for one operation and returns its result with everything that it owned.
///
/// Dropping it detaches: the operation goes on and keeps its buffer and file until its completion.
pub(crate) struct Operation {
    core: Rc<Core>,
    key: Option<Key>,
}

/// Starts an operation on the current thread's runtime. It goes to the kernel at the end of the
/// turn.
///
/// # Panics
/// Outside a runtime.
pub(crate) fn start(op: Op) -> Operation {
    let core = Core::current();
    let key = core.driver().start(op, core.virtual_now());
    Operation { core, key: Some(key) }
}

impl Future for Operation {
    type Output = (io::Result<usize>, Op);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let key = self.key.expect("a finished operation is not polled again");
        let (poll, _replaced_waker) = self.core.driver().table().poll(key, cx.waker());
        if poll.is_ready() {
            self.key = None;
        }
        poll
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            let _dropped_after_the_borrow = self.core.driver().table().detach(key);
        }
    }
}
