//! The plugin `jinja` for Extism. What it gets and answers is JSON, as is usual there; configurations are kept as in the plugin.

use carillon_plugin::{Cache, Device, Job, MessageRef, Recipient};
use extism_pdk::{FnResult, Json, plugin_fn};
use serde::{Deserialize, Serialize};

use crate::template::Compiled;

// Not all of it is called here.
#[allow(dead_code)]
#[path = "../../../../plugins/jinja/src/template.rs"]
mod template;

#[derive(Deserialize)]
struct Input {
    config: String,
    jobs: Vec<OneJob>,
}

#[derive(Deserialize)]
struct OneJob {
    message: Message,
    recipient: To,
    device: Phone,
    random: u32,
}

#[derive(Deserialize)]
struct Message {
    id: String,
    campaign: String,
    sequence_step: Option<u32>,
    attempt: u32,
}

#[derive(Deserialize)]
struct To {
    address: String,
    locale: Option<String>,
    zone: Option<String>,
    variables: Vec<(String, String)>,
}

#[derive(Deserialize)]
struct Phone {
    id: String,
    channel: String,
    adapter: String,
    attributes: Vec<(String, String)>,
}

#[derive(Serialize)]
struct Output {
    text: String,
    subject: Option<String>,
    media: Vec<(String, String)>,
    attributes: Vec<(String, String)>,
}

impl OneJob {
    fn job(self) -> Job {
        let Message { id, campaign, sequence_step, attempt } = self.message;
        let To { address, locale, zone, variables } = self.recipient;
        let message = MessageRef { id, campaign, sequence_step, attempt };
        let recipient = Recipient { address, locale, zone, variables };
        let Phone { id, channel, adapter, attributes } = self.device;
        Job { message, recipient, device: Device { id, channel, adapter, attributes }, random: self.random }
    }
}

thread_local! {
    static KEPT: Cache<Compiled> = const { Cache::new() };
}

#[plugin_fn]
pub fn render(Json(input): Json<Input>) -> FnResult<Json<Vec<Result<Output, String>>>> {
    let compiled = KEPT
        .with(|kept| kept.get(&input.config, |config| carillon_plugin::parse::<Compiled>("the configuration", config)))
        .map_err(extism_pdk::Error::msg)?;
    let one = |job: OneJob| match compiled.message(job.job()) {
        Ok(content) => {
            let media = content.media.into_iter().map(|media| (media.kind, media.url)).collect();
            Ok(Output { text: content.text, subject: content.subject, media, attributes: content.attributes })
        }
        Err(error) => Err(format!("{error:?}")),
    };
    Ok(Json(input.jobs.into_iter().map(one).collect()))
}
