//! What a business account's webhook says: statuses of messages, what people write, and that they want no marketing.

use common::arrival::{json, list, parameter, says, seconds_as_ms, text};
use common::contract::sending::Failure;
use common::contract::types::{Context, PluginError};
use common::provider::{excerpt, failure};
use serde_json::Value;

use crate::bindings::exports::carillon::plugin::receipts::{Event, EventKind, HttpArrival, Parsed};

/// The error code of a recipient who wants no marketing messages.
const WANTS_NO_MARKETING: i64 = 131_050;

/// Reads a request.
pub fn parse(ctx: &Context, verify_token: Option<&str>, request: &HttpArrival) -> Result<Parsed, PluginError> {
    if request.method == "GET" {
        return Ok(Parsed { events: Vec::new(), response: challenged(verify_token, &request.query) });
    }
    let body = json(&request.body)?;
    let mut events = Vec::new();
    for change in list(&body, "/entry").iter().flat_map(|entry| list(entry, "/changes")) {
        for status in list(change, "/value/statuses") {
            of_status(status, ctx.now, &mut events);
        }
        for message in list(change, "/value/messages") {
            events.extend(of_message(message, ctx.now));
        }
        for preference in list(change, "/value/user_preferences") {
            if text(preference, "/value") == "stop" {
                events.push(event("", text(preference, "/wa_id"), preference, ctx.now, EventKind::OptedOut));
            }
        }
    }
    Ok(Parsed { events, response: says(200, "") })
}

/// Meta asks once whether the address is ours, and wants its challenge back.
fn challenged(verify_token: Option<&str>, query: &str) -> common::contract::sending::HttpResponse {
    let token = parameter(query, "hub.verify_token");
    let is_asked = parameter(query, "hub.mode").as_deref() == Some("subscribe");
    match (verify_token, parameter(query, "hub.challenge")) {
        (Some(ours), Some(challenge)) if is_asked && token.as_deref() == Some(ours) => says(200, challenge),
        _ => says(403, "the verify token is not the one of the webhook's configuration"),
    }
}

fn event(provider_id: &str, address: &str, of: &Value, now_ms: f64, kind: EventKind) -> Event {
    let at = seconds_as_ms(of.get("timestamp"), now_ms);
    Event { provider_id: provider_id.into(), address: address.into(), at, kind, attributes: Vec::new() }
}

fn of_status(status: &Value, now_ms: f64, events: &mut Vec<Event>) {
    let (id, address) = (text(status, "/id"), text(status, "/recipient_id"));
    let code = status.pointer("/errors/0/code").and_then(Value::as_i64);
    let kind = match text(status, "/status") {
        "delivered" => EventKind::Delivered,
        // A voice message that was played was opened before.
        "read" | "played" => EventKind::Read,
        "failed" => EventKind::Failed(why(code, text(status, "/errors/0/title"))),
        _ => return,
    };
    events.push(event(id, address, status, now_ms, kind));
    if code == Some(WANTS_NO_MARKETING) {
        events.push(event(id, address, status, now_ms, EventKind::OptedOut));
    }
}

fn why(code: Option<i64>, title: &str) -> Failure {
    let code = code.map_or_else(|| "whatsapp-failed".to_owned(), |code| format!("whatsapp-{code}"));
    let title = excerpt(title);
    failure(
        code,
        if title.is_empty() { "WhatsApp did not deliver it".to_owned() } else { format!("WhatsApp: {title}") },
    )
}

/// What somebody wrote, or the button that they pressed.
fn of_message(message: &Value, now_ms: f64) -> Option<Event> {
    let said = match text(message, "/type") {
        "text" => text(message, "/text/body"),
        "button" => text(message, "/button/text"),
        "interactive" => match text(message, "/interactive/button_reply/title") {
            "" => text(message, "/interactive/list_reply/title"),
            title => title,
        },
        // Not from the person, but about them.
        "system" if text(message, "/system/marketing") == "stop" => {
            return Some(event("", text(message, "/from"), message, now_ms, EventKind::OptedOut));
        }
        "system" | "" => return None,
        _ => "",
    };
    let (answers, from) = (text(message, "/context/id"), text(message, "/from"));
    Some(event(answers, from, message, now_ms, EventKind::Reply(said.into())))
}
