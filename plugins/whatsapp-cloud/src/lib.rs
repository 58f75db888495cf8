//! Messages of a WhatsApp business phone number, by Meta's Cloud API.

use common::contract::sending::{Answer, Outbound, Progress};
use common::contract::types::{Context, PluginError};
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
            capabilities: vec![("provider-deduplicates".into(), "false".into()), ("receipts".into(), "true".into())],
        }
    }
}

impl Sender for WhatsApp {
    fn start(ctx: Context, message: Outbound) -> Result<Progress, PluginError> {
        let configured = CONFIGS.with(|c| c.get(&ctx.config, Configured::read))?;
        let Configured { settings, config } = &*configured;
        let body = config.request(&message)?;
        let sent_by = provider::adapter::<Adapter>(&message.device)
            .and_then(|adapter| Ok((settings.secret(adapter.secret.as_deref(), SECRET)?, adapter.phone_number_id)));
        Ok(match sent_by {
            Ok((token, number)) => {
                let (base, version) = (settings.base(API), percent(&config.api_version));
                let url = format!("{base}/{version}/{}/messages", percent(&number));
                let authorization = Some(format!("Bearer {token}"));
                progress(provider::request("POST", url, authorization, Some(&body), settings.timeout_ms))
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

bindings::export!(WhatsApp with_types_in bindings);
