//! Interface `receipts`, which a sender may have: what its provider's webhook says.

use super::instance::Functions;
use super::stats::Function;
use super::types::{Acceptance, CallContext, Event, EventKind, HttpArrival, Outcome, Parsed, PluginBody, PluginFault};
use super::wire::Context;
use super::{Plugin, wrong_world};
use crate::message::truncate;
use crate::receipt::{AddressKey, Expected, ReceiptKey};

/// The attribute of an accepted message that says what the provider calls its recipient, where that is not the address.
const ADDRESS: &str = "address";

impl Plugin {
    /// Whether the plugin says that it understands its provider's webhooks.
    pub fn reads_receipts(&self) -> bool {
        self.info.can("receipts")
    }

    /// What the provider's reports will find a message by that it has taken; `None` where it cannot report, or gave no id.
    pub fn expects(&self, outcome: &Outcome, address: &str) -> Option<Expected> {
        let (Outcome::Accepted(taken) | Outcome::Delivered(taken)) = outcome else { return None };
        let Acceptance { provider_id, attributes } = taken;
        if !self.reads_receipts() || provider_id.is_empty() {
            return None;
        }
        let called = attributes.iter().find(|(name, _)| name == ADDRESS).map_or(address, |(_, value)| value);
        let name = &self.info.name;
        Some(Expected { key: ReceiptKey::new(name, provider_id), address: AddressKey::new(name, called) })
    }

    /// Reads a request that the provider made.
    ///
    /// # Errors
    /// The call's fault; also when the plugin does not read webhooks, or its answer breaks a limit.
    pub async fn parse(&self, ctx: &CallContext, arrival: HttpArrival) -> Result<Parsed, PluginFault> {
        let context = Context::from(ctx);
        let room = self.limits().events_bytes;
        let parsed = self
            .call(Function::Parse, ctx, room, move |instance| match &instance.functions {
                Functions::Sender { parse: Some(parse), .. } => parse.call(&mut instance.store, (context, arrival)),
                _ => wrong_world(),
            })
            .await?;
        self.checked(Function::Parse, || self.check_parsed(parsed))
    }

    fn check_parsed(&self, mut parsed: Parsed) -> Result<Parsed, PluginFault> {
        let limits = self.limits();
        let response = &parsed.response;
        let body = match &response.body {
            PluginBody::Empty => 0,
            PluginBody::Text(text) => text.len(),
            PluginBody::Bytes(bytes) => bytes.len(),
        };
        for (what, size, max) in [
            ("a request reports at most {} events", parsed.events.len(), limits.events),
            ("the answer to a provider has at most {} bytes", body, limits.response_bytes),
            ("the answer to a provider has at most {} headers", response.headers.len(), limits.headers),
        ] {
            if size > max {
                return Err(PluginFault::Output(what.replace("{}", &max.to_string())));
            }
        }
        if !(200..=599).contains(&response.status) {
            return Err(PluginFault::Output("the answer to a provider has a status from 200 to 599".to_owned()));
        }
        for event in &mut parsed.events {
            let Event { provider_id, at, kind, .. } = event;
            if !at.is_finite() {
                return Err(PluginFault::Output("the time of an event must be finite".to_owned()));
            }
            // As the store keeps it, so that what was cut there is found again.
            truncate(provider_id, 256);
            if let EventKind::Failed(reason) = kind {
                reason.trim();
            }
        }
        Ok(parsed)
    }
}
