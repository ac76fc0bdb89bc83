//! What the store has room for, and how it is.

use crate::admin::base::{Admin, Route, Shared, Success};
use axum::{extract::State, routing::get};
use sandstone_storage::{Health, StoreStats};
use serde::Serialize;

/// Part of what may live, in per cent, from which on the store is nearly full.
const NEARLY_FULL_PERCENT: u64 = 90;

pub(crate) fn routes() -> Vec<Route> {
    vec![Route::new("GET", "/api/v1/store", get(store))]
}

async fn store(State(admin): State<Shared>) -> Success<StoreView> {
    Success::ok(StoreView::of(&admin))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum StoreState {
    Ready,
    NearlyFull,
    /// New blocks are refused; overwrites, trims and deletions go on.
    Full,
    ReadOnly,
    Latched,
}

/// In bytes.
#[derive(Debug, Serialize)]
struct StoreView {
    /// Of the store.
    size: u64,
    /// What volumes and snapshots may have in it together.
    usable: u64,
    /// What they have, shared blocks once.
    used: u64,
    /// What may still be written that is new.
    free: u64,
    /// What nothing refers to and reclaim has not given back yet.
    garbage: u64,
    /// What the log, maps, checkpoints and reclaim need to go on.
    held_back: u64,
    state: StoreState,
    reasons: Vec<String>,
}

/// How full the store is.
pub(crate) fn fullness(stats: &StoreStats) -> StoreState {
    let near = u128::from(stats.usable_bytes) * u128::from(NEARLY_FULL_PERCENT) / 100;
    match stats.free_bytes {
        0 => StoreState::Full,
        _ if u128::from(stats.used_bytes) >= near => StoreState::NearlyFull,
        _ => StoreState::Ready,
    }
}

impl StoreView {
    fn of(admin: &Admin) -> StoreView {
        let stats = admin.store.stats();
        let (state, reasons) = match admin.store.health() {
            Health::Ready => match fullness(&stats) {
                StoreState::Full => {
                    (StoreState::Full, vec!["new blocks are refused; overwrites go on".to_owned()])
                }
                state => (state, Vec::new()),
            },
            Health::Starved(why) => (StoreState::Full, vec![why]),
            Health::Latched(why) => (StoreState::Latched, vec![why]),
            Health::Corrupt(why) => (StoreState::ReadOnly, vec![why]),
        };
        StoreView {
            size: stats.capacity_bytes,
            usable: stats.usable_bytes,
            used: stats.used_bytes,
            free: stats.free_bytes,
            garbage: stats.garbage_bytes,
            held_back: stats.capacity_bytes.saturating_sub(stats.usable_bytes),
            state,
            reasons,
        }
    }
}
