//! A sample call of a plugin: how long it takes, and that it answers.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use crate::clock::{Clock, SystemClock, Time};
use crate::device::LastOutcome;
use crate::plugin::PluginKind;
use crate::plugins::{
    CallContext, Content, DeviceFacts, MessageRef, Outbound, PaceFacts, Plugin, RecipientFacts, RenderJob,
};

/// Calls that are measured.
const CALLS: u32 = 100;

/// What the sample came to: the first call and the median of the next ones.
pub struct Sample {
    /// The first call, with an instance of its own.
    pub first: Duration,
    /// The median of those that follow.
    pub median: Duration,
}

/// Calls the plugin's main function with an invented message and this configuration.
pub async fn call(plugin: &Plugin, config: &str) -> anyhow::Result<Sample> {
    let clock = SystemClock::new();
    let mut times = Vec::new();
    for n in 0..=CALLS {
        let context = CallContext { config: Arc::from(config), now: Time::from_ms(1_800_000_000_000), random: n };
        let started = clock.monotonic();
        once(plugin, &context).await?;
        times.push(clock.monotonic().saturating_sub(started));
    }
    let first = times.first().copied().context("no call was made")?;
    let mut rest = times.split_off(1);
    rest.sort_unstable();
    let median = rest.get(rest.len() / 2).copied().context("no call was made")?;
    Ok(Sample { first, median })
}

async fn once(plugin: &Plugin, context: &CallContext) -> anyhow::Result<()> {
    match plugin.kind {
        PluginKind::Delay => {
            plugin.next_delay(context, pace(), "").await?;
        }
        PluginKind::Template => {
            let job = RenderJob { message: message(), recipient: recipient(), device: device(), random: 0 };
            for content in plugin.render(context, vec![job]).await? {
                content?;
            }
        }
        PluginKind::Sender => {
            let content =
                Content { text: "Hello Ada.".to_owned(), subject: None, media: Vec::new(), attributes: Vec::new() };
            let outbound = Outbound {
                message: message(),
                recipient: recipient(),
                content,
                device: device(),
                account_state: String::new(),
            };
            plugin.start(context, outbound).await?;
        }
    }
    Ok(())
}

fn message() -> Arc<MessageRef> {
    Arc::new(MessageRef {
        id: "1000000000000000001".to_owned(),
        campaign: "sample".into(),
        sequence_step: None,
        attempt: 1,
    })
}

fn recipient() -> Arc<RecipientFacts> {
    Arc::new(RecipientFacts {
        address: "+12025550101".to_owned(),
        locale: Some("en-US".to_owned()),
        zone: Some("America/New_York".to_owned()),
        variables: vec![("name".to_owned(), "Ada".to_owned()), ("city".to_owned(), "Washington".to_owned())],
    })
}

fn device() -> Arc<DeviceFacts> {
    Arc::new(DeviceFacts {
        id: "dev-1".to_owned(),
        channel: "sms".to_owned(),
        adapter: "{}".to_owned(),
        attributes: Vec::new(),
    })
}

fn pace() -> PaceFacts {
    PaceFacts {
        device: device(),
        minute_of_day: 600,
        sent_this_minute: 3,
        sent_this_hour: 40,
        sent_today: 100,
        age_days: 30,
        failures_in_a_row: 0,
        last_delay_ms: 1000.0,
        last_outcome: LastOutcome::Sent,
        backlog: 50,
        text_length: 80,
        attributes: Vec::new(),
    }
}
