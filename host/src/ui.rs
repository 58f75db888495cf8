//! The dashboard: pages made on the server, under `/ui`.
//!
//! Every page works without a script, as links and forms; the one script (`assets`) replaces numbers by what the
//! event stream (`live`) says. Reading goes to the store, changing goes through [`crate::operations`], as in the API.
//! Each section has a file with its handlers and the values of its template; templates are in `templates/`, checked
//! when the crate is compiled, and escape what they print.

pub(crate) mod assets;
mod audiences;
mod campaign_form;
mod campaigns;
mod cases;
pub(crate) mod chart;
mod devices;
mod files;
pub(crate) mod format;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod live;
mod messages;
mod overview;
pub(crate) mod page;
mod plugins;
mod sequences;
mod servers;
mod session;
mod suppressions;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use askama::Template;
use axum::extract::{DefaultBodyLimit, Form, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use crate::campaign::BadField;
use crate::core::Core;
use crate::http::Knock;
use crate::id::Digest;
use crate::operations::{Actor, OpError};
use crate::store::{AuditRow, StoreError};
use session::{Posted, Session};

/// Nothing is loaded from elsewhere, nothing runs that is not in a file of ours, nobody frames the pages.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; \
    connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

/// Rows on a page of a listing.
const PAGE: u32 = 50;

/// What all handlers share.
#[derive(Clone)]
struct Shared(Arc<Parts>);

struct Parts {
    core: Core,
    key: session::Key,
    live: live::Live,
}

impl std::ops::Deref for Shared {
    type Target = Parts;
    fn deref(&self) -> &Parts {
        &self.0
    }
}

/// The dashboard, to be mounted at `/`. It must be made inside a tokio runtime: it starts the task that samples for
/// the live pages. `stop` ends that task and every event stream, so that a graceful shutdown does not wait for browsers.
pub fn router(core: Core, stop: CancellationToken) -> Router {
    let key = session::Key::load(&core.config.data);
    let live = live::Live::start(core.clone(), stop);
    let form_limit = usize::try_from(core.config.body_max_bytes).unwrap_or(usize::MAX);
    let ui = Shared(Arc::new(Parts { core, key, live }));
    Router::new()
        .route("/", get(|| async { Redirect::to("/ui/") }))
        .route("/ui", get(|| async { Redirect::to("/ui/") }))
        .route("/ui/login", get(login_page).post(login))
        .route("/ui/logout", post(logout))
        .route("/ui/events", get(live::events))
        .route("/ui/", get(overview::show))
        .merge(campaigns::routes())
        .merge(campaign_form::routes())
        .merge(cases::routes())
        .merge(messages::routes())
        .merge(devices::routes())
        .merge(sequences::routes())
        .merge(suppressions::routes())
        .merge(servers::routes())
        .layer(DefaultBodyLimit::max(form_limit))
        // Files have limits of their own.
        .merge(audiences::routes())
        .merge(plugins::routes())
        .route("/ui/{*rest}", get(|| async { Failure::NotFound("page at this address".to_owned()) }))
        .layer(from_fn(private))
        .route("/ui/assets/{name}", get(assets::serve))
        .layer(from_fn(guarded))
        .with_state(ui)
}

/// Pages hold addresses: no cache keeps them.
async fn private(request: Request, next: Next) -> Response {
    let mut answer = next.run(request).await;
    answer.headers_mut().entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    answer
}

async fn guarded(request: Request, next: Next) -> Response {
    let mut answer = next.run(request).await;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    answer
}

/// Why a page cannot be shown or a form was not accepted.
#[derive(Debug)]
enum Failure {
    /// There is no such thing.
    NotFound(String),
    /// It was there, and is not kept any more.
    Gone(String),
    /// The token lacks a scope.
    Forbidden(&'static str),
    /// The form did not come from our page, or from one of another session.
    BadForm,
    /// What was asked for cannot work.
    Invalid(Vec<BadField>),
    /// The state that things are in does not allow it.
    Conflict(String),
    /// Too many browsers follow already.
    Full,
    /// The store or the queue is away.
    Unavailable(String),
    /// A bug.
    Internal(anyhow::Error),
}

impl From<OpError> for Failure {
    fn from(error: OpError) -> Self {
        match error {
            OpError::NotFound { what } => Self::NotFound(what),
            OpError::Invalid(problems) => Self::Invalid(problems),
            OpError::Gone(text) => Self::Gone(text),
            OpError::Conflict(text) => Self::Conflict(text),
            OpError::Refused { detail, .. } => Self::Conflict(detail),
            OpError::Unavailable(text) => Self::Unavailable(text),
            OpError::Internal(source) => Self::Internal(source),
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        OpError::from(error).into()
    }
}

#[derive(Template)]
#[template(path = "failure.html")]
struct FailurePage<'a> {
    title: &'a str,
    text: &'a str,
    problems: &'a [BadField],
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut problems = Vec::new();
        let (status, title, text) = match self {
            Self::NotFound(what) => (StatusCode::NOT_FOUND, "Not found", format!("There is no {what}.")),
            Self::Gone(text) => (StatusCode::GONE, "No longer kept", text),
            Self::Forbidden(scope) => (
                StatusCode::FORBIDDEN,
                "Not allowed",
                format!("The token that you logged in with does not have the scope {scope}."),
            ),
            Self::BadForm => (
                StatusCode::FORBIDDEN,
                "This form is out of date",
                "It belongs to another session. Open the page again and repeat what you did; nothing was changed."
                    .to_owned(),
            ),
            Self::Invalid(found) => {
                problems = found;
                (StatusCode::UNPROCESSABLE_ENTITY, "This cannot work", "Nothing was changed.".to_owned())
            }
            Self::Conflict(text) => (StatusCode::CONFLICT, "Not done", text),
            Self::Full => (StatusCode::SERVICE_UNAVAILABLE, "Too many followers", String::new()),
            Self::Unavailable(text) => (
                StatusCode::SERVICE_UNAVAILABLE,
                "Not available now",
                format!("The server says: {text}. It repairs itself; load the page again in a moment."),
            ),
            Self::Internal(error) => {
                tracing::error!(error = format!("{error:#}"), "a page of the dashboard failed");
                (
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "Something went wrong",
                    "The server's log says what. Nothing is lost.".to_owned(),
                )
            }
        };
        let page = FailurePage { title, text: &text, problems: &problems };
        (status, Html(page.render().unwrap_or_else(|_| title.to_owned()))).into_response()
    }
}

type Answer = Result<Response, Failure>;

/// Sends the browser to a page after a form, so that reloading it does not send the form again.
fn go(path: &str) -> Answer {
    Ok(Redirect::to(path).into_response())
}

/// Who does it, for the audit log.
fn actor(session: &Session) -> Actor {
    Actor::new(session.token.name.clone())
}

#[derive(Template)]
#[template(path = "login.html")]
struct LoginPage<'a> {
    csrf: String,
    next: &'a str,
    problem: Option<&'a str>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct LoginForm {
    csrf: String,
    next: String,
    token: String,
}

/// A path of ours to go to after the log-in, whatever the form says.
fn safe_next(next: &str) -> &str {
    let ours = next.starts_with("/ui/")
        && !next.starts_with("/ui/login")
        && next.bytes().all(|b| b.is_ascii_graphic() && b != b'\\')
        && !next.contains("//");
    if ours { next } else { "/ui/" }
}

fn login_form(ui: &Shared, headers: &HeaderMap, next: &str, status: StatusCode, problem: Option<&str>) -> Answer {
    let (cookie, csrf) = session::login_form(ui, headers);
    let page = page::html(&LoginPage { csrf, next: safe_next(next), problem })?;
    Ok((status, [(header::SET_COOKIE, cookie)], page).into_response())
}

async fn login_page(State(ui): State<Shared>, headers: HeaderMap, Query(form): Query<LoginForm>) -> Answer {
    login_form(&ui, &headers, &form.next, StatusCode::OK, None)
}

async fn login(
    State(ui): State<Shared>,
    Extension(knock): Extension<Knock>,
    headers: HeaderMap,
    Form(form): Form<LoginForm>,
) -> Answer {
    if !session::login_proves(&ui, &headers, &form.csrf) {
        let text = "The form was out of date, or your browser refuses cookies. Please try again.";
        return login_form(&ui, &headers, &form.next, StatusCode::FORBIDDEN, Some(text));
    }
    let guess = match knock.guess() {
        Ok(guess) => guess,
        Err(seconds) => {
            let text = format!("Too many tokens that are not valid came from your address. Try again in {seconds} s.");
            let again = login_form(&ui, &headers, &form.next, StatusCode::TOO_MANY_REQUESTS, Some(&text))?;
            return Ok(([(header::RETRY_AFTER, seconds.to_string())], again).into_response());
        }
    };
    let digest = Digest::of(form.token.trim().as_bytes());
    match ui.core.store.token_by_secret(digest).await? {
        Some(token) if token.revoked_at.is_none() => {
            let row = AuditRow {
                at: ui.core.clock.now(),
                actor: token.name,
                action: "session.begin".to_owned(),
                subject: format!("token {}", token.id),
            };
            ui.core.store.audit(&row).await?;
            let cookie = session::begin(&ui, &headers, digest);
            Ok(([(header::SET_COOKIE, cookie)], Redirect::to(safe_next(&form.next))).into_response())
        }
        _ => {
            guess.was_wrong();
            let text = "This is not a valid token, or it was revoked.";
            login_form(&ui, &headers, &form.next, StatusCode::UNAUTHORIZED, Some(text))
        }
    }
}

async fn logout(headers: HeaderMap, _posted: Posted) -> Response {
    ([(header::SET_COOKIE, session::end(&headers))], Redirect::to("/ui/login")).into_response()
}
