//! Which method of the Bot API a message wants, and with what.

use common::contract::sending::Outbound;
use common::contract::types::{Media, PluginError};
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// What a campaign says beside the address and the time-outs.
#[derive(Deserialize)]
pub struct Config {
    parse_mode: Option<String>,
    #[serde(default)]
    disable_notification: bool,
    #[serde(default)]
    protect_content: bool,
    #[serde(default = "yes")]
    link_preview: bool,
    reply_markup: Option<Value>,
}

const fn yes() -> bool {
    true
}

/// What a device may have of its own.
#[derive(Deserialize)]
pub struct Adapter {
    /// The name of its bot's secret.
    pub secret: Option<String>,
}

/// A kind of attachment: the method that sends one, and the name of the field that has it.
#[derive(Clone, Copy, PartialEq)]
struct Kind {
    method: &'static str,
    field: &'static str,
}

const PHOTO: Kind = Kind { method: "sendPhoto", field: "photo" };
const VIDEO: Kind = Kind { method: "sendVideo", field: "video" };
const AUDIO: Kind = Kind { method: "sendAudio", field: "audio" };
const DOCUMENT: Kind = Kind { method: "sendDocument", field: "document" };
const ANIMATION: Kind = Kind { method: "sendAnimation", field: "animation" };

/// How many attachments one message has at most.
const ALBUM: usize = 10;

fn kind(media: &Media) -> Kind {
    let kind = media.kind.to_ascii_lowercase();
    match kind.split_once('/') {
        Some(("image", "gif")) => return ANIMATION,
        // What is not a picture to Telegram is a file.
        Some(("image", sub)) if !matches!(sub, "jpeg" | "jpg" | "png" | "webp") => return DOCUMENT,
        _ => {}
    }
    match kind.split('/').next().unwrap_or_default() {
        "image" | "photo" => PHOTO,
        "video" => VIDEO,
        "audio" => AUDIO,
        "animation" => ANIMATION,
        _ => DOCUMENT,
    }
}

impl Config {
    /// The method and its parameters.
    pub fn request(&self, message: &Outbound) -> Result<(&'static str, Value), PluginError> {
        let content = &message.content;
        let mut body = Map::new();
        body.insert("chat_id".into(), message.recipient.address.as_str().into());
        for (name, is_set) in
            [("disable_notification", self.disable_notification), ("protect_content", self.protect_content)]
        {
            if is_set {
                body.insert(name.into(), true.into());
            }
        }
        let method = match content.media.as_slice() {
            [] => {
                body.insert("text".into(), content.text.as_str().into());
                self.put_parse_mode(&mut body);
                if !self.link_preview {
                    body.insert("link_preview_options".into(), json!({ "is_disabled": true }));
                }
                "sendMessage"
            }
            [one] => {
                let kind = kind(one);
                body.insert(kind.field.into(), one.url.as_str().into());
                self.put_caption(&mut body, &content.text);
                kind.method
            }
            album if album.len() <= ALBUM => {
                body.insert("media".into(), self.album(album, &content.text)?);
                "sendMediaGroup"
            }
            _ => return Err(PluginError::InvalidInput(format!("Telegram takes at most {ALBUM} attachments"))),
        };
        if let Some(markup) = self.reply_markup(message)? {
            if method == "sendMediaGroup" {
                return Err(PluginError::InvalidInput("Telegram takes no buttons with several attachments".into()));
            }
            body.insert("reply_markup".into(), markup);
        }
        Ok((method, body.into()))
    }

    /// Several attachments: the text is the caption of the first.
    fn album(&self, media: &[Media], text: &str) -> Result<Value, PluginError> {
        let mut kinds: Vec<Kind> = media.iter().map(kind).collect();
        // An album has no animations; as videos they go with photos.
        for kind in &mut kinds {
            if *kind == ANIMATION {
                *kind = VIDEO;
            }
        }
        let visual = kinds.iter().all(|kind| *kind == PHOTO || *kind == VIDEO);
        if !(visual || kinds.iter().all(|kind| *kind == AUDIO)) {
            // Photos and videos go together, audio and files only with their like: then all are files.
            kinds.fill(DOCUMENT);
        }
        let items = kinds.iter().zip(media).enumerate().map(|(at, (kind, one))| {
            let mut item = Map::new();
            item.insert("type".into(), kind.field.into());
            item.insert("media".into(), one.url.as_str().into());
            if at == 0 {
                self.put_caption(&mut item, text);
            }
            Value::from(item)
        });
        Ok(items.collect())
    }

    fn put_caption(&self, body: &mut Map<String, Value>, text: &str) {
        if !text.is_empty() {
            body.insert("caption".into(), text.into());
            self.put_parse_mode(body);
        }
    }

    fn put_parse_mode(&self, body: &mut Map<String, Value>) {
        if let Some(mode) = &self.parse_mode {
            body.insert("parse_mode".into(), mode.as_str().into());
        }
    }

    /// The message's own buttons, as its template made them, or those of the configuration.
    fn reply_markup(&self, message: &Outbound) -> Result<Option<Value>, PluginError> {
        match message.content.attributes.iter().find(|(name, _)| name == "reply-markup") {
            Some((_, text)) => serde_json::from_str(text)
                .map(Some)
                .map_err(|e| PluginError::InvalidInput(format!("the attribute reply-markup is not JSON: {e}"))),
            None => Ok(self.reply_markup.clone()),
        }
    }
}
