//! `/messages`.

use axum::extract::State;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::core::Core;
use crate::id::MessageId;
use crate::operations::messages::{self, MessageDetail};

use super::body::{Id, Json};
use super::problem::Problem;

pub(super) fn routes() -> OpenApiRouter<Core> {
    OpenApiRouter::new().routes(routes!(show))
}

/// One message, with its attempts and, while it waits, why it has not been sent yet.
#[utoipa::path(get, path = "/messages/{id}", tag = "messages", security(("token" = ["campaigns:read"])),
    params(("id" = MessageId, Path, description = "The message, 19 digits")),
    responses((status = 200, body = MessageDetail),
        (status = 410, body = Problem, content_type = "application/problem+json",
            description = "Its campaign finished long ago; its messages were removed.")))]
async fn show(State(core): State<Core>, Id(id): Id<MessageId>) -> Result<Json<MessageDetail>, Problem> {
    Ok(Json(messages::message(&core, id).await?))
}
