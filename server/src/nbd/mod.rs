//! The NBD side: accept, handshake, and the data path of each connection.
//!
//! ```text
//!   listener ─accepted─► handshake (tokio) ─negotiated─► workers ─► connection ─► dispatch ─► storage::Volume
//!                                                        one thread, one ring each
//! ```
//!
//! The control side is tokio's; from the end of the handshake on a connection belongs to one worker and its ring.

mod admission;
mod budget;
mod buffer_room;
mod connection;
mod dispatch;
mod ending;
mod errno;
mod handshake;
mod listener;
mod loss;
mod numbers;
mod outbox;
mod pace;
mod payload;
mod places;
mod room;
mod wire;
mod workers;

pub(crate) use budget::Load;
pub(crate) use listener::{ListenError, bind, in_use};
pub(crate) use places::Places;
pub(crate) use workers::Workers;
