//! Stream sockets on a runtime's thread.

use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SendAncillaryBuffer, SendFlags, Shutdown, sendmsg, sockopt};
use smallvec::SmallVec;

use super::operation::start;
use crate::io::{Op, SocketFd, window};
use crate::runtime;

/// Slices of a send that take no allocation: heads and data of a queue of 32 reads.
const SLICES: usize = 64;

/// Interval at which a watch checks a half-closed connection for failure. Such connections are few
/// and short-lived.
const HALF_CLOSED_INTERVAL: Duration = Duration::from_millis(20);

/// A connected TCP or Unix stream.
///
/// One receive, one send and one watch may be under way at a time. Dropping it shuts the connection
/// down, so that an operation whose future was dropped before does not keep it open.
#[derive(Debug)]
pub struct Socket {
    fd: Arc<SocketFd>,
    /// A send is under way, or was given up in the middle of the stream.
    sending: AtomicBool,
}

impl Socket {
    /// Takes over a connected stream, from any thread. Where it is TCP, small replies leave at once
    /// (NODELAY).
    #[must_use]
    pub fn new(fd: OwnedFd) -> Socket {
        // A socket that tokio has used is non-blocking, which the ring would answer with EAGAIN
        // instead of waiting.
        if let Err(error) = rustix::io::ioctl_fionbio(&fd, false) {
            tracing::warn!(%error, "a socket stays non-blocking");
        }
        let is_tcp = sockopt::socket_domain(&fd)
            .is_ok_and(|domain| domain == AddressFamily::INET || domain == AddressFamily::INET6);
        if is_tcp && let Err(error) = sockopt::set_tcp_nodelay(&fd, true) {
            tracing::warn!(%error, "a connection goes without TCP_NODELAY");
        }
        Socket { fd: Arc::new(SocketFd::new(fd)), sending: AtomicBool::new(false) }
    }

    /// Receives into the spare capacity of `buf`, at least one byte, or none at the end of the
    /// stream. The buffer comes back in any case, with the bytes appended.
    ///
    /// Dropping the future gives the buffer to the receive, and bytes that come in later are lost
    /// with it.
    ///
    /// # Panics
    /// Where `buf` has no spare capacity: "no bytes" would look like the end. So does being outside
    /// a runtime.
    pub async fn recv(&self, mut buf: BytesMut) -> (io::Result<usize>, BytesMut) {
        assert!(buf.capacity() > buf.len(), "a receive needs room");
        loop {
            let (result, op) = start(Op::Recv { socket: Arc::clone(&self.fd), buf }).await;
            let Op::Recv { buf: returned, .. } = op else {
                unreachable!("a receive comes back as one")
            };
            match result {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => buf = returned,
                result => return (result, returned),
            }
        }
    }

    /// Sends all of the chunks, at once and in one vectored send where the peer's side has room.
    ///
    /// # Errors
    /// The errors of the connection, and `Other` where another send is under way or was dropped
    /// half-way: then it is unknown what the peer has seen, and no further send succeeds.
    pub async fn send_all(&self, chunks: Vec<Bytes>) -> io::Result<()> {
        if self.sending.swap(true, Ordering::Relaxed) {
            return Err(io::Error::other("another send is under way or was given up half-way"));
        }
        let result = self.send_from_start(chunks).await;
        if result.is_ok() {
            self.sending.store(false, Ordering::Relaxed);
        }
        result
    }

    async fn send_from_start(&self, mut chunks: Vec<Bytes>) -> io::Result<()> {
        // Most replies are sent here: through the ring each would take one more turn of the thread.
        let (mut first, mut skip) = advance(&chunks, (0, 0), self.send_now(&chunks));
        loop {
            while first < chunks.len() && chunks[first].len() == skip {
                (first, skip) = (first + 1, 0);
            }
            if first == chunks.len() {
                return Ok(());
            }
            let (result, op) =
                start(Op::Send { socket: Arc::clone(&self.fd), chunks, first, skip }).await;
            let Op::Send { chunks: returned, .. } = op else {
                unreachable!("a send comes back as one")
            };
            chunks = returned;
            match result {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(sent) => (first, skip) = advance(&chunks, (first, skip), sent),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends as much as there is room for, without waiting. Returns the number of bytes; errors
    /// show with the next send.
    fn send_now(&self, chunks: &[Bytes]) -> usize {
        let slices: SmallVec<[IoSlice<'_>; SLICES]> =
            window(chunks, 0, 0).map(IoSlice::new).collect();
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        sendmsg(&*self.fd, &slices, &mut SendAncillaryBuffer::default(), flags).unwrap_or(0)
    }

    /// Waits until the connection has failed (a reset, an error) or is closed in both directions,
    /// by either side. A peer that only sends no more is neither. Dropping the future is safe: the
    /// watch ends with the connection.
    ///
    /// # Panics
    /// Outside a runtime.
    pub async fn failed(&self) {
        // An error of the watch itself says nothing of the connection, whose next operation will.
        let (_seen, _op) = start(Op::Watch { socket: Arc::clone(&self.fd) }).await;
        // The ring also reports that the peer sends no more, asked for or not, and would report it
        // again at once.
        while !self.has_failed() {
            runtime::sleep(HALF_CLOSED_INTERVAL).await;
        }
    }

    /// Whether the connection has failed or is closed in both directions.
    fn has_failed(&self) -> bool {
        const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
        // Hang-up and failure are reported without being asked for.
        let mut asked = [PollFd::new(&*self.fd, PollFlags::empty())];
        poll(&mut asked, Some(&AT_ONCE)).is_ok_and(|events| events > 0)
    }

    /// Ends the connection in both directions. A receive under way ends (with no bytes), a send
    /// fails.
    pub fn shutdown(&self) {
        // The one error there can be says that the peer was faster.
        let _ = rustix::net::shutdown(&*self.fd, Shutdown::Both);
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if Arc::strong_count(&self.fd) > 1 {
            self.shutdown();
        }
    }
}

/// Advances a position in the chunks (a chunk, and a byte in it) by `sent` bytes.
fn advance(
    chunks: &[Bytes],
    (mut first, mut skip): (usize, usize),
    mut sent: usize,
) -> (usize, usize) {
    while sent > 0 {
        let step = sent.min(chunks[first].len() - skip);
        (sent, skip) = (sent - step, skip + step);
        if skip == chunks[first].len() {
            (first, skip) = (first + 1, 0);
        }
    }
    (first, skip)
}
