//! A message template: greets by name.

wit_bindgen::generate!({ path: "../../../wit", world: "message-template" });

use carillon::plugin::types::{Content, Context, PluginError};
use exports::carillon::plugin::{describe, template};

struct Greeting;

impl describe::Guest for Greeting {
    fn get() -> describe::Info {
        describe::Info {
            name: "greeting".into(),
            version: "1.0.0".into(),
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
    let name = variables.iter().find(|(column, _)| column == "name").map(|(_, value)| value);
    let name = name.ok_or_else(|| PluginError::InvalidInput("the audience has no column \"name\"".into()))?;
    Ok(Content { text: format!("Hello {name}."), subject: None, media: vec![], attributes: vec![] })
}

export!(Greeting);
