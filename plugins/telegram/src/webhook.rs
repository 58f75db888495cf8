//! What a bot's webhook says: what people write to it, and that they block it or remove it from a chat. Telegram reports neither
//! that a message arrived nor that it was read.

use common::arrival::{json, says, seconds_as_ms, text};
use common::contract::types::{Context, PluginError};
use common::provider::word;
use serde_json::Value;

use crate::bindings::exports::carillon::plugin::receipts::{Event, EventKind, HttpArrival, Parsed};

/// Reads a request: one update.
pub fn parse(ctx: &Context, request: &HttpArrival) -> Result<Parsed, PluginError> {
    let update = json(&request.body)?;
    let events = of_message(&update, ctx.now).into_iter().chain(of_membership(&update, ctx.now)).collect();
    Ok(Parsed { events, response: says(200, "") })
}

fn event(of: &Value, now_ms: f64, kind: EventKind) -> Option<Event> {
    let address = of.pointer("/chat/id").and_then(word)?;
    let at = seconds_as_ms(of.get("date"), now_ms);
    Some(Event { provider_id: String::new(), address, at, kind, attributes: Vec::new() })
}

/// What somebody writes in a chat of their own with the bot: in a group nobody speaks for the others.
fn of_message(update: &Value, now_ms: f64) -> Option<Event> {
    let message = update.get("message").filter(|message| text(message, "/chat/type") == "private")?;
    let said = text(message, "/text");
    // A command may name its bot: /stop@the_bot.
    let said = if said.starts_with('/') { said.split('@').next().unwrap_or_default() } else { said };
    event(message, now_ms, EventKind::Reply(said.into()))
}

/// Somebody blocks the bot, or a chat removes it.
fn of_membership(update: &Value, now_ms: f64) -> Option<Event> {
    let change = update.get("my_chat_member")?;
    matches!(text(change, "/new_chat_member/status"), "kicked" | "left")
        .then(|| event(change, now_ms, EventKind::OptedOut))?
}
