//! Operations that may be reading the store: a slot is reused only when those that began before are over.
//!
//! Each holds the current token; [`Readers::drain`] replaces it and waits until the old one is held by nobody. New
//! operations do not make it wait.

use crate::runtime;
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

/// Held by an operation from before it looks into the map until it has its bytes.
pub(crate) type ReadToken = Arc<()>;

#[derive(Debug, Default)]
pub(crate) struct Readers(Mutex<ReadToken>);

impl Readers {
    pub(crate) fn enter(&self) -> ReadToken {
        Arc::clone(&self.0.lock().expect("no panics under this lock"))
    }

    /// Waits until all that entered before are done.
    pub(crate) async fn drain(&self) {
        let old = std::mem::take(&mut *self.0.lock().expect("no panics under this lock"));
        while Arc::strong_count(&old) > 1 {
            runtime::sleep(Duration::from_millis(1)).await;
        }
    }
}
