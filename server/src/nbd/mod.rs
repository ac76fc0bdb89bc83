//! The NBD side: accept, handshake, and the data path of each connection.
//!
//! ```text
//!   listener ─accepted─► handshake (tokio) ─negotiated─► workers ─► connection ─► executor ─► Volume
//!                                                        one thread, one ring each
//! ```
//!
//! The control side is tokio's; from the end of the handshake on a connection belongs to one worker
//! and its ring.

mod abort;
mod admission;
mod budget;
mod buffer_quota;
mod connection;
mod connection_slots;
mod deadline;
mod disconnect;

mod errno;
mod executor;
mod handshake;
mod in_flight_pool;
mod listener;
mod metrics;
mod payload;
mod reply_queue;
mod socket_handle;
mod workers;

pub(crate) use budget::Load;
pub(crate) use connection_slots::ConnectionSlots;
pub(crate) use listener::{Clients, ListenError, bind, in_use};
pub(crate) use workers::Workers;
