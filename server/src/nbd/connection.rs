//! One connection in transmission, on its worker's thread.
//!
//! ```text
//!   recv ─► requests ─► check ─► limits ─► budget ─┬─► a task each: dispatch ────────► outbox ─► send
//!                                                  ├─► a read from memory: at once ─────┤
//!                                                  └─► a write: logged at once; a task  │
//!                                                      for each batch of the log waits ─┘
//! ```
//!
//! I1  Requests begin in the order they came; replies leave as they are done.
//! I2  Every request that was taken in is answered before the connection closes: after DISC, after the end of the
//!     stream, and when the server stops.
//!     What a CACHE would still have read is left out then: nobody comes back for it. Limits end when the server stops.
//! I3  A refused WRITE's payload is thrown away, so that the next request is found where it is.
//! I4  A request is counted when it is taken in and when its reply leaves, with the time since the receive that brought its
//!     head. So its waits for limits and for room are in that time, and a turn's requests share two looks at the clock.
//!
//! Source: "Transmission", "Terminating the transmission phase".

use super::{
    budget::{Budget, Share},
    dispatch::{Agreed, Outcome, answer, bytes_in_flight, serve},
    outbox::{Answered, Outbox},
    wire::Wire,
};
use crate::traffic::{Cost, Operation, Success, Traffic};
use bytes::{Buf, Bytes, BytesMut};
use sandstone_protocol::{Checked, Request, Terms, WireError};
use sandstone_storage::{Begun, BegunRead, Reader, Receipt, Socket, Volume, runtime};
use std::{
    cell::{Cell, RefCell},
    fmt, io,
    rc::Rc,
    sync::Arc,
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// Most room for one receive: some dozens of small writes.
const RECEIVE_BYTES: usize = 128 << 10;

/// Least room: a few small writes, or the heads of hundreds of requests. A thousand clients that each wait for their answer
/// take no more than they need.
const RECEIVE_BYTES_LEAST: usize = 16 << 10;

/// Room where large payloads follow each other.
const HEAD_BYTES: usize = 4 << 10;

/// Requests that a connection begins in a row while others of its worker have some in flight: then it is their turn. One
/// receive may bring thirty, and each costs its worker up to 10 µs, which a lone request of another client would wait for.
const REQUESTS_IN_A_ROW: u32 = 8;

/// Most bytes of a write that is begun without a task: if it has to wait all the same, its checksums are made twice.
const NOW_BYTES_MAX: usize = 64 << 10;

/// How a connection ended.
pub(super) enum Ending {
    /// The client said goodbye.
    Disconnected,
    /// It closed its side, or the server did.
    Closed,
    /// It broke the protocol, so that nothing more can be made of what it sends.
    Broken(String),
    /// The connection failed.
    Failed(io::Error),
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disconnected => f.write_str("the client disconnected"),
            Self::Closed => f.write_str("the stream ended"),
            Self::Broken(why) => write!(f, "cut off: {why}"),
            Self::Failed(error) => write!(f, "the connection failed: {error}"),
        }
    }
}

pub(super) struct Connection {
    socket: Rc<Socket>,
    volume: Volume,
    reader: Reader,
    traffic: Arc<Traffic>,
    terms: Terms,
    agreed: Agreed,
    outbox: Rc<Outbox>,
    budget: Rc<Budget>,
    /// The writes that came last into the log.
    logged: RefCell<Option<Logged>>,
    /// Room for a receive of heads, and of what comes behind them.
    head_room: Cell<usize>,
    /// The most that one of them brought since there was room made.
    most_received: Cell<usize>,
    /// When the last receive ended that may have brought a head, by the runtime's clock.
    received_at: Cell<Duration>,
    /// Cancelled when no more requests are taken in, or when the connection is cut off.
    leaving: CancellationToken,
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

/// Writes that wait for the same batch of the log.
struct Logged {
    receipt: Receipt,
    /// Emptied when they are in the store.
    writes: Rc<RefCell<Vec<Taken>>>,
}

impl Connection {
    pub(super) fn new(
        socket: Socket,
        wire: &Wire,
        volume: Volume,
        traffic: Arc<Traffic>,
        terms: Terms,
        agreed: Agreed,
        worker: &Rc<Budget>,
    ) -> Rc<Self> {
        Rc::new(Self {
            socket: Rc::new(socket),
            reader: Reader::new(volume.clone()),
            volume,
            terms,
            agreed,
            outbox: Rc::new(Outbox::new(Arc::clone(&traffic))),
            traffic,
            budget: Budget::connection(worker),
            logged: RefCell::default(),
            head_room: Cell::new(RECEIVE_BYTES_LEAST),
            most_received: Cell::new(0),
            received_at: Cell::new(runtime::now()),
            leaving: wire.cut().child_token(),
            stopping: wire.stopping().clone(),
        })
    }

    /// Serves the connection to its end. `received` are bytes that came with the end of the handshake.
    pub(super) async fn run(self: Rc<Self>, received: BytesMut) -> Ending {
        let _connected = self.traffic.meter.connected();
        let (ended, sender_ended) = tokio::sync::oneshot::channel();
        let sending = Rc::clone(&self.outbox).send(Rc::clone(&self.socket));
        runtime::spawn(async move {
            // Nobody waits for it only if the runtime itself is ending.
            let _ = ended.send(sending.await);
        });
        let mut ending = self.receive(received).await;
        self.leaving.cancel();
        self.budget.empty().await; // keeps I2
        self.outbox.close();
        if let Ok(Err(error)) = sender_ended.await {
            ending = Ending::Failed(error);
        }
        self.socket.shutdown();
        ending
    }

    /// Takes requests in until there are no more.
    async fn receive(self: &Rc<Self>, mut buf: BytesMut) -> Ending {
        let mut in_a_row = 0;
        loop {
            let request = match Request::decode(&mut buf) {
                Ok(Some(request)) => request,
                Ok(None) => match self.more_heads(&mut buf).await {
                    Ok(0) if buf.is_empty() => return Ending::Closed,
                    Ok(0) => return Ending::Broken("the stream ends within a request".into()),
                    Ok(_) => {
                        in_a_row = 0;
                        continue;
                    }
                    Err(error) => return Ending::Failed(error),
                },
                Err(error) => return Ending::Broken(error.to_string()),
            };
            let arrived = self.received_at.get();
            // A volume may have grown since the handshake.
            let terms = Terms { size_bytes: self.volume.size_bytes(), ..self.terms };
            match request.check(&terms) {
                Ok(Checked::Disconnect) => return Ending::Disconnected,
                Ok(checked) => {
                    self.keep_limits(&checked).await;
                    let Some(share) = self.room(bytes_in_flight(&checked, &self.agreed)).await else {
                        return Ending::Closed;
                    };
                    let payload = match self.payload(&mut buf, request.payload_len() as usize).await {
                        Ok(Some(payload)) => payload,
                        Ok(None) => return Ending::Broken("the stream ends within a payload".into()),
                        Err(error) => return Ending::Failed(error),
                    };
                    self.begin(Taken { request, share, arrived }, checked, payload);
                    in_a_row += 1;
                    if in_a_row >= REQUESTS_IN_A_ROW && self.budget.is_shared() {
                        runtime::yield_now().await;
                        in_a_row = 0;
                    }
                }
                Err(reject) => {
                    let Some(share) = self.room(0).await else { return Ending::Closed };
                    match self.drain(&mut buf, reject.drain).await {
                        Ok(true) => {}
                        Ok(false) => return Ending::Broken("the stream ends within a payload".into()),
                        Err(error) => return Ending::Failed(error),
                    }
                    let outcome = Outcome::Failed { error: reject.error, text: reject.reason.into() };
                    self.traffic.meter.taken_in();
                    self.answer(Taken { request, share, arrived }, outcome);
                    if reject.fatal {
                        return Ending::Broken(reject.reason.into());
                    }
                }
            }
        }
    }

    fn begin(self: &Rc<Self>, taken: Taken, checked: Checked, payload: Bytes) {
        self.traffic.meter.taken_in();
        if !self.budget.is_alone() {
            runtime::note_company();
        }
        // What needs no wait needs no task, which would cost as much again; and what does need one goes on in it.
        match checked {
            Checked::Read { offset, len, df } => {
                let outcome = move |pieces| Outcome::Read { offset, df, pieces };
                match self.reader.read_now(offset, len) {
                    Some(BegunRead::Done(pieces)) => return self.answer(taken, outcome(pieces)),
                    Some(BegunRead::Started(rest)) => {
                        return self.answer_later(taken, async move {
                            rest.finish().await.map_or_else(|error| Outcome::from(&error), outcome)
                        });
                    }
                    None => {}
                }
            }
            Checked::Write { offset, fua: false, .. } if payload.len() <= NOW_BYTES_MAX => {
                match self.volume.write_now(offset, &payload) {
                    Some(Begun::Done) => return self.answer(taken, Outcome::Done),
                    Some(Begun::Logged(receipt)) => return self.answer_when_written(taken, receipt),
                    Some(Begun::Started(rest)) => {
                        return self.answer_later(taken, async move {
                            rest.finish().await.map_or_else(|error| Outcome::from(&error), |()| Outcome::Done)
                        });
                    }
                    None => {}
                }
            }
            _ => {}
        }
        let this = Rc::clone(self);
        self.answer_later(taken, async move {
            let serving = serve(&this.volume, &this.reader, &this.agreed, checked, payload);
            if let Checked::Cache { .. } = checked {
                // It promises nothing, and may read gigabytes that nobody waits for any more.
                this.leaving.run_until_cancelled(serving).await.unwrap_or(Outcome::Done)
            } else {
                serving.await
            }
        });
    }

    /// Answers when the outcome is there.
    fn answer_later(self: &Rc<Self>, taken: Taken, serving: impl Future<Output = Outcome> + 'static) {
        let this = Rc::clone(self);
        runtime::spawn(async move {
            let outcome = serving.await;
            this.tell(&taken.request, &outcome);
            this.answer(taken, outcome);
        });
    }

    /// Answers a write that is logged when it is in the store, together with all others of its batch.
    fn answer_when_written(self: &Rc<Self>, taken: Taken, receipt: Receipt) {
        let mut logged = self.logged.borrow_mut();
        if let Some(last) = &*logged
            && last.receipt.is_shared_with(&receipt)
        {
            // It is still on its way, because it took this one in: so are those who wait for it.
            return last.writes.borrow_mut().push(taken);
        }
        let writes = Rc::new(RefCell::new(vec![taken]));
        *logged = Some(Logged { receipt: receipt.clone(), writes: Rc::clone(&writes) });
        let this = Rc::clone(self);
        runtime::spawn(async move {
            let written = receipt.written().await;
            for taken in writes.take() {
                let outcome = match &written {
                    Ok(()) => Outcome::Done,
                    Err(error) => Outcome::from(error),
                };
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
                tracing::debug!(volume = %self.volume.id(), ?request, ?error, reason = text, "request failed");
            }
            Outcome::Failed { error, text } => {
                tracing::warn!(volume = %self.volume.id(), ?request, ?error, reason = text, "request failed");
            }
            Outcome::Done | Outcome::Read { .. } | Outcome::Status(_) => {}
        }
    }

    /// Puts the reply into the outbox.
    fn answer(&self, Taken { request, share, arrived }: Taken, outcome: Outcome) {
        let success = match &outcome {
            Outcome::Failed { .. } => Success::Failed,
            Outcome::Done | Outcome::Read { .. } | Outcome::Status(_) => Success::Done,
        };
        let operation = Operation::of(request.command);
        let answered = Answered { _share: share, operation, len: request.len, success, arrived };
        self.outbox.put(answered, |reply| answer(reply, &self.agreed, request.cookie, outcome));
    }

    /// Waits as long as the volume's limits ask for, before anything of the budget is taken that others could use.
    async fn keep_limits(&self, request: &Checked) {
        let limits = &self.traffic.limits;
        if !limits.are_none() {
            let admitted = limits.admit(Cost::of(request), runtime::now, runtime::sleep);
            self.stopping.run_until_cancelled(admitted).await;
        }
    }

    /// Waits for room in the budget; `None` when the connection was cut off before there was any.
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
                self.head_room.set(room.clamp(RECEIVE_BYTES_LEAST, RECEIVE_BYTES));
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

    /// The next `len` bytes; `None` when the stream ends before.
    async fn payload(&self, buf: &mut BytesMut, len: usize) -> io::Result<Option<Bytes>> {
        if len > RECEIVE_BYTES {
            return self.large_payload(buf, len).await;
        }
        if len > 0 && self.head_room.get() == HEAD_BYTES {
            self.head_room.set(RECEIVE_BYTES_LEAST);
        }
        if buf.len() < len {
            // Room for the whole, so that it is not moved again, and for what comes behind it.
            buf.reserve(len - buf.len() + self.head_room.get());
        }
        while buf.len() < len {
            if self.more(buf).await? == 0 {
                return Ok(None);
            }
        }
        Ok(Some(buf.split_to(len).freeze()))
    }

    /// The same in memory of its own, of which nothing is left over for a few bytes behind it to hold.
    async fn large_payload(&self, buf: &mut BytesMut, len: usize) -> io::Result<Option<Bytes>> {
        let mut payload = BytesMut::with_capacity(len);
        payload.extend_from_slice(&buf.split_to(buf.len().min(len)));
        while payload.len() < len {
            let (result, back) = self.socket.recv(payload).await;
            payload = back;
            if result? == 0 {
                return Ok(None);
            }
        }
        *buf = BytesMut::from(&buf[..]);
        if payload.len() > len {
            // The memory was larger than asked for.
            buf.extend_from_slice(&payload.split_off(len));
        }
        // Another such is most likely next, of which the fewer bytes have to be moved the fewer come with its head.
        self.head_room.set(HEAD_BYTES);
        Ok(Some(payload.freeze()))
    }

    /// Throws `len` bytes away. Whether they all came.
    async fn drain(&self, buf: &mut BytesMut, mut len: u64) -> io::Result<bool> {
        loop {
            let step = len.min(buf.len() as u64);
            buf.advance(step as usize);
            len -= step;
            if len == 0 {
                return Ok(true);
            }
            buf.reserve(RECEIVE_BYTES_LEAST);
            if self.more(buf).await? == 0 {
                return Ok(false);
            }
        }
    }
}
