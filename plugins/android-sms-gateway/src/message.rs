//! Where a phone's gateway is, and what it wants of a message.

use common::contract::sending::{Outbound, Outcome};
use common::contract::types::Device;
use common::provider::{Settings, adapter, misfit, percent};
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// What a campaign says beside the address and the time-outs.
#[derive(Deserialize)]
pub struct Config {
    /// Who answers.
    #[serde(default)]
    pub mode: Mode,
    #[serde(default)]
    auth: Auth,
    ttl_s: Option<u32>,
    priority: Option<i8>,
    #[serde(default = "yes")]
    delivery_report: bool,
    #[serde(default)]
    skip_phone_validation: bool,
    active_within_hours: Option<u32>,
}

const fn yes() -> bool {
    true
}

/// Who answers: the server that phones fetch their messages from, or the phone itself.
#[derive(Deserialize, Clone, Copy, Default, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The public cloud or a private server.
    #[default]
    Cloud,
    /// The phone.
    Local,
}

/// How the secret is shown.
#[derive(Deserialize, Clone, Copy, Default)]
#[serde(rename_all = "lowercase")]
enum Auth {
    /// It is `user:password` in base 64.
    #[default]
    Basic,
    /// It is an access token.
    Bearer,
}

/// What a device may have of its own.
#[derive(Deserialize)]
pub struct Adapter {
    url: Option<String>,
    secret: Option<String>,
    pub device_id: Option<String>,
    sim_number: Option<Value>,
}

const CLOUD: &str = "https://api.sms-gate.app/3rdparty/v1";

/// Where a message goes and where it can be asked for.
pub struct Way {
    pub send_url: String,
    pub message_url: String,
    pub authorization: String,
}

impl Way {
    /// As a state: what the second question takes. Neither a URL nor a header has a line break.
    pub fn keep(&self) -> String {
        format!("{}\n{}", self.message_url, self.authorization)
    }

    /// What [`Way::keep`] wrote.
    pub fn kept(state: &str) -> Option<Self> {
        let (message_url, authorization) = state.split_once('\n')?;
        let (message_url, authorization) = (message_url.to_owned(), authorization.to_owned());
        Some(Self { send_url: String::new(), message_url, authorization })
    }
}

impl Config {
    /// The way of a device's message, and what the device has of its own.
    pub fn way(&self, settings: &Settings, message: &Outbound, usual: &str) -> Result<(Way, Adapter), Box<Outcome>> {
        let (base, device, authorization) = self.base(settings, &message.device, usual)?;
        let collection = match self.mode {
            Mode::Cloud => "messages",
            Mode::Local => "message",
        };
        let all = format!("{base}/{collection}");
        let mut send_url = all.clone();
        if self.skip_phone_validation {
            send_url.push_str("?skipPhoneValidation=true");
        }
        if let Some(hours) = self.active_within_hours {
            send_url.push(if send_url.contains('?') { '&' } else { '?' });
            send_url.push_str(&format!("deviceActiveWithin={hours}"));
        }
        let message_url = format!("{all}/{}", percent(&message.message.id));
        Ok((Way { send_url, message_url, authorization }, device))
    }

    /// Where a device's gateway is, what the device has of its own, and what requests are authorized with.
    pub fn base(
        &self,
        settings: &Settings,
        device: &Device,
        usual: &str,
    ) -> Result<(String, Adapter, String), Box<Outcome>> {
        let device: Adapter = adapter(device)?;
        let secret = settings.secret(device.secret.as_deref(), usual)?;
        let base = match (device.url.as_deref().or(settings.url.as_deref()), self.mode) {
            (Some(base), _) => base,
            (None, Mode::Cloud) => CLOUD,
            (None, Mode::Local) => return Err(Box::new(misfit("it has no url, such as http://192.168.1.20:8080"))),
        };
        let base = base.trim_end_matches('/').to_owned();
        let scheme = match self.auth {
            Auth::Basic => "Basic",
            Auth::Bearer => "Bearer",
        };
        Ok((base, device, format!("{scheme} {secret}")))
    }

    /// How long ago a phone may have asked the server for messages and still be there, in milliseconds. It asks every 15
    /// minutes also when it was told of none.
    pub fn seen_within_ms(&self) -> f64 {
        f64::from(self.active_within_hours.unwrap_or(1).max(1)) * 3_600_000.0
    }

    /// The request's body.
    pub fn body(&self, message: &Outbound, device: &Adapter) -> Value {
        let mut body = Map::new();
        body.insert("id".into(), message.message.id.as_str().into());
        body.insert("textMessage".into(), json!({ "text": message.content.text }));
        body.insert("phoneNumbers".into(), json!([message.recipient.address]));
        body.insert("withDeliveryReport".into(), self.delivery_report.into());
        if let Some(ttl) = self.ttl_s {
            body.insert("ttl".into(), ttl.into());
        }
        if let Some(priority) = self.priority {
            body.insert("priority".into(), priority.into());
        }
        if let Some(id) = &device.device_id {
            body.insert("deviceId".into(), id.as_str().into());
        }
        // Devices that came as CSV have texts only.
        let sim = device.sim_number.as_ref().and_then(|n| n.as_u64().or_else(|| n.as_str()?.parse().ok()));
        if let Some(sim) = sim {
            body.insert("simNumber".into(), sim.into());
        }
        body.into()
    }
}
