//! What changed between a snapshot and a later state of its volume: ranges from the maps, a page at a time.

use super::lineage::snapshot_of;
use crate::{
    admin::base::{ApiError, Route, Shared, Success, VolumeId, query, while_wanted},
    record::parse_id,
    registry::Entry,
};
use axum::{
    extract::{FromRequestParts, State},
    http::request::Parts,
    routing::get,
};
use sandstone_storage::{Changes, ExtentState, Volume};
use serde::Serialize;
use serde_json::json;
use std::ops::RangeInclusive;

const DIFF: &str = "/api/v1/sandboxvolumes/{id}/diff";

/// What `to` is called where it is the volume itself, as it is now.
const HEAD: &str = "head";

/// Most ranges of a page, which are 5 MiB of JSON; and so many unless the caller wants fewer.
const RANGES_MAX: u64 = 65536;

pub(crate) fn routes() -> Vec<Route> {
    vec![Route::new("GET", DIFF, get(diff))]
}

/// The query, as it came.
struct Asked {
    from: String,
    to: String,
    offset: Option<String>,
    limit: Option<String>,
}

impl<S: Send + Sync> FromRequestParts<S> for Asked {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Asked, ApiError> {
        let mut query = query(parts, state).await?;
        let from = query.remove("from").ok_or_else(|| {
            ApiError::bad_request("from must be the id of a snapshot of this volume, not absent")
                .with_details(json!({ "field": "from", "allowed": "the id of a snapshot of this volume" }))
        })?;
        Ok(Asked {
            from,
            to: query.remove("to").unwrap_or_else(|| HEAD.to_owned()),
            offset: query.remove("offset"),
            limit: query.remove("limit"),
        })
    }
}

#[derive(Serialize)]
struct Page {
    from: String,
    to: String,
    /// Of `to`.
    size_bytes: u64,
    ranges: Vec<Range>,
    /// Where the next page begins, unless this is the last.
    next_offset: Option<u64>,
}

#[derive(Serialize)]
struct Range {
    offset: u64,
    length: u64,
    state: &'static str,
}

async fn diff(
    State(admin): State<Shared>,
    volume: VolumeId,
    asked: Asked,
) -> Result<Success<Page>, ApiError> {
    let entry = volume.find(&admin)?;
    let from = snapshot(&entry, &volume, &asked.from)?;
    let to = match asked.to.as_str() {
        HEAD => entry.volume.clone(),
        id => snapshot(&entry, &volume, id)?,
    };
    let size_bytes = to.size_bytes();
    let offset = number("offset", asked.offset.as_deref(), 0, 0..=size_bytes)?;
    let limit = number("limit", asked.limit.as_deref(), RANGES_MAX, 1..=RANGES_MAX)?;
    let Changes { changes, looked_to } = if offset == size_bytes {
        Changes { changes: Vec::new(), looked_to: offset }
    } else {
        let entries_max = usize::try_from(limit).unwrap_or(usize::MAX);
        let walk =
            move || async move { to.changes_since(&from, offset, size_bytes - offset, entries_max).await };
        while_wanted(&admin, walk).await?
    };
    let range = |change: sandstone_storage::Change| Range {
        offset: change.offset,
        length: change.len_bytes,
        state: match change.state {
            ExtentState::Data => "data",
            ExtentState::Zero => "zero",
            ExtentState::Hole => "hole",
        },
    };
    Ok(Success::ok(Page {
        from: asked.from,
        to: asked.to,
        size_bytes,
        ranges: changes.into_iter().map(range).collect(),
        next_offset: (looked_to < size_bytes).then_some(looked_to),
    }))
}

fn snapshot(entry: &Entry, volume: &VolumeId, id: &str) -> Result<Volume, ApiError> {
    let id = parse_id(id).ok_or_else(|| ApiError::no_snapshot(&volume.text, id))?;
    Ok(snapshot_of(entry, id)?.snapshot.clone())
}

/// A number of the query, within its range.
fn number(
    field: &str,
    given: Option<&str>,
    absent: u64,
    range: RangeInclusive<u64>,
) -> Result<u64, ApiError> {
    let Some(text) = given else { return Ok(absent) };
    text.parse().ok().filter(|number| range.contains(number)).ok_or_else(|| {
        let allowed = format!("a whole number from {} to {}", range.start(), range.end());
        let shown: String = text.chars().take(64).collect();
        ApiError::bad_request(format!("{field} must be {allowed}, not {shown:?}"))
            .with_details(json!({ "field": field, "allowed": allowed }))
    })
}
