//! Campaigns: the list, a campaign with its progress and controls, and its messages.

use askama::Template;
use axum::Router;
use axum::extract::{Path, Query, State};
use axum::routing::{get, post};
use serde::Deserialize;

use super::page::{self, Page};
use super::session::{Posted, Session};
use super::{Answer, Failure, PAGE, Shared, actor, chart, format, go};
use crate::campaign::{CampaignEvent, CampaignStatus, Delivery, PluginUse};
use crate::id::{CampaignId, MessageId};
use crate::message::{MessageRow, MessageStatus};
use crate::operations::campaigns::{self as operations, CampaignView};

/// What may change campaigns, sequences and their messages.
pub(super) const WRITE: &str = "campaigns:write";

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/ui/campaigns", get(list))
        .route("/ui/campaigns/{id}", get(show))
        .route("/ui/campaigns/{id}/{action}", post(act))
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ListQuery {
    status: String,
    cursor: Option<CampaignId>,
}

#[derive(Template)]
#[template(path = "campaigns.html")]
struct ListPage {
    page: Page,
    status: Option<CampaignStatus>,
    campaigns: Vec<CampaignView>,
    next: Option<CampaignId>,
    first: bool,
    state: String,
}

impl ListPage {
    fn is_shown(&self, status: &CampaignStatus) -> bool {
        self.status == Some(*status)
    }
}

async fn list(State(ui): State<Shared>, session: Session, Query(query): Query<ListQuery>) -> Answer {
    let page = Page::new(session, "/ui/campaigns")?;
    let status = CampaignStatus::parse(&query.status);
    let found = operations::campaign_views(&ui.core, status, query.cursor, PAGE).await?;
    let state = ui.live.sample().open_set();
    page::html(&ListPage {
        page,
        status,
        campaigns: found.items,
        next: found.next,
        first: query.cursor.is_none(),
        state,
    })
}

/// A plugin with its configuration, as the specification shows it.
struct Use {
    role: &'static str,
    plugin: String,
    version: Option<String>,
    config: String,
}

impl Use {
    fn new(role: &'static str, used: &PluginUse) -> Self {
        let config = format::pretty_json(used.config.get());
        Self { role, plugin: used.plugin.clone(), version: used.version.clone(), config }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ShowQuery {
    messages: String,
    cursor: Option<MessageId>,
}

#[derive(Template)]
#[template(path = "campaign.html")]
struct ShowPage {
    page: Page,
    campaign: CampaignView,
    uses: Vec<Use>,
    filter: Option<MessageStatus>,
    messages: Vec<MessageRow>,
    next: Option<MessageId>,
    first: bool,
}

impl ShowPage {
    fn is_shown(&self, status: &MessageStatus) -> bool {
        self.filter == Some(*status)
    }

    fn count(&self, status: &MessageStatus) -> String {
        format::number(self.campaign.counts.of(*status))
    }

    fn can(&self, event: CampaignEvent) -> bool {
        self.page.may(WRITE) && self.campaign.status.after(event).is_ok()
    }

    fn can_launch(&self) -> bool {
        self.campaign.status == CampaignStatus::Draft && self.can(CampaignEvent::Schedule)
    }

    fn can_pause(&self) -> bool {
        self.can(CampaignEvent::Pause)
    }

    fn can_resume(&self) -> bool {
        self.can(CampaignEvent::Resume)
    }

    fn can_cancel(&self) -> bool {
        self.can(CampaignEvent::Cancel)
    }

    fn can_retry(&self) -> bool {
        self.campaign.counts.failed > 0 && self.campaign.messages_pruned_at.is_none() && self.can(CampaignEvent::Reopen)
    }

    fn delivery(&self) -> &'static str {
        match self.campaign.spec.delivery {
            Delivery::Auto => "sent again when in doubt only if the provider drops repeats",
            Delivery::AtLeastOnce => "at least once: sent again when in doubt",
            Delivery::AtMostOnce => "at most once: in doubt it becomes unknown",
        }
    }

    fn eta(&self) -> String {
        self.campaign.eta_s.map_or_else(|| "–".to_owned(), |s| format::duration_ms(s.saturating_mul(1000)))
    }
}

async fn show(
    State(ui): State<Shared>,
    session: Session,
    Path(id): Path<CampaignId>,
    Query(query): Query<ShowQuery>,
) -> Answer {
    let page = Page::new(session, "/ui/campaigns")?;
    let campaign = operations::campaign_view(&ui.core, id).await?;
    let filter = MessageStatus::parse(&query.messages);
    let (messages, next) = match campaign.run {
        Some(run) if campaign.messages_pruned_at.is_none() => {
            let found = ui.core.store.messages(run, filter, query.cursor, PAGE).await?;
            (found.items, found.next)
        }
        _ => (Vec::new(), None),
    };
    let spec = &campaign.spec;
    let mut uses = vec![Use::new("Template", &spec.template), Use::new("Delay", &spec.delay.plugin_use())];
    uses.extend(spec.sender.as_ref().map(|sender| Use::new("Sender", sender)));
    page::html(&ShowPage { page, uses, filter, messages, next, first: query.cursor.is_none(), campaign })
}

async fn act(State(ui): State<Shared>, Path((id, action)): Path<(CampaignId, String)>, posted: Posted) -> Answer {
    posted.session.require(WRITE)?;
    let (core, actor) = (&ui.core, actor(&posted.session));
    let done = match action.as_str() {
        "launch" => operations::launch(core, &actor, id).await.map(|_| "launched"),
        "pause" => operations::pause(core, &actor, id, None).await.map(|_| "paused"),
        "resume" => operations::resume(core, &actor, id).await.map(|_| "resumed"),
        "cancel" => operations::cancel(core, &actor, id).await.map(|_| "cancelled"),
        "retry-failed" => operations::retry_failed(core, &actor, id).await.map(|_| "retried"),
        _ => return Err(Failure::NotFound(format!("action {action}"))),
    }?;
    go(&format!("/ui/campaigns/{id}?done={done}"))
}
