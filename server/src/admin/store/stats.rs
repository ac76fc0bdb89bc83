//! What goes on now, in numbers that only grow: who looks twice knows the rates. `sandstone top` does.

use crate::{
    admin::{
        base::{Admin, Route, Shared, Success, phase_name},
        metrics::{AtWork, at_work},
    },
    traffic::{LATENCY_BOUNDS_US, OperationTally},
};
use axum::{extract::State, routing::get};
use sandstone_storage::Health;
use serde::Serialize;
use std::{
    collections::BTreeMap,
    sync::LazyLock,
    time::{Duration, Instant},
};
use uuid::Uuid;

/// The beginning of `at_us`.
static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Asked for again and again, as the probes are.
pub(crate) const STATS: &str = "/api/v1/admin/stats";

pub(crate) fn routes() -> Vec<Route> {
    vec![Route::new("GET", STATS, get(stats))]
}

async fn stats(State(admin): State<Shared>) -> Success<Stats> {
    Success::ok(Stats::of(&admin))
}

#[derive(Serialize)]
struct Stats {
    /// A clock that never goes back, for rates between two answers of one server.
    at_us: u64,
    latency_bounds_us: [u64; LATENCY_BOUNDS_US.len()],
    store: StoreNumbers,
    volumes: Vec<VolumeNumbers>,
}

#[derive(Serialize)]
struct StoreNumbers {
    /// Why it takes no writes, where it does not.
    trouble: Option<String>,
    capacity_bytes: u64,
    free_bytes: u64,
    log_bytes: u64,
    log_batches: u64,
    syncs: u64,
    sync_requests: u64,
    checkpoints: u64,
    buffered_bytes: u64,
    cache_hits: u64,
    cache_misses: u64,
    reclaim: &'static str,
    scrub_running: bool,
}

#[derive(Serialize)]
struct VolumeNumbers {
    id: Uuid,
    name: String,
    attachments: usize,
    connections: u64,
    requests_in_flight: u64,
    buffered_bytes: u64,
    cache_hits: u64,
    cache_misses: u64,
    commands: BTreeMap<&'static str, CommandNumbers>,
}

#[derive(Serialize)]
struct CommandNumbers {
    requests: u64,
    errors: u64,
    bytes: u64,
    /// Requests by the bounds, and behind them those that took longer.
    latencies: Vec<u64>,
}

impl Stats {
    fn of(admin: &Admin) -> Stats {
        Stats {
            at_us: micros(EPOCH.elapsed()),
            latency_bounds_us: LATENCY_BOUNDS_US,
            store: StoreNumbers::of(admin),
            volumes: at_work(&admin.registry).into_iter().map(VolumeNumbers::from).collect(),
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

impl StoreNumbers {
    fn of(admin: &Admin) -> StoreNumbers {
        let stats = admin.store.stats();
        StoreNumbers {
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
            reclaim: phase_name(admin.store.reclaim_progress().phase),
            scrub_running: admin.store.scrub_progress().running,
        }
    }
}

impl From<AtWork> for VolumeNumbers {
    fn from(AtWork { id, name, attachments, tally, stats }: AtWork) -> VolumeNumbers {
        let commands =
            tally.used().map(|(command, tally)| (command.name(), CommandNumbers::from(tally))).collect();
        VolumeNumbers {
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
}

impl From<&OperationTally> for CommandNumbers {
    fn from(tally: &OperationTally) -> CommandNumbers {
        CommandNumbers {
            requests: tally.latencies.count(),
            errors: tally.errors,
            bytes: tally.bytes,
            latencies: tally.latencies.buckets.to_vec(),
        }
    }
}
