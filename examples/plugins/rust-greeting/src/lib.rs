//! A message template: greets by name. The configuration is ignored; a real template would read it as JSON.

wit_bindgen::generate!({ path: "../../../wit", world: "message-template" });

use carillon::plugin::types::{Content, Context, PluginError};
use exports::carillon::plugin::{describe, template};

struct Greeting;

impl describe::Guest for Greeting {
    fn get() -> describe::Info {
        describe::Info {
            name: "greeting".into(),
            version: if cfg!(feature = "louder") { "1.1.0" } else { "1.0.0" }.into(),
            summary: "Greets by name.".into(),
            config_schema: r#"{"type":"object"}"#.into(),
            adapter_schema: String::new(),
            hosts: vec![],
            secrets: vec![],
            capabilities: vec![],
        }
    }
}

impl template::Guest for Greeting {
    fn render(_ctx: Context, jobs: Vec<template::Job>) -> Result<Vec<Result<Content, PluginError>>, PluginError> {
        Ok(jobs.into_iter().map(|job| greet(&job.recipient.variables)).collect())
    }

    fn variables(_ctx: Context) -> Result<Vec<String>, PluginError> {
        Ok(vec!["name".into()])
    }
}

/// One recipient's message. Without a name this message fails, and only this one.
fn greet(variables: &[(String, String)]) -> Result<Content, PluginError> {
    let Some((_, name)) = variables.iter().find(|(column, _)| column == "name") else {
        return Err(PluginError::InvalidInput("the audience has no column \"name\"".into()));
    };
    let text =
        if cfg!(feature = "louder") { format!("HELLO {}!!!", name.to_uppercase()) } else { format!("Hello {name}.") };
    Ok(Content { text, subject: None, media: vec![], attributes: vec![] })
}

export!(Greeting);
