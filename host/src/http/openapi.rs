//! The description of the API, made from the code.

use serde_json::{Map, Value};
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
        (name = "secrets", description = "What senders show to providers"),
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
        for operation in [put, post, patch].into_iter().flatten() {
            errors(operation, true);
        }
        for operation in [get, delete].into_iter().flatten() {
            let takes_body = operation.request_body.is_some();
            errors(operation, takes_body);
        }
    }
}

/// A view shows a specification and more beside it. That comes described as "all of" both, where the specification forbids
/// every field but its own, so that nothing could be both: wherever it stands, it is described with all their fields instead.
pub(super) fn merge_views(document: &mut Value) {
    let known = document.clone();
    merge_within(document, &known);
}

fn merge_within(schema: &mut Value, known: &Value) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(|item| merge_within(item, known)),
        Value::Object(fields) => {
            let parts = fields.get("allOf").and_then(Value::as_array).filter(|parts| parts.len() > 1);
            let whole = parts.and_then(|parts| merged(parts, known));
            if let Some(whole) = whole {
                fields.remove("allOf");
                fields.extend(whole);
            }
            fields.values_mut().for_each(|field| merge_within(field, known));
        }
        _ => {}
    }
}

/// The fields of several objects as those of one; `None` when there is something that is no object.
fn merged(parts: &[Value], known: &Value) -> Option<Map<String, Value>> {
    let (mut properties, mut required) = (Map::new(), Vec::new());
    for part in parts {
        let part = match part.get("$ref").and_then(Value::as_str) {
            Some(reference) => known.pointer(reference.strip_prefix('#')?)?,
            None => part,
        };
        let nested = part.get("allOf").and_then(Value::as_array).map(|parts| merged(parts, known));
        let part = match &nested {
            Some(nested) => nested.as_ref()?,
            None => part.as_object()?,
        };
        properties.extend(part.get("properties")?.as_object()?.clone());
        required.extend(part.get("required").and_then(Value::as_array).into_iter().flatten().cloned());
    }
    let fields = [("type", "object".into()), ("properties", properties.into()), ("required", required.into())];
    Some(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

fn errors(operation: &mut Operation, takes_body: bool) {
    let common = [
        (400, "The request cannot be read.", true),
        (401, "No token, or one that is unknown or revoked.", true),
        (403, "The token lacks the scope.", true),
        (404, "There is no such thing.", true),
        (408, "The body did not arrive in time.", takes_body),
        (409, "The state of things does not allow it.", takes_body),
        (410, "It is no longer kept.", true),
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
