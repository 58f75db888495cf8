//! `/plugins/{name}/grants`.

use axum::extract::State;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::core::Core;
use crate::grants::Grants;
use crate::json::Object;
use crate::operations::Actor;
use crate::operations::grants::{self, GrantsView};

use super::body::{Id, Json};
use super::problem::Problem;

pub(super) fn routes() -> OpenApiRouter<Core> {
    OpenApiRouter::new().routes(routes!(show, put))
}

/// What a plugin asks for, what it was granted, and what it did not get.
#[utoipa::path(get, path = "/plugins/{name}/grants", tag = "plugins", security(("token" = ["plugins:read"])),
    params(("name" = String, Path, description = "The plugin's name")), responses((status = 200, body = GrantsView)))]
async fn show(State(core): State<Core>, Id(name): Id<String>) -> Result<Json<GrantsView>, Problem> {
    Ok(Json(grants::view(&core, &name).await?))
}

/// Grant these things to a plugin, in place of what it was granted before. On every server within a second, also for campaigns
/// that are running.
#[utoipa::path(put, path = "/plugins/{name}/grants", tag = "plugins", security(("token" = ["plugins:write"])),
    params(("name" = String, Path, description = "The plugin's name")), request_body = Grants,
    responses((status = 200, body = GrantsView)))]
async fn put(
    State(core): State<Core>,
    actor: Actor,
    Id(name): Id<String>,
    Json(Object(granted)): Json<Object<Grants>>,
) -> Result<Json<GrantsView>, Problem> {
    Ok(Json(grants::put(&core, &actor, &name, granted).await?))
}
