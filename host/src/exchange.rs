//! Between plugins and egress: a request that a plugin wants made, and what it is told came of it.

use std::time::Duration;

use crate::egress::{Body, EgressAnswer, EgressRequest};
use crate::plugins::{Answer, HttpRequest, HttpResponse, PluginBody};

/// Requests that a plugin may make for one message, for one look-up, or for one check of a device.
pub const MAX_ROUNDS: u32 = 8;

/// A plugin's request as the way out takes it.
pub fn egress_request(request: HttpRequest) -> EgressRequest {
    let HttpRequest { method, url, headers, body, timeout_ms } = request;
    EgressRequest {
        method,
        url,
        headers,
        body: match body {
            PluginBody::Empty => Body::Empty,
            PluginBody::Text(text) => Body::Text(text),
            PluginBody::Bytes(bytes) => Body::Bytes(bytes.into()),
        },
        timeout: Duration::try_from_secs_f64(timeout_ms / 1000.0).unwrap_or(Duration::MAX),
    }
}

/// What came of a request, as the plugin is told.
pub fn plugin_answer(answer: EgressAnswer) -> Answer {
    match answer {
        EgressAnswer::Response(response) => Answer::Response(HttpResponse {
            status: u32::from(response.status),
            headers: response.headers,
            body: if response.body.is_empty() {
                PluginBody::Empty
            } else {
                match String::from_utf8(response.body.into()) {
                    Ok(text) => PluginBody::Text(text),
                    Err(bytes) => PluginBody::Bytes(bytes.into_bytes()),
                }
            },
        }),
        EgressAnswer::NotSent(why) | EgressAnswer::NotGranted(why) => Answer::NotSent(why),
        EgressAnswer::Unanswered(why) => Answer::Unanswered(why),
    }
}
