//! `/sequences`.

use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::clock::Time;
use crate::core::Core;
use crate::id::SequenceId;
use crate::operations::Actor;
use crate::operations::sequences::{self, Enrol, SequenceView};
use crate::sequence::{Enrolment, EnrolmentStatus, SequenceSpec};
use crate::store::Enrolled;

use super::body::{Id, Json, Query};
use super::page::{self, Listing, PageQuery};
use super::problem::Problem;

pub(super) fn routes() -> OpenApiRouter<Core> {
    OpenApiRouter::new()
        .routes(routes!(create, list))
        .routes(routes!(show))
        .routes(routes!(start))
        .routes(routes!(pause))
        .routes(routes!(enrol))
        .routes(routes!(exit))
        .routes(routes!(enrolments))
}

/// Make a sequence, as a draft.
#[utoipa::path(post, path = "/sequences", tag = "sequences", security(("token" = ["campaigns:write"])),
    request_body = SequenceSpec, responses((status = 201, body = SequenceView)))]
async fn create(
    State(core): State<Core>,
    actor: Actor,
    Json(spec): Json<SequenceSpec>,
) -> Result<(StatusCode, Json<SequenceView>), Problem> {
    let made = sequences::create(&core, &actor, spec).await?;
    Ok((StatusCode::CREATED, Json(sequences::sequence_view(&core, made.id).await?)))
}

/// Sequences, newest first.
#[utoipa::path(get, path = "/sequences", tag = "sequences", security(("token" = ["campaigns:read"])),
    params(PageQuery), responses((status = 200, body = Listing<SequenceView>)))]
async fn list(
    State(core): State<Core>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Listing<SequenceView>>, Problem> {
    let cursor: Option<SequenceId> = page::cursor(query.cursor.as_deref())?;
    Ok(Json(Listing::of(sequences::sequence_views(&core, cursor, page::limit(query.limit)?).await?)))
}

/// One sequence, with how many enrolments are in each state.
#[utoipa::path(get, path = "/sequences/{id}", tag = "sequences", security(("token" = ["campaigns:read"])),
    params(("id" = SequenceId, Path, description = "The sequence")), responses((status = 200, body = SequenceView)))]
async fn show(State(core): State<Core>, Id(id): Id<SequenceId>) -> Result<Json<SequenceView>, Problem> {
    Ok(Json(sequences::sequence_view(&core, id).await?))
}

/// Let a sequence send.
#[utoipa::path(post, path = "/sequences/{id}/start", tag = "sequences", security(("token" = ["campaigns:write"])),
    params(("id" = SequenceId, Path, description = "The sequence")), responses((status = 200, body = SequenceView)))]
async fn start(State(core): State<Core>, actor: Actor, Id(id): Id<SequenceId>) -> Result<Json<SequenceView>, Problem> {
    sequences::start(&core, &actor, id).await?;
    Ok(Json(sequences::sequence_view(&core, id).await?))
}

/// Stop a sequence for now.
#[utoipa::path(post, path = "/sequences/{id}/pause", tag = "sequences", security(("token" = ["campaigns:write"])),
    params(("id" = SequenceId, Path, description = "The sequence")), responses((status = 200, body = SequenceView)))]
async fn pause(State(core): State<Core>, actor: Actor, Id(id): Id<SequenceId>) -> Result<Json<SequenceView>, Problem> {
    sequences::pause(&core, &actor, id).await?;
    Ok(Json(sequences::sequence_view(&core, id).await?))
}

/// Enrol an audience (`{"audience":"name"}`) or one contact (`{"contact":{"address":…,"variables":{…}}}`); each address
/// passes through a sequence once.
#[utoipa::path(post, path = "/sequences/{id}/enrol", tag = "sequences", security(("token" = ["campaigns:write"])),
    params(("id" = SequenceId, Path, description = "The sequence")), request_body = Enrol,
    responses((status = 200, body = Enrolled)))]
async fn enrol(
    State(core): State<Core>,
    actor: Actor,
    Id(id): Id<SequenceId>,
    Json(who): Json<Enrol>,
) -> Result<Json<Enrolled>, Problem> {
    Ok(Json(sequences::enrol(&core, &actor, id, who).await?))
}

/// Who leaves.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Exit {
    /// The contact's address.
    address: String,
    /// Why, at most 200 bytes.
    reason: Option<String>,
}

/// Let a contact leave a sequence: its pending message is cancelled.
#[utoipa::path(post, path = "/sequences/{id}/exit", tag = "sequences", security(("token" = ["campaigns:write"])),
    params(("id" = SequenceId, Path, description = "The sequence")), request_body = Exit,
    responses((status = 204, description = "It has left.")))]
async fn exit(
    State(core): State<Core>,
    actor: Actor,
    Id(id): Id<SequenceId>,
    Json(who): Json<Exit>,
) -> Result<StatusCode, Problem> {
    sequences::exit_enrolment(&core, &actor, id, &who.address, who.reason.as_deref()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A contact's way through a sequence.
#[derive(Debug, Serialize, ToSchema)]
struct EnrolmentView {
    /// The address.
    address: String,
    /// Where it stands.
    status: EnrolmentStatus,
    /// The current step, from 0.
    step: u32,
    /// When the current step is due, while waiting.
    due_at: Option<Time>,
    /// Why it left.
    exit_reason: Option<String>,
    /// When it was made.
    enrolled_at: Time,
}

impl From<Enrolment> for EnrolmentView {
    fn from(e: Enrolment) -> Self {
        let Enrolment { address, status, step, due_at, exit_reason, enrolled_at, .. } = e;
        Self { address, status, step, due_at, exit_reason, enrolled_at }
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct EnrolmentQuery {
    /// Only enrolments in this status.
    status: Option<EnrolmentStatus>,
    /// Rows, 1 to 1000; 100 by default.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Enrolments, in the order in which they were made.
#[utoipa::path(get, path = "/sequences/{id}/enrolments", tag = "sequences", security(("token" = ["campaigns:read"])),
    params(("id" = SequenceId, Path, description = "The sequence"), EnrolmentQuery),
    responses((status = 200, body = Listing<EnrolmentView>)))]
async fn enrolments(
    State(core): State<Core>,
    Id(id): Id<SequenceId>,
    Query(query): Query<EnrolmentQuery>,
) -> Result<Json<Listing<EnrolmentView>>, Problem> {
    let sequence = sequences::sequence(&core, id).await?;
    let cursor: Option<u32> = page::cursor(query.cursor.as_deref())?;
    let page = core.store.enrolments(sequence.no, query.status, cursor, page::limit(query.limit)?).await?;
    Ok(Json(Listing::of(page)))
}
