//! Messages from Jinja templates: variables, filters, conditionals, and variants by the recipient's language.

use carillon_plugin::{Call, Content, Job, Plugin, Result, Template};

use crate::template::Compiled;

#[cfg(feature = "greetings")]
#[path = "../../jinja-next/src/greeting.rs"]
mod greeting;
mod template;

impl Plugin for Compiled {
    const NAME: Option<&str> = Some("jinja");
    const CONFIG_SCHEMA: &str = include_str!("config.schema.json");
}

impl Template for Compiled {
    fn render(&self, _: &Call, job: Job) -> Result<Content> {
        self.message(job)
    }

    fn variables(&self) -> Vec<String> {
        self.columns()
    }
}

carillon_plugin::export!(Compiled: Template);
