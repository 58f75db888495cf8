//! A message as FCM wants it.

use common::contract::sending::Outbound;
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// What a campaign says beside the address and the time-outs.
#[derive(Deserialize)]
pub struct Config {
    /// The Firebase project of devices that name none.
    pub project: Option<String>,
    #[serde(default = "yes")]
    notification: bool,
    title: Option<String>,
    priority: Option<Priority>,
    ttl_s: Option<u32>,
    collapse_key: Option<String>,
    #[serde(default)]
    validate_only: bool,
}

/// Whether a sleeping phone is woken.
#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum Priority {
    Normal,
    High,
}

const fn yes() -> bool {
    true
}

/// What a device may have of its own.
#[derive(Deserialize)]
pub struct Adapter {
    /// Its Firebase project.
    pub project: Option<String>,
    /// The name of its project's secret.
    pub secret: Option<String>,
}

impl Config {
    /// The request's body.
    pub fn body(&self, message: &Outbound) -> Value {
        let content = &message.content;
        let title = content.subject.as_deref().or(self.title.as_deref());
        let image = content.media.first().map(|media| media.url.as_str());
        let mut data: Map<String, Value> =
            content.attributes.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect();
        let mut out = Map::new();
        out.insert("token".into(), message.recipient.address.as_str().into());
        // What is shown; without it the app itself decides what to do with the data.
        let shown = [("title", title), ("body", Some(content.text.as_str())), ("image", image)];
        let shown = shown.into_iter().filter_map(|(name, text)| Some((name.to_owned(), Value::from(text?))));
        if self.notification {
            out.insert("notification".into(), Value::Object(shown.collect()));
        } else {
            data.extend(shown);
        }
        if !data.is_empty() {
            out.insert("data".into(), data.into());
        }
        let (mut android, mut apns) = (Map::new(), Map::new());
        if let Some(priority) = self.priority {
            let (of_android, of_apns) = match priority {
                Priority::Normal => ("NORMAL", "5"),
                Priority::High => ("HIGH", "10"),
            };
            android.insert("priority".into(), of_android.into());
            apns.insert("apns-priority".into(), of_apns.into());
        }
        if let Some(ttl) = self.ttl_s {
            android.insert("ttl".into(), format!("{ttl}s").into());
        }
        if let Some(key) = &self.collapse_key {
            android.insert("collapse_key".into(), key.as_str().into());
            apns.insert("apns-collapse-id".into(), key.as_str().into());
        }
        if !android.is_empty() {
            out.insert("android".into(), android.into());
        }
        if !apns.is_empty() {
            out.insert("apns".into(), json!({ "headers": apns }));
        }
        let mut body = Map::new();
        if self.validate_only {
            body.insert("validate_only".into(), true.into());
        }
        body.insert("message".into(), out.into());
        body.into()
    }
}
