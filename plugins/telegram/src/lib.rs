//! Messages of a Telegram bot, by its Bot API.

use common::contract::sending::{Answer, Outbound, Progress};
use common::contract::types::{Context, PluginError};
use common::provider::{self, Configs, Configured, Reply, done, progress};

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
            capabilities: vec![("provider-deduplicates".into(), "false".into()), ("receipts".into(), "true".into())],
        }
    }
}

impl Sender for Telegram {
    fn start(ctx: Context, message: Outbound) -> Result<Progress, PluginError> {
        let configured = CONFIGS.with(|c| c.get(&ctx.config, Configured::read))?;
        let Configured { settings, config } = &*configured;
        let (method, body) = config.request(&message)?;
        let token = provider::adapter::<Adapter>(&message.device)
            .and_then(|adapter| settings.secret(adapter.secret.as_deref(), SECRET));
        Ok(match token {
            Ok(token) => {
                let url = format!("{}/bot{token}/{method}", settings.base(API));
                progress(provider::request("POST", url, None, Some(&body), settings.timeout_ms))
            }
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

bindings::export!(Telegram with_types_in bindings);
