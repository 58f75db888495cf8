//! What the Cloud API wants of a message: a text, an attachment, or an approved template.

use common::contract::sending::Outbound;
use common::contract::types::{Media, PluginError};
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// What a campaign says beside the address and the time-outs.
#[derive(Deserialize)]
pub struct Config {
    /// The Graph API's version.
    #[serde(default = "version")]
    pub api_version: String,
    #[serde(default)]
    preview_url: bool,
    template: Option<Template>,
    /// For a webhook: what Meta shows when it asks whether the address is ours.
    pub verify_token: Option<String>,
    /// How long a number waits that sends too much that is unwanted, in milliseconds.
    #[serde(default = "hour")]
    pub spam_wait_ms: f64,
}

fn version() -> String {
    "v24.0".into()
}

const fn hour() -> f64 {
    3_600_000.0
}

/// An approved template, and what fills it.
#[derive(Deserialize)]
struct Template {
    name: String,
    language: String,
    #[serde(default)]
    body: Vec<String>,
    #[serde(default)]
    named: bool,
}

/// What a device has of its own.
#[derive(Deserialize)]
pub struct Adapter {
    /// The id of its business phone number.
    pub phone_number_id: String,
    /// The name of its account's secret.
    pub secret: Option<String>,
}

fn kind(media: &Media) -> &'static str {
    let kind = media.kind.to_ascii_lowercase();
    match kind.split('/').next().unwrap_or_default() {
        // A sticker is what its sender calls so: a WebP image may be a picture.
        "sticker" => "sticker",
        "image" | "photo" => "image",
        "video" => "video",
        "audio" => "audio",
        _ => "document",
    }
}

impl Config {
    /// The request's body.
    pub fn request(&self, message: &Outbound) -> Result<Value, PluginError> {
        let media = match message.content.media.as_slice() {
            [] => None,
            [one] => Some(one),
            _ => return Err(PluginError::InvalidInput("WhatsApp takes one attachment with a message".into())),
        };
        let text = message.content.text.as_str();
        let (of_type, what) = match (self.template(message, media)?, media) {
            (Some(template), _) => ("template", template),
            (None, Some(media)) => {
                let kind = kind(media);
                let mut what = Map::new();
                what.insert("link".into(), media.url.as_str().into());
                if kind == "document" {
                    what.insert("filename".into(), file_name(&media.url).into());
                }
                if !text.is_empty() {
                    if matches!(kind, "audio" | "sticker") {
                        return Err(PluginError::InvalidInput(format!(
                            "WhatsApp takes no text with an attachment of kind {kind}"
                        )));
                    }
                    what.insert("caption".into(), text.into());
                }
                (kind, what.into())
            }
            (None, None) => ("text", json!({ "body": text, "preview_url": self.preview_url })),
        };
        Ok(json!({
            "messaging_product": "whatsapp",
            "recipient_type": "individual",
            "to": message.recipient.address,
            "type": of_type,
            (of_type): what,
            // Comes back with what the number's webhook says of the message.
            "biz_opaque_callback_data": message.message.id,
        }))
    }

    /// The approved template: the one that the message's own template names, or the configuration's.
    fn template(&self, message: &Outbound, media: Option<&Media>) -> Result<Option<Value>, PluginError> {
        let attribute =
            |name: &str| message.content.attributes.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
        let configured = self.template.as_ref();
        let Some(name) = attribute("template").or(configured.map(|template| template.name.as_str())) else {
            return Ok(None);
        };
        let language = attribute("template-language")
            .or(configured.map(|template| template.language.as_str()))
            .ok_or_else(|| PluginError::InvalidInput("the attribute template-language is missing".into()))?;
        let components = match attribute("template-components") {
            Some(text) => serde_json::from_str(text).map_err(|e| {
                PluginError::InvalidInput(format!("the attribute template-components is not JSON: {e}"))
            })?,
            None => Value::from(self.components(message, media)?),
        };
        let mut template = json!({ "name": name, "language": { "code": language } });
        if let (Some(template), true) = (template.as_object_mut(), components.as_array().is_none_or(|c| !c.is_empty()))
        {
            template.insert("components".into(), components);
        }
        Ok(Some(template))
    }

    /// The attachment fills the template's header, the recipient's columns its body, in their order.
    fn components(&self, message: &Outbound, media: Option<&Media>) -> Result<Vec<Value>, PluginError> {
        let mut components = Vec::new();
        if let Some(media) = media {
            let kind = kind(media);
            let parameter = json!({ "type": kind, (kind): { "link": media.url } });
            components.push(json!({ "type": "header", "parameters": [parameter] }));
        }
        let Some(template) = &self.template else { return Ok(components) };
        let parameter = |column: &String| {
            let value = message.recipient.variables.iter().find(|(name, _)| name == column).map(|(_, value)| value);
            let value = value.filter(|value| !value.trim().is_empty()).ok_or_else(|| {
                PluginError::InvalidInput(format!("template.body: the recipient has no value in the column {column:?}"))
            })?;
            let mut parameter = json!({ "type": "text", "text": value });
            if let (Some(parameter), true) = (parameter.as_object_mut(), template.named) {
                parameter.insert("parameter_name".into(), column.as_str().into());
            }
            Ok(parameter)
        };
        if !template.body.is_empty() {
            let parameters = template.body.iter().map(parameter).collect::<Result<Vec<_>, _>>()?;
            components.push(json!({ "type": "body", "parameters": parameters }));
        }
        Ok(components)
    }
}

/// What a document is called: the last part of its URL's path.
fn file_name(url: &str) -> &str {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    path.rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or("document")
}
