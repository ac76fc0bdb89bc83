//! What the store has room for, and how it is.

use crate::{
    admin::base::{Shared, Success},
    api::{self, StoreState},
};
use axum::extract::State;
use sandstone_storage::{Health, StoreStats};
use utoipa_axum::{router::OpenApiRouter, routes};

const STORE: &str = "/api/v1/store";

/// Part of what may live, in per cent, from which on the store is nearly full.
const NEARLY_FULL_PERCENT: u64 = 90;

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(store))
}

/// What the store has room for
#[utoipa::path(get, path = STORE, operation_id = "getStore", responses(
    (status = 200, description = "In bytes.", body = api::Store),
))]
async fn store(State(admin): State<Shared>) -> Success<api::Store> {
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
    Success::ok(api::Store {
        size: stats.capacity_bytes,
        usable: stats.usable_bytes,
        used: stats.used_bytes,
        free: stats.free_bytes,
        garbage: stats.garbage_bytes,
        held_back: stats.capacity_bytes.saturating_sub(stats.usable_bytes),
        state,
        reasons,
    })
}

/// How full the store is.
pub(super) fn fullness(stats: &StoreStats) -> StoreState {
    let near = u128::from(stats.usable_bytes) * u128::from(NEARLY_FULL_PERCENT) / 100;
    match stats.free_bytes {
        0 => StoreState::Full,
        _ if u128::from(stats.used_bytes) >= near => StoreState::NearlyFull,
        _ => StoreState::Ready,
    }
}
