//! One connection in transmission, on its worker's thread.
//!
//! ```text
//!   recv ─► requests ─► check ─► limits ─► budget ─► execute ─┬─► ready ──────────────► replies ─► send
//!                                                             ├─► logged: a task for ──┤
//!                                                             │   each batch waits     │
//!                                                             └─► pending: a task each ┘
//! ```
//!
//! I1  Requests begin in the order they came; replies leave as they are done.
//! I2  Every request that was taken in is answered before the connection closes: after DISC, after
//!     the end of the stream, and when the server stops. But not once the connection is lost. What
//!     a CACHE would still have read is left out then: no client comes back for it. Limits end when
//!     the server stops.
//! I3  A refused WRITE's payload is thrown away, so that the next request is found where it is.
//! I4  A request is counted when it is taken in and when its reply leaves, with the time since the
//!     receive that brought its head. So its waits for limits and for room are in that time, and a
//!     turn's requests share two looks at the clock.
//!
//! I5  A connection that is lost (it failed, was closed in both directions, or its client stood
//!     still for `nbd.stall`) makes no more answers: reads, CACHE and block status are not begun,
//!     and those under way are dropped, wherever they wait. Writes that came whole go on. A loss is
//!     noticed wherever the connection is, also while it receives nothing.
//! I6  Room is taken for bytes that came: none for a head, and for a large payload part by part,
//!     each (but for the first) at most as large as what came before. A connection whose last large
//!     payload came whole has the first part at once.
//!
//! Source: "Transmission", "Terminating the transmission phase".

use super::{
    abort::{AbortReason, AbortSignal},
    budget::{Budget, OnWorker, Share},
    buffer_quota::BufferQuota,
    deadline::Deadline,
    disconnect::Disconnect,
    executor::{
        Agreed, Execution, Executor, Outcome, Pending, WithoutClient, answer, is_question,
        room_bytes,
    },
    in_flight_pool::Flow,
    payload::{NOW_BYTES_MAX, PART_BYTES_MAX, Payload, part_len},
    reply_queue::{Answered, ReplyQueue, Unsent},
    socket_handle::SocketHandle,
};
use crate::traffic::{Cost, Operation, Success, Traffic};
use bytes::{Buf, Bytes, BytesMut};
use futures_util::poll;
use sandstone_protocol::{Checked, Request, Terms, WireError};
use sandstone_ring::{Socket, runtime};
use sandstone_storage::{Receipt, Volume};
use std::{
    cell::{Cell, RefCell},
    io,
    pin::pin,
    rc::Rc,
    sync::Arc,
    task::Poll,
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// Most room for one receive: some dozens of small writes.
const RECEIVE_BYTES: usize = 128 << 10;

/// Least room: a few small writes, or the heads of hundreds of requests. A thousand clients that
/// each wait for their answer take no more than they need.
const RECEIVE_BYTES_LEAST: usize = 16 << 10;

/// Room where large payloads follow each other.
const HEAD_BYTES: usize = 4 << 10;

/// Requests that a connection begins in a row while others of its worker have some in flight: then
/// it is their turn. One receive may bring thirty, and each costs its worker up to 10 µs, which a
/// lone request of another client would wait for.
const REQUESTS_IN_A_ROW: u32 = 8;

/// What the text of a refusal may take.
const REFUSAL_BYTES: u64 = 1 << 10;

/// How many times `nbd.stall` a payload may take that others wait for.
const RESERVE_STALLS: u32 = 4;

/// Time from one line of the log about a failed request of a connection to the next.
const TOLD_AGAIN: Duration = Duration::from_secs(1);

pub(super) struct Connection {
    socket: Rc<Socket>,
    executor: Rc<Executor>,
    traffic: Arc<Traffic>,
    terms: Terms,
    reply_queue: Rc<ReplyQueue>,
    budget: Rc<Budget>,
    abort: AbortSignal,
    is_watched: Cell<bool>,
    /// What a client may take for a MiB.
    stall: Duration,
    /// The writes that came last into the log.
    logged: RefCell<Option<Logged>>,
    /// Room for a receive of heads, and of what comes behind them.
    head_room: Cell<usize>,
    buffer_quota: BufferQuota,
    /// The most that one of them brought since there was room made.
    most_received: Cell<usize>,
    /// When the last receive ended that may have brought a head, by the runtime's clock.
    received_at: Cell<Duration>,
    /// When the log was last told of a request that failed.
    told_at: Cell<Duration>,
    /// Cancelled when no more requests are taken in, or when the connection is disconnected.
    leaving: CancellationToken,
    /// Cancelled when it is disconnected.
    disconnected: CancellationToken,
    /// Cancelled when what has arrived is to be answered soon.
    stopping: CancellationToken,
}

/// A request that was taken in.
struct Taken {
    request: Request,
    share: Share,
    /// By the runtime's clock.
    arrived: Duration,
}

/// Where a connection is served.
pub(super) struct WorkerContext<'a> {
    pub(super) flow: Arc<Flow>,
    pub(super) worker: &'a Rc<OnWorker>,
    /// `nbd.stall`.
    pub(super) stall: Duration,
}

/// Writes that wait for the same batch of the log.
struct Logged {
    receipt: Receipt,
    /// Emptied when they are in the store.
    writes: Rc<RefCell<Vec<Taken>>>,
}

impl Connection {
    pub(super) fn new(
        socket: Socket,
        handle: &SocketHandle,
        volume: Volume,
        traffic: Arc<Traffic>,
        terms: Terms,
        agreed: Agreed,
        context: WorkerContext<'_>,
    ) -> Rc<Self> {
        let WorkerContext { flow, worker, stall } = context;
        Rc::new(Self {
            socket: Rc::new(socket),
            executor: Executor::new(volume, agreed),
            terms,
            reply_queue: Rc::new(ReplyQueue::new(Arc::clone(&traffic))),
            traffic,
            buffer_quota: BufferQuota::new(flow.pool()),
            budget: Budget::new(flow, worker),
            abort: AbortSignal::default(),
            is_watched: Cell::new(false),
            stall,
            logged: RefCell::default(),
            head_room: Cell::new(RECEIVE_BYTES_LEAST),
            most_received: Cell::new(0),
            received_at: Cell::new(runtime::now()),
            told_at: Cell::new(runtime::now().saturating_sub(TOLD_AGAIN)),
            leaving: handle.disconnected().child_token(),
            disconnected: handle.disconnected().clone(),
            stopping: handle.stopping().clone(),
        })
    }

    /// Serves the connection to its end. `received` are bytes that came with the end of the
    /// handshake.
    pub(super) async fn run(self: Rc<Self>, received: BytesMut) -> Disconnect {
        let _connected = self.traffic.meter.connected();
        let _served = runtime::serve_one();
        let (ended, sender_ended) = tokio::sync::oneshot::channel();
        let this = Rc::clone(&self);
        runtime::spawn(async move {
            let sent = Rc::clone(&this.reply_queue).send(Rc::clone(&this.socket), this.stall).await;
            match &sent {
                Ok(()) => {}
                Err(Unsent::Failed(_)) => this.abort(AbortReason::HungUp),
                Err(Unsent::Stalled) => this.abort(AbortReason::ReplyStalled),
            }
            // It is unheard only if the runtime itself ends.
            let _ = ended.send(sent);
        });
        let mut reason = self.receive(received).await;
        self.leaving.cancel();
        match &reason {
            Disconnect::Failed(_) => self.abort(AbortReason::HungUp),
            Disconnect::Aborted(why) => self.abort(*why),
            Disconnect::Soft
            | Disconnect::Closed
            | Disconnect::Truncated(_)
            | Disconnect::Protocol(_) => {}
        }
        if self.budget.requests() > 0 {
            self.watch(); // keeps I5
        }
        self.budget.empty().await; // keeps I2
        self.reply_queue.close();
        match sender_ended.await {
            Ok(Err(Unsent::Failed(error))) if self.abort.why() == Some(AbortReason::HungUp) => {
                reason = Disconnect::Failed(error)
            }
            Ok(Err(Unsent::Stalled)) => reason = Disconnect::Aborted(AbortReason::ReplyStalled),
            Ok(_) | Err(_) => {}
        }
        self.socket.shutdown();
        reason
    }

    /// The connection is lost: I5.
    fn abort(&self, why: AbortReason) {
        if self.abort.set(why) {
            self.reply_queue.abort();
            // The receiver ends too.
            self.socket.shutdown();
        }
    }

    /// Has the loss of the connection noticed while nothing is received. It ends with the
    /// connection.
    fn watch(self: &Rc<Self>) {
        if !self.is_watched.replace(true) {
            let this = Rc::clone(self);
            runtime::spawn(async move {
                this.socket.failed().await;
                this.abort(AbortReason::HungUp);
            });
        }
    }

    /// What comes of a wait for something else than the client; `None` where the connection is lost
    /// before.
    async fn unless_aborted<F: Future>(self: &Rc<Self>, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        if let Poll::Ready(output) = poll!(future.as_mut()) {
            return Some(output);
        }
        self.watch();
        self.abort.or_aborted(future).await
    }

    /// Takes requests in until there are no more.
    async fn receive(self: &Rc<Self>, mut buf: BytesMut) -> Disconnect {
        let mut in_a_row = 0;
        loop {
            if let Some(why) = self.abort.why() {
                self.take_in_orphans(None, buf);
                return Disconnect::Aborted(why);
            }
            let request = match Request::decode(&mut buf) {
                Ok(Some(request)) => request,
                Ok(None) => match self.more_heads(&mut buf).await {
                    Ok(0) if buf.is_empty() => return Disconnect::Closed,
                    Ok(0) => return self.truncated("request"),
                    Ok(_) => {
                        in_a_row = 0;
                        continue;
                    }
                    Err(error) => return Disconnect::Failed(error),
                },
                Err(error) => return Disconnect::Protocol(error.to_string()),
            };
            let arrived = self.received_at.get();
            match request.check(&self.terms()) {
                Ok(Checked::Disconnect) => return Disconnect::Soft,
                Ok(checked) => {
                    if self.unless_aborted(self.keep_limits(&checked)).await.is_none() {
                        self.take_in_orphans(Some((request, checked)), buf);
                        return self.lost();
                    }
                    if let Err(reason) = self.beginning(&mut buf, &request).await {
                        return reason;
                    }
                    let room = self.room(room_bytes(&checked, self.executor.agreed()));
                    let mut share = match self.unless_aborted(room).await {
                        Some(Some(share)) => share,
                        Some(None) => return Disconnect::Closed,
                        None => {
                            self.take_in_orphans(Some((request, checked)), buf);
                            return self.lost();
                        }
                    };
                    let payload = match self.payload(&mut buf, &request, &mut share).await {
                        Ok(payload) => payload,
                        Err(reason) => return reason,
                    };
                    self.begin(Taken { request, share, arrived }, checked, payload);
                    in_a_row += 1;
                    if in_a_row >= REQUESTS_IN_A_ROW && self.budget.is_shared() {
                        runtime::yield_now().await;
                        in_a_row = 0;
                    }
                }
                Err(reject) => {
                    let share = match self.unless_aborted(self.room(REFUSAL_BYTES)).await {
                        Some(Some(share)) => share,
                        Some(None) => return Disconnect::Closed,
                        None => return self.lost(),
                    };
                    if let Err(reason) = self.drain(&mut buf, reject.drain).await {
                        return reason;
                    }
                    let outcome =
                        Outcome::Failed { error: reject.error, text: reject.reason.into() };
                    self.traffic.meter.taken_in();
                    self.answer(Taken { request, share, arrived }, outcome);
                    if reject.fatal {
                        return Disconnect::Protocol(reject.reason.into());
                    }
                }
            }
        }
    }

    /// Takes in what came whole before the connection was lost, and changes something. It waits for
    /// no limit, but counts: a client does not evade one by hanging up. `next` is decoded already.
    fn take_in_orphans(self: &Rc<Self>, mut next: Option<(Request, Checked)>, mut buf: BytesMut) {
        // A disconnected client wants nothing of it any more.
        while !self.disconnected.is_cancelled() {
            let decoded = || {
                let request = Request::decode(&mut buf).ok()??;
                Some((request, request.check(&self.terms()).ok()?))
            };
            let Some((request, checked)) = next.take().or_else(decoded) else { return };
            let len = request.payload_len() as usize;
            if let Checked::Disconnect = checked {
                return;
            }
            if buf.len() < len {
                return;
            }
            let payload = Payload::One(buf.split_to(len).freeze());
            if !is_question(&checked) {
                self.traffic.limits.charge(Cost::of(&checked), runtime::now());
                let share = self.budget.take_received();
                self.begin(
                    Taken { request, share, arrived: self.received_at.get() },
                    checked,
                    payload,
                );
            }
        }
    }

    /// A volume may have grown since the handshake.
    fn terms(&self) -> Terms {
        Terms { size_bytes: self.executor.volume().size_bytes(), ..self.terms }
    }

    /// The stream ended within something.
    fn truncated(&self, what: &'static str) -> Disconnect {
        self.abort.why().map_or(Disconnect::Truncated(what), Disconnect::Aborted)
    }

    fn lost(&self) -> Disconnect {
        Disconnect::Aborted(self.abort.why().unwrap_or(AbortReason::HungUp))
    }

    fn begin(self: &Rc<Self>, taken: Taken, checked: Checked, payload: Payload) {
        self.traffic.meter.taken_in();
        if !self.budget.is_alone() {
            runtime::hint_concurrency();
        }
        match self.executor.execute(checked, payload) {
            Execution::Ready(outcome) => self.answer(taken, outcome),
            Execution::Logged(receipt) => self.answer_when_written(taken, receipt),
            Execution::Pending(pending) => self.answer_when_done(taken, pending),
        }
    }

    /// Answers when the outcome is there. What only makes an answer is dropped once the client is
    /// gone (I5).
    fn answer_when_done(self: &Rc<Self>, taken: Taken, pending: Pending) {
        let this = Rc::clone(self);
        runtime::spawn(async move {
            let without_client = pending.without_client;
            let outcome = pending.finish();
            let outcome = match without_client {
                WithoutClient::Finished => Some(outcome.await),
                WithoutClient::Dropped => this.abort.or_aborted(outcome).await,
                WithoutClient::DroppedEarly => {
                    let early = this.leaving.run_until_cancelled(outcome);
                    let outcome = this.abort.or_aborted(early).await;
                    outcome.map(|outcome| outcome.unwrap_or(Outcome::Done))
                }
            };
            match outcome {
                Some(outcome) => {
                    this.tell(&taken.request, &outcome);
                    this.answer(taken, outcome);
                }
                None => this.traffic.meter.abandoned(),
            }
        });
    }

    /// Answers a write that is logged when it is in the store, together with all others of its
    /// batch.
    fn answer_when_written(self: &Rc<Self>, taken: Taken, receipt: Receipt) {
        let mut logged = self.logged.borrow_mut();
        if let Some(last) = &*logged
            && last.receipt.is_shared_with(&receipt)
        {
            // It is still on its way, because it took this one in: so are the writes that wait for
            // it.
            return last.writes.borrow_mut().push(taken);
        }
        let writes = Rc::new(RefCell::new(vec![taken]));
        *logged = Some(Logged { receipt: receipt.clone(), writes: Rc::clone(&writes) });
        let this = Rc::clone(self);
        runtime::spawn(async move {
            let written = receipt.written().await;
            for taken in writes.take() {
                let outcome = Outcome::of(written.as_ref());
                this.tell(&taken.request, &outcome);
                this.answer(taken, outcome);
            }
        });
    }

    /// Tells the log of a request that failed though nothing was wrong with it.
    fn tell(&self, request: &Request, outcome: &Outcome) {
        match outcome {
            // The client hears of it, and a full store would fill the log too.
            Outcome::Failed { error: error @ WireError::Enospc, text } => {
                tracing::debug!(volume = %self.executor.volume().id(), ?request, ?error, reason = text, "request failed");
            }
            // One a second: a client that asks for what cannot be done must not fill the log for
            // all others.
            Outcome::Failed { error, text } if self.told_at.get() + TOLD_AGAIN > runtime::now() => {
                tracing::debug!(volume = %self.executor.volume().id(), ?request, ?error, reason = text, "request failed");
            }
            Outcome::Failed { error, text } => {
                self.told_at.set(runtime::now());
                tracing::warn!(volume = %self.executor.volume().id(), ?request, ?error, reason = text, "request failed");
            }
            Outcome::Done | Outcome::Read { .. } | Outcome::Status(_) => {}
        }
    }

    /// Puts the reply into the reply queue.
    fn answer(&self, Taken { request, share, arrived }: Taken, outcome: Outcome) {
        let success = match &outcome {
            Outcome::Failed { .. } => Success::Failed,
            Outcome::Done | Outcome::Read { .. } | Outcome::Status(_) => Success::Done,
        };
        let operation = Operation::of(request.command);
        let answered =
            Answered { _share: share, end: 0, operation, len: request.len, success, arrived };
        self.reply_queue
            .put(answered, |reply| answer(reply, self.executor.agreed(), request.cookie, outcome));
    }

    /// Waits as long as the volume's limits ask for, before anything of the budget is taken that
    /// others could use.
    async fn keep_limits(&self, request: &Checked) {
        let limits = &self.traffic.limits;
        if !limits.are_none() {
            let admitted = limits.admit(Cost::of(request), runtime::now, runtime::sleep);
            self.stopping.run_until_cancelled(admitted).await;
        }
    }

    /// Waits for room in the budget; `None` when the connection was disconnected before there was
    /// any.
    async fn room(&self, bytes: u64) -> Option<Share> {
        match self.budget.try_take(bytes) {
            Some(share) => Some(share),
            None => self.leaving.run_until_cancelled(self.budget.take(bytes)).await,
        }
    }

    /// Receives heads, and what comes behind them, with as much room as lately was of use.
    async fn more_heads(&self, buf: &mut BytesMut) -> io::Result<usize> {
        if buf.capacity() - buf.len() < self.head_room.get() / 4 {
            if self.head_room.get() != HEAD_BYTES {
                let room = (2 * self.most_received.take()).next_power_of_two();
                let room = room.clamp(RECEIVE_BYTES_LEAST, RECEIVE_BYTES);
                let more = (room - RECEIVE_BYTES_LEAST) as u64;
                self.head_room.set(if self.buffer_quota.resize(more) {
                    room
                } else {
                    RECEIVE_BYTES_LEAST
                });
            }
            buf.reserve(self.head_room.get());
        }
        let received = self.more(buf).await?;
        self.most_received.set(self.most_received.get().max(received));
        Ok(received)
    }

    /// Receives more into what room there is, at least one byte unless the stream ended (0).
    async fn more(&self, buf: &mut BytesMut) -> io::Result<usize> {
        let (result, back) = self.socket.recv(std::mem::take(buf)).await;
        *buf = back;
        self.received_at.set(runtime::now());
        result
    }

    /// Receives the beginning of a payload, for which there is room in any case: a head alone takes
    /// no other (I6). Where large payloads follow each other, it comes with the rest.
    async fn beginning(&self, buf: &mut BytesMut, request: &Request) -> Result<(), Disconnect> {
        let len = (request.payload_len() as usize).min(RECEIVE_BYTES_LEAST);
        if buf.len() < len && self.head_room.get() != HEAD_BYTES {
            buf.reserve(len - buf.len() + self.head_room.get());
            let mut deadline = Deadline::new(self.stall);
            while buf.len() < len {
                self.more_of_payload(buf, &mut deadline).await?;
            }
        }
        Ok(())
    }

    /// The payload of a request, of which `share` is to have what it takes.
    async fn payload(
        self: &Rc<Self>,
        buf: &mut BytesMut,
        request: &Request,
        share: &mut Share,
    ) -> Result<Payload, Disconnect> {
        let len = request.payload_len() as usize;
        if len > NOW_BYTES_MAX {
            return self.large_payload(buf, request.offset, len, share).await.map(Payload::Parts);
        }
        if len > 0 && self.head_room.get() == HEAD_BYTES {
            self.head_room.set(RECEIVE_BYTES_LEAST);
        }
        if buf.len() < len {
            // Room for the whole, so that it is not moved again, and for what comes behind it.
            buf.reserve(len - buf.len() + self.head_room.get());
            let mut deadline = Deadline::new(self.stall);
            while buf.len() < len {
                self.more_of_payload(buf, &mut deadline).await?;
            }
        }
        Ok(Payload::One(buf.split_to(len).freeze()))
    }

    /// The same in memory of its own, of which nothing is left over for a few bytes behind it to
    /// hold.
    async fn large_payload(
        self: &Rc<Self>,
        buf: &mut BytesMut,
        offset: u64,
        len: usize,
        share: &mut Share,
    ) -> Result<Vec<Bytes>, Disconnect> {
        let (mut parts, mut came) = (Vec::new(), 0);
        // The holder of the reserve keeps all others out of it, so what is missing then has one
        // time together.
        let mut in_reserve = Deadline::new(RESERVE_STALLS * self.stall);
        while came < len {
            let part_len = part_len(offset, came, len);
            if came > 0 && self.unless_aborted(share.grow(part_len as u64)).await.is_none() {
                return Err(self.lost());
            }
            let mut part = BytesMut::with_capacity(part_len);
            part.extend_from_slice(&buf.split_to(buf.len().min(part_len)));
            let mut of_part = Deadline::new(self.stall);
            let deadline = if share.holds_reserve() { &mut in_reserve } else { &mut of_part };
            while part.len() < part_len {
                self.more_of_payload(&mut part, deadline).await?;
            }
            if part.len() > part_len {
                // The memory was larger than asked for.
                buf.extend_from_slice(&part.split_off(part_len));
            }
            parts.push(part.freeze());
            came += part_len;
        }
        *buf = BytesMut::from(&buf[..]);
        // Another such is most likely next, of which the fewer bytes have to be moved the fewer
        // come with its head.
        self.head_room.set(HEAD_BYTES);
        Ok(parts)
    }

    /// Receives more of a payload, within the time that it has.
    async fn more_of_payload(
        &self,
        buf: &mut BytesMut,
        deadline: &mut Deadline,
    ) -> Result<(), Disconnect> {
        match deadline.in_time(self.more(buf)).await {
            Some(Ok(0)) => Err(self.truncated("payload")),
            Some(Ok(_)) => Ok(()),
            Some(Err(error)) => Err(Disconnect::Failed(error)),
            None => Err(Disconnect::Aborted(AbortReason::PayloadStalled)),
        }
    }

    /// Throws `len` bytes away.
    async fn drain(&self, buf: &mut BytesMut, len: u64) -> Result<(), Disconnect> {
        let (mut left, mut deadline, mut in_stretch) = (len, Deadline::new(self.stall), 0);
        loop {
            let step = left.min(buf.len() as u64);
            buf.advance(step as usize);
            left -= step;
            in_stretch += step;
            if left == 0 {
                return Ok(());
            }
            if in_stretch >= PART_BYTES_MAX as u64 {
                (deadline, in_stretch) = (Deadline::new(self.stall), 0);
            }
            buf.reserve(RECEIVE_BYTES_LEAST);
            self.more_of_payload(buf, &mut deadline).await?;
        }
    }
}
