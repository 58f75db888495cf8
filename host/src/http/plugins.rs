//! `/plugins`, and `/plugins/{name}/versions/{version}`.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::clock::Time;
use crate::core::Core;
use crate::id::Digest;
use crate::operations::Actor;
use crate::operations::grants::{self, GrantsView};
use crate::operations::plugins::{self, Upload, UploadReport};
use crate::operations::rollouts::{self, Activation};
use crate::plugin::PluginKind;
use crate::rollout::{Mode, Quarantine};
use crate::store::PluginVersion;

use super::body::{self, Id, Json, Pair, Query};
use super::page::Listing;
use super::problem::Problem;
use super::rollouts::RolloutView;

pub(super) fn routes() -> OpenApiRouter<Core> {
    OpenApiRouter::new()
        .routes(routes!(upload, list))
        .routes(routes!(show))
        .routes(routes!(activate))
        .routes(routes!(delete))
}

/// A version of a plugin.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Version {
    /// The plugin's name.
    name: String,
    /// Its semantic version.
    version: String,
    /// Its world.
    kind: PluginKind,
    /// sha256 of its bytes.
    digest: Digest,
    /// Its size in bytes.
    size: u64,
    /// Whether it is the version used by campaigns that do not name one.
    active: bool,
    /// The interfaces that it imports; a pure one imports none.
    imports: Vec<String>,
    /// What it is for.
    summary: String,
    /// JSON Schema of its configuration.
    #[schema(value_type = Object)]
    config_schema: serde_json::Value,
    /// Senders: JSON Schema of a device's `adapter`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    adapter_schema: Option<serde_json::Value>,
    /// Senders: hosts wanted.
    hosts: Vec<String>,
    /// Senders: names of secrets wanted.
    secrets: Vec<String>,
    /// What it declares of itself.
    capabilities: std::collections::BTreeMap<String, String>,
    /// When it was uploaded.
    uploaded_at: Time,
    /// Why it must not be used: it went wrong, and only `force` brings it back.
    #[serde(skip_serializing_if = "Option::is_none")]
    quarantine: Option<Quarantine>,
}

impl From<PluginVersion> for Version {
    fn from(v: PluginVersion) -> Self {
        Self {
            name: v.name,
            version: v.version,
            kind: v.kind,
            digest: v.digest,
            size: v.size,
            active: v.active,
            imports: v.imports,
            summary: v.info.summary,
            config_schema: serde_json::from_str(&v.info.config_schema).unwrap_or_default(),
            adapter_schema: serde_json::from_str(&v.info.adapter_schema).ok(),
            hosts: v.info.hosts,
            secrets: v.info.secrets,
            capabilities: v.info.capabilities.into_iter().collect(),
            uploaded_at: v.uploaded_at,
            quarantine: v.quarantine,
        }
    }
}

/// A version that was uploaded.
#[derive(Debug, Serialize, ToSchema)]
struct Uploaded {
    #[serde(flatten)]
    version: Version,
    /// What the checks measured.
    report: UploadReport,
    /// What it asks for, what its name was granted, and how the rest is granted.
    grants: GrantsView,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct UploadQuery {
    /// Whether it becomes the active version; by default only if it is the first one of its name and passes its self-check.
    activate: Option<bool>,
    /// Added to the version that the plugin says of itself, as a pre-release: `dev.7` makes 1.2.0-dev.7 of 1.2.0.
    suffix: Option<String>,
    /// `asked` grants the plugin the hosts and secrets that this version asks for, beside what it has; any host, when its
    /// configuration decides.
    #[param(inline)]
    grant: Option<GrantAtUpload>,
}

/// What is granted at an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum GrantAtUpload {
    /// What the version asks for.
    Asked,
}

/// Upload a version: the body is a WebAssembly component, or a core module with the types that wit-bindgen adds.
#[utoipa::path(post, path = "/plugins", tag = "plugins", security(("token" = ["plugins:write"])), params(UploadQuery),
    request_body(content = Vec<u8>, content_type = "application/wasm"),
    responses(
        (status = 201, description = "It is stored.", body = Uploaded),
        (status = 200, description = "The same bytes were stored before.", body = Uploaded),
        (status = 413, description = "It is too large.", body = Problem, content_type = "application/problem+json"),
    ))]
async fn upload(
    State(core): State<Core>,
    actor: Actor,
    Query(query): Query<UploadQuery>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<Uploaded>), Problem> {
    let media = body::media_type(&headers);
    if body::is_json(&media) || media.starts_with("multipart/") || media.starts_with("text/") {
        return Err(body::unsupported(&media, "the bytes of the component or module as application/wasm"));
    }
    let bytes = body::read(body, core.config.plugin_max_bytes).await?;
    let UploadQuery { activate, suffix, grant } = query;
    let how = Upload { activate, suffix: suffix.as_deref(), grant_asked: grant == Some(GrantAtUpload::Asked) };
    let (version, is_new, report) = plugins::upload(&core, &actor, bytes, how).await?;
    let grants = grants::of_version(&core, &version).await?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(Uploaded { version: version.into(), report, grants })))
}

/// Every version of every plugin.
#[utoipa::path(get, path = "/plugins", tag = "plugins", security(("token" = ["plugins:read"])),
    responses((status = 200, body = Listing<Version>)))]
async fn list(State(core): State<Core>) -> Result<Json<Listing<Version>>, Problem> {
    let items = plugins::list(&core).await?.into_iter().map(Version::from).collect();
    Ok(Json(Listing { items, next_cursor: None }))
}

/// What follows which version.
#[derive(Debug, Serialize, ToSchema)]
struct Channels {
    /// The active version.
    stable: Option<String>,
    /// The version that a rollout tries.
    next: Option<String>,
}

/// A plugin with its versions.
#[derive(Debug, Serialize, ToSchema)]
struct PluginView {
    /// Its name.
    name: String,
    /// Its world.
    kind: PluginKind,
    /// The version used by campaigns that do not name one.
    active: Option<String>,
    /// The same, and the version that is being tried.
    channels: Channels,
    /// The rollout that is running.
    rollout: Option<RolloutView>,
    /// What it asks for, what it was granted, and what it did not get.
    grants: GrantsView,
    /// Its versions, newest first.
    versions: Vec<Version>,
}

/// One plugin with its versions.
#[utoipa::path(get, path = "/plugins/{name}", tag = "plugins", security(("token" = ["plugins:read"])),
    params(("name" = String, Path, description = "The plugin's name")), responses((status = 200, body = PluginView)))]
async fn show(State(core): State<Core>, Id(name): Id<String>) -> Result<Json<PluginView>, Problem> {
    let versions: Vec<_> = plugins::versions(&core, &name).await?.into_iter().map(Version::from).collect();
    let active = versions.iter().find(|v| v.active).map(|v| v.version.clone());
    let kind = versions.first().map_or(PluginKind::Template, |v| v.kind);
    let mut rollout = None;
    if let Some(running) = core.store.running_rollouts().await?.into_iter().find(|r| r.name == name) {
        let counts = rollouts::counts(&core, running.no).await?;
        rollout = Some((running.spec.mode, RolloutView::new(running, counts, core.clock.now())));
    }
    let next = rollout.as_ref().filter(|(mode, _)| *mode != Mode::Watch).map(|(_, view)| view.version.clone());
    let channels = Channels { stable: active.clone(), next };
    let rollout = rollout.map(|(_, view)| view);
    let grants = grants::view(&core, &name).await?;
    Ok(Json(PluginView { name, kind, active, channels, rollout, grants, versions }))
}

/// Which version becomes active.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Activate {
    /// A semantic version that was uploaded.
    version: String,
    /// For the history.
    reason: Option<String>,
    /// Whether a version in quarantine is activated all the same, which ends its quarantine.
    #[serde(default)]
    force: bool,
    /// How long it is watched, in milliseconds: should it crash, hang or answer what is not allowed meanwhile, the version before
    /// comes back by itself. As the settings say when absent (10 minutes), not at all when 0.
    watch_ms: Option<u64>,
}

/// A version that was activated.
#[derive(Debug, Serialize, ToSchema)]
struct Activated {
    #[serde(flatten)]
    version: Version,
    /// What an operator should know: such as that it asks for something that it was not granted.
    warnings: Vec<String>,
}

/// Make a version the active one: messages use it from the next one on, on every server within a second.
#[utoipa::path(post, path = "/plugins/{name}/activate", tag = "plugins", security(("token" = ["plugins:write"])),
    params(("name" = String, Path, description = "The plugin's name")), request_body = Activate,
    responses((status = 200, body = Activated)))]
async fn activate(
    State(core): State<Core>,
    actor: Actor,
    Id(name): Id<String>,
    Json(body): Json<Activate>,
) -> Result<Json<Activated>, Problem> {
    let Activate { version, reason, force, watch_ms } = body;
    let how = Activation { reason: reason.as_deref(), force, watch_ms };
    let version = rollouts::activate(&core, &actor, &name, &version, how).await?;
    let warnings = grants::warnings_of(&core, &version).await?;
    Ok(Json(Activated { version: version.into(), warnings }))
}

/// Delete a version that nothing uses, on every server within a second. Messages, rollouts and kept calls go on to name it; its name
/// and version may be uploaded again.
#[utoipa::path(delete, path = "/plugins/{name}/versions/{version}", tag = "plugins",
    security(("token" = ["plugins:write"])),
    params(("name" = String, Path, description = "The plugin's name"),
        ("version" = String, Path, description = "Its semantic version")),
    responses(
        (status = 204, description = "It is deleted."),
        (status = 409, description = "It is in use; `detail` says by what, and what to do first.", body = Problem, content_type = "application/problem+json"),
    ))]
async fn delete(State(core): State<Core>, actor: Actor, Pair(name, version): Pair) -> Result<StatusCode, Problem> {
    plugins::delete(&core, &actor, &name, &version).await?;
    Ok(StatusCode::NO_CONTENT)
}
