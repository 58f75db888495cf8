//! Plugins: the list by kind, the upload with its report or refusal, and a plugin with its versions and rollouts.

use askama::Template;
use axum::Router;
use axum::extract::{DefaultBodyLimit, Multipart, Path, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::{get, post};

use super::page::{self, Page};
use super::session::{Posted, Session};
use super::{Answer, Failure, Shared, actor, files, format, go};
use crate::campaign::BadField;
use crate::grants::{ANY, RefusalView};
use crate::operations::OpError;
use crate::operations::grants::{self, GrantsView};
use crate::operations::plugins::{self as operations, Upload, UploadReport};
use crate::operations::rollouts::{self, Activation};
use crate::operations::webhooks;
use crate::plugin::PluginKind;
use crate::plugins::FunctionStats;
use crate::receipt::Webhook;
use crate::rollout::{Counts, Finding, Mode, Rollout, RolloutStatus, SideCounts, StableRow};
use crate::store::PluginVersion;

const WRITE: &str = "plugins:write";

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/ui/plugins", get(list).post(upload))
        .route("/ui/plugins/{name}", get(show))
        .route("/ui/plugins/{name}/{action}", post(act))
        // The settings limit the size of a plugin, which is checked as it arrives.
        .layer(DefaultBodyLimit::disable())
}

/// What an upload came to.
enum Uploaded {
    Accepted { version: Box<PluginVersion>, is_new: bool, report: UploadReport },
    Refused { check: String, detail: String, items: Vec<BadField> },
}

/// The kinds with their titles, in the order of the page.
const KINDS: [(PluginKind, &str); 3] = [
    (PluginKind::Template, "Message templates"),
    (PluginKind::Delay, "Delay strategies"),
    (PluginKind::Sender, "Device senders"),
];

#[derive(Template)]
#[template(path = "plugins.html")]
struct ListPage {
    page: Page,
    versions: Vec<PluginVersion>,
    uploaded: Option<Uploaded>,
    limit: u64,
}

impl ListPage {
    /// The plugins of a kind: the active version of each (or its newest), and how many versions there are.
    fn of_kind(&self, kind: &PluginKind) -> Vec<(&PluginVersion, usize)> {
        let mut out: Vec<(&PluginVersion, usize)> = Vec::new();
        for version in self.versions.iter().filter(|v| v.kind == *kind) {
            match out.last_mut() {
                Some((shown, count)) if shown.name == version.name => {
                    *count += 1;
                    if version.active {
                        *shown = version;
                    }
                }
                _ => out.push((version, 1)),
            }
        }
        out
    }
}

async fn listing(ui: &Shared, session: Session, uploaded: Option<Uploaded>) -> Answer {
    let page = Page::new(session, "/ui/plugins")?;
    let versions = operations::list(&ui.core).await?;
    page::html(&ListPage { page, versions, uploaded, limit: ui.core.config.plugin_max_bytes })
}

async fn list(State(ui): State<Shared>, session: Session) -> Answer {
    listing(&ui, session, None).await
}

async fn upload(State(ui): State<Shared>, session: Session, mut form: Multipart) -> Answer {
    session.require(WRITE)?;
    let fields = files::texts(&mut form, &session, &["activate", "grant"]).await?;
    let activate = match fields.get("activate") {
        "yes" => Some(true),
        "no" => Some(false),
        _ => None,
    };
    let refused = match files::file(&mut form).await? {
        None => {
            Uploaded::Refused { check: "no-file".to_owned(), detail: "Choose a file.".to_owned(), items: Vec::new() }
        }
        Some(file) => {
            let bytes = files::whole(file, ui.core.config.plugin_max_bytes).await?;
            let how = Upload { activate, grant_asked: fields.get("grant") == "asked", suffix: None };
            match operations::upload(&ui.core, &actor(&session), bytes, how).await {
                Ok((version, is_new, report)) => {
                    let accepted = Uploaded::Accepted { version: Box::new(version), is_new, report };
                    return listing(&ui, session, Some(accepted)).await;
                }
                Err(OpError::Refused { code, detail, items }) => Uploaded::Refused { check: code, detail, items },
                Err(OpError::Conflict(detail)) => {
                    Uploaded::Refused { check: "conflict".to_owned(), detail, items: Vec::new() }
                }
                Err(error) => return Err(error.into()),
            }
        }
    };
    Ok((StatusCode::UNPROCESSABLE_ENTITY, listing(&ui, session, Some(refused)).await?).into_response())
}

#[derive(Template)]
#[template(path = "plugin.html")]
struct ShowPage {
    page: Page,
    versions: Vec<PluginVersion>,
    /// The active version, or the newest.
    shown: PluginVersion,
    schema: String,
    adapter_schema: String,
    /// Its calls on this server since it was loaded; none where it is not loaded.
    calls: Vec<FunctionStats>,
    /// The rollout that is running, or the last one.
    rollout: Option<Tried>,
    /// Which version was active before.
    history: Vec<StableRow>,
    /// What it asks for, what it was granted, and what it did not get.
    grants: GrantsView,
    /// Where its provider reports to.
    webhooks: Vec<Webhook>,
}

impl ShowPage {
    /// Whether a rollout tries this version.
    fn is_next(&self, version: &PluginVersion) -> bool {
        let running = self.rollout.as_ref().filter(|tried| tried.is_running());
        running.is_some_and(|tried| tried.rollout.spec.mode != Mode::Watch && tried.rollout.candidate.0 == version.no)
    }
}

/// A rollout with what was seen of it.
struct Tried {
    rollout: Rollout,
    counts: Counts,
    findings: Vec<Finding>,
    /// The share in force.
    share: String,
}

/// Findings that the page shows.
const FINDINGS: u32 = 20;

impl Tried {
    fn is_running(&self) -> bool {
        self.rollout.status == RolloutStatus::Running
    }

    /// The state of the rollout, and its colour.
    fn state(&self) -> (&'static str, &'static str) {
        match self.rollout.status {
            RolloutStatus::Running => ("running", "busy"),
            RolloutStatus::Promoted => ("promoted", "ok"),
            RolloutStatus::Passed => ("nothing went wrong", "ok"),
            RolloutStatus::RolledBack => ("rolled back", "bad"),
            RolloutStatus::Aborted => ("aborted", "warn"),
            RolloutStatus::Superseded => ("superseded", ""),
        }
    }

    /// Both versions with what was seen of them.
    fn sides(&self) -> [(&str, &SideCounts); 2] {
        [(&self.rollout.candidate.1, &self.counts.candidate), (&self.rollout.stable.1, &self.counts.stable)]
    }
}

async fn tried(ui: &Shared, name: &str) -> Result<Option<Tried>, OpError> {
    let Some((rollout, counts)) = rollouts::list(&ui.core, name).await?.into_iter().next() else { return Ok(None) };
    let (rollout, findings) = rollouts::findings(&ui.core, name, Some(rollout.no), FINDINGS).await?;
    let at = rollout.ended.as_ref().map_or_else(|| ui.core.clock.now(), |(at, _)| *at);
    let share = format!("{}\u{202f}%", rollout.share(at) * 100.0);
    Ok(Some(Tried { rollout, counts, findings, share }))
}

/// A list in a table's cell.
fn listed(entries: &[String]) -> String {
    match entries {
        [] => "none".to_owned(),
        [one] if one == ANY => "any".to_owned(),
        many => many.join(", "),
    }
}

/// What a plugin asked for and did not get.
fn refused(refusal: &RefusalView) -> String {
    let RefusalView { reason, host, method, secret, .. } = refusal;
    let (host, method, secret) = (
        host.as_deref().unwrap_or_default(),
        method.as_deref().unwrap_or_default(),
        secret.as_deref().unwrap_or_default(),
    );
    match *reason {
        "host" => format!("host {host}: not granted"),
        "method" => format!("method {method}: not granted"),
        "secret" => format!("secret {secret}: not granted"),
        "secret-host" => format!("secret {secret} for host {host}: it is not for that host"),
        _ => format!("host {host}: its address is not public"),
    }
}

/// Microseconds, where there were any calls.
fn micros(us: Option<u64>) -> String {
    us.map_or_else(|| "–".to_owned(), |us| format!("{} µs", format::number(us)))
}

/// The mean duration of a function's calls, in microseconds.
fn mean_us(stats: &FunctionStats) -> String {
    micros(stats.total_us.checked_div(stats.calls))
}

async fn show(State(ui): State<Shared>, session: Session, Path(name): Path<String>) -> Answer {
    let page = Page::new(session, "/ui/plugins")?;
    let versions = operations::versions(&ui.core, &name).await?;
    let shown = versions.iter().find(|v| v.active).or(versions.first()).cloned();
    let shown = shown.ok_or_else(|| Failure::NotFound(format!("plugin {name}")))?;
    let schema = format::pretty_json(&shown.info.config_schema);
    let adapter_schema = format::pretty_json(&shown.info.adapter_schema);
    let calls = ui.core.plugins.by_no(shown.no).map(|p| p.stats().functions).unwrap_or_default();
    let (rollout, history) = (tried(&ui, &name).await?, rollouts::history(&ui.core, &name).await?);
    let grants = grants::of_version(&ui.core, &shown).await?;
    let webhooks = webhooks::list(&ui.core, &name).await?;
    page::html(&ShowPage { page, versions, shown, schema, adapter_schema, calls, rollout, history, grants, webhooks })
}

async fn act(State(ui): State<Shared>, Path((name, action)): Path<(String, String)>, posted: Posted) -> Answer {
    posted.session.require(WRITE)?;
    let (core, actor) = (&ui.core, actor(&posted.session));
    let done = match action.as_str() {
        "activate" => {
            let how = Activation { force: posted.fields.get("force") == "yes", ..Activation::default() };
            rollouts::activate(core, &actor, &name, posted.fields.get("version"), how).await?;
            "activated"
        }
        "rollback" => {
            rollouts::rollback(core, &actor, &name, None).await?;
            "rolled-back"
        }
        "promote" => {
            rollouts::promote(core, &actor, &name).await?;
            "promoted"
        }
        "grant" => {
            grants::put_asked_of(core, &actor, &name).await?;
            "granted"
        }
        "delete-webhook" => {
            let id = posted.fields.get("id");
            let id = id.parse().map_err(|_| Failure::NotFound(format!("webhook {id}")))?;
            webhooks::delete(core, &actor, &name, id).await?;
            "webhook-deleted"
        }
        "abort" => {
            rollouts::abort(core, &actor, &name, None).await?;
            "aborted"
        }
        _ => return Err(Failure::NotFound(format!("action {action}"))),
    };
    go(&format!("/ui/plugins/{}?done={done}", page::url_part(&name)))
}
