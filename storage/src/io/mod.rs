//! The I/O seam: files and sockets above, one of three engines (ring, threads, simulated disk) below.

mod availability;
mod buffer;
mod driver;
mod file;
mod in_place;
mod mapping;
mod op;
mod operation;
mod placement;
mod pool;
pub(crate) mod private;
mod sim;
mod socket;
mod table;
#[cfg(test)]
mod tests;
mod threads;
mod uring;

pub use buffer::SharedMemory;
pub use file::File;
pub use op::OpKind;
pub use placement::Placement;
pub use sim::{Kept, SimDisk, Unsynced};
pub use socket::Socket;

pub(crate) use buffer::{WriteBuf, aligned};
pub(crate) use driver::{Driver, Spun};
pub(crate) use op::WriteMode;
pub(crate) use placement::Coverage;
pub(crate) use sim::{Random, Simulated};
pub(crate) use table::Reaped;
pub(crate) use threads::Threads;
pub(crate) use uring::Uring;
