//! Messages of a WhatsApp business phone number, by Meta's Cloud API.

use common::contract::checks::{self, Health};
use common::contract::health::{self, CheckProgress, Subject};
use common::contract::sending::{Answer, Outbound, Outcome, Progress};
use common::contract::types::{Context, Device, PluginError};
use common::provider::{self, Configs, Configured, Reply, done, percent, progress};

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

const API: &str = "https://graph.facebook.com";
const SECRET: &str = "WHATSAPP_TOKEN";

thread_local! {
    static CONFIGS: Configs<Config> = const { Configs::new() };
}

struct WhatsApp;

impl Describe for WhatsApp {
    fn get() -> Info {
        Info {
            name: "whatsapp-cloud".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            summary: "Sends WhatsApp messages from a business phone number, by Meta's Cloud API.".into(),
            config_schema: include_str!("config.schema.json").into(),
            adapter_schema: include_str!("adapter.schema.json").into(),
            hosts: vec!["graph.facebook.com".into()],
            secrets: vec![SECRET.into()],
            capabilities: [("provider-deduplicates", "false"), ("receipts", "true"), ("health", "true")]
                .map(|(name, value)| (name.into(), value.into()))
                .into(),
        }
    }
}

/// The address of a device's number, and what its requests are authorized with.
fn number(configured: &Configured<Config>, device: &Device) -> Result<(String, String), Box<Outcome>> {
    let Configured { settings, config } = configured;
    let adapter = provider::adapter::<Adapter>(device)?;
    let token = settings.secret(adapter.secret.as_deref(), SECRET)?;
    let (base, version) = (settings.base(API), percent(&config.api_version));
    Ok((format!("{base}/{version}/{}", percent(&adapter.phone_number_id)), format!("Bearer {token}")))
}

impl Sender for WhatsApp {
    fn start(ctx: Context, message: Outbound) -> Result<Progress, PluginError> {
        let configured = CONFIGS.with(|c| c.get(&ctx.config, Configured::read))?;
        let Configured { settings, config } = &*configured;
        let body = config.request(&message)?;
        Ok(match number(&configured, &message.device) {
            Ok((number, authorization)) => {
                let url = format!("{number}/messages");
                progress(provider::request("POST", url, Some(authorization), Some(&body), settings.timeout_ms))
            }
            Err(outcome) => done(*outcome),
        })
    }

    fn resume(ctx: Context, _state: String, answer: Answer) -> Result<Progress, PluginError> {
        let configured = CONFIGS.with(|c| c.get(&ctx.config, Configured::read))?;
        Ok(done(match Reply::to_send(answer, ctx.now) {
            Ok(reply) => answer::outcome(&configured.settings, configured.config.spam_wait_ms, &reply),
            Err(outcome) => *outcome,
        }))
    }
}

impl Receipts for WhatsApp {
    fn parse(ctx: Context, request: HttpArrival) -> Result<Parsed, PluginError> {
        let configured = CONFIGS.with(|c| c.get(&ctx.config, Configured::read))?;
        webhook::parse(&ctx, configured.config.verify_token.as_deref(), &request)
    }
}

impl Health for WhatsApp {
    fn start(ctx: Context, subject: Subject) -> Result<CheckProgress, PluginError> {
        let configured = CONFIGS.with(|c| c.get(&ctx.config, Configured::read))?;
        Ok(match number(&configured, &subject.device) {
            Ok((number, authorization)) => {
                let url = format!("{number}?fields=health_status");
                let timeout_ms = configured.settings.timeout_ms;
                provider::check(provider::request("GET", url, Some(authorization), None, timeout_ms))
            }
            Err(outcome) => health::done(provider::verdict(*outcome)),
        })
    }

    fn resume(ctx: Context, _state: String, answer: Answer) -> Result<CheckProgress, PluginError> {
        let configured = CONFIGS.with(|c| c.get(&ctx.config, Configured::read))?;
        Ok(provider::checked(answer, ctx.now, |reply| answer::verdict(&configured.settings, reply)))
    }
}

bindings::export!(WhatsApp with_types_in bindings);
checks::export!(WhatsApp with_types_in checks);
