//! Addresses and sockets, whatever is spoken over them.

mod endpoints;
pub(crate) mod socket_file;

pub(crate) use endpoints::{Endpoints, ExportAddress, Place, escaped_segment};
pub(crate) use socket_file::{BindError, SocketFile};
