//! `/plugins/{name}/versions/{version}/try`.

use axum::extract::State;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::case::Case;
use crate::case::run::Ran;
use crate::core::Core;
use crate::json::Object;
use crate::operations::{Actor, trials};

use super::body::{Json, OptionalJson, Pair};
use super::problem::Problem;

pub(super) fn routes() -> OpenApiRouter<Core> {
    OpenApiRouter::new().routes(routes!(try_version))
}

/// Call a version, active or not, with a case: an invented message where it says nothing. A plugin that fails is an answer, too:
/// `fault` says how. A sender's requests are shown, and made only with `send`.
#[utoipa::path(post, path = "/plugins/{name}/versions/{version}/try", tag = "plugins",
    security(("token" = ["plugins:write"])),
    params(("name" = String, Path, description = "The plugin's name"),
        ("version" = String, Path, description = "Its semantic version")),
    request_body = Option<Case>, responses((status = 200, body = Ran)))]
async fn try_version(
    State(core): State<Core>,
    actor: Actor,
    Pair(name, version): Pair,
    OptionalJson(Object(case)): OptionalJson<Object<Case>>,
) -> Result<Json<Ran>, Problem> {
    Ok(Json(trials::try_version(&core, &actor, &name, &version, &case).await?))
}
