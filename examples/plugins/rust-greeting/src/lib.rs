//! A message template: greets by name.

use carillon_plugin::{Call, Content, Error, Job, Plugin, Result, Template};

#[derive(serde::Deserialize)]
struct Greeting {}

impl Plugin for Greeting {
    const NAME: Option<&str> = Some("greeting");
}

impl Template for Greeting {
    /// One recipient's message. Without a name this message fails, and only this one.
    fn render(&self, _: &Call, job: Job) -> Result<Content> {
        let name = job.recipient.variable("name").ok_or_else(|| Error::input("the audience has no column \"name\""))?;
        Ok(format!("Hello {name}.").into())
    }

    fn variables(&self) -> Vec<String> {
        vec!["name".into()]
    }
}

carillon_plugin::export!(Greeting: Template);
