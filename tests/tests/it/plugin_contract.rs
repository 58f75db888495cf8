//! The contract between the host and plugins: the first-party plugins on good and bad input, and components that mean harm.

mod escapes;
mod first_party;
mod health;
pub mod hostile;
mod languages;
mod modules;
mod providers;
mod receipts;
mod seeds;
mod webhook;

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use carillon::clock::Time;
use carillon::grants::Licence;
use carillon::id::VersionNo;
use carillon::plugins::{
    CallContext, Content, DeviceFacts, FIRST_PARTY, MessageRef, Outbound, Plugin, PluginHost, PluginLimits,
    RecipientFacts,
};
use tokio::sync::OnceCell;

/// 2026-12-01T09:00:00Z.
const NOW: Time = Time::from_ms(1_796_115_600_000);

fn host() -> PluginHost {
    // Long enough for a loaded machine, short enough to wait for.
    let limits = PluginLimits { call_deadline: Duration::from_millis(500), instances: 100, ..PluginLimits::default() };
    PluginHost::new(limits, None).unwrap()
}

fn embedded(name: &str) -> Bytes {
    Bytes::from_static(FIRST_PARTY.iter().find(|(n, _)| *n == name).unwrap().1)
}

/// Everything is granted: what is not is another test.
fn licence() -> Arc<Licence> {
    Arc::new(Licence::unbounded("test"))
}

async fn load(host: &PluginHost, bytes: Bytes) -> Arc<Plugin> {
    let seen = host.inspect(bytes.clone()).await.unwrap();
    host.load(VersionNo(1), seen.kind, seen.digest, seen.info, licence(), bytes).await.unwrap()
}

/// A first-party plugin, compiled once for all tests.
async fn first_party(name: &str) -> Arc<Plugin> {
    static HOST: LazyLock<PluginHost> = LazyLock::new(host);
    static LOADED: LazyLock<Vec<OnceCell<Arc<Plugin>>>> =
        LazyLock::new(|| FIRST_PARTY.iter().map(|_| OnceCell::new()).collect());
    let at = FIRST_PARTY.iter().position(|(n, _)| *n == name).unwrap();
    LOADED[at].get_or_init(|| load(&HOST, embedded(name))).await.clone()
}

fn ctx(config: impl AsRef<str>) -> CallContext {
    CallContext { config: config.as_ref().into(), now: NOW, random: 123_456_789, timer: None }
}

fn device() -> DeviceFacts {
    DeviceFacts {
        id: "dev-1".into(),
        channel: "sms".into(),
        adapter: r#"{"number":"+39 055"}"#.into(),
        attributes: Vec::new(),
    }
}

fn message() -> MessageRef {
    MessageRef { id: "1000000000000000001".into(), campaign: "c-1".into(), sequence_step: None, attempt: 2 }
}

fn recipient() -> RecipientFacts {
    RecipientFacts {
        address: "+39055123".into(),
        locale: Some("it-IT".into()),
        zone: None,
        variables: vec![("name".into(), "Ada".into()), ("city".into(), "Prato".into())],
    }
}

fn outbound() -> Outbound {
    Outbound {
        message: message().into(),
        recipient: recipient().into(),
        content: Content {
            text: "Hi \"Ada\"\n& you".into(),
            subject: None,
            media: Vec::new(),
            attributes: vec![("kind".into(), "promo".into())],
        },
        device: device().into(),
        account_state: String::new(),
    }
}
