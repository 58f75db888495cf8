//! A message: its state, why it waits, its attempts, and the plugin versions they ran with; and the inbox of those of which
//! nobody knows whether they were sent.

use std::collections::HashMap;

use askama::Template;
use axum::Router;
use axum::extract::{Path, Query, State};
use axum::routing::{get, post};
use serde::Deserialize;

use super::campaigns::WRITE;
use super::page::{self, Page};
use super::session::{Posted, Session};
use super::{Answer, Failure, PAGE, Shared, actor, format, go};
use crate::campaign::RunOwner;
use crate::id::{Digest, MessageId};
use crate::message::MessageStatus;
use crate::operations::messages::{self as operations, AttemptView, Digests, MessageDetail};
use crate::operations::unknown::{self, Inbox, Resolve, UnknownView};
use crate::resolution::ResolveAs;

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/ui/messages", get(inbox))
        .route("/ui/messages/{id}", get(show))
        .route("/ui/messages/{id}/{action}", post(act))
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct InboxQuery {
    cursor: Option<MessageId>,
}

#[derive(Template)]
#[template(path = "unknown.html")]
struct InboxPage {
    page: Page,
    messages: Vec<UnknownView>,
    next: Option<MessageId>,
    first: bool,
}

async fn inbox(State(ui): State<Shared>, session: Session, Query(query): Query<InboxQuery>) -> Answer {
    let page = Page::new(session, "/ui/messages")?;
    let found = unknown::inbox(&ui.core, &Inbox::default(), query.cursor, PAGE).await?;
    page::html(&InboxPage { page, messages: found.items, next: found.next, first: query.cursor.is_none() })
}

async fn act(State(ui): State<Shared>, Path((id, action)): Path<(String, String)>, posted: Posted) -> Answer {
    posted.session.require(WRITE)?;
    let id: MessageId = id.parse().map_err(|_| Failure::NotFound(format!("message {id}")))?;
    let (core, actor) = (&ui.core, actor(&posted.session));
    let outcome = match action.as_str() {
        "lookup" => {
            let found = unknown::lookup(core, &actor, id).await?.found;
            let done = if found.is_some() { "proved" } else { "unproved" };
            return go(&format!("/ui/messages/{id}?done={done}"));
        }
        "sent" => ResolveAs::Sent,
        "failed" => ResolveAs::Failed,
        "retry" => ResolveAs::Retry,
        _ => return Err(Failure::NotFound(format!("action {action}"))),
    };
    let note = Some(posted.fields.trimmed("note").to_owned()).filter(|note| !note.is_empty());
    unknown::resolve(core, &actor, id, Resolve { outcome, provider_id: None, note }).await?;
    go(&format!("/ui/messages/{id}?done=resolved"))
}

/// Where a message came from: a link and its text.
struct Origin {
    path: String,
    text: String,
}

#[derive(Template)]
#[template(path = "message.html")]
struct MessagePage {
    page: Page,
    message: MessageDetail,
    origin: Option<Origin>,
    /// Name and version of each plugin version, by its digest.
    names: HashMap<Digest, String>,
}

impl MessagePage {
    fn can_resolve(&self) -> bool {
        self.message.message.status == MessageStatus::Unknown && self.page.may(WRITE)
    }

    /// The digests of an attempt with the names of what they stand for.
    fn plugins(&self, digests: &Digests) -> [(&'static str, String, Digest); 3] {
        [("Template", digests.template), ("Delay", digests.delay), ("Sender", digests.sender)]
            .map(|(role, digest)| (role, self.names.get(&digest).cloned().unwrap_or_default(), digest))
    }
}

/// How long an attempt took.
fn took(attempt: &AttemptView) -> String {
    let took = attempt.finished_at.since(attempt.started_at);
    format::duration_ms(u64::try_from(took.as_millis()).unwrap_or(u64::MAX))
}

async fn show(State(ui): State<Shared>, session: Session, Path(id): Path<MessageId>) -> Answer {
    let page = Page::new(session, "/ui/campaigns")?;
    let store = &ui.core.store;
    let message = operations::message(&ui.core, id).await?;
    let origin = match store.run(id.run()).await? {
        Some(run) => match run.owner {
            RunOwner::Campaign(campaign) => Some(Origin { path: format!("/ui/campaigns/{campaign}"), text: run.name }),
            RunOwner::Step { sequence, step } => store.sequence_by_no(sequence).await?.map(|found| Origin {
                path: format!("/ui/sequences/{}", found.id),
                text: format!("{}, step {}", run.name, step + 1),
            }),
        },
        None => None,
    };
    let names = store.plugins().await?.into_iter().map(|v| (v.digest, format!("{} {}", v.name, v.version))).collect();
    page::html(&MessagePage { page, message, origin, names })
}
