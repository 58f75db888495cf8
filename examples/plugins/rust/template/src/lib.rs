//! A message template: a text in which `{name}` stands for the recipient's value in the audience's column `name`.

use std::collections::BTreeMap;

use carillon_plugin::{Call, Content, Error, Job, Plugin, Result, Template};
use serde::Deserialize;

/// The configuration, as `config.schema.json` describes it.
#[derive(Deserialize)]
struct Written {
    text: String,
    subject: Option<String>,
    #[serde(default)]
    defaults: BTreeMap<String, String>,
}

/// The configuration with its texts taken apart, once for all messages.
#[derive(Deserialize)]
#[serde(try_from = "Written")]
struct Texts {
    text: Vec<Piece>,
    subject: Option<Vec<Piece>>,
    defaults: BTreeMap<String, String>,
}

/// What a text is made of.
enum Piece {
    Text(String),
    Name(String),
}

impl TryFrom<Written> for Texts {
    type Error = &'static str;

    fn try_from(written: Written) -> Result<Self, &'static str> {
        let subject = written.subject.as_deref().map(pieces).transpose()?;
        Ok(Self { text: pieces(&written.text)?, subject, defaults: written.defaults })
    }
}

impl Plugin for Texts {
    const CONFIG_SCHEMA: &str = include_str!("config.schema.json");
}

impl Template for Texts {
    fn render(&self, _: &Call, job: Job) -> Result<Content> {
        let subject = self.subject.as_ref().map(|subject| self.fill(subject, &job)).transpose()?;
        Ok(Content { subject, ..self.fill(&self.text, &job)?.into() })
    }

    fn variables(&self) -> Vec<String> {
        let mut names = vec![];
        for piece in self.text.iter().chain(self.subject.iter().flatten()) {
            if let Piece::Name(name) = piece
                && !names.contains(name)
            {
                names.push(name.clone());
            }
        }
        names
    }
}

impl Texts {
    fn fill(&self, pieces: &[Piece], job: &Job) -> Result<String> {
        let mut filled = String::new();
        for piece in pieces {
            filled.push_str(match piece {
                Piece::Text(text) => text,
                Piece::Name(name) => job
                    .recipient
                    .variable(name)
                    .or_else(|| self.defaults.get(name).map(String::as_str))
                    // This recipient's message fails, and no other's.
                    .ok_or_else(|| {
                        Error::input(format!("the recipient has no \"{name}\", and there is no default for it"))
                    })?,
            });
        }
        Ok(filled)
    }
}

fn pieces(text: &str) -> Result<Vec<Piece>, &'static str> {
    let (mut pieces, mut rest) = (vec![], text);
    while let Some((before, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}').ok_or("a { is not closed")?;
        pieces.extend([Piece::Text(before.into()), Piece::Name(name.into())]);
        rest = after;
    }
    pieces.push(Piece::Text(rest.into()));
    Ok(pieces)
}

carillon_plugin::export!(Texts: Template);
