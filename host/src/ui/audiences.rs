//! Audiences: the list, the upload of a CSV file with the rows that were rejected, and a look at the first contacts.

use askama::Template;
use axum::Router;
use axum::extract::{DefaultBodyLimit, Multipart, Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Deserialize;

use super::page::{self, Page};
use super::session::Session;
use super::{Answer, Failure, PAGE, Shared, actor, files, format};
use crate::campaign::BadField;
use crate::operations::OpError;
use crate::operations::audiences::{self as operations, Format, ImportReport};
use crate::store::{AudienceRow, NewContact};

const WRITE: &str = "audiences:write";
/// Contacts that the page of an audience shows.
const PREVIEW: u32 = 20;

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/ui/audiences", get(list).post(upload))
        .route("/ui/audiences/{name}", get(show))
        // Files are read as they arrive; the settings limit the number of contacts.
        .layer(DefaultBodyLimit::disable())
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ListQuery {
    cursor: Option<String>,
}

#[derive(Template)]
#[template(path = "audiences.html")]
struct ListPage {
    page: Page,
    audiences: Vec<AudienceRow>,
    next: Option<String>,
    first: bool,
    /// The name that was typed.
    name: String,
    problems: Vec<BadField>,
    report: Option<ImportReport>,
}

impl ListPage {
    async fn load(ui: &Shared, session: Session, cursor: Option<&str>) -> Result<Self, Failure> {
        let page = Page::new(session, "/ui/audiences")?;
        let found = operations::list(&ui.core, cursor, PAGE).await?;
        Ok(Self {
            page,
            audiences: found.items,
            next: found.next,
            first: cursor.is_none(),
            name: String::new(),
            problems: Vec::new(),
            report: None,
        })
    }
}

async fn list(State(ui): State<Shared>, session: Session, Query(query): Query<ListQuery>) -> Answer {
    page::html(&ListPage::load(&ui, session, query.cursor.as_deref()).await?)
}

async fn upload(State(ui): State<Shared>, session: Session, mut form: Multipart) -> Answer {
    session.require(WRITE)?;
    let fields = files::texts(&mut form, &session, &["name"]).await?;
    let name = fields.trimmed("name").to_owned();
    let Some(file) = files::file(&mut form).await? else {
        return refused(&ui, session, name, vec![BadField::new("file", "choose a file")]).await;
    };
    let (pump, reader) = files::pipe();
    let actor = actor(&session);
    let import = operations::import(&ui.core, &actor, &name, Format::Csv, reader);
    let (imported, sent) = tokio::join!(import, pump.send(file));
    match imported {
        Ok(report) => {
            sent?;
            let shown = ListPage { report: Some(report), name, ..ListPage::load(&ui, session, None).await? };
            page::html(&shown)
        }
        Err(OpError::Invalid(problems)) => refused(&ui, session, name, problems).await,
        Err(error) => Err(error.into()),
    }
}

async fn refused(ui: &Shared, session: Session, name: String, problems: Vec<BadField>) -> Answer {
    let shown = ListPage { name, problems, ..ListPage::load(ui, session, None).await? };
    let body: Response = page::html(&shown)?;
    Ok((StatusCode::UNPROCESSABLE_ENTITY, body).into_response())
}

#[derive(Template)]
#[template(path = "audience.html")]
struct ShowPage {
    page: Page,
    audience: AudienceRow,
    contacts: Vec<(u32, NewContact)>,
}

/// A contact's variables as pairs; none when they cannot be read.
fn variables(contact: &NewContact) -> Vec<(String, String)> {
    serde_json::from_str(&contact.variables).unwrap_or_default()
}

async fn show(State(ui): State<Shared>, session: Session, Path(name): Path<String>) -> Answer {
    let page = Page::new(session, "/ui/audiences")?;
    let audience = operations::audience(&ui.core, &name).await?;
    let contacts = ui.core.store.contacts(audience.no, 0, PREVIEW).await?;
    page::html(&ShowPage { page, audience, contacts })
}
