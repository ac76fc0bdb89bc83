//! The run of reclaim that a caller asked for: one at a time, in the background, with what it has
//! done so far.
//!
//! ```text
//!   never ─► running ─► ended ─► running ─► …
//! ```
//!
//! The store counts since it was opened, rounds of its own too; a run is told by what was added
//! since it began. A second caller joins the run that is under way. A stop does not wait for it:
//! closing the store ends it.

use crate::api;
use sandstone_ring::Handle;
use sandstone_storage::{ReclaimPhase, ReclaimProgress, Store};
use std::{
    error::Error as _,
    sync::{Arc, Mutex, MutexGuard},
};

/// The one owner of what is known of runs. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reclaim(Arc<Mutex<Run>>);

/// The present or last run.
#[derive(Clone, Debug, Default)]
enum Run {
    /// No request for one has come since the server started.
    #[default]
    Never,
    Running {
        /// What the store had counted before.
        began: ReclaimProgress,
    },
    Ended {
        counted: Counted,
        /// Why it failed, in words.
        error: Option<String>,
    },
}

/// What a run has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counted {
    rounds: u64,
    marked_nodes: u64,
    freed_bytes: u64,
    forwarded_bytes: u64,
    punched_bytes: u64,
}

impl Reclaim {
    /// Begins a run unless one is under way.
    pub(crate) fn start(&self, store: &Store, store_thread: &Handle) {
        let mut run = self.lock();
        match *run {
            Run::Running { .. } => return,
            Run::Never | Run::Ended { .. } => {
                *run = Run::Running { began: store.reclaim_progress() }
            }
        }
        drop(run);
        let (reclaim, store) = (self.clone(), store.clone());
        store_thread.spawn(move || async move {
            let result = store.reclaim().await;
            reclaim.end(&store.reclaim_progress(), result);
        });
    }

    /// How far the present run is, or how the last one ended.
    pub(crate) fn progress(&self, store: &Store) -> api::Reclaim {
        let store_allocated_bytes = store.stats().file_allocated_bytes;
        let run = self.lock();
        // Under the lock, so that it is not from before the run that it is compared with.
        let now = store.reclaim_progress();
        let (at, error) = match &*run {
            Run::Never => (ReclaimPhase::Idle, None),
            Run::Running { .. } => (now.phase, None),
            Run::Ended { error, .. } => (ReclaimPhase::Idle, error.clone()),
        };
        let Counted { rounds, marked_nodes, freed_bytes, forwarded_bytes, punched_bytes } =
            run.counted(&now);
        api::Reclaim {
            running: matches!(*run, Run::Running { .. }),
            phase: phase(at),
            rounds,
            marked_nodes,
            freed_bytes,
            forwarded_bytes,
            punched_bytes,
            store_allocated_bytes,
            error,
        }
    }

    fn end(&self, now: &ReclaimProgress, result: sandstone_storage::Result<()>) {
        let mut run = self.lock();
        let counted = run.counted(now);
        let Counted { rounds, freed_bytes, forwarded_bytes, punched_bytes, .. } = counted;
        match &result {
            Ok(()) => {
                tracing::info!(rounds, freed_bytes, forwarded_bytes, punched_bytes, "reclaimed")
            }
            Err(error) => {
                let cause = error.source().map(ToString::to_string);
                tracing::warn!(%error, cause, rounds, freed_bytes, "a reclaim did not come to its end");
            }
        }
        *run = Run::Ended { counted, error: result.err().map(|error| error.to_string()) };
    }

    fn lock(&self) -> MutexGuard<'_, Run> {
        self.0.lock().expect("no panics under this lock")
    }
}

impl Run {
    fn counted(&self, now: &ReclaimProgress) -> Counted {
        match self {
            Run::Never => Counted::default(),
            Run::Running { began } => Counted {
                rounds: now.rounds - began.rounds,
                marked_nodes: now.marked_nodes - began.marked_nodes,
                freed_bytes: now.freed_bytes - began.freed_bytes,
                forwarded_bytes: now.forwarded_bytes - began.forwarded_bytes,
                punched_bytes: now.punched_bytes - began.punched_bytes,
            },
            Run::Ended { counted, .. } => *counted,
        }
    }
}

/// A phase in the words of the contract.
pub(crate) fn phase(phase: ReclaimPhase) -> api::ReclaimPhase {
    match phase {
        ReclaimPhase::Idle => api::ReclaimPhase::Idle,
        ReclaimPhase::Marking => api::ReclaimPhase::Marking,
        ReclaimPhase::Forwarding => api::ReclaimPhase::Forwarding,
        ReclaimPhase::Checkpointing => api::ReclaimPhase::Checkpointing,
        ReclaimPhase::Punching => api::ReclaimPhase::Punching,
    }
}
