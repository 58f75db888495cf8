//! Cases of calls that failed, and of a sampled share of the others, kept so that they can be run again.
//!
//! The calls come from the plugins without waiting. What becomes of them is done here, one at a time: personal data is taken out,
//! the case is run once to see whether it still does what the call did, and it goes to the store, which keeps the newest of each
//! version.

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::mask::mask;
use super::run::run as carry_out;
use super::{AnswerCase, Call, Case, DeviceCase, MessageCase, PaceCase, RecipientCase, raw};
use crate::config::CaseData;
use crate::core::Core;
use crate::message::truncate;
use crate::plugins::{DeviceFacts, Input, MessageRef, PaceFacts, RecipientFacts, Recorded};
use crate::store::{NewCase, StoreError};

/// The largest case that is kept whole, in bytes of JSON.
const MAX_BYTES: usize = 128 << 10;
/// What of each long text is kept of a larger one, in bytes.
const CUT_TEXT: usize = 4 << 10;

/// Keeps what is recorded until `stop`.
pub async fn run(core: Core, mut recorded: mpsc::Receiver<Recorded>, stop: CancellationToken) {
    loop {
        let next = tokio::select! {
            () = stop.cancelled() => return,
            next = recorded.recv() => next,
        };
        let Some(next) = next else { return stop.cancelled().await };
        if let Err(error) = keep(&core, next).await {
            tracing::debug!(error = format!("{:#}", anyhow::Error::from(error)), "a plugin's call was not kept");
        }
    }
}

async fn keep(core: &Core, recorded: Recorded) -> Result<(), StoreError> {
    let Some(plugin) = core.plugins.by_no(recorded.no) else { return Ok(()) };
    let data = core.config.plugin_case_data;
    let fault = recorded.fault.clone();
    let mut case = Case::from(recorded);
    match data {
        CaseData::None => return Ok(()),
        CaseData::Masked => mask(&mut case),
        CaseData::Full => {}
    }
    let complete = fit(&mut case);
    let ran = carry_out(&plugin, &case, None).await;
    let code = fault.as_ref().map(|fault| fault.code());
    let call = case.call(plugin.kind);
    let new = NewCase {
        plugin: plugin.no,
        at: core.clock.now(),
        call: serde_json::to_value(call).ok().and_then(|word| word.as_str().map(ToOwned::to_owned)).unwrap_or_default(),
        code: code.map(ToOwned::to_owned),
        detail: fault.map(|fault| fault.to_string()),
        masked: data == CaseData::Masked,
        reproduces: ran.failed_as(code),
        complete,
        case: serde_json::to_string(&case).unwrap_or_default(),
    };
    core.store.put_case(&new, core.config.plugin_cases).await
}

/// Cuts the long texts of a case that is too large; whether it is whole.
fn fit(case: &mut Case) -> bool {
    if serde_json::to_string(case).is_ok_and(|text| text.len() <= MAX_BYTES) {
        return true;
    }
    let Case { recipient, content, state, account_state, send_state, answers, device, config, .. } = case;
    let mut texts: Vec<&mut String> = vec![&mut recipient.address, &mut content.text, state, account_state, send_state];
    let (variables, attributes) = (recipient.variables.iter_mut(), content.attributes.iter_mut());
    texts.extend(variables.chain(attributes).chain(device.attributes.iter_mut()).map(|(_, value)| value));
    texts.extend(content.subject.iter_mut().chain(content.media.iter_mut().map(|media| &mut media.url)));
    for answer in answers.iter_mut() {
        let AnswerCase { response, not_sent, unanswered, .. } = answer;
        texts.extend(not_sent.iter_mut().chain(unanswered.iter_mut()));
        if let Some(response) = response {
            response.body_base64 = None;
            texts.push(&mut response.body);
            texts.extend(response.headers.iter_mut().map(|(_, value)| value));
        }
    }
    texts.into_iter().for_each(|text| truncate(text, CUT_TEXT));
    recipient.variables.truncate(100);
    // What cannot be cut and stay JSON.
    for json in [config, &mut device.adapter] {
        if json.get().len() > MAX_BYTES / 4 {
            *json = raw("{}");
        }
    }
    false
}

impl From<Recorded> for Case {
    fn from(recorded: Recorded) -> Self {
        let Recorded { ctx, input, .. } = recorded;
        let mut case = Self { config: raw(&ctx.config), now: ctx.now, random: ctx.random, ..Self::default() };
        match input {
            Input::NextDelay { pace, state } => {
                case.call = Some(Call::NextDelay);
                case.device = DeviceCase::from(pace.device.as_ref());
                case.pace = PaceCase::from(pace);
                case.state = state;
            }
            Input::Render(job) => {
                case.call = Some(Call::Render);
                case.message = MessageCase::from(job.message.as_ref());
                case.recipient = RecipientCase::from(job.recipient.as_ref());
                case.device = DeviceCase::from(job.device.as_ref());
                case.job_random = job.random;
            }
            Input::Variables => case.call = Some(Call::Variables),
            Input::Start { lookup, message } => {
                case.call = Some(if lookup { Call::Lookup } else { Call::Send });
                case.message = MessageCase::from(message.message.as_ref());
                case.recipient = RecipientCase::from(message.recipient.as_ref());
                case.device = DeviceCase::from(message.device.as_ref());
                case.content = message.content.clone().into();
                case.account_state = message.account_state.clone();
            }
            Input::Resume { lookup, state, answer } => {
                case.call = Some(if lookup { Call::LookupResume } else { Call::Resume });
                case.send_state = state;
                case.answers = vec![AnswerCase::from(answer.as_ref())];
            }
            Input::StartHealth(subject) => {
                case.call = Some(Call::Health);
                case.device = DeviceCase::from(subject.device.as_ref());
                case.account_state = subject.account_state.clone();
            }
            Input::ResumeHealth { state, answer } => {
                case.call = Some(Call::HealthResume);
                case.send_state = state;
                case.answers = vec![AnswerCase::from(answer.as_ref())];
            }
        }
        case
    }
}

impl From<&MessageRef> for MessageCase {
    fn from(message: &MessageRef) -> Self {
        Self {
            id: message.id.clone(),
            campaign: message.campaign.to_string(),
            sequence_step: message.sequence_step,
            attempt: message.attempt,
        }
    }
}

impl From<&RecipientFacts> for RecipientCase {
    fn from(recipient: &RecipientFacts) -> Self {
        Self {
            address: recipient.address.clone(),
            locale: recipient.locale.clone(),
            zone: recipient.zone.clone(),
            variables: recipient.variables.clone(),
        }
    }
}

impl From<&DeviceFacts> for DeviceCase {
    fn from(device: &DeviceFacts) -> Self {
        Self {
            id: device.id.clone(),
            channel: device.channel.clone(),
            adapter: raw(&device.adapter),
            attributes: device.attributes.clone(),
        }
    }
}

impl From<PaceFacts> for PaceCase {
    fn from(pace: PaceFacts) -> Self {
        Self {
            minute_of_day: pace.minute_of_day,
            sent_this_minute: pace.sent_this_minute,
            sent_this_hour: pace.sent_this_hour,
            sent_today: pace.sent_today,
            age_days: pace.age_days,
            failures_in_a_row: pace.failures_in_a_row,
            last_delay_ms: pace.last_delay_ms,
            last_outcome: pace.last_outcome,
            backlog: pace.backlog,
            text_length: pace.text_length,
            attributes: pace.attributes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_case_is_cut_and_says_so() {
        let mut small = Case::default();
        assert!(fit(&mut small));
        let mut large = Case::default();
        large.content.text = "x".repeat(200_000);
        large.account_state = "y".repeat(16_000);
        assert!(!fit(&mut large));
        assert!(serde_json::to_string(&large).unwrap().len() <= MAX_BYTES);
    }
}
