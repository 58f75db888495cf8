//! Errors on the wire: `application/problem+json`, RFC 9457.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::campaign::BadField;
use crate::operations::OpError;

/// Seconds after which a client may try again when a part of the cluster is away.
const RETRY_AFTER_S: u64 = 2;

/// What every refused or failed call answers.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Problem {
    /// What kind of problem it is: `urn:carillon:problem:…`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The same for people.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What was wrong with this very call, and how to mend it.
    pub detail: String,
    /// The fields that are wrong, where there are such.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldProblem>,
    /// For errors of the server: what to look for in its log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    #[serde(skip)]
    retry_after_s: Option<u64>,
    #[serde(skip)]
    allow: Option<String>,
    #[serde(skip)]
    challenge: Option<&'static str>,
}

/// A field that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldProblem {
    /// Its path, such as `retry.max_attempts`; empty for the whole document.
    pub field: String,
    /// What is wrong and what would be right.
    pub problem: String,
}

impl From<BadField> for FieldProblem {
    fn from(BadField { field, problem }: BadField) -> Self {
        Self { field, problem }
    }
}

impl Problem {
    /// A problem; the title is the status's own words.
    pub fn new(status: StatusCode, kind: &str, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("urn:carillon:problem:{kind}"),
            title: status.canonical_reason().unwrap_or("Error").to_owned(),
            status: status.as_u16(),
            detail: detail.into(),
            errors: Vec::new(),
            instance: None,
            retry_after_s: None,
            allow: None,
            challenge: None,
        }
    }

    /// A part of the request that cannot be read: 400.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-request", detail)
    }

    /// A field that can be read and cannot be right: 422.
    pub fn field(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::from(OpError::invalid(field, problem))
    }

    /// An error of the server: logged here, with a number that the client gets instead.
    pub fn internal(error: &anyhow::Error) -> Self {
        let id = Uuid::new_v4();
        tracing::error!(error.id = %id, error = format!("{error:#}"), "a request failed");
        let detail = "something went wrong in the server; its log has more under this instance";
        Self { instance: Some(id.to_string()), ..Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail) }
    }

    /// Adds a field.
    pub fn with_field(mut self, field: impl Into<String>, problem: impl Into<String>) -> Self {
        self.errors.push(FieldProblem { field: field.into(), problem: problem.into() });
        self
    }

    /// Says when to try again.
    pub fn retry_after(self, seconds: u64) -> Self {
        Self { retry_after_s: Some(seconds), ..self }
    }

    /// Says which methods there are.
    pub fn allow(self, methods: String) -> Self {
        Self { allow: Some(methods), ..self }
    }

    /// Says how to authenticate.
    pub fn challenge(self, challenge: &'static str) -> Self {
        Self { challenge: Some(challenge), ..self }
    }
}

impl From<OpError> for Problem {
    fn from(error: OpError) -> Self {
        match error {
            OpError::NotFound { .. } => Self::new(StatusCode::NOT_FOUND, "not-found", error.to_string()),
            OpError::Invalid(fields) => {
                let detail = match fields.as_slice() {
                    [one] if one.field.is_empty() => one.problem.clone(),
                    [one] => one.to_string(),
                    many => format!("{} fields are wrong", many.len()),
                };
                let errors = fields.into_iter().map(FieldProblem::from).collect();
                Self { errors, ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", detail) }
            }
            OpError::Gone(detail) => Self::new(StatusCode::GONE, "gone", detail),
            OpError::Conflict(detail) => Self::new(StatusCode::CONFLICT, "conflict", detail),
            OpError::Refused { code, detail, items } => {
                let errors = items.into_iter().map(FieldProblem::from).collect();
                Self { errors, ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, &format!("plugin-{code}"), detail) }
            }
            OpError::Unavailable(detail) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail).retry_after(RETRY_AFTER_S)
            }
            OpError::Internal(error) => Self::internal(&error),
        }
    }
}

impl From<crate::store::StoreError> for Problem {
    fn from(error: crate::store::StoreError) -> Self {
        OpError::from(error).into()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(allow) = self.allow.and_then(|a| HeaderValue::from_str(&a).ok()) {
            headers.insert(header::ALLOW, allow);
        }
        if let Some(challenge) = self.challenge {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        response
    }
}
