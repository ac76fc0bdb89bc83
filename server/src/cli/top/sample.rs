//! What happened between two answers of the server.

use crate::api::{CommandStats, ReclaimPhase, Stats, StoreStats, VolumeStats};
use serde::Serialize;
use std::collections::HashMap;
use uuid::Uuid;

/// What happened between two answers, a second.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Rates {
    pub(super) store: StoreRates,
    pub(super) volumes: Vec<VolumeRates>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct StoreRates {
    /// Why it takes no writes, where it does not.
    pub(super) trouble: Option<String>,
    pub(super) capacity_bytes: u64,
    pub(super) free_bytes: u64,
    pub(super) log_bytes: f64,
    pub(super) log_batches: f64,
    pub(super) syncs: f64,
    /// Callers that waited for a sync, by syncs; `None` without syncs.
    pub(super) callers_per_sync: Option<f64>,
    pub(super) checkpoints: f64,
    pub(super) reclaim: ReclaimPhase,
    pub(super) scrub_running: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct VolumeRates {
    pub(super) id: Uuid,
    pub(super) name: String,
    pub(super) attachments: usize,
    pub(super) read: Flow,
    pub(super) write: Flow,
    /// Of all commands, in microseconds; `None` where there were none.
    pub(super) p50_us: Option<f64>,
    pub(super) p99_us: Option<f64>,
    pub(super) errors: f64,
    /// Requests taken in and not answered yet, at the second look.
    pub(super) queue_depth: u64,
    /// Of the blocks that reads looked for, those that were in memory; `None` without reads.
    pub(super) cache_hit_percent: Option<f64>,
    /// Accepted and not in the store yet, at the second look.
    pub(super) buffered_bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Flow {
    pub(super) iops: f64,
    pub(super) bytes: f64,
}

impl Rates {
    /// Of a volume that was not there before, all is new. After a restart of the server nothing is
    /// known until the next look.
    pub(super) fn between(before: &Stats, now: &Stats) -> Rates {
        let elapsed = Elapsed(now.at_us.saturating_sub(before.at_us) as f64 / 1e6);
        let known: HashMap<Uuid, &VolumeStats> =
            before.volumes.iter().map(|volume| (volume.id, volume)).collect();
        let volume = |now: &VolumeStats| {
            VolumeRates::between(
                known.get(&now.id).copied(),
                now,
                &before.latency_bounds_us,
                elapsed,
            )
        };
        Rates {
            store: StoreRates::between(&before.store, &now.store, elapsed),
            volumes: now.volumes.iter().map(volume).collect(),
        }
    }
}

/// Seconds between two looks; 0 where they are of two servers.
#[derive(Clone, Copy)]
struct Elapsed(f64);

impl Elapsed {
    fn rate(self, before: u64, now: u64) -> f64 {
        if self.0 > 0.0 { now.saturating_sub(before) as f64 / self.0 } else { 0.0 }
    }
}

impl StoreRates {
    fn between(before: &StoreStats, now: &StoreStats, elapsed: Elapsed) -> StoreRates {
        let syncs = elapsed.rate(before.syncs, now.syncs);
        let callers = elapsed.rate(before.sync_requests, now.sync_requests);
        StoreRates {
            trouble: now.trouble.clone(),
            capacity_bytes: now.capacity_bytes,
            free_bytes: now.free_bytes,
            log_bytes: elapsed.rate(before.log_bytes, now.log_bytes),
            log_batches: elapsed.rate(before.log_batches, now.log_batches),
            syncs,
            callers_per_sync: (syncs > 0.0).then_some(callers / syncs),
            checkpoints: elapsed.rate(before.checkpoints, now.checkpoints),
            reclaim: now.reclaim,
            scrub_running: now.scrub_running,
        }
    }
}

impl VolumeRates {
    fn between(
        before: Option<&VolumeStats>,
        now: &VolumeStats,
        bounds_us: &[u64],
        elapsed: Elapsed,
    ) -> VolumeRates {
        let nothing = CommandStats::default();
        let earlier = |command: &str| {
            before.and_then(|before| before.commands.get(command)).unwrap_or(&nothing)
        };
        let flow = |command: &str| {
            let (before, now) = (earlier(command), now.commands.get(command).unwrap_or(&nothing));
            Flow {
                iops: elapsed.rate(before.requests, now.requests),
                bytes: elapsed.rate(before.bytes, now.bytes),
            }
        };
        let since =
            |count: fn(&VolumeStats) -> u64| count(now).saturating_sub(before.map_or(0, count));
        let (hits, misses) = (since(|v| v.cache_hits), since(|v| v.cache_misses));
        let mut latencies = vec![0; bounds_us.len() + 1];
        let mut errors = 0.0;
        for (command, now) in &now.commands {
            let before = earlier(command);
            errors += elapsed.rate(before.errors, now.errors);
            for (i, (sum, now)) in latencies.iter_mut().zip(&now.latencies).enumerate() {
                *sum += now.saturating_sub(before.latencies.get(i).copied().unwrap_or(0));
            }
        }
        VolumeRates {
            id: now.id,
            name: now.name.clone(),
            attachments: now.attachments,
            read: flow("read"),
            write: flow("write"),
            p50_us: percentile(&latencies, bounds_us, 0.5),
            p99_us: percentile(&latencies, bounds_us, 0.99),
            errors,
            queue_depth: now.requests_in_flight,
            cache_hit_percent: (hits + misses > 0)
                .then(|| hits as f64 * 100.0 / (hits + misses) as f64),
            buffered_bytes: now.buffered_bytes,
        }
    }
}

/// The latency that this part of the requests did not exceed, in microseconds, as if they lay
/// evenly in their bucket. Those beyond the last bound are told as that bound.
pub(super) fn percentile(counts: &[u64], bounds_us: &[u64], part: f64) -> Option<f64> {
    let total: u64 = counts.iter().sum();
    if total == 0 {
        return None;
    }
    let wanted = total as f64 * part;
    let mut below = 0;
    let mut lower_us = 0;
    for (count, upper_us) in counts.iter().zip(bounds_us) {
        if (below + count) as f64 >= wanted && *count > 0 {
            let within = (wanted - below as f64) / *count as f64;
            return Some(lower_us as f64 + within * (upper_us - lower_us) as f64);
        }
        below += count;
        lower_us = *upper_us;
    }
    Some(lower_us as f64)
}
