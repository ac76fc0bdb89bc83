//! Whole transfers of files and sockets, as futures on the current thread's runtime.

mod file;
mod operation;
mod socket;
#[cfg(test)]
mod tests;

pub use file::BegunRead;
pub use socket::Socket;
