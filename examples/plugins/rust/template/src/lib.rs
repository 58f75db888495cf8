//! A message template: a text in which `{name}` stands for the recipient's value in the audience's column `name`.

wit_bindgen::generate!({ path: "../../../../wit", world: "message-template" });

use std::collections::HashMap;

use carillon::plugin::types::{Content, Context, PluginError};
use exports::carillon::plugin::{describe, template};
use serde::Deserialize;

#[derive(Deserialize)]
struct Config {
    text: String,
    subject: Option<String>,
    #[serde(default)]
    defaults: HashMap<String, String>,
}

impl Config {
    fn read(text: &str) -> Result<Self, PluginError> {
        serde_json::from_str(text).map_err(|e| PluginError::InvalidConfig(e.to_string()))
    }
}

struct Plugin;

impl describe::Guest for Plugin {
    fn get() -> describe::Info {
        describe::Info {
            name: env!("CARGO_PKG_NAME").into(),
            version: env!("CARGO_PKG_VERSION").into(),
            summary: "A text with the recipient's values in it.".into(),
            config_schema: include_str!("config.schema.json").into(),
            adapter_schema: String::new(),
            hosts: vec![],
            secrets: vec![],
            capabilities: vec![],
        }
    }
}

impl template::Guest for Plugin {
    fn render(ctx: Context, jobs: Vec<template::Job>) -> Result<Vec<Result<Content, PluginError>>, PluginError> {
        let config = Config::read(&ctx.config)?;
        let text = pieces(&config.text)?;
        let subject = config.subject.as_deref().map(pieces).transpose()?;
        // One answer for each job: a recipient without a value fails alone.
        let answers = jobs.iter().map(|job| {
            let fill = |pieces: &Vec<Piece>| fill(pieces, &job.recipient.variables, &config.defaults);
            let subject = subject.as_ref().map(fill).transpose()?;
            Ok(Content { text: fill(&text)?, subject, media: vec![], attributes: vec![] })
        });
        Ok(answers.collect())
    }

    fn variables(ctx: Context) -> Result<Vec<String>, PluginError> {
        let config = Config::read(&ctx.config)?;
        let mut names = vec![];
        for text in [Some(config.text), config.subject].iter().flatten() {
            for piece in pieces(text)? {
                if let Piece::Name(name) = piece
                    && !names.iter().any(|known| known == name)
                {
                    names.push(name.to_owned());
                }
            }
        }
        Ok(names)
    }
}

/// What a text is made of.
enum Piece<'a> {
    Text(&'a str),
    Name(&'a str),
}

fn pieces(text: &str) -> Result<Vec<Piece<'_>>, PluginError> {
    let (mut pieces, mut rest) = (vec![], text);
    while let Some((before, after)) = rest.split_once('{') {
        let closed = after.split_once('}');
        let (name, after) = closed.ok_or_else(|| PluginError::InvalidConfig("a { is not closed".into()))?;
        pieces.extend([Piece::Text(before), Piece::Name(name)]);
        rest = after;
    }
    pieces.push(Piece::Text(rest));
    Ok(pieces)
}

fn fill(
    pieces: &[Piece],
    variables: &[(String, String)],
    defaults: &HashMap<String, String>,
) -> Result<String, PluginError> {
    let value = |name: &str| {
        let found = variables.iter().find(|(column, _)| column == name).map(|(_, value)| value);
        found.or_else(|| defaults.get(name)).ok_or_else(|| {
            PluginError::InvalidInput(format!("the recipient has no \"{name}\", and there is no default for it"))
        })
    };
    let mut filled = String::new();
    for piece in pieces {
        filled.push_str(match piece {
            Piece::Text(text) => text,
            Piece::Name(name) => value(name)?,
        });
    }
    Ok(filled)
}

export!(Plugin);
