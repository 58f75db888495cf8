//! `/tokens`.

use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::clock::Time;
use crate::core::Core;
use crate::id::TokenId;
use crate::operations::{Actor, tokens};
use crate::store::TokenRow;

use super::body::{Id, Json};
use super::idempotency::KeepInstead;
use super::page::Listing;
use super::problem::Problem;

pub(super) fn routes() -> OpenApiRouter<Core> {
    OpenApiRouter::new().routes(routes!(create, list)).routes(routes!(revoke))
}

/// A token to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewToken {
    /// A name for people.
    #[schema(min_length = 1, max_length = 200)]
    name: String,
    /// What it may do: `admin`, or `campaigns:read`, `campaigns:write`, and so on for `devices`, `plugins`, `audiences`,
    /// `suppressions`, `secrets`.
    #[schema(min_items = 1)]
    scopes: Vec<String>,
}

/// A token, without its secret.
#[derive(Debug, Serialize, ToSchema)]
struct TokenView {
    /// Its id.
    id: TokenId,
    /// A name for people.
    name: String,
    /// What it may do.
    scopes: Vec<String>,
    /// When it was made.
    created_at: Time,
    /// When it was revoked.
    revoked_at: Option<Time>,
}

impl From<TokenRow> for TokenView {
    fn from(row: TokenRow) -> Self {
        let TokenRow { id, name, scopes, created_at, revoked_at } = row;
        Self { id, name, scopes, created_at, revoked_at }
    }
}

/// A token that was made.
#[derive(Debug, Serialize, ToSchema)]
struct Made {
    #[serde(flatten)]
    token: TokenView,
    /// The secret: shown this once, kept nowhere. `null` when the call is repeated with its idempotency key.
    secret: Option<String>,
}

/// Make a token.
#[utoipa::path(post, path = "/tokens", tag = "tokens", security(("token" = ["admin"])), request_body = NewToken,
    responses((status = 201, body = Made)))]
async fn create(
    State(core): State<Core>,
    actor: Actor,
    Json(new): Json<NewToken>,
) -> Result<(StatusCode, Extension<KeepInstead>, Json<Made>), Problem> {
    let (row, secret) = tokens::create(&core, &actor, new.name, new.scopes).await?;
    let mut made = Made { token: row.into(), secret: None };
    let kept = serde_json::to_string(&made).map_err(|error| Problem::internal(&error.into()))?;
    made.secret = Some(secret);
    Ok((StatusCode::CREATED, Extension(KeepInstead(kept)), Json(made)))
}

/// All tokens, revoked ones included.
#[utoipa::path(get, path = "/tokens", tag = "tokens", security(("token" = ["admin"])),
    responses((status = 200, body = Listing<TokenView>)))]
async fn list(State(core): State<Core>) -> Result<Json<Listing<TokenView>>, Problem> {
    let items = tokens::list(&core).await?.into_iter().map(TokenView::from).collect();
    Ok(Json(Listing { items, next_cursor: None }))
}

/// Revoke a token: it is refused everywhere within a second.
#[utoipa::path(delete, path = "/tokens/{id}", tag = "tokens", security(("token" = ["admin"])),
    params(("id" = TokenId, Path, description = "The token")), responses((status = 204, description = "It is revoked.")))]
async fn revoke(State(core): State<Core>, actor: Actor, Id(id): Id<TokenId>) -> Result<StatusCode, Problem> {
    tokens::revoke(&core, &actor, id).await?;
    Ok(StatusCode::NO_CONTENT)
}
