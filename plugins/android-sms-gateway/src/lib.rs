//! SMS through Android phones, by the app SMS Gateway for Android: directly, or through its cloud or a private server.

use common::contract::checks::{self, Health};
use common::contract::health::{self, CheckProgress, Subject};
use common::contract::sending::{Answer, Outbound, Progress, Scope, Step};
use common::contract::types::{Context, PluginError};
use common::provider::{self, Configs, Configured, Reply, Settings, Usual as _, done, progress};

use crate::answer::Seen;
use crate::bindings::exports::carillon::plugin::describe::{Guest as Describe, Info};
use crate::bindings::exports::carillon::plugin::lookup::Guest as Lookup;
use crate::bindings::exports::carillon::plugin::receipts::{Guest as Receipts, HttpArrival, Parsed};
use crate::bindings::exports::carillon::plugin::sender::Guest as Sender;
use crate::message::{Config, Mode, Way};

mod answer;
mod bindings {
    wit_bindgen::generate!({
        path: "../../wit",
        world: "full-sender",
        with: {
            "carillon:plugin/types@1.0.0": common::contract::types,
            "carillon:plugin/sending@1.0.0": common::contract::sending,
        },
    });
}
mod message;
mod webhook;

const SECRET: &str = "SMS_GATEWAY";

thread_local! {
    static CONFIGS: Configs<Config> = const { Configs::new() };
}

struct SmsGateway;

impl Describe for SmsGateway {
    fn get() -> Info {
        Info {
            name: "android-sms-gateway".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            summary: "Sends SMS through Android phones, by the app SMS Gateway for Android.".into(),
            config_schema: include_str!("config.schema.json").into(),
            adapter_schema: include_str!("adapter.schema.json").into(),
            hosts: vec!["api.sms-gate.app".into()],
            secrets: vec![SECRET.into()],
            // The message's id is the gateway's key: a second request with it is refused.
            capabilities: [
                ("provider-deduplicates", "true"),
                ("lookup", "true"),
                ("receipts", "true"),
                ("health", "true"),
            ]
            .map(|(name, value)| (name.into(), value.into()))
            .into(),
        }
    }
}

/// Asks what became of a message; `way` is where, as [`Way::keep`] wrote it.
fn ask(way: &Way, settings: &Settings) -> Step {
    provider::request("GET", way.message_url.clone(), Some(way.authorization.clone()), None, settings.timeout_ms)
}

impl Sender for SmsGateway {
    fn start(ctx: Context, message: Outbound) -> Result<Progress, PluginError> {
        let configured = CONFIGS.with(|c| c.get(&ctx.config, Configured::read))?;
        let Configured { settings, config } = &*configured;
        if !message.content.media.is_empty() {
            return Err(PluginError::InvalidInput("an SMS has no attachments".into()));
        }
        let (way, adapter) = match config.way(settings, &message, SECRET) {
            Ok(found) => found,
            Err(outcome) => return Ok(done(*outcome)),
        };
        let body = config.body(&message, &adapter);
        let authorization = Some(way.authorization.clone());
        let mut step = provider::request("POST", way.send_url.clone(), authorization, Some(&body), settings.timeout_ms);
        if let Step::Request(round) = &mut step {
            round.state = way.keep();
        }
        Ok(progress(step))
    }

    fn resume(ctx: Context, state: String, answer: Answer) -> Result<Progress, PluginError> {
        let configured = CONFIGS.with(|c| c.get(&ctx.config, Configured::read))?;
        let Configured { settings, config } = &*configured;
        // Without a state this is the answer to the second question.
        let Some(way) = Way::kept(&state) else {
            return Ok(done(match Reply::to_lookup(answer, ctx.now) {
                Ok(reply) => answer::looked_up(&reply, Seen::Before),
                Err(outcome) => *outcome,
            }));
        };
        if let (Answer::NotSent(why), Mode::Local) = (&answer, config.mode) {
            // Nobody else can send what waits for a phone that is off.
            return Ok(done(provider::down(None, provider::failure("not-sent", why.as_str()))));
        }
        let reply = match Reply::to_send(answer, ctx.now) {
            Ok(reply) => reply,
            Err(outcome) => return Ok(done(*outcome)),
        };
        if reply.status == 409 {
            // It has the message from an attempt before this one: what became of it?
            return Ok(progress(ask(&way, settings)));
        }
        Ok(done(answer::outcome(settings, &reply).unwrap_or_else(|| reply.usual(settings, Scope::Device))))
    }
}

impl Lookup for SmsGateway {
    fn start(ctx: Context, message: Outbound) -> Result<Progress, PluginError> {
        let configured = CONFIGS.with(|c| c.get(&ctx.config, Configured::read))?;
        Ok(match configured.config.way(&configured.settings, &message, SECRET) {
            Ok((way, _)) => progress(ask(&way, &configured.settings)),
            Err(outcome) => done(*outcome),
        })
    }

    fn resume(ctx: Context, _state: String, answer: Answer) -> Result<Progress, PluginError> {
        Ok(done(match Reply::to_lookup(answer, ctx.now) {
            Ok(reply) => answer::looked_up(&reply, Seen::Perhaps),
            Err(outcome) => *outcome,
        }))
    }
}

impl Receipts for SmsGateway {
    fn parse(ctx: Context, request: HttpArrival) -> Result<Parsed, PluginError> {
        webhook::parse(&ctx, &request)
    }
}

impl Health for SmsGateway {
    fn start(ctx: Context, subject: Subject) -> Result<CheckProgress, PluginError> {
        let configured = CONFIGS.with(|c| c.get(&ctx.config, Configured::read))?;
        let Configured { settings, config } = &*configured;
        let (base, adapter, authorization) = match config.base(settings, &subject.device, SECRET) {
            Ok(found) => found,
            Err(outcome) => return Ok(health::done(provider::verdict(*outcome))),
        };
        let what = match config.mode {
            Mode::Cloud => "devices",
            Mode::Local => "health",
        };
        let url = format!("{base}/{what}");
        let mut step = provider::request("GET", url, Some(authorization), None, settings.timeout_ms);
        if let (Step::Request(round), Some(id)) = (&mut step, adapter.device_id) {
            round.state = id;
        }
        Ok(provider::check(step))
    }

    fn resume(ctx: Context, state: String, answer: Answer) -> Result<CheckProgress, PluginError> {
        let configured = CONFIGS.with(|c| c.get(&ctx.config, Configured::read))?;
        let config = &configured.config;
        if let (Answer::NotSent(why), Mode::Local) = (&answer, config.mode) {
            return Ok(health::done(health::down(None, provider::failure("not-sent", why.as_str()))));
        }
        Ok(provider::checked(answer, ctx.now, |reply| match config.mode {
            Mode::Cloud => answer::seen(reply, &state, ctx.now, config.seen_within_ms()),
            Mode::Local => answer::phone(reply),
        }))
    }
}

bindings::export!(SmsGateway with_types_in bindings);
checks::export!(SmsGateway with_types_in checks);
