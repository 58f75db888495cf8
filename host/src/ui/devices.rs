//! Devices: the list, and a device with its queue, its numbers and its switches.

use askama::Template;
use axum::Router;
use axum::extract::{Path, Query, State};
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::json;

use super::page::{self, Page};
use super::session::{Posted, Session};
use super::{Answer, Failure, PAGE, Shared, actor, format, go};
use crate::campaign::BadField;
use crate::id::{CampaignId, DeviceId};
use crate::operations::devices::{self as operations, DeviceView};
use crate::operations::health::{self, CheckDevice, DeviceCheck};
use crate::queue::DeviceMetrics;

const WRITE: &str = "devices:write";

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/ui/devices", get(list))
        .route("/ui/devices/{id}", get(show))
        .route("/ui/devices/{id}/{action}", post(act))
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ListQuery {
    tag: String,
    channel: String,
    cursor: Option<DeviceId>,
}

impl ListQuery {
    /// The filters as a query for the next page.
    fn filters(&self) -> String {
        format!("tag={}&channel={}", page::url_part(self.tag.trim()), page::url_part(self.channel.trim()))
    }
}

#[derive(Template)]
#[template(path = "devices.html")]
struct ListPage {
    page: Page,
    query: ListQuery,
    devices: Vec<DeviceView>,
    next: Option<DeviceId>,
}

/// A device's state in a word, and the colour of its badge.
fn state(device: &DeviceView) -> (&'static str, &'static str) {
    match (&device.queue, device.spec.enabled) {
        (_, false) => ("disabled", ""),
        _ if device.held.is_some() => ("on hold", "warn"),
        (Some(queue), _) if queue.processing > 0 || queue.leased => ("sending", "busy"),
        (Some(queue), _) if queue.queued > 0 => ("has work", "busy"),
        _ => ("idle", "ok"),
    }
}

/// The mean duration of a device's attempts.
fn latency(metrics: &DeviceMetrics) -> String {
    match metrics.sent + metrics.failed + metrics.retried {
        0 => "–".to_owned(),
        attempts => format::duration_ms(metrics.latency_ms / attempts),
    }
}

async fn list(State(ui): State<Shared>, session: Session, Query(query): Query<ListQuery>) -> Answer {
    let page = Page::new(session, "/ui/devices")?;
    let given = |text: &str| Some(text.trim().to_owned()).filter(|t| !t.is_empty());
    let (tag, channel) = (given(&query.tag), given(&query.channel));
    let found =
        operations::device_views(&ui.core, tag.as_deref(), channel.as_deref(), query.cursor.as_ref(), PAGE).await?;
    page::html(&ListPage { page, query, devices: found.items, next: found.next })
}

#[derive(Template)]
#[template(path = "device.html")]
struct ShowPage {
    page: Page,
    device: DeviceView,
    adapter: String,
    /// What its provider has just said.
    checked: Option<DeviceCheck>,
}

async fn show(State(ui): State<Shared>, session: Session, Path(id): Path<DeviceId>) -> Answer {
    shown(&ui, session, &id, None).await
}

async fn shown(ui: &Shared, session: Session, id: &DeviceId, checked: Option<DeviceCheck>) -> Answer {
    let page = Page::new(session, "/ui/devices")?;
    let device = operations::device_view(&ui.core, id).await?;
    let adapter = serde_json::to_string_pretty(&device.spec.adapter).unwrap_or_default();
    page::html(&ShowPage { page, device, adapter, checked })
}

/// Asks the device's provider, and shows what it says.
async fn check(ui: &Shared, id: &DeviceId, posted: Posted) -> Answer {
    let campaign = match posted.fields.trimmed("campaign") {
        "" => None,
        text => {
            let bad = |_| Failure::Invalid(vec![BadField::new("campaign", "give a campaign's id")]);
            Some(text.parse::<CampaignId>().map_err(bad)?)
        }
    };
    let actor = actor(&posted.session);
    let checked = health::check_device(&ui.core, &actor, id, CheckDevice { campaign }).await?;
    shown(ui, posted.session, id, Some(checked)).await
}

async fn act(State(ui): State<Shared>, Path((id, action)): Path<(DeviceId, String)>, posted: Posted) -> Answer {
    posted.session.require(WRITE)?;
    let (patch, done) = match action.as_str() {
        "enable" => (json!({"enabled": true}), "enabled"),
        "disable" => (json!({"enabled": false}), "disabled"),
        "lift" => (json!({"held": null}), "lifted"),
        "check" => return check(&ui, &id, posted).await,
        _ => return Err(Failure::NotFound(format!("action {action}"))),
    };
    operations::patch_device(&ui.core, &actor(&posted.session), &id, &patch).await?;
    go(&format!("/ui/devices/{}?done={done}", page::url_part(id.as_str())))
}
