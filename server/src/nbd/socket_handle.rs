//! The socket of a connection as others see it: to stop its requests, or to cut it off.

use super::admission::Admission;
use crate::attachments::ConnectionHandle;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{Shutdown, shutdown},
};
use std::os::fd::OwnedFd;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

/// A second descriptor of a connection's socket. Holding it does not keep the connection going.
#[derive(Debug)]
pub(super) struct SocketHandle {
    socket: OwnedFd,
    disconnected: CancellationToken,
    /// A child of `disconnected`.
    stopping: CancellationToken,
    /// Its slot among the connections that there are descriptors for.
    _slot: Option<OwnedSemaphorePermit>,
    admission: Admission,
}

impl SocketHandle {
    pub(super) fn new(
        descriptor: OwnedFd,
        slot: Option<OwnedSemaphorePermit>,
        admission: Admission,
    ) -> Self {
        let disconnected = CancellationToken::new();
        Self {
            socket: descriptor,
            stopping: disconnected.child_token(),
            disconnected,
            _slot: slot,
            admission,
        }
    }

    /// Whether it may be served, or there are too many.
    pub(super) fn admission(&self) -> &Admission {
        &self.admission
    }

    /// The server is stopping: no more is received than has arrived, and what has is answered.
    pub(super) fn stop_receiving(&self) {
        // It fails only where the peer was faster.
        let _ = shutdown(&self.socket, Shutdown::Read);
        self.stopping.cancel();
    }

    /// Cancelled when the connection is disconnected, for what waits elsewhere than at the socket.
    pub(super) fn disconnected(&self) -> &CancellationToken {
        &self.disconnected
    }

    /// Cancelled when no more is received, or the connection is disconnected: what has arrived is
    /// to be answered soon.
    pub(super) fn stopping(&self) -> &CancellationToken {
        &self.stopping
    }
}

impl ConnectionHandle for SocketHandle {
    fn disconnect(&self) {
        let _ = shutdown(&self.socket, Shutdown::Both);
        self.disconnected.cancel();
    }

    fn is_closing(&self) -> bool {
        const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
        // Hung up and failed are told unasked.
        let mut asked = [PollFd::new(&self.socket, PollFlags::RDHUP)];
        // What cannot be asked is taken to stay, which keeps others out.
        poll(&mut asked, Some(&AT_ONCE)).is_ok_and(|told| told > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nbd::admission::Admissions;
    use std::{net::Shutdown as Half, os::unix::net::UnixStream};

    #[test]
    fn a_connection_is_ending_once_either_side_has_closed_it() {
        let pair = || {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let admission = Admissions::new(1).enter().expect("there is room");
            (SocketHandle::new(ours.into(), None, admission), theirs)
        };
        let (handle, theirs) = pair();
        assert!(!handle.is_closing());
        theirs.shutdown(Half::Write).unwrap();
        assert!(handle.is_closing(), "it says no more, and waits for its replies");
        let (handle, theirs) = pair();
        std::io::Write::write_all(&mut &theirs, b"unread").unwrap();
        assert!(!handle.is_closing());
        drop(theirs);
        assert!(handle.is_closing(), "what it has sent does not hide its end");
        let (handle, _theirs) = pair();
        handle.disconnect();
        assert!(handle.is_closing() && handle.disconnected().is_cancelled());
    }
}
