//! Checkpoints: all maps and the catalog made durable, so that replay begins behind them.

mod checkpointer;
mod writer;

pub(crate) use checkpointer::Checkpointer;
