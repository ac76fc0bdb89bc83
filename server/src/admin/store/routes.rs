//! All routes of the store.

use super::{capacity, probes, reclaim, scrub, stats};
use crate::admin::base::Shared;
use utoipa_axum::router::OpenApiRouter;

pub(crate) fn routes() -> OpenApiRouter<Shared> {
    reclaim::routes()
        .merge(scrub::routes())
        .merge(stats::routes())
        .merge(capacity::routes())
        .merge(probes::routes())
}
