//! The socket of a connection as others see it: to stop its requests, or to cut it off.

use super::admission::Admission;
use crate::attachments::Line;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{Shutdown, shutdown},
};
use std::os::fd::OwnedFd;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

/// A second descriptor of a connection's socket. Holding it does not keep the connection going.
#[derive(Debug)]
pub(super) struct Wire {
    socket: OwnedFd,
    cut: CancellationToken,
    /// A child of `cut`.
    stopping: CancellationToken,
    /// Its place among the connections that there are descriptors for.
    _place: Option<OwnedSemaphorePermit>,
    admission: Admission,
}

impl Wire {
    pub(super) fn new(
        descriptor: OwnedFd,
        place: Option<OwnedSemaphorePermit>,
        admission: Admission,
    ) -> Self {
        let cut = CancellationToken::new();
        Self { socket: descriptor, stopping: cut.child_token(), cut, _place: place, admission }
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

    /// Cancelled when the connection is cut off, for what waits elsewhere than at the socket.
    pub(super) fn cut(&self) -> &CancellationToken {
        &self.cut
    }

    /// Cancelled when no more is received, or the connection is cut off: what has arrived is to be answered soon.
    pub(super) fn stopping(&self) -> &CancellationToken {
        &self.stopping
    }
}

impl Line for Wire {
    fn cut_off(&self) {
        let _ = shutdown(&self.socket, Shutdown::Both);
        self.cut.cancel();
    }

    fn is_ending(&self) -> bool {
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
            (Wire::new(ours.into(), None, admission), theirs)
        };
        let (wire, theirs) = pair();
        assert!(!wire.is_ending());
        theirs.shutdown(Half::Write).unwrap();
        assert!(wire.is_ending(), "it says no more, and waits for its replies");
        let (wire, theirs) = pair();
        std::io::Write::write_all(&mut &theirs, b"unread").unwrap();
        assert!(!wire.is_ending());
        drop(theirs);
        assert!(wire.is_ending(), "what it has sent does not hide its end");
        let (wire, _theirs) = pair();
        wire.cut_off();
        assert!(wire.is_ending() && wire.cut().is_cancelled());
    }
}
