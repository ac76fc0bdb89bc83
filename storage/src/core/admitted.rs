//! Admitted blocks of a request that waits with a part of it logged.

use super::Engine;
use std::{mem, sync::Arc};

/// New blocks that count as live before a map has them. Dropped, they are given back.
pub(crate) struct Admitted {
    engine: Arc<Engine>,
    blocks: u64,
}

impl Admitted {
    /// Keeps blocks that were admitted.
    pub(crate) fn keep(engine: &Arc<Engine>, blocks: u64) -> Self {
        Self { engine: Arc::clone(engine), blocks }
    }

    /// Takes them, to be committed.
    pub(crate) fn take(mut self) -> u64 {
        mem::take(&mut self.blocks)
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.engine.space.add(-i128::from(self.blocks));
    }
}
