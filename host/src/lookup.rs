//! Look-ups: whether a message whose outcome is unknown was sent, asked of its provider through the sender.
//!
//! A look-up goes the way of a send (the same steps, limits and egress rules) without being one: it holds no lease, waits
//! for no pace and counts as no attempt.

use std::sync::Arc;

use crate::campaign::{Run, RunOwner};
use crate::core::Core;
use crate::device::Device;
use crate::exchange::Inquiry;
use crate::message::{MessageRow, Reason, Recipient, Settled};
use crate::plugins::{Content, DeviceFacts, Failure, MessageRef, Outbound, Outcome, Plugin, RecipientFacts};
use crate::store::StoreError;
use crate::workers::verdict::{Ended, Facts, Verdict};

/// What a look-up came to.
#[derive(Debug)]
pub enum Found {
    /// The provider could tell.
    Proved(Box<Verdict>),
    /// It could not: the outcome stays unknown, for this reason.
    Nothing(Reason),
    /// There is no way to ask, for this reason.
    Cannot(String),
}

/// Looks up whether an unknown message was sent.
///
/// # Errors
/// When the store is away.
pub async fn look_up(core: &Core, run: &Run, message: &MessageRow) -> Result<Found, StoreError> {
    let Some(device) = core.store.device(&message.device).await? else {
        return Ok(Found::Cannot(format!("device {} is gone", message.device)));
    };
    let Some(used) = run.plan.sender.as_ref().or(device.spec.sender.as_ref()) else {
        return Ok(Found::Cannot(format!("neither the campaign nor device {} names a sender", message.device)));
    };
    let Some(plugin) = core.plugins.resolve(&used.plugin, used.version.as_deref()) else {
        return Ok(Found::Cannot(format!("the sender plugin {} is not there or cannot be loaded", used.plugin)));
    };
    if !plugin.can_look_up() {
        let info = &plugin.info;
        return Ok(Found::Cannot(format!("the sender {} {} cannot look messages up", info.name, info.version)));
    }
    let Some(recipient) = recipient(core, run, message).await? else {
        return Ok(Found::Cannot("its contact is gone".to_owned()));
    };
    let outcome = match ask(core, &plugin, used.config.get(), outbound(run, message, &recipient, &device)).await {
        Ok(outcome) => outcome,
        Err(reason) => return Ok(Found::Nothing(reason)),
    };
    let nothing = |failure: Failure| Ok(Found::Nothing(Reason::new(failure.code, failure.detail)));
    match outcome {
        Outcome::Unknown(failure) | Outcome::AccountBlocked(failure) => nothing(failure),
        // They are about the look-up, not about the message.
        Outcome::RetryAfter(pause) => nothing(pause.reason),
        Outcome::DeviceDown(outage) => nothing(outage.reason),
        told => {
            // Before the message is resolved: should that fail, a row that nobody needs is left.
            if core.plugins.is_listened_to(&plugin.info.name)
                && let Some(expected) = plugin.expects(&told, &recipient.address)
            {
                core.store.expect_receipts(&[(message.id, expected)]).await?;
            }
            Ok(Found::Proved(Box::new(judge(core, run, message, &recipient, &device.spec.channel, told))))
        }
    }
}

/// What becomes of an unknown message that certainly was not sent: again under the retry policy, or failed.
pub fn not_sent(core: &Core, run: &Run, message: &MessageRow, reason: Reason) -> Settled {
    let recipient = Recipient { address: String::new(), locale: None, zone: None, variables: Vec::new() };
    let failure = Failure { code: reason.code, detail: reason.detail, attributes: Vec::new() };
    judge(core, run, message, &recipient, "", Outcome::Transient(failure)).settled
}

fn judge(
    core: &Core,
    run: &Run,
    message: &MessageRow,
    recipient: &Recipient,
    channel: &str,
    outcome: Outcome,
) -> Verdict {
    let facts = Facts {
        retry: &run.plan.retry,
        delivery: run.plan.delivery,
        provider_deduplicates: false,
        failures: message.failures,
        recipient,
        channel,
        now: core.clock.now(),
        random: rand::random(),
    };
    facts.judge(Ended::Outcome(outcome))
}

async fn recipient(core: &Core, run: &Run, message: &MessageRow) -> Result<Option<Recipient>, StoreError> {
    let no = message.id.contact();
    let found = core.store.contacts(run.audience, no.saturating_sub(1), 1).await?.pop().filter(|(n, _)| *n == no);
    Ok(found.map(|(_, contact)| Recipient {
        address: contact.address,
        locale: contact.locale,
        zone: contact.zone,
        variables: serde_json::from_str(&contact.variables).unwrap_or_default(),
    }))
}

fn outbound(run: &Run, message: &MessageRow, recipient: &Recipient, device: &Device) -> Outbound {
    let (campaign, sequence_step) = match run.owner {
        RunOwner::Campaign(id) => (id.to_string(), None),
        RunOwner::Step { step, .. } => (run.name.clone(), Some(step)),
    };
    Outbound {
        message: Arc::new(MessageRef {
            id: message.id.to_string(),
            campaign: campaign.into(),
            sequence_step,
            attempt: message.attempt,
        }),
        recipient: Arc::new(RecipientFacts::of(recipient)),
        content: Content { text: String::new(), subject: None, media: Vec::new(), attributes: Vec::new() },
        device: Arc::new(DeviceFacts::of(device)),
        account_state: String::new(),
    }
}

/// What the sender says; an error says why it cannot.
async fn ask(core: &Core, plugin: &Plugin, config: &str, message: Outbound) -> Result<Outcome, Reason> {
    let config = &config.into();
    let inquiry = Inquiry { core, plugin, config, name: "look-up", timeout: "lookup-timeout", has_place: false };
    let context = inquiry.context();
    let resume = |ctx, state: String, answer| async move { plugin.resume_lookup(&ctx, &state, answer).await };
    // What the sender keeps for the account stays with the workers.
    let learned = inquiry.ask(plugin.start_lookup(&context, message), resume).await;
    learned.end.map_err(|unclear| Reason::new(unclear.code, unclear.detail))
}
