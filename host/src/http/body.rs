//! What handlers take out of a request, with errors that say where it is wrong.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::core::Core;
use crate::operations::fields;

use super::problem::Problem;

/// How long a body may take to arrive.
const ARRIVES_IN: Duration = Duration::from_secs(60);

/// A JSON body or answer.
pub(super) struct Json<T>(pub T);

impl<T: DeserializeOwned> FromRequest<Core> for Json<T> {
    type Rejection = Problem;
    async fn from_request(request: Request, core: &Core) -> Result<Self, Problem> {
        let media = media_type(request.headers());
        if !is_json(&media) {
            return Err(unsupported(&media, "application/json"));
        }
        let bytes = read(request.into_body(), core.config.body_max_bytes).await?;
        parse(&bytes).map(Self)
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}

/// A JSON body that may be left out, or `null`.
pub(super) struct OptionalJson<T>(pub T);

impl<T: DeserializeOwned + Default> FromRequest<Core> for OptionalJson<T> {
    type Rejection = Problem;
    async fn from_request(request: Request, core: &Core) -> Result<Self, Problem> {
        let media = media_type(request.headers());
        let bytes = read(request.into_body(), core.config.body_max_bytes).await?;
        if bytes.is_empty() {
            return Ok(Self(T::default()));
        }
        if !is_json(&media) {
            return Err(unsupported(&media, "application/json"));
        }
        parse::<Option<T>>(&bytes).map(|body| Self(body.unwrap_or_default()))
    }
}

/// Whether a media type is JSON.
pub(super) fn is_json(media: &str) -> bool {
    media == "application/json" || media.ends_with("+json")
}

/// The media type of a body, without parameters and in small letters; empty when it is not named.
pub(super) fn media_type(headers: &HeaderMap) -> String {
    let value = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// The answer to a media type that a route does not take.
pub(super) fn unsupported(media: &str, wanted: &str) -> Problem {
    let got = if media.is_empty() { "names no Content-Type".to_owned() } else { format!("is {media:?}") };
    let detail = format!("the body {got}: send {wanted}");
    Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", detail)
}

/// Reads a body of at most `max` bytes.
pub(super) async fn read(body: Body, max: u64) -> Result<Bytes, Problem> {
    let limit = usize::try_from(max).unwrap_or(usize::MAX);
    match tokio::time::timeout(ARRIVES_IN, axum::body::to_bytes(body, limit)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) => Err(if is_too_long(&error) {
            let detail = format!("the body has more than {max} bytes");
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", detail)
        } else {
            Problem::bad_request("the body broke off")
        }),
        Err(_) => {
            let detail = format!("the body did not arrive within {} seconds", ARRIVES_IN.as_secs());
            Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "timeout", detail))
        }
    }
}

fn is_too_long(error: &axum::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        if error.is::<http_body_util::LengthLimitError>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// Reads JSON: 400 where it is not JSON, 422 where it does not fit, both with the place.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        unfit(&path, error.inner())
    })?;
    reader.end().map_err(|error| unfit("", &error))?;
    Ok(value)
}

fn unfit(path: &str, error: &serde_json::Error) -> Problem {
    use serde_json::error::Category;
    let message = error.to_string();
    match error.classify() {
        Category::Syntax | Category::Eof | Category::Io => {
            Problem::new(StatusCode::BAD_REQUEST, "not-json", format!("the body is not JSON: {message}"))
        }
        Category::Data => {
            let field = fields::name(path, &message);
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", message.clone()).with_field(field, message)
        }
    }
}

/// The one variable part of a path.
pub(super) struct Id<T>(pub T);

impl<T: FromStr<Err: fmt::Display>, S: Send + Sync> FromRequestParts<S> for Id<T> {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(text) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|_| Problem::bad_request("the path is not valid UTF-8"))?;
        text.parse().map(Self).map_err(|error: T::Err| Problem::bad_request(error.to_string()))
    }
}

/// The two variable parts of a path.
pub(super) struct Pair(pub String, pub String);

impl<S: Send + Sync> FromRequestParts<S> for Pair {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path((first, second)) = Path::<(String, String)>::from_request_parts(parts, state)
            .await
            .map_err(|_| Problem::bad_request("the path is not valid UTF-8"))?;
        Ok(Self(first, second))
    }
}

/// The parameters after the question mark.
pub(super) struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        axum::extract::Query::try_from_uri(&parts.uri).map(|q| Self(q.0)).map_err(|rejection| {
            let text = rejection.body_text();
            let text = text.strip_prefix("Failed to deserialize query string: ").unwrap_or(&text);
            // "limit: invalid digit found in string", or "unknown field `x`, expected …".
            let (path, message) = match text.split_once(": ") {
                Some((path, message)) if !path.contains([' ', '`']) => (path, message),
                _ => ("", text),
            };
            Problem::bad_request(format!("the query: {text}")).with_field(fields::name(path, message), message)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::campaign::CampaignSpec;

    #[test]
    fn errors_name_the_place_and_the_field() {
        let problem = parse::<CampaignSpec>(b"{\"name\": }").err().unwrap();
        assert_eq!(problem.status, 400);
        assert!(problem.detail.contains("line 1 column 10"), "{}", problem.detail);
        let problem = parse::<CampaignSpec>(br#"{"name":"x","retry":{"max_attempts":"5"}}"#).err().unwrap();
        assert_eq!((problem.status, problem.errors[0].field.as_str()), (422, "retry.max_attempts"));
        let problem = parse::<CampaignSpec>(br#"{"name":"x","retry":{"atempts":5}}"#).err().unwrap();
        assert_eq!(problem.errors[0].field, "retry.atempts");
        assert!(problem.detail.contains("atempts"));
        let problem = parse::<u32>(b"1 2").err().unwrap();
        assert_eq!(problem.status, 400);
    }
}
