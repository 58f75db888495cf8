//! The suppression list: who gets nothing, with search, adding and removing.

use askama::Template;
use axum::Router;
use axum::extract::{Query, State};
use axum::routing::{get, post};
use serde::Deserialize;

use super::page::{self, Page};
use super::session::{Posted, Session};
use super::{Answer, PAGE, Shared, actor, go};
use crate::consent::{NewSuppression, Suppression};
use crate::operations::suppressions as operations;

const WRITE: &str = "suppressions:write";

pub(super) fn routes() -> Router<Shared> {
    Router::new().route("/ui/suppressions", get(list).post(add)).route("/ui/suppressions/remove", post(remove))
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ListQuery {
    address: String,
    after: Option<String>,
    channel: String,
}

#[derive(Template)]
#[template(path = "suppressions.html")]
struct ListPage {
    page: Page,
    query: ListQuery,
    entries: Vec<Suppression>,
    next: Option<(String, String)>,
}

async fn list(State(ui): State<Shared>, session: Session, Query(query): Query<ListQuery>) -> Answer {
    let page = Page::new(session, "/ui/suppressions")?;
    let address = Some(query.address.trim()).filter(|a| !a.is_empty());
    let cursor = query.after.clone().map(|after| (after, query.channel.clone()));
    let found = operations::list(&ui.core, address, cursor, PAGE).await?;
    page::html(&ListPage { page, entries: found.items, next: found.next, query })
}

/// A channel as the form has it: empty for every channel.
fn channel(typed: &str) -> Option<String> {
    Some(typed.to_owned()).filter(|c| !c.is_empty())
}

async fn add(State(ui): State<Shared>, Posted { session, fields }: Posted) -> Answer {
    session.require(WRITE)?;
    let reason = match fields.trimmed("reason") {
        "" => "manual",
        reason => reason,
    };
    let entry = NewSuppression {
        address: fields.trimmed("address").to_owned(),
        channel: channel(fields.trimmed("channel")),
        reason: reason.to_owned(),
    };
    let added = operations::add(&ui.core, &actor(&session), vec![entry]).await?;
    go(if added > 0 { "/ui/suppressions?done=suppressed" } else { "/ui/suppressions?done=listed" })
}

async fn remove(State(ui): State<Shared>, Posted { session, fields }: Posted) -> Answer {
    session.require(WRITE)?;
    let entry = (fields.get("address").to_owned(), channel(fields.get("channel")));
    let removed = operations::remove(&ui.core, &actor(&session), vec![entry]).await?;
    go(if removed > 0 { "/ui/suppressions?done=removed" } else { "/ui/suppressions?done=absent" })
}
