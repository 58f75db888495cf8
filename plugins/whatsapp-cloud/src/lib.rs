//! Messages of a WhatsApp business phone number, by Meta's Cloud API.

use common::Cache;
use common::contract::sending::{Answer, Outbound, Progress};
use common::contract::types::{Context, PluginError};
use common::provider::{self, Reply, Settings, done, percent, progress};

use crate::bindings::exports::carillon::plugin::describe::{Guest as Describe, Info};
use crate::bindings::exports::carillon::plugin::sender::Guest as Sender;
use crate::message::{Adapter, Config};

mod answer;
mod bindings {
    wit_bindgen::generate!({
        path: "../../wit",
        world: "device-sender",
        with: {
            "carillon:plugin/types@1.0.0": common::contract::types,
            "carillon:plugin/sending@1.0.0": common::contract::sending,
        },
    });
}
mod message;

const API: &str = "https://graph.facebook.com";
const SECRET: &str = "WHATSAPP_TOKEN";

struct Both {
    settings: Settings,
    config: Config,
}

thread_local! {
    static CONFIGS: Cache<Both> = const { Cache::new() };
}

fn read(text: &str) -> Result<Both, PluginError> {
    let both = || Ok(Both { settings: common::parse(text)?, config: common::parse(text)? });
    both().map_err(PluginError::InvalidConfig)
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
            capabilities: vec![("provider-deduplicates".into(), "false".into())],
        }
    }
}

impl Sender for WhatsApp {
    fn start(ctx: Context, message: Outbound) -> Result<Progress, PluginError> {
        let both = CONFIGS.with(|c| c.get(&ctx.config, read))?;
        let Both { settings, config } = &*both;
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
        let both = CONFIGS.with(|c| c.get(&ctx.config, read))?;
        Ok(done(match Reply::to_send(answer, ctx.now) {
            Ok(reply) => answer::outcome(&both.settings, both.config.spam_wait_ms, &reply),
            Err(outcome) => *outcome,
        }))
    }
}

bindings::export!(WhatsApp with_types_in bindings);
