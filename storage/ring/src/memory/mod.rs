//! Buffers that the kernel may borrow, and memory that another process may find again.

mod buffer;
mod mapping;

pub use buffer::{SharedMemory, WriteBuf, aligned};

pub(crate) use buffer::{append_with, grow};
