//! Operations, and the files and sockets that they work on.

mod file;
mod op;
mod placement;
mod sim;
mod socket_fd;
mod table;

pub use file::File;
pub use op::{OpKind, WriteMode};
pub use placement::{Coverage, Placement};
pub use sim::{Kept, Random, SimDisk, Unsynced};

pub(crate) use file::RealFile;
pub(crate) use op::{CHUNKS_MAX, Class, Op, window};
pub(crate) use placement::FALLOC_FL_WRITE_ZEROES;
pub(crate) use sim::Ticket;
pub(crate) use socket_fd::SocketFd;
pub(crate) use table::{Key, OpTable, Reaped};
