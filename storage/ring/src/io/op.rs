//! One operation as the engines see it: what to do, and everything that must stay alive until it is
//! done.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::file::File;
use super::socket_fd::SocketFd;
use crate::memory::WriteBuf;

/// An operation and all it owns: file or socket, and buffers. An engine does it once and reports
/// the count; `File` and `Socket` continue short operations.
#[derive(Debug)]
pub(crate) enum Op {
    /// Appends up to `len` bytes from `offset` to `buf`.
    Read { file: File, offset: u64, len: usize, buf: BytesMut },
    /// Writes `data` from its byte `skip` on to `offset`.
    Write { file: File, offset: u64, data: WriteBuf, skip: usize, mode: WriteMode },
    /// Makes all writes that completed before it durable.
    Sync { file: File },
    /// Reserves space.
    Allocate { file: File, offset: u64, len: u64 },
    /// Makes the device fill a range with zeroes, in blocks that count as written.
    Zero { file: File, offset: u64, len: u64 },
    /// Punches a hole; the range reads as zeroes.
    Punch { file: File, offset: u64, len: u64 },
    /// Receives into the spare capacity of `buf`.
    Recv { socket: Arc<SocketFd>, buf: BytesMut },
    /// Sends `chunks` from byte `skip` of chunk `first` on, at most `IOV_MAX` of them.
    Send { socket: Arc<SocketFd>, chunks: Vec<Bytes>, first: usize, skip: usize },
    /// Waits until the connection has failed or is closed, at least in the peer's direction.
    Watch { socket: Arc<SocketFd> },
}

/// The kinds of file operation, for choosing which one the simulated disk fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OpKind {
    /// A read.
    Read,
    /// A write.
    Write,
    /// A sync.
    Sync,
    /// A reservation of space.
    Allocate,
    /// Zeroes that the device makes.
    Zero,
    /// A hole punched.
    Punch,
}

/// How durable a write is when it completes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteMode {
    /// The device has the data. The metadata that leads to it may be only in the file system's
    /// memory.
    Plain,
    /// The data is on stable storage, and so is the metadata that leads to it (`RWF_DSYNC`): a sync
    /// of this one write.
    Through,
}

/// Most chunks that one vectored send takes (Linux `UIO_MAXIOV`).
pub(crate) const CHUNKS_MAX: usize = 1024;

/// What decides how long an operation stays in flight: the device, the peer's sends, the peer's
/// receives, or the peer's presence. File operations are bounded, because a device has a queue;
/// socket operations are as many as there are sockets, so that silent peers keep neither the store
/// nor other peers waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    File,
    Receive,
    Send,
    Watch,
}

impl Class {
    pub(crate) const ALL: [Class; 4] = [Class::File, Class::Receive, Class::Send, Class::Watch];

    pub(crate) fn is_socket(self) -> bool {
        match self {
            Class::File => false,
            Class::Receive | Class::Send | Class::Watch => true,
        }
    }
}

impl Op {
    /// The socket, of an operation that has one.
    pub(crate) fn socket(&self) -> Option<&Arc<SocketFd>> {
        match self {
            Op::Recv { socket, .. } | Op::Send { socket, .. } | Op::Watch { socket } => {
                Some(socket)
            }
            Op::Read { .. } | Op::Write { .. } | Op::Sync { .. } => None,
            Op::Allocate { .. } | Op::Zero { .. } | Op::Punch { .. } => None,
        }
    }

    pub(crate) fn class(&self) -> Class {
        match self {
            Op::Read { .. }
            | Op::Write { .. }
            | Op::Sync { .. }
            | Op::Allocate { .. }
            | Op::Zero { .. }
            | Op::Punch { .. } => Class::File,
            Op::Recv { .. } => Class::Receive,
            Op::Send { .. } => Class::Send,
            Op::Watch { .. } => Class::Watch,
        }
    }
}

/// The chunks of one send: from byte `skip` of chunk `first` on, at most [`CHUNKS_MAX`].
pub(crate) fn window(chunks: &[Bytes], first: usize, skip: usize) -> impl Iterator<Item = &[u8]> {
    chunks[first..]
        .iter()
        .take(CHUNKS_MAX)
        .enumerate()
        .map(move |(index, chunk)| if index == 0 { &chunk[skip..] } else { &chunk[..] })
}
