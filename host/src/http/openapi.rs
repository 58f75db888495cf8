//! The description of the API, made from the code.

use utoipa::OpenApi;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{ContentBuilder, Ref, RefOr, ResponseBuilder};

use super::problem::{FieldProblem, Problem};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Carillon",
        description = "A broadcast engine for fleets of sending devices. Errors are application/problem+json (RFC 9457). \
            Creating calls (POST) take an Idempotency-Key: the same key with the same request gets the same answer for a day. \
            Listings take limit and cursor.",
        license(name = "Apache-2.0 OR MIT", identifier = "Apache-2.0 OR MIT"),
    ),
    components(schemas(Problem, FieldProblem)),
    tags(
        (name = "plugins", description = "Behaviour as WebAssembly components"),
        (name = "devices", description = "What sends"),
        (name = "audiences", description = "Who is sent to"),
        (name = "campaigns", description = "One message to everybody of an audience"),
        (name = "messages", description = "What became of each"),
        (name = "sequences", description = "Several messages, each some time after the one before"),
        (name = "suppressions", description = "Who is never sent to"),
        (name = "tokens", description = "Who may call"),
        (name = "operation", description = "The cluster itself"),
    )
)]
struct Document;

/// The part of the description that is not in the routes.
pub(super) fn base() -> utoipa::openapi::OpenApi {
    let mut document = Document::openapi();
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("car_…").build();
    document
        .components
        .get_or_insert_default()
        .security_schemes
        .insert("token".to_owned(), RefOr::T(SecurityScheme::Http(bearer)));
    document
}

/// Adds to every operation the answers that every operation can give.
pub(super) fn complete(document: &mut utoipa::openapi::OpenApi) {
    for item in document.paths.paths.values_mut() {
        let PathItem { get, put, post, delete, patch, .. } = item;
        let takes_bodies = [put, post, patch].into_iter().flatten().map(|o| (o, true));
        for (operation, takes_body) in takes_bodies.chain([get, delete].into_iter().flatten().map(|o| (o, false))) {
            errors(operation, takes_body);
        }
    }
}

fn errors(operation: &mut Operation, takes_body: bool) {
    let common = [
        (400, "The request cannot be read.", true),
        (401, "No token, or one that is unknown or revoked.", true),
        (403, "The token lacks the scope.", true),
        (404, "There is no such thing.", true),
        (409, "The state of things does not allow it.", takes_body),
        (413, "The body is too large.", takes_body),
        (415, "The body is of a media type that is not taken.", takes_body),
        (422, "The request can be read and cannot be right; `errors` names every field.", takes_body),
        (429, "The token made too many calls.", true),
        (500, "A bug; the server's log has more.", true),
        (503, "The store or the queue is away; try again after `Retry-After` seconds.", true),
    ];
    for (status, description, applies) in common {
        if applies {
            let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
            let response =
                ResponseBuilder::new().description(description).content("application/problem+json", content).build();
            operation.responses.responses.entry(status.to_string()).or_insert(RefOr::T(response));
        }
    }
}
