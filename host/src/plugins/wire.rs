//! The shapes of the WIT that differ from the host's own types, and the functions that each world must export.

// The derives emit `unsafe impl`s, sound by construction (the macro computes them from the fields).
#![allow(unsafe_code)]

use std::sync::Arc;

use wasmtime::component::{ComponentType, Lift, Lower};

use super::types::{
    Answer, Attributes, CallContext, Content, DeviceFacts, HttpArrival, Outbound, Outcome, PaceFacts, Parsed,
    PluginFault, Progress, RenderJob,
};
use crate::device::LastOutcome;
use crate::message::truncate;

#[derive(ComponentType, Lower, Clone)]
#[component(record)]
pub(super) struct Context {
    config: Arc<str>,
    now: f64,
    random: u32,
}

impl From<&CallContext> for Context {
    #[allow(clippy::cast_precision_loss)] // Milliseconds of today fit a float's 53 bits for 280,000 years.
    fn from(ctx: &CallContext) -> Self {
        Self { config: Arc::clone(&ctx.config), now: ctx.now.as_ms() as f64, random: ctx.random }
    }
}

#[derive(ComponentType, Lift)]
#[component(variant)]
pub(super) enum PluginError {
    #[component(name = "invalid-config")]
    InvalidConfig(String),
    #[component(name = "invalid-input")]
    InvalidInput(String),
    #[component(name = "internal")]
    Internal(String),
}

impl From<PluginError> for PluginFault {
    fn from(error: PluginError) -> Self {
        let cut = |mut text: String| {
            truncate(&mut text, 500);
            text
        };
        match error {
            PluginError::InvalidConfig(text) => Self::InvalidConfig(cut(text)),
            PluginError::InvalidInput(text) => Self::InvalidInput(cut(text)),
            PluginError::Internal(text) => Self::Internal(cut(text)),
        }
    }
}

#[derive(ComponentType, Lift)]
#[component(record)]
pub(super) struct Info {
    pub name: String,
    pub version: String,
    pub summary: String,
    #[component(name = "config-schema")]
    pub config_schema: String,
    #[component(name = "adapter-schema")]
    pub adapter_schema: String,
    pub hosts: Vec<String>,
    pub secrets: Vec<String>,
    pub capabilities: Vec<(String, String)>,
}

#[derive(ComponentType, Lower, Clone, Copy)]
#[component(enum)]
#[repr(u8)]
pub(super) enum Last {
    #[component(name = "none")]
    None,
    #[component(name = "sent")]
    Sent,
    #[component(name = "retried")]
    Retried,
    #[component(name = "failed")]
    Failed,
    #[component(name = "throttled")]
    Throttled,
}

#[derive(ComponentType, Lower)]
#[component(record)]
pub(super) struct Pace {
    device: Arc<DeviceFacts>,
    #[component(name = "minute-of-day")]
    minute_of_day: u32,
    #[component(name = "sent-this-minute")]
    sent_this_minute: u32,
    #[component(name = "sent-this-hour")]
    sent_this_hour: u32,
    #[component(name = "sent-today")]
    sent_today: u32,
    #[component(name = "age-days")]
    age_days: u32,
    #[component(name = "failures-in-a-row")]
    failures_in_a_row: u32,
    #[component(name = "last-delay-ms")]
    last_delay_ms: f64,
    #[component(name = "last-outcome")]
    last_outcome: Last,
    backlog: u32,
    #[component(name = "text-length")]
    text_length: u32,
    attributes: Attributes,
}

impl From<PaceFacts> for Pace {
    fn from(facts: PaceFacts) -> Self {
        Self {
            device: facts.device,
            minute_of_day: facts.minute_of_day,
            sent_this_minute: facts.sent_this_minute,
            sent_this_hour: facts.sent_this_hour,
            sent_today: facts.sent_today,
            age_days: facts.age_days,
            failures_in_a_row: facts.failures_in_a_row,
            last_delay_ms: facts.last_delay_ms,
            last_outcome: match facts.last_outcome {
                LastOutcome::None => Last::None,
                LastOutcome::Sent => Last::Sent,
                LastOutcome::Retried => Last::Retried,
                LastOutcome::Failed => Last::Failed,
                LastOutcome::Throttled => Last::Throttled,
            },
            backlog: facts.backlog,
            text_length: facts.text_length,
            attributes: facts.attributes,
        }
    }
}

#[derive(ComponentType, Lift)]
#[component(record)]
pub(super) struct Next {
    #[component(name = "delay-ms")]
    pub delay_ms: f64,
    pub state: String,
}

type Reply<T> = (Result<T, PluginError>,);

/// Arguments and results of `describe.get`.
pub(super) type Get = ((), (Info,));
/// Arguments and results of `delay.next-delay`.
pub(super) type NextDelay = ((Context, Pace, String), Reply<Next>);
/// Arguments and results of `template.render`.
pub(super) type Render = ((Context, Vec<RenderJob>), Reply<Vec<Result<Content, PluginError>>>);
/// Arguments and results of `template.variables`.
pub(super) type Variables = ((Context,), Reply<Vec<String>>);
/// Arguments and results of `start`: a send's and a look-up's, or a check's.
pub(super) type Start<Subject = Outbound, End = Outcome> = ((Context, Arc<Subject>), Reply<Progress<End>>);
/// Arguments and results of `resume`.
pub(super) type Resume<End = Outcome> = ((Context, String, Arc<Answer>), Reply<Progress<End>>);
/// Arguments and results of `receipts.parse`.
pub(super) type Parse = ((Context, HttpArrival), Reply<Parsed>);
