//! Messages from Jinja templates: variables, filters, conditionals, and variants by the recipient's language.

use common::Cache;

use crate::bindings::carillon::plugin::types::{Content, Context, PluginError};
use crate::bindings::exports::carillon::plugin::describe::{Guest as Describe, Info};
use crate::bindings::exports::carillon::plugin::template::{Guest as Template, Job};
use crate::template::Compiled;

#[cfg(feature = "greetings")]
#[path = "../../jinja-next/src/greeting.rs"]
mod greeting;
mod template;

mod bindings {
    wit_bindgen::generate!({ path: "../../wit", world: "message-template" });
}

thread_local! {
    static CONFIGS: Cache<Compiled> = const { Cache::new() };
}

struct Jinja;

impl Describe for Jinja {
    fn get() -> Info {
        Info {
            name: "jinja".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            summary: "Messages from Jinja templates: variables, filters, conditionals, and variants by language."
                .into(),
            config_schema: include_str!("config.schema.json").into(),
            adapter_schema: String::new(),
            hosts: Vec::new(),
            secrets: Vec::new(),
            capabilities: Vec::new(),
        }
    }
}

impl Template for Jinja {
    fn render(ctx: Context, jobs: Vec<Job>) -> Result<Vec<Result<Content, PluginError>>, PluginError> {
        let config = CONFIGS.with(|c| c.get(&ctx.config, Compiled::read))?;
        Ok(jobs.into_iter().map(|job| config.render(job)).collect())
    }

    fn variables(ctx: Context) -> Result<Vec<String>, PluginError> {
        Ok(CONFIGS.with(|c| c.get(&ctx.config, Compiled::read))?.variables())
    }
}

bindings::export!(Jinja with_types_in bindings);
