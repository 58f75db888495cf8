//! Sequences: the list, and a sequence with its steps, its switches and who passes through it.

use askama::Template;
use axum::Router;
use axum::extract::{Path, Query, State};
use axum::routing::{get, post};
use serde::Deserialize;

use super::campaigns::WRITE;
use super::page::{self, Page};
use super::session::{Posted, Session};
use super::{Answer, Failure, PAGE, Shared, actor, format, go};
use crate::id::{MessageId, SequenceId};
use crate::operations::sequences::{self as operations, ContactSpec, Enrol, SequenceView, StepProgress};
use crate::sequence::{Enrolment, EnrolmentStatus, SequenceStatus};

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/ui/sequences", get(list))
        .route("/ui/sequences/{id}", get(show))
        .route("/ui/sequences/{id}/{action}", post(act))
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ListQuery {
    cursor: Option<SequenceId>,
}

#[derive(Template)]
#[template(path = "sequences.html")]
struct ListPage {
    page: Page,
    sequences: Vec<SequenceView>,
    next: Option<SequenceId>,
    first: bool,
}

async fn list(State(ui): State<Shared>, session: Session, Query(query): Query<ListQuery>) -> Answer {
    let page = Page::new(session, "/ui/sequences")?;
    let found = operations::sequence_views(&ui.core, query.cursor, PAGE).await?;
    page::html(&ListPage { page, sequences: found.items, next: found.next, first: query.cursor.is_none() })
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ShowQuery {
    enrolments: String,
    cursor: Option<u32>,
}

const STATES: [EnrolmentStatus; 4] =
    [EnrolmentStatus::Waiting, EnrolmentStatus::InStep, EnrolmentStatus::Completed, EnrolmentStatus::Exited];

#[derive(Template)]
#[template(path = "sequence.html")]
struct ShowPage {
    page: Page,
    sequence: SequenceView,
    filter: Option<EnrolmentStatus>,
    enrolments: Vec<Enrolment>,
    next: Option<u32>,
    first: bool,
}

impl ShowPage {
    fn is_shown(&self, status: &EnrolmentStatus) -> bool {
        self.filter == Some(*status)
    }

    fn count(&self, status: &EnrolmentStatus) -> u64 {
        let counts = &self.sequence.enrolments;
        match status {
            EnrolmentStatus::Waiting => counts.waiting,
            EnrolmentStatus::InStep => counts.in_step,
            EnrolmentStatus::Completed => counts.completed,
            EnrolmentStatus::Exited => counts.exited,
        }
    }

    /// What became of the messages of a step; nothing before the start.
    fn progress(&self, step: usize) -> StepProgress {
        self.sequence.progress.get(step).copied().unwrap_or_default()
    }

    /// The message of the step that a contact is in.
    fn message(&self, enrolment: &Enrolment) -> Option<MessageId> {
        let run = *self.sequence.runs.get(usize::try_from(enrolment.step).ok()?)?;
        (enrolment.status == EnrolmentStatus::InStep).then(|| MessageId::new(run, enrolment.contact))
    }
}

async fn show(
    State(ui): State<Shared>,
    session: Session,
    Path(id): Path<SequenceId>,
    Query(query): Query<ShowQuery>,
) -> Answer {
    let page = Page::new(session, "/ui/sequences")?;
    let sequence = operations::sequence_view(&ui.core, id).await?;
    let no = operations::sequence(&ui.core, id).await?.no;
    let filter = STATES.into_iter().find(|s| s.as_str() == query.enrolments);
    let found = ui.core.store.enrolments(no, filter, query.cursor, PAGE).await?;
    let first = query.cursor.is_none();
    page::html(&ShowPage { page, sequence, filter, enrolments: found.items, next: found.next, first })
}

async fn act(State(ui): State<Shared>, Path((id, action)): Path<(SequenceId, String)>, posted: Posted) -> Answer {
    posted.session.require(WRITE)?;
    let (core, actor, fields) = (&ui.core, actor(&posted.session), &posted.fields);
    let done = match action.as_str() {
        "start" => operations::start(core, &actor, id).await.map(|_| "started"),
        "pause" => operations::pause(core, &actor, id).await.map(|_| "paused"),
        "enrol" => {
            let who = match (fields.trimmed("address"), fields.trimmed("audience")) {
                ("", audience) => Enrol::Audience(audience.to_owned()),
                (address, _) => Enrol::Contact(ContactSpec {
                    address: address.to_owned(),
                    variables: std::collections::BTreeMap::new(),
                    locale: None,
                    zone: None,
                }),
            };
            operations::enrol(core, &actor, id, who).await.map(|enrolled| match enrolled {
                e if e.enrolled > 0 => "enrolled",
                e if e.already > 0 => "already",
                _ => "not-enrolled",
            })
        }
        "exit" => {
            operations::exit_enrolment(core, &actor, id, fields.trimmed("address"), None).await.map(|()| "exited")
        }
        _ => return Err(Failure::NotFound(format!("action {action}"))),
    }?;
    go(&format!("/ui/sequences/{id}?done={done}"))
}
