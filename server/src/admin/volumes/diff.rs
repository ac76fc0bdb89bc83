//! What changed between a snapshot and a later state of its volume: ranges from the maps, a page at
//! a time.

use super::lineage::snapshot_of;
use crate::{
    admin::base::{ApiError, Shared, Success, VolumeId, abortable, query},
    api::{Details, Diff, DiffRange, RangeState},
    record::parse_id,
    registry::Entry,
};
use axum::{
    extract::{FromRequestParts, State},
    http::request::Parts,
};
use sandstone_storage::{Change, Changes, ExtentState, Volume};
use std::ops::RangeInclusive;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

const DIFF: &str = "/api/v1/sandboxvolumes/{id}/diff";

/// What `to` is called where it is the volume itself, as it is now.
const HEAD: &str = "head";

/// Most ranges of a page, which are 5 MiB of JSON; and so many unless the caller wants fewer.
const RANGES_MAX: u64 = 65536;

pub(crate) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(diff))
}

/// The query, as it came.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
struct DiffQuery {
    /// A snapshot of the volume.
    #[param(value_type = Uuid)]
    from: String,
    /// A snapshot of the volume, or head for the volume as it is now.
    #[param(value_type = Option<String>, default = "head")]
    to: String,
    /// Byte to begin at, up to the size of to: the next_offset of the page before.
    #[param(value_type = Option<u64>, minimum = 0, default = 0)]
    offset: Option<String>,
    /// Most ranges of the page.
    #[param(value_type = Option<u64>, minimum = 1, maximum = 65536, default = 65536)]
    limit: Option<String>,
}

impl<S: Send + Sync> FromRequestParts<S> for DiffQuery {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<DiffQuery, ApiError> {
        let mut query = query(parts, state).await?;
        let allowed = "the id of a snapshot of this volume";
        let from = query.remove("from").ok_or_else(|| {
            ApiError::bad_request(format!("from must be {allowed}, not absent"))
                .with_details(Details::field("from", allowed))
        })?;
        Ok(DiffQuery {
            from,
            to: query.remove("to").unwrap_or_else(|| HEAD.to_owned()),
            offset: query.remove("offset"),
            limit: query.remove("limit"),
        })
    }
}

/// What changed since a snapshot, told by the maps without reading data
///
/// Ranges that were written, zeroed or trimmed, in order, none overlapping; they may hold what they
/// held before. Beyond the end of from, everything that is not a hole differs.
#[utoipa::path(get, path = DIFF, operation_id = "diffVolume", params(VolumeId, DiffQuery), responses(
    (status = 200, description = "A page of ranges.", body = Diff),
    (status = 400, description = "A number of the query is wrong, or from is missing."),
    (status = 404, description = "No such volume, or it has no such snapshot."),
))]
async fn diff(
    State(admin): State<Shared>,
    volume: VolumeId,
    asked: DiffQuery,
) -> Result<Success<Diff>, ApiError> {
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
        let walk = move || async move {
            to.changes_since(&from, offset, size_bytes - offset, entries_max).await
        };
        abortable(&admin, walk).await?
    };
    let range = |change: Change| DiffRange {
        offset: change.offset,
        length: change.len_bytes,
        state: match change.state {
            ExtentState::Data => RangeState::Data,
            ExtentState::Zero => RangeState::Zero,
            ExtentState::Hole => RangeState::Hole,
        },
    };
    Ok(Success::ok(Diff {
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
            .with_details(Details::field(field, allowed))
    })
}
