//! What goes on now, in numbers that only grow: two answers give rates, as `sandstone top` shows
//! them.

use crate::{
    admin::{
        base::{Admin, STATS, Shared, Success, phase},
        metrics::{ActiveExport, active_exports},
    },
    api::{CommandStats, Stats, StoreStats, VolumeStats},
    traffic::{LATENCY_BOUNDS_US, OperationTally},
};
use axum::extract::State;
use sandstone_storage::Health;
use std::{sync::LazyLock, time::Instant};
use utoipa_axum::{router::OpenApiRouter, routes};

/// The beginning of `at_us`.
static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(stats))
}

/// What goes on now, in numbers that only grow
///
/// Who asks twice knows the rates: `sandstone top` does. Scrapers find more in /metrics.
#[utoipa::path(get, path = STATS, operation_id = "getStats", responses(
    (status = 200, description = "The store, and those volumes and snapshots that have had a \
        connection since the server started.", body = Stats),
))]
async fn stats(State(admin): State<Shared>) -> Success<Stats> {
    Success::ok(Stats {
        at_us: u64::try_from(EPOCH.elapsed().as_micros()).unwrap_or(u64::MAX),
        latency_bounds_us: LATENCY_BOUNDS_US.to_vec(),
        store: store(&admin),
        volumes: active_exports(&admin.registry).into_iter().map(volume).collect(),
    })
}

fn store(admin: &Admin) -> StoreStats {
    let stats = admin.store.stats();
    StoreStats {
        trouble: match admin.store.health() {
            Health::Ready => None,
            Health::Starved(why) | Health::Latched(why) | Health::Corrupt(why) => Some(why),
        },
        capacity_bytes: stats.capacity_bytes,
        free_bytes: stats.free_bytes,
        log_bytes: stats.log_bytes,
        log_batches: stats.log_batches,
        syncs: stats.syncs,
        sync_requests: stats.sync_requests,
        checkpoints: stats.checkpoints,
        buffered_bytes: stats.buffered_bytes,
        cache_hits: stats.cache_hits,
        cache_misses: stats.cache_misses,
        reclaim: phase(admin.store.reclaim_progress().phase),
        scrub_running: admin.store.scrub_progress().running,
    }
}

fn volume(ActiveExport { id, name, attachments, tally, stats }: ActiveExport) -> VolumeStats {
    let commands =
        tally.used().map(|(command, tally)| (command.name().to_owned(), counts(tally))).collect();
    VolumeStats {
        id,
        name,
        attachments,
        connections: tally.connections,
        requests_in_flight: tally.in_flight,
        buffered_bytes: stats.buffered_bytes,
        cache_hits: stats.cache_hits,
        cache_misses: stats.cache_misses,
        commands,
    }
}

fn counts(tally: &OperationTally) -> CommandStats {
    CommandStats {
        requests: tally.latencies.count(),
        errors: tally.errors,
        bytes: tally.bytes,
        latencies: tally.latencies.buckets.to_vec(),
    }
}
