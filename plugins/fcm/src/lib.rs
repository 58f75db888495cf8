//! Push notifications, by the HTTP v1 API of Firebase Cloud Messaging.

use common::contract::sending::{Answer, Outbound, Progress};
use common::contract::types::{Context, PluginError};
use common::provider::{self, Configs, Configured, Reply, done, misfit, percent, progress};

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

const API: &str = "https://fcm.googleapis.com";
const SECRET: &str = "FCM_ACCESS_TOKEN";

thread_local! {
    static CONFIGS: Configs<Config> = const { Configs::new() };
}

fn read(text: &str) -> Result<Configured<Config>, PluginError> {
    let mut read = Configured::<Config>::read(text)?;
    // What FCM asks for when it does not say how long to wait.
    read.settings.retry_after_ms.get_or_insert(60_000.0);
    Ok(read)
}

struct Fcm;

impl Describe for Fcm {
    fn get() -> Info {
        Info {
            name: "fcm".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            summary: "Sends push notifications to apps, by Firebase Cloud Messaging.".into(),
            config_schema: include_str!("config.schema.json").into(),
            adapter_schema: include_str!("adapter.schema.json").into(),
            hosts: vec!["fcm.googleapis.com".into()],
            secrets: vec![SECRET.into()],
            capabilities: vec![("provider-deduplicates".into(), "false".into())],
        }
    }
}

impl Sender for Fcm {
    fn start(ctx: Context, message: Outbound) -> Result<Progress, PluginError> {
        let configured = CONFIGS.with(|c| c.get(&ctx.config, read))?;
        let Configured { settings, config } = &*configured;
        let sent_by = provider::adapter::<Adapter>(&message.device).and_then(|adapter| {
            let token = settings.secret(adapter.secret.as_deref(), SECRET)?;
            let project = adapter.project.or_else(|| config.project.clone());
            Ok((token, project.ok_or_else(|| Box::new(misfit("neither it nor the configuration names a project")))?))
        });
        Ok(match sent_by {
            Ok((token, project)) => {
                let url = format!("{}/v1/projects/{}/messages:send", settings.base(API), percent(&project));
                let (authorization, body) = (Some(format!("Bearer {token}")), config.body(&message));
                progress(provider::request("POST", url, authorization, Some(&body), settings.timeout_ms))
            }
            Err(outcome) => done(*outcome),
        })
    }

    fn resume(ctx: Context, _state: String, answer: Answer) -> Result<Progress, PluginError> {
        let configured = CONFIGS.with(|c| c.get(&ctx.config, read))?;
        Ok(done(match Reply::to_send(answer, ctx.now) {
            Ok(reply) => answer::outcome(&configured.settings, &reply),
            Err(outcome) => *outcome,
        }))
    }
}

bindings::export!(Fcm with_types_in bindings);
