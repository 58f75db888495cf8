//! What a phone's webhook says: that a message arrived or failed, and what people write.

use common::arrival::{json, rfc3339_ms, says, text};
use common::contract::types::{Context, PluginError};
use common::provider::failure;

use crate::answer::result_word;
use crate::bindings::exports::carillon::plugin::receipts::{Event, EventKind, HttpArrival, Parsed};

/// Reads a request: one event.
pub fn parse(ctx: &Context, request: &HttpArrival) -> Result<Parsed, PluginError> {
    let body = json(&request.body)?;
    // The message's id is ours: it is what the gateway was given.
    let id = text(&body, "/payload/messageId");
    let (provider_id, when, kind) = match text(&body, "/event") {
        "sms:delivered" => (id, "/payload/deliveredAt", EventKind::Delivered),
        "sms:failed" => {
            let word = result_word(text(&body, "/payload/reason"));
            let why = if word.is_empty() { String::new() } else { format!(" ({word})") };
            let reason = failure("sms-gateway-failed", format!("the phone did not send it, or it did not arrive{why}"));
            (id, "/payload/failedAt", EventKind::Failed(reason))
        }
        // Its id is made from its text, and names no message of ours.
        "sms:received" => ("", "/payload/receivedAt", EventKind::Reply(text(&body, "/payload/message").into())),
        _ => return Ok(Parsed { events: Vec::new(), response: says(200, "") }),
    };
    let names = ["/payload/phoneNumber", "/payload/sender", "/payload/recipient"];
    let address = names.into_iter().map(|at| text(&body, at)).find(|address| !address.is_empty()).unwrap_or_default();
    let at = rfc3339_ms(text(&body, when)).unwrap_or(ctx.now);
    let event = Event { provider_id: provider_id.into(), address: address.into(), at, kind, attributes: Vec::new() };
    Ok(Parsed { events: vec![event], response: says(200, "") })
}
