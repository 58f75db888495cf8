//! `Idempotency-Key` on creating calls: the same key with the same request gets the same answer, whatever happened to the
//! first one's connection. Only answers of calls that succeeded are kept; one that was refused can be mended and sent
//! again under its key.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::Digest as _;

use crate::core::Core;
use crate::id::{Digest, TokenId};
use crate::store::KeptAnswer;

use super::auth::Caller;
use super::body;
use super::problem::Problem;

pub(super) const KEY: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// The longest answer that is kept.
const MAX_ANSWER: usize = 1 << 20;

/// What is kept in place of an answer that holds a secret.
#[derive(Clone)]
pub(super) struct KeepInstead(pub String);

/// Answers a repeated call as its first time.
pub(super) async fn once(State(core): State<Core>, request: Request, next: Next) -> Response {
    let caller = request.extensions().get::<Caller>().map(|c| c.token);
    match (caller, key(request.headers())) {
        (Some(token), Ok(Some(key))) if request.method() == Method::POST => {
            guarded(&core, token, &key, request, next).await.unwrap_or_else(IntoResponse::into_response)
        }
        (Some(_), Err(problem)) if request.method() == Method::POST => problem.into_response(),
        _ => next.run(request).await,
    }
}

pub(super) fn key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get(KEY) else { return Ok(None) };
    match value.to_str() {
        Ok(key) if (1..=255).contains(&key.len()) => Ok(Some(key.to_owned())),
        _ => Err(Problem::bad_request("Idempotency-Key: give 1 to 255 visible ASCII characters")),
    }
}

async fn guarded(core: &Core, token: TokenId, key: &str, request: Request, next: Next) -> Result<Response, Problem> {
    let (parts, whole) = request.into_parts();
    let max =
        if parts.uri.path().ends_with("/plugins") { core.config.plugin_max_bytes } else { core.config.body_max_bytes };
    let bytes = body::read(whole, max).await?;
    let mut hash = sha2::Sha256::new();
    for part in [parts.method.as_str(), parts.uri.path(), parts.uri.query().unwrap_or_default()] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.update(&bytes);
    let digest = Digest(hash.finalize().into());
    match core.store.claim_key(token, key, digest, core.clock.now()).await? {
        None => {}
        Some(kept) if kept.request != digest => {
            let detail = "this Idempotency-Key was used for another request: take a new one";
            return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "idempotency-key-reused", detail));
        }
        Some(KeptAnswer { status: 0, .. }) => {
            let detail = "the first call with this Idempotency-Key is still running";
            return Err(Problem::new(StatusCode::CONFLICT, "idempotency-key-in-use", detail).retry_after(1));
        }
        Some(kept) => return Ok(replay(kept)),
    }
    let response = next.run(Request::from_parts(parts, Body::from(bytes))).await;
    let (parts, whole) = response.into_parts();
    let bytes = axum::body::to_bytes(whole, usize::MAX).await.unwrap_or_default();
    let kept = match parts.extensions.get::<KeepInstead>() {
        Some(KeepInstead(text)) => Some(text.clone()),
        None => String::from_utf8(bytes.to_vec()).ok().filter(|t| t.len() <= MAX_ANSWER),
    };
    let noted = match kept {
        Some(text) if parts.status.is_success() => {
            core.store.keep_answer(token, key, parts.status.as_u16(), &text).await
        }
        _ => core.store.drop_key(token, key).await,
    };
    if let Err(error) = noted {
        tracing::warn!(
            error = format!("{:#}", anyhow::Error::from(error)),
            "the answer to an idempotency key was not kept"
        );
    }
    Ok(Response::from_parts(parts, Body::from(bytes)))
}

fn replay(kept: KeptAnswer) -> Response {
    let status = StatusCode::from_u16(kept.status).unwrap_or(StatusCode::OK);
    let mut response = (status, kept.body).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    response
}
