//! `/secrets`: values go in and never come out.

use std::fmt;

use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::core::Core;
use crate::json::Object;
use crate::operations::Actor;
use crate::operations::secrets::{self, Rotated, SecretView};

use super::body::{Id, Json};
use super::page::Listing;
use super::problem::Problem;

pub(super) fn routes() -> OpenApiRouter<Core> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(put, delete)).routes(routes!(rotate))
}

/// A secret to be kept.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewSecret {
    /// What is put in the place of `{{secret:NAME}}`.
    #[schema(min_length = 1, max_length = 8192, write_only)]
    value: String,
    /// The one host that it may be sent to, `host` or `host:port`.
    #[schema(min_length = 1, max_length = 260)]
    host: String,
}

impl fmt::Debug for NewSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "…@{}", self.host)
    }
}

/// The secrets that senders may be granted, without their values.
#[utoipa::path(get, path = "/secrets", tag = "secrets", security(("token" = ["secrets:read"])),
    responses((status = 200, body = Listing<SecretView>)))]
async fn list(State(core): State<Core>) -> Result<Json<Listing<SecretView>>, Problem> {
    Ok(Json(Listing { items: secrets::list(&core).await?, next_cursor: None }))
}

/// Keep a secret, encrypted, in place of the one of its name. On every server within a second.
#[utoipa::path(put, path = "/secrets/{name}", tag = "secrets", security(("token" = ["secrets:write"])),
    params(("name" = String, Path, description = "1 to 128 letters, digits, `_`, `-` and `.`")), request_body = NewSecret,
    responses((status = 201, description = "It is new.", body = SecretView),
        (status = 200, description = "There was one of this name.", body = SecretView)))]
async fn put(
    State(core): State<Core>,
    actor: Actor,
    Id(name): Id<String>,
    Json(Object(secret)): Json<Object<NewSecret>>,
) -> Result<(StatusCode, Json<SecretView>), Problem> {
    let (view, is_new) = secrets::put(&core, &actor, &name, &secret.host, &secret.value).await?;
    Ok((if is_new { StatusCode::CREATED } else { StatusCode::OK }, Json(view)))
}

/// Delete a secret: no request has it any more, on any server, within a second.
#[utoipa::path(delete, path = "/secrets/{name}", tag = "secrets", security(("token" = ["secrets:write"])),
    params(("name" = String, Path, description = "The secret's name")),
    responses((status = 204, description = "It is gone.")))]
async fn delete(State(core): State<Core>, actor: Actor, Id(name): Id<String>) -> Result<StatusCode, Problem> {
    secrets::delete(&core, &actor, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Encrypt all secrets with the first of the server's keys; then the others are needed no more.
#[utoipa::path(post, path = "/rotate-secrets", tag = "secrets", security(("token" = ["secrets:write"])),
    responses((status = 200, body = Rotated)))]
async fn rotate(State(core): State<Core>, actor: Actor) -> Result<Json<Rotated>, Problem> {
    Ok(Json(secrets::rotate(&core, &actor).await?))
}
