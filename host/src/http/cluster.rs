//! `/stats`, `/max-workers` and `/audit`: the cluster as a whole.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::core::Core;
use crate::operations::stats::{self, Stats};
use crate::operations::{Actor, limits};
use crate::store::AuditRow;

use super::body::{Json, Query};
use super::page::{self, Listing, PageQuery};
use super::problem::Problem;

pub(super) fn routes() -> OpenApiRouter<Core> {
    OpenApiRouter::new().routes(routes!(show)).routes(routes!(limit, unlimit)).routes(routes!(audit))
}

/// Active and most workers, queue depths, rates, servers.
#[utoipa::path(get, path = "/stats", tag = "operation", security(("token" = ["campaigns:read"])),
    responses((status = 200, body = Stats)))]
async fn show(State(core): State<Core>) -> Result<Json<Stats>, Problem> {
    Ok(Json(stats::stats(&core).await?))
}

/// The most sends in flight, whole cluster.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct MaxWorkers {
    /// 0 stops every send: those in flight end, and none begins.
    max_workers: u32,
}

/// Limit the sends in flight in the whole cluster, within a second on every server; 0 stops every send. It holds until it
/// is changed, or servers start with another `--max-workers` than before.
#[utoipa::path(put, path = "/max-workers", tag = "operation", security(("token" = ["admin"])), request_body = MaxWorkers,
    responses((status = 200, body = MaxWorkers)))]
async fn limit(
    State(core): State<Core>,
    actor: Actor,
    Json(body): Json<MaxWorkers>,
) -> Result<Json<MaxWorkers>, Problem> {
    limits::set_max_workers(&core, &actor, body.max_workers).await?;
    Ok(Json(body))
}

/// Go back to the limit in the settings of the server that answers.
#[utoipa::path(delete, path = "/max-workers", tag = "operation", security(("token" = ["admin"])),
    responses((status = 200, body = MaxWorkers)))]
async fn unlimit(State(core): State<Core>, actor: Actor) -> Result<Json<MaxWorkers>, Problem> {
    let max_workers = core.config.max_workers;
    limits::set_max_workers(&core, &actor, max_workers).await?;
    Ok(Json(MaxWorkers { max_workers }))
}

/// Who changed what, newest first.
#[utoipa::path(get, path = "/audit", tag = "operation", security(("token" = ["admin"])), params(PageQuery),
    responses((status = 200, body = Listing<AuditRow>)))]
async fn audit(State(core): State<Core>, Query(query): Query<PageQuery>) -> Result<Json<Listing<AuditRow>>, Problem> {
    let cursor: Option<i64> = page::cursor(query.cursor.as_deref())?;
    let page = core.store.audit_log(cursor, page::limit(query.limit)?).await?;
    Ok(Json(Listing::of(page)))
}
