//! Servers: who runs what, the settings of this one, the tokens and the audit log.

use askama::Template;
use axum::Router;
use axum::extract::{Query, State};
use axum::routing::get;
use serde::Deserialize;

use super::page::{self, Page};
use super::session::Session;
use super::{Answer, PAGE, Shared, format};
use crate::config::Config;
use crate::operations::tokens;
use crate::store::{AuditRow, HostRow, TokenRow};

pub(super) fn routes() -> Router<Shared> {
    Router::new().route("/ui/servers", get(show))
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ShowQuery {
    cursor: Option<i64>,
}

#[derive(Template)]
#[template(path = "servers.html")]
struct ServersPage {
    page: Page,
    hosts: Vec<HostRow>,
    this: crate::id::HostId,
    backends: (&'static str, &'static str),
    settings: Vec<(&'static str, String)>,
    /// For those who may see them: tokens and the audit log.
    tokens: Vec<TokenRow>,
    audit: Vec<AuditRow>,
    next: Option<i64>,
    first: bool,
}

/// The limits in force on this server. Nothing secret is among them.
fn settings(config: &Config) -> Vec<(&'static str, String)> {
    let ms = format::duration_ms;
    let number = |n: u32| format::number(n.into());
    let mut egress = config.allow_egress.join(", ");
    if egress.is_empty() {
        egress.push_str("public addresses only");
    }
    vec![
        ("Trigger looks every", ms(config.trigger_interval_ms)),
        ("Processor looks every", ms(config.processor_interval_ms)),
        ("Recovery looks every", ms(config.recovery_interval_ms)),
        ("Heartbeat every", ms(config.heartbeat_ms)),
        ("Lease of a device", ms(config.lease_ms)),
        ("Longest attempt", ms(config.send_timeout_ms)),
        ("Longest drain at shutdown", ms(config.drain_timeout_ms)),
        ("Workers, whole cluster", number(config.max_workers)),
        ("Window of a device's queue", number(config.window)),
        ("Devices filled at a time", number(config.batch)),
        ("Contacts expanded at a time", number(config.expand_page)),
        ("Store connections", number(config.store_connections)),
        ("Largest plugin", format::bytes(config.plugin_max_bytes)),
        ("Memory of a plugin", format::bytes(config.plugin_memory_bytes)),
        ("Longest plugin call", ms(config.plugin_timeout_ms)),
        ("Largest API body", format::bytes(config.body_max_bytes)),
        ("Largest audience", number(config.audience_max)),
        ("Private destinations allowed", egress),
    ]
}

async fn show(State(ui): State<Shared>, session: Session, Query(query): Query<ShowQuery>) -> Answer {
    let page = Page::new(session, "/ui/servers")?;
    let core = &ui.core;
    let (mut tokens, mut audit, mut next) = (Vec::new(), Vec::new(), None);
    if page.may("admin") {
        tokens = tokens::list(core).await?;
        let found = core.store.audit_log(query.cursor, PAGE).await?;
        (audit, next) = (found.items, found.next);
    }
    let hosts = core.hosts.read().clone();
    page::html(&ServersPage {
        page,
        hosts,
        this: core.host,
        backends: (core.store.kind(), core.queue.kind()),
        settings: settings(&core.config),
        tokens,
        audit,
        next,
        first: query.cursor.is_none(),
    })
}
