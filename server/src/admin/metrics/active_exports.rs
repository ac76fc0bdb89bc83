//! The volumes and snapshots that have had a connection since the start, for metrics and
//! statistics.

use crate::{registry::Registry, traffic::Tally};
use sandstone_storage::VolumeStats;
use uuid::Uuid;

/// One of them.
pub(crate) struct ActiveExport {
    pub(crate) id: Uuid,
    /// Empty where it has none.
    pub(crate) name: String,
    pub(crate) attachments: usize,
    /// What its clients asked for.
    pub(crate) tally: Tally,
    /// What the store did for it.
    pub(crate) stats: VolumeStats,
}

/// All of them, in the order of their ids.
pub(crate) fn active_exports(registry: &Registry) -> Vec<ActiveExport> {
    let export = |(id, tally)| {
        // One that is just being deleted may be gone already.
        let export = registry.find(id)?;
        let (attachments, stats) = (export.attachments().count(), export.blocks().stats());
        Some(ActiveExport { id, name: export.name(), attachments, tally, stats })
    };
    registry.traffic.list().into_iter().filter_map(export).collect()
}
