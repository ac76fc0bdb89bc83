//! The socket of a connection as others see it: to stop its requests, or to cut it off.

use rustix::net::{Shutdown, shutdown};
use std::os::fd::OwnedFd;
use tokio_util::sync::CancellationToken;

/// A second descriptor of a connection's socket. Holding it does not keep the connection going.
#[derive(Debug)]
pub(super) struct Wire {
    socket: OwnedFd,
    cut: CancellationToken,
    /// A child of `cut`.
    stopping: CancellationToken,
}

impl Wire {
    pub(super) fn new(descriptor: OwnedFd) -> Self {
        let cut = CancellationToken::new();
        Self { socket: descriptor, stopping: cut.child_token(), cut }
    }

    /// The server is stopping: no more is received than has arrived, and what has is answered.
    pub(super) fn stop_receiving(&self) {
        // It fails only where the peer was faster.
        let _ = shutdown(&self.socket, Shutdown::Read);
        self.stopping.cancel();
    }

    /// The connection ends now.
    pub(super) fn cut_off(&self) {
        let _ = shutdown(&self.socket, Shutdown::Both);
        self.cut.cancel();
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
