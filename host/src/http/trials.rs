//! `/plugins/{name}/versions/{version}/try` and `/plugins/{name}/cases`.

use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::case::Case;
use crate::case::run::Ran;
use crate::clock::Time;
use crate::core::Core;
use crate::id::Digest;
use crate::json::Object;
use crate::operations::{Actor, trials};
use crate::store::{KeptCase, NewCase};

use super::body::{self, Id, Json, OptionalJson, Pair, Query};
use super::page::{self, Listing, PageQuery};
use super::problem::Problem;

pub(super) fn routes() -> OpenApiRouter<Core> {
    OpenApiRouter::new().routes(routes!(try_version)).routes(routes!(list)).routes(routes!(show))
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

/// A call of a plugin that was kept: one that failed, or one of a sample.
#[derive(Debug, Serialize, ToSchema)]
struct Kept {
    /// Its number.
    id: i64,
    /// The plugin's name.
    plugin: String,
    /// The version that was called.
    version: String,
    /// sha256 of its bytes.
    digest: Digest,
    /// When.
    at: Time,
    /// What was called, such as `render`.
    call: String,
    /// How it failed, such as `plugin-trap`; null for one of a sample.
    code: Option<String>,
    /// The same for people.
    detail: Option<String>,
    /// Whether personal data was taken out (`--plugin-case-data`).
    masked: bool,
    /// Whether the case came to the same when it was kept.
    reproduces: bool,
    /// Whether nothing of it was cut.
    complete: bool,
}

impl From<KeptCase> for Kept {
    fn from(found: KeptCase) -> Self {
        let KeptCase { id, name: plugin, version, digest, kept } = found;
        let NewCase { at, call, code, detail, masked, reproduces, complete, .. } = kept;
        Self { id, plugin, version, digest, at, call, code, detail, masked, reproduces, complete }
    }
}

/// A kept call with what it was made with.
#[derive(Debug, Serialize, ToSchema)]
struct WholeCase {
    #[serde(flatten)]
    kept: Kept,
    /// What it was made with: the body of a try, and what `carillon plugin run` takes.
    case: Case,
}

/// The calls kept of a plugin, newest first: those that failed, and those of a sample.
#[utoipa::path(get, path = "/plugins/{name}/cases", tag = "plugins", security(("token" = ["plugins:write"])),
    params(("name" = String, Path, description = "The plugin's name"), PageQuery),
    responses((status = 200, body = Listing<Kept>)))]
async fn list(
    State(core): State<Core>,
    Id(name): Id<String>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Listing<Kept>>, Problem> {
    let (limit, cursor) = (page::limit(query.limit)?, page::cursor(query.cursor.as_deref())?);
    Ok(Json(Listing::of(trials::cases(&core, &name, cursor, limit).await?)))
}

/// A kept call with what it was made with.
#[utoipa::path(get, path = "/plugins/{name}/cases/{case}", tag = "plugins", security(("token" = ["plugins:write"])),
    params(("name" = String, Path, description = "The plugin's name"), ("case" = i64, Path, description = "Its number")),
    responses((status = 200, body = WholeCase)))]
async fn show(State(core): State<Core>, Pair(name, id): Pair) -> Result<Json<WholeCase>, Problem> {
    let id = id.parse().map_err(|_| Problem::bad_request("the path: a case has a number"))?;
    let mut found = trials::case(&core, &name, id).await?;
    let case = body::parse(std::mem::take(&mut found.kept.case).as_bytes())?;
    Ok(Json(WholeCase { kept: found.into(), case }))
}
