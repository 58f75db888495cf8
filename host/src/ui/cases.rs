//! The calls kept of a plugin: the list, and one with what it was made with, which can be made again by any version.

use askama::Template;
use axum::Router;
use axum::extract::{Path, Query, State};
use axum::routing::get;
use serde::Deserialize;

use super::page::{self, Page};
use super::session::{Posted, Session};
use super::{Answer, Failure, PAGE, Shared, actor, format};
use crate::case::Case;
use crate::case::run::Ran;
use crate::operations::{plugins, trials};
use crate::store::{KeptCase, PluginVersion};

/// Cases may hold what recipients' messages said: they are for those who may change plugins.
const WRITE: &str = "plugins:write";

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/ui/plugins/{name}/cases", get(list))
        .route("/ui/plugins/{name}/cases/{case}", get(show).post(again))
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ListQuery {
    after: Option<i64>,
}

#[derive(Template)]
#[template(path = "cases.html")]
struct ListPage {
    page: Page,
    name: String,
    cases: Vec<KeptCase>,
    after: Option<i64>,
    next: Option<i64>,
}

async fn list(
    State(ui): State<Shared>,
    session: Session,
    Path(name): Path<String>,
    Query(query): Query<ListQuery>,
) -> Answer {
    session.require(WRITE)?;
    let page = Page::new(session, "/ui/plugins")?;
    let found = trials::cases(&ui.core, &name, query.after, PAGE).await?;
    page::html(&ListPage { page, name, cases: found.items, after: query.after, next: found.next })
}

#[derive(Template)]
#[template(path = "case.html")]
struct ShowPage {
    page: Page,
    case: KeptCase,
    /// What it was made with, JSON.
    made_with: String,
    versions: Vec<PluginVersion>,
    again: Option<Again>,
}

/// A case that was made again.
struct Again {
    version: String,
    ran: Ran,
    /// The answer, JSON; empty where there is none.
    result: String,
    /// Whether it failed as it did when it was kept, or did not fail as it did not then.
    is_same: bool,
}

async fn page_of(ui: &Shared, session: Session, case: KeptCase, again: Option<Again>) -> Answer {
    let page = Page::new(session, "/ui/plugins")?;
    let versions = plugins::versions(&ui.core, &case.name).await?;
    let made_with = format::pretty_json(&case.kept.case);
    page::html(&ShowPage { page, case, made_with, versions, again })
}

async fn find(ui: &Shared, name: &str, id: &str) -> Result<KeptCase, Failure> {
    let id = id.parse().map_err(|_| Failure::NotFound(format!("case {id}")))?;
    Ok(trials::case(&ui.core, name, id).await?)
}

async fn show(State(ui): State<Shared>, session: Session, Path((name, id)): Path<(String, String)>) -> Answer {
    session.require(WRITE)?;
    let case = find(&ui, &name, &id).await?;
    page_of(&ui, session, case, None).await
}

/// Makes the call again. No request leaves: what a sender asks for is shown.
async fn again(
    State(ui): State<Shared>,
    Path((name, id)): Path<(String, String)>,
    Posted { session, fields }: Posted,
) -> Answer {
    session.require(WRITE)?;
    let kept = find(&ui, &name, &id).await?;
    let version = fields.get("version").to_owned();
    let mut case: Case = serde_json::from_str(&kept.kept.case).map_err(|error| Failure::Internal(error.into()))?;
    case.send = false;
    let ran = trials::try_version(&ui.core, &actor(&session), &name, &version, &case).await?;
    let is_same = ran.failed_as(kept.kept.code.as_deref());
    let result = if ran.result.is_null() { String::new() } else { format::pretty_json(&ran.result.to_string()) };
    page_of(&ui, session, kept, Some(Again { version, ran, result, is_same })).await
}
