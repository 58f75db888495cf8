//! Messages of a Telegram bot, by its Bot API.

use common::contract::checks::{self, Health};
use common::contract::health::{self, CheckProgress, Subject};
use common::contract::sending::{Answer, Outbound, Outcome, Progress};
use common::contract::types::{Context, Device, PluginError};
use common::provider::{self, Configs, Configured, Reply, Settings, done, progress};

use crate::bindings::exports::carillon::plugin::describe::{Guest as Describe, Info};
use crate::bindings::exports::carillon::plugin::receipts::{Guest as Receipts, HttpArrival, Parsed};
use crate::bindings::exports::carillon::plugin::sender::Guest as Sender;
use crate::message::{Adapter, Config};

mod answer;
mod bindings {
    wit_bindgen::generate!({
        path: "../../wit",
        world: "device-sender-receipts",
        with: {
            "carillon:plugin/types@1.0.0": common::contract::types,
            "carillon:plugin/sending@1.0.0": common::contract::sending,
        },
    });
}
mod message;
mod webhook;

const API: &str = "https://api.telegram.org";
const SECRET: &str = "TELEGRAM_BOT_TOKEN";

thread_local! {
    static CONFIGS: Configs<Config> = const { Configs::new() };
}

struct Telegram;

impl Describe for Telegram {
    fn get() -> Info {
        Info {
            name: "telegram".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            summary: "Sends as a Telegram bot, by the Bot API.".into(),
            config_schema: include_str!("config.schema.json").into(),
            adapter_schema: include_str!("adapter.schema.json").into(),
            hosts: vec!["api.telegram.org".into()],
            secrets: vec![SECRET.into()],
            capabilities: [("provider-deduplicates", "false"), ("receipts", "true"), ("health", "true")]
                .map(|(name, value)| (name.into(), value.into()))
                .into(),
        }
    }
}

/// The address of a method of the device's bot.
fn method_url(settings: &Settings, device: &Device, method: &str) -> Result<String, Box<Outcome>> {
    let adapter = provider::adapter::<Adapter>(device)?;
    let token = settings.secret(adapter.secret.as_deref(), SECRET)?;
    Ok(format!("{}/bot{token}/{method}", settings.base(API)))
}

impl Sender for Telegram {
    fn start(ctx: Context, message: Outbound) -> Result<Progress, PluginError> {
        let configured = CONFIGS.with(|c| c.get(&ctx.config, Configured::read))?;
        let Configured { settings, config } = &*configured;
        let (method, body) = config.request(&message)?;
        Ok(match method_url(settings, &message.device, method) {
            Ok(url) => progress(provider::request("POST", url, None, Some(&body), settings.timeout_ms)),
            Err(outcome) => done(*outcome),
        })
    }

    fn resume(ctx: Context, _state: String, answer: Answer) -> Result<Progress, PluginError> {
        let configured = CONFIGS.with(|c| c.get(&ctx.config, Configured::read))?;
        Ok(done(match Reply::to_send(answer, ctx.now) {
            Ok(reply) => answer::outcome(&configured.settings, &reply),
            Err(outcome) => *outcome,
        }))
    }
}

impl Receipts for Telegram {
    fn parse(ctx: Context, request: HttpArrival) -> Result<Parsed, PluginError> {
        webhook::parse(&ctx, &request)
    }
}

impl Health for Telegram {
    fn start(ctx: Context, subject: Subject) -> Result<CheckProgress, PluginError> {
        let configured = CONFIGS.with(|c| c.get(&ctx.config, Configured::read))?;
        let settings = &configured.settings;
        Ok(match method_url(settings, &subject.device, "getMe") {
            Ok(url) => provider::check(provider::request("GET", url, None, None, settings.timeout_ms)),
            Err(outcome) => health::done(provider::verdict(*outcome)),
        })
    }

    fn resume(ctx: Context, _state: String, answer: Answer) -> Result<CheckProgress, PluginError> {
        Ok(provider::checked(answer, ctx.now, answer::verdict))
    }
}

bindings::export!(Telegram with_types_in bindings);
checks::export!(Telegram with_types_in checks);
