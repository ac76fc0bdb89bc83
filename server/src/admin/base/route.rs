//! A route, as each group of handlers names it.

use super::state::Shared;
use axum::routing::MethodRouter;

/// One method of one path.
pub(crate) struct Route {
    pub(crate) method: &'static str,
    pub(crate) path: &'static str,
    pub(crate) handler: MethodRouter<Shared>,
}

impl Route {
    pub(crate) fn new(method: &'static str, path: &'static str, handler: MethodRouter<Shared>) -> Route {
        Route { method, path, handler }
    }
}
