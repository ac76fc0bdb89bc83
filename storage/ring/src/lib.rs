//! One thread, one executor, one I/O backend: files and sockets for Sandstone's server and store.
//!
//! ```text
//!   transfer    whole reads, writes, receives and sends, as futures
//!   runtime     the executor, its timers, the spin policy, handles for other threads
//!   engine      io_uring, a thread pool with epoll, or events in virtual time
//!   io          operations, and what they work on: files, sockets, the simulated disk
//!   memory      buffers that the kernel may borrow
//! ```
//! Each room imports from those below it. All `unsafe` code of the workspace for I/O and memory is
//! in this crate.
//!
//! ```
//! use sandstone_ring::{Backend, File, Runtime, aligned};
//! # fn main() -> std::io::Result<()> {
//! let folder = tempfile::tempdir()?;
//! let runtime = Runtime::new(Backend::Auto)?;
//! let read = runtime.block_on(async {
//!     let file = File::open(&folder.path().join("disk"), Some(1 << 20))?;
//!     file.read(4096, aligned(4096), 4096).await
//! })?;
//! assert!(read.iter().all(|byte| *byte == 0));
//! # Ok(())
//! # }
//! ```

mod engine;
mod io;
mod memory;
pub mod runtime;
mod transfer;

pub use io::{Coverage, File, OpKind, Placement, WriteMode};
pub use memory::{SharedMemory, WriteBuf, aligned};
pub use runtime::{Backend, Handle, Runtime, TurnEnd};
pub use transfer::{BegunRead, Socket};

/// The simulated disk, which stands behind the same seam as real files.
pub mod sim {
    pub use crate::io::{Kept, Random, SimDisk, Unsynced};
}
