//! `/suppressions`.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::consent::{NewSuppression, Suppression};
use crate::core::Core;
use crate::operations::Actor;
use crate::operations::suppressions;

use super::body::{Json, Query};
use super::page::{self, Listing};
use super::problem::Problem;

pub(super) fn routes() -> OpenApiRouter<Core> {
    OpenApiRouter::new().routes(routes!(add, list, remove))
}

/// What adding came to.
#[derive(Debug, Serialize, ToSchema)]
struct Added {
    /// Entries that are new.
    added: u32,
}

/// Add to the suppression list. Nothing is sent to these addresses any more, not even what is queued.
#[utoipa::path(post, path = "/suppressions", tag = "suppressions", security(("token" = ["suppressions:write"])),
    request_body = Vec<NewSuppression>, responses((status = 200, body = Added)))]
async fn add(
    State(core): State<Core>,
    actor: Actor,
    Json(entries): Json<Vec<NewSuppression>>,
) -> Result<Json<Added>, Problem> {
    Ok(Json(Added { added: suppressions::add(&core, &actor, entries).await? }))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct SuppressionQuery {
    /// Only entries of this address.
    address: Option<String>,
    /// Rows, 1 to 1000; 100 by default.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// The suppression list, by address.
#[utoipa::path(get, path = "/suppressions", tag = "suppressions", security(("token" = ["suppressions:read"])),
    params(SuppressionQuery), responses((status = 200, body = Listing<Suppression>)))]
async fn list(
    State(core): State<Core>,
    Query(query): Query<SuppressionQuery>,
) -> Result<Json<Listing<Suppression>>, Problem> {
    let cursor: Option<(String, String)> = page::cursor(query.cursor.as_deref())?;
    let page = suppressions::list(&core, query.address.as_deref(), cursor, page::limit(query.limit)?).await?;
    Ok(Json(Listing::of(page)))
}

/// An entry to be taken off the list.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// The address, exactly.
    address: String,
    /// The channel, exactly; leave it out for the entry that holds for every channel.
    channel: Option<String>,
    /// Accepted, so that an entry can be sent back as it was listed; not looked at.
    #[serde(default, rename = "reason")]
    _reason: Option<String>,
    /// Accepted, not looked at.
    #[serde(default, rename = "created_at")]
    _created_at: Option<String>,
}

/// What taking off came to.
#[derive(Debug, Serialize, ToSchema)]
struct Removed {
    /// Entries that are gone.
    removed: u32,
}

/// Take entries off the suppression list. The ledger keeps that they were on it.
#[utoipa::path(delete, path = "/suppressions", tag = "suppressions", security(("token" = ["suppressions:write"])),
    request_body = Vec<Entry>, responses((status = 200, body = Removed)))]
async fn remove(
    State(core): State<Core>,
    actor: Actor,
    Json(entries): Json<Vec<Entry>>,
) -> Result<Json<Removed>, Problem> {
    let entries = entries.into_iter().map(|e| (e.address, e.channel)).collect();
    Ok(Json(Removed { removed: suppressions::remove(&core, &actor, entries).await? }))
}
