//! `/plugins/{name}/rollouts`, and what else decides which version of a plugin is used.

use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::clock::Time;
use crate::core::Core;
use crate::id::RolloutNo;
use crate::operations::Actor;
use crate::operations::rollouts;
use crate::rollout::{
    Counts, KEPT_FINDINGS, Mode, Rollout, RolloutSpec, RolloutStatus, ShadowCounts, ShareStep, SideCounts, StableRow,
    Thresholds,
};

use super::body::{Id, Json, OptionalJson, Query};
use super::page::Listing;
use super::plugins::Version;
use super::problem::Problem;

pub(super) fn routes() -> OpenApiRouter<Core> {
    OpenApiRouter::new()
        .routes(routes!(rollback))
        .routes(routes!(history))
        .routes(routes!(start, list))
        .routes(routes!(promote))
        .routes(routes!(abort))
        .routes(routes!(findings))
}

/// Why something is done.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Why {
    /// For the history.
    reason: Option<String>,
}

/// Go back to the version that was active before: from the next message on, on every server within a second.
#[utoipa::path(post, path = "/plugins/{name}/rollback", tag = "plugins", security(("token" = ["plugins:write"])),
    params(("name" = String, Path, description = "The plugin's name")), request_body = Option<Why>,
    responses((status = 200, body = Version)))]
async fn rollback(
    State(core): State<Core>,
    actor: Actor,
    Id(name): Id<String>,
    OptionalJson(why): OptionalJson<Why>,
) -> Result<Json<Version>, Problem> {
    Ok(Json(rollouts::rollback(&core, &actor, &name, why.reason.as_deref()).await?.into()))
}

/// Which version was active from when on, newest first.
#[utoipa::path(get, path = "/plugins/{name}/history", tag = "plugins", security(("token" = ["plugins:read"])),
    params(("name" = String, Path, description = "The plugin's name")),
    responses((status = 200, body = Listing<StableRow>)))]
async fn history(State(core): State<Core>, Id(name): Id<String>) -> Result<Json<Listing<StableRow>>, Problem> {
    Ok(Json(Listing { items: rollouts::history(&core, &name).await?, next_cursor: None }))
}

/// How a version is tried.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
enum TryMode {
    /// A share of the devices uses it. It is rolled back by itself when it goes wrong.
    Canary,
    /// It is called beside the active version on a sample of the calls; its answers are compared and thrown away. A sender
    /// is asked what it would send first, and never sends.
    Shadow,
}

/// A version to be tried.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewRollout {
    /// A semantic version that was uploaded.
    version: String,
    /// How it is tried.
    mode: TryMode,
    /// Canary: the share of devices. Shadow: the share of calls. More than 0, at most 1.
    share: f64,
    /// Canary: larger shares to come.
    #[serde(default)]
    steps: Vec<ShareStep>,
    /// After so many milliseconds a canary is promoted, if it has had its sample, and a shadow ends. Without it, somebody ends it.
    for_ms: Option<u64>,
    /// When it has gone wrong.
    #[serde(default)]
    thresholds: Thresholds,
    /// Shadow: delays that differ by at most so many milliseconds are the same.
    #[serde(default)]
    tolerance_ms: f64,
    /// Shadow: whether differences quote what differs: addresses and texts may be in it.
    #[serde(default)]
    excerpts: bool,
    /// Whether a version in quarantine is tried all the same, which ends its quarantine.
    #[serde(default)]
    force: bool,
}

/// What was seen of a version, with what follows from it.
#[derive(Debug, Serialize, ToSchema)]
struct SideView {
    #[serde(flatten)]
    counts: SideCounts,
    /// The mean duration of a call, in microseconds.
    mean_us: Option<u64>,
    /// A duration, in microseconds, that 95 of 100 calls stayed below: exact to a power of two.
    p95_us: Option<u64>,
}

impl From<SideCounts> for SideView {
    fn from(mut counts: SideCounts) -> Self {
        let (mean_us, p95_us) = (counts.mean_us(), counts.p95_us());
        counts.latencies.clear();
        Self { counts, mean_us, p95_us }
    }
}

/// A rollout.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RolloutView {
    /// Its number.
    #[schema(value_type = i32)]
    no: RolloutNo,
    /// The plugin's name.
    plugin: String,
    /// How the version is tried.
    mode: Mode,
    /// The version that is tried.
    pub(super) version: String,
    /// The version that it is tried against.
    stable: String,
    /// Where it stands.
    status: RolloutStatus,
    /// The share in force.
    share: f64,
    /// Larger shares to come.
    steps: Vec<ShareStep>,
    /// How long it goes on, in milliseconds.
    for_ms: Option<u64>,
    /// When it has gone wrong.
    thresholds: Thresholds,
    /// When it began.
    started_at: Time,
    /// Who began it.
    started_by: String,
    /// When it ended.
    ended_at: Option<Time>,
    /// Who ended it: `system` for the engine.
    ended_by: Option<String>,
    /// Why it ended.
    reason: Option<String>,
    /// What was seen of the version that is tried, on all servers.
    candidate: SideView,
    /// What was seen of the other one.
    against: SideView,
    /// What shadow calls came to.
    shadow: ShadowCounts,
}

impl RolloutView {
    pub(super) fn new(rollout: Rollout, counts: Counts, now: Time) -> Self {
        let share = rollout.share(rollout.ended.as_ref().map_or(now, |(at, _)| *at));
        let Rollout { no, name, candidate, stable, spec, status, started, ended, reason } = rollout;
        let (ended_at, ended_by) = ended.unzip();
        Self {
            no,
            plugin: name,
            mode: spec.mode,
            version: candidate.1,
            stable: stable.1,
            status,
            share,
            steps: spec.steps,
            for_ms: spec.for_ms,
            thresholds: spec.thresholds,
            started_at: started.0,
            started_by: started.1,
            ended_at,
            ended_by,
            reason,
            candidate: counts.candidate.into(),
            against: counts.stable.into(),
            shadow: counts.shadow,
        }
    }
}

/// Try a version beside the active one, while campaigns run. Campaigns that name a version take no part.
#[utoipa::path(post, path = "/plugins/{name}/rollouts", tag = "plugins", security(("token" = ["plugins:write"])),
    params(("name" = String, Path, description = "The plugin's name")), request_body = NewRollout,
    responses((status = 201, body = RolloutView)))]
async fn start(
    State(core): State<Core>,
    actor: Actor,
    Id(name): Id<String>,
    Json(new): Json<NewRollout>,
) -> Result<(StatusCode, Json<RolloutView>), Problem> {
    let spec = RolloutSpec {
        mode: match new.mode {
            TryMode::Canary => Mode::Canary,
            TryMode::Shadow => Mode::Shadow,
        },
        share: new.share,
        steps: new.steps,
        for_ms: new.for_ms,
        thresholds: new.thresholds,
        tolerance_ms: new.tolerance_ms,
        excerpts: new.excerpts,
    };
    let rollout = rollouts::start(&core, &actor, &name, &new.version, &spec, new.force).await?;
    Ok((StatusCode::CREATED, Json(RolloutView::new(rollout, Counts::default(), core.clock.now()))))
}

/// The last rollouts of a plugin, newest first: tried versions, and activations that were watched.
#[utoipa::path(get, path = "/plugins/{name}/rollouts", tag = "plugins", security(("token" = ["plugins:read"])),
    params(("name" = String, Path, description = "The plugin's name")),
    responses((status = 200, body = Listing<RolloutView>)))]
async fn list(State(core): State<Core>, Id(name): Id<String>) -> Result<Json<Listing<RolloutView>>, Problem> {
    let now = core.clock.now();
    let found = rollouts::list(&core, &name).await?;
    let items = found.into_iter().map(|(rollout, counts)| RolloutView::new(rollout, counts, now)).collect();
    Ok(Json(Listing { items, next_cursor: None }))
}

async fn view(core: &Core, rollout: Rollout) -> Result<Json<RolloutView>, Problem> {
    let counts = rollouts::counts(core, rollout.no).await?;
    Ok(Json(RolloutView::new(rollout, counts, core.clock.now())))
}

/// End the running rollout: its version becomes the active one. An activation that is watched is trusted from now on.
#[utoipa::path(post, path = "/plugins/{name}/rollouts/promote", tag = "plugins",
    security(("token" = ["plugins:write"])), params(("name" = String, Path, description = "The plugin's name")),
    responses((status = 200, body = RolloutView)))]
async fn promote(State(core): State<Core>, actor: Actor, Id(name): Id<String>) -> Result<Json<RolloutView>, Problem> {
    let rollout = rollouts::promote(&core, &actor, &name).await?;
    view(&core, rollout).await
}

/// End the running rollout: what is active stays so.
#[utoipa::path(post, path = "/plugins/{name}/rollouts/abort", tag = "plugins",
    security(("token" = ["plugins:write"])), params(("name" = String, Path, description = "The plugin's name")),
    request_body = Option<Why>, responses((status = 200, body = RolloutView)))]
async fn abort(
    State(core): State<Core>,
    actor: Actor,
    Id(name): Id<String>,
    OptionalJson(why): OptionalJson<Why>,
) -> Result<Json<RolloutView>, Problem> {
    let rollout = rollouts::abort(&core, &actor, &name, why.reason.as_deref()).await?;
    view(&core, rollout).await
}

/// Which rollout.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct FindingsQuery {
    /// Its number; the last one of the plugin when absent.
    rollout: Option<i32>,
}

/// Something that was seen of the tried version at a message.
#[derive(Debug, Serialize, ToSchema)]
struct FindingView {
    /// When.
    at: Time,
    /// At which message.
    message: String,
    /// On which device.
    device: String,
    /// `fault`, or what differs, such as `text` or `headers[2]`.
    field: String,
    /// What it was: lengths, where they part, digests; or excerpts, where the rollout asks for them.
    detail: String,
}

/// The newest 200 faults of the tried version and, of a shadow, its differences from the active one.
#[utoipa::path(get, path = "/plugins/{name}/rollouts/findings", tag = "plugins",
    security(("token" = ["plugins:read"])),
    params(("name" = String, Path, description = "The plugin's name"), FindingsQuery),
    responses((status = 200, body = Listing<FindingView>)))]
async fn findings(
    State(core): State<Core>,
    Id(name): Id<String>,
    Query(query): Query<FindingsQuery>,
) -> Result<Json<Listing<FindingView>>, Problem> {
    let (_, found) = rollouts::findings(&core, &name, query.rollout.map(RolloutNo), KEPT_FINDINGS).await?;
    let items = found
        .into_iter()
        .map(|f| FindingView {
            at: f.at,
            message: f.message.to_string(),
            device: f.device,
            field: f.field,
            detail: f.detail,
        })
        .collect();
    Ok(Json(Listing { items, next_cursor: None }))
}
