//! `/stats` and `/audit`: the cluster as a whole.

use axum::extract::State;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::core::Core;
use crate::operations::stats::{self, Stats};
use crate::store::AuditRow;

use super::body::{Json, Query};
use super::page::{self, Listing, PageQuery};
use super::problem::Problem;

pub(super) fn routes() -> OpenApiRouter<Core> {
    OpenApiRouter::new().routes(routes!(show)).routes(routes!(audit))
}

/// Active and most workers, queue depths, rates, servers.
#[utoipa::path(get, path = "/stats", tag = "operation", security(("token" = ["campaigns:read"])),
    responses((status = 200, body = Stats)))]
async fn show(State(core): State<Core>) -> Result<Json<Stats>, Problem> {
    Ok(Json(stats::stats(&core).await?))
}

/// Who changed what, newest first.
#[utoipa::path(get, path = "/audit", tag = "operation", security(("token" = ["admin"])), params(PageQuery),
    responses((status = 200, body = Listing<AuditRow>)))]
async fn audit(State(core): State<Core>, Query(query): Query<PageQuery>) -> Result<Json<Listing<AuditRow>>, Problem> {
    let cursor: Option<i64> = page::cursor(query.cursor.as_deref())?;
    let page = core.store.audit_log(cursor, page::limit(query.limit)?).await?;
    Ok(Json(Listing::of(page)))
}
