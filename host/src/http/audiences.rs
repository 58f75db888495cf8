//! `/audiences`.

use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use futures::{StreamExt as _, TryStreamExt as _};
use tokio_util::io::StreamReader;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::core::Core;
use crate::operations::Actor;
use crate::operations::audiences::{self, Format, ImportReport};
use crate::store::AudienceRow;

use super::body::{self, Id, Json, Query};
use super::page::{self, Listing, PageQuery};
use super::problem::Problem;

/// How long an upload may pause.
const PAUSES_AT_MOST: Duration = Duration::from_secs(60);

pub(super) fn routes() -> OpenApiRouter<Core> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(put, show))
}

/// Upload an audience's new version, as CSV with a header or as one JSON object a line. The column `address` must be there;
/// `locale` and `zone` are the recipient's language and time zone; all others are variables for templates. Broken rows are
/// rejected, with their line and the reason (the first 1000 of them), and the rest is accepted.
#[utoipa::path(put, path = "/audiences/{name}", tag = "audiences", security(("token" = ["audiences:write"])),
    params(("name" = String, Path, description = "The audience's name")),
    request_body(content((String = "text/csv"), (String = "application/x-ndjson"))),
    responses((status = 200, description = "It is current now.", body = ImportReport)))]
async fn put(
    State(core): State<Core>,
    actor: Actor,
    Id(name): Id<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<ImportReport>, Problem> {
    let media = body::media_type(&headers);
    let format = match media.as_str() {
        "text/csv" => Format::Csv,
        "application/x-ndjson" | "application/ndjson" | "application/jsonl" => Format::Ndjson,
        _ => return Err(body::unsupported(&media, "text/csv or application/x-ndjson")),
    };
    let chunks = tokio_stream::StreamExt::timeout(body.into_data_stream(), PAUSES_AT_MOST).map(|chunk| match chunk {
        Ok(chunk) => chunk.map_err(std::io::Error::other),
        Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut)),
    });
    let reader = StreamReader::new(Box::pin(chunks.into_stream()));
    Ok(Json(audiences::import(&core, &actor, &name, format, reader).await?))
}

/// Audiences, by name.
#[utoipa::path(get, path = "/audiences", tag = "audiences", security(("token" = ["audiences:read"])), params(PageQuery),
    responses((status = 200, body = Listing<AudienceRow>)))]
async fn list(State(core): State<Core>, Query(query): Query<PageQuery>) -> Result<Json<Listing<AudienceRow>>, Problem> {
    let cursor: Option<String> = page::cursor(query.cursor.as_deref())?;
    Ok(Json(Listing::of(audiences::list(&core, cursor.as_deref(), page::limit(query.limit)?).await?)))
}

/// One audience.
#[utoipa::path(get, path = "/audiences/{name}", tag = "audiences", security(("token" = ["audiences:read"])),
    params(("name" = String, Path, description = "The audience's name")), responses((status = 200, body = AudienceRow)))]
async fn show(State(core): State<Core>, Id(name): Id<String>) -> Result<Json<AudienceRow>, Problem> {
    Ok(Json(audiences::audience(&core, &name).await?))
}
