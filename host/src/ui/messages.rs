//! A message: its state, why it waits, its attempts, and the plugin versions they ran with.

use std::collections::HashMap;

use askama::Template;
use axum::Router;
use axum::extract::{Path, State};
use axum::routing::get;

use super::page::{self, Page};
use super::session::Session;
use super::{Answer, Shared, format};
use crate::campaign::RunOwner;
use crate::id::{Digest, MessageId};
use crate::operations::messages::{self as operations, AttemptView, Digests, MessageDetail};

pub(super) fn routes() -> Router<Shared> {
    Router::new().route("/ui/messages/{id}", get(show))
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
