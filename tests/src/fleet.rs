//! Small fleets: devices, audiences, plugins and campaigns as most tests want them, put into a store through its trait.

use std::time::Duration;

use bytes::Bytes;
use carillon::campaign::{CampaignEvent, CampaignSpec, CampaignStatus, Run};
use carillon::clock::Time;
use carillon::device::{Device, DeviceSpec};
use carillon::id::{AudienceNo, CampaignId, DeviceNo, Digest, HostId, MessageId, RunKey, VersionNo};
use carillon::message::{Begun, Claim, Counts, MessageStatus, Settled, Settlement, Versions, Work};
use carillon::plugin::{PluginInfo, PluginKind};
use carillon::sequence::SequenceSpec;
use carillon::store::{NewContact, NewPluginVersion, RankedRun, Store, Stored};
use serde_json::json;

/// When every test begins: 2027-01-15T08:00:00Z.
pub const T0: Time = Time::from_ms(1_800_000_000_000);

/// `T0` and so many seconds.
pub fn at(seconds: u64) -> Time {
    T0.plus(Duration::from_secs(seconds))
}

/// A device with this id, on channel `sms`, with tag `fleet`.
pub fn device_spec(id: &str) -> DeviceSpec {
    serde_json::from_value(json!({ "id": id, "name": id, "channel": "sms", "tags": ["fleet"] })).unwrap()
}

/// Puts devices of these ids into the store.
pub async fn devices(store: &dyn Store, ids: &[&str]) -> Vec<DeviceNo> {
    let specs: Vec<_> = ids.iter().map(|id| device_spec(id)).collect();
    store.put_devices(&specs, T0).await.unwrap();
    let mut out = Vec::new();
    for id in ids {
        out.push(device(store, id).await.no);
    }
    out
}

/// The device with this id.
pub async fn device(store: &dyn Store, id: &str) -> Device {
    store.device(&id.parse().unwrap()).await.unwrap().expect("the device exists")
}

/// A contact with this address and one variable.
pub fn contact(address: &str) -> NewContact {
    NewContact {
        address: address.to_owned(),
        locale: Some("it-IT".into()),
        zone: None,
        variables: json!([["name", address]]).to_string(),
    }
}

/// Addresses `+1` to `+n`.
pub fn addresses(n: u32) -> Vec<String> {
    (1..=n).map(|i| format!("+{i}")).collect()
}

/// Uploads a version of an audience with these addresses, numbered from 1.
pub async fn audience(store: &dyn Store, name: &str, addresses: &[String]) -> AudienceNo {
    let no = store.begin_audience(name, &["name".to_owned()], T0).await.unwrap();
    let contacts: Vec<_> = addresses.iter().map(|a| contact(a)).collect();
    let mut known = 0;
    for (n, chunk) in contacts.chunks(500).enumerate() {
        known += store.append_contacts(no, (n * 500) as u32 + 1, chunk).await.unwrap().len();
    }
    store.finish_audience(no, (contacts.len() - known) as u32, contacts.len() as u32, T0).await.unwrap();
    no
}

/// A campaign to this audience over the devices with tag `fleet`.
pub fn campaign_spec(audience: &str) -> CampaignSpec {
    serde_json::from_value(json!({
        "name": "Spring", "audience": audience, "devices": { "tag": "fleet" },
        "template": { "plugin": "jinja", "config": { "text": "Hi" } },
        "delay": { "plugin": "uniform" },
    }))
    .unwrap()
}

/// A sequence of `steps` steps, each a minute after the one before.
pub fn sequence_spec(steps: usize) -> SequenceSpec {
    let step = json!({
        "offset_ms": 60_000,
        "template": { "plugin": "jinja", "config": { "text": "Hi" } },
        "delay": { "plugin": "uniform" },
    });
    serde_json::from_value(json!({ "name": "Onboarding", "devices": { "tag": "fleet" }, "steps": vec![step; steps] }))
        .unwrap()
}

/// A plugin version whose bytes are `bytes`.
pub fn plugin(name: &str, version: &str, kind: PluginKind, bytes: &str) -> NewPluginVersion {
    NewPluginVersion {
        kind,
        info: PluginInfo {
            name: name.into(),
            version: version.into(),
            summary: "For tests.".into(),
            config_schema: "{}".into(),
            adapter_schema: if kind == PluginKind::Sender { "{}".into() } else { String::new() },
            hosts: Vec::new(),
            secrets: Vec::new(),
            capabilities: vec![("provider-deduplicates".into(), "true".into())],
        },
        imports: vec!["carillon:plugin/types@1.0.0".into()],
        digest: Digest::of(bytes.as_bytes()),
        bytes: Bytes::copy_from_slice(bytes.as_bytes()),
    }
}

/// Stores a version and returns its number.
pub async fn put_plugin(store: &dyn Store, new: &NewPluginVersion) -> VersionNo {
    match store.put_plugin(new, true, T0).await.unwrap() {
        Stored::New(v) | Stored::Same(v) => v.no,
    }
}

/// The three plugins that the campaigns of this module use.
pub async fn versions(store: &dyn Store) -> Versions {
    Versions {
        template: put_plugin(store, &plugin("jinja", "1.0.0", PluginKind::Template, "jinja")).await,
        delay: put_plugin(store, &plugin("uniform", "1.0.0", PluginKind::Delay, "uniform")).await,
        sender: put_plugin(store, &plugin("simulator", "1.0.0", PluginKind::Sender, "simulator")).await,
    }
}

/// A campaign that is sending, and all that one needs to play its workers.
pub struct Started {
    /// The campaign.
    pub campaign: CampaignId,
    /// Its run.
    pub run: Run,
    /// The devices.
    pub devices: Vec<DeviceNo>,
    /// Plugin versions to claim with.
    pub versions: Versions,
    /// The server that takes messages.
    pub host: HostId,
}

/// Launches `spec` at `now` with these devices; nothing is expanded yet.
pub async fn launch(store: &dyn Store, spec: &CampaignSpec, devices: &[DeviceNo], now: Time) -> Started {
    let campaign = CampaignId::new();
    store.create_campaign(campaign, spec, now).await.unwrap();
    let stored = store.campaign(campaign).await.unwrap().unwrap();
    let audience = store.audience(&spec.audience).await.unwrap().expect("the audience exists").no;
    let run = store.start_run(&stored, audience, devices, now).await.unwrap().expect("a draft starts");
    Started { campaign, run, devices: devices.to_vec(), versions: versions(store).await, host: HostId::new() }
}

/// Expands the run in pages of `page`, and sets the campaign running.
pub async fn expand(store: &dyn Store, started: &Started, page: u32, now: Time) {
    let mut cursor = 0;
    loop {
        let done = store.expand_page(started.run.key, cursor, page, now).await.unwrap().expect("nobody else expands");
        cursor = done.cursor;
        if done.done {
            break;
        }
    }
    let moved = store
        .move_campaign(started.campaign, CampaignStatus::Expanding, CampaignEvent::Expanded, None, now)
        .await
        .unwrap();
    let status = store.campaign(started.campaign).await.unwrap().unwrap().status;
    assert_eq!(status, CampaignStatus::Running, "moved by this call: {}", moved.is_some());
}

/// A running campaign to `contacts` contacts (`+1` …) over devices of these ids.
pub async fn running(store: &dyn Store, ids: &[&str], contacts: u32) -> Started {
    let devices = devices(store, ids).await;
    audience(store, "people", &addresses(contacts)).await;
    let started = launch(store, &campaign_spec("people"), &devices, T0).await;
    expand(store, &started, 1_000, T0).await;
    started
}

impl Started {
    /// The message to the contact with this number.
    pub fn message(&self, contact: u32) -> MessageId {
        MessageId::new(self.run.key, contact)
    }

    /// The run with its rank.
    pub fn ranked(&self) -> RankedRun {
        RankedRun { run: self.run.key, rank: self.run.rank() }
    }

    /// A claim.
    pub fn claim(&self, message: MessageId, device: DeviceNo, token: i64) -> Claim {
        Claim { message, device, channel: "sms".into(), token, versions: self.versions, uncertainty: Duration::ZERO }
    }

    /// What a device's queue is filled with.
    pub async fn top_up(&self, store: &dyn Store, device: DeviceNo) -> Vec<MessageId> {
        let found = store.top_up(&[device], &[self.ranked()], 1_000).await.unwrap();
        found.into_iter().flat_map(|t| t.messages).map(|(id, _)| id).collect()
    }

    /// The ready messages of a device that are not being sent, in their order.
    pub async fn ready(&self, store: &dyn Store, device: DeviceNo) -> Vec<MessageId> {
        let sending = store.in_flight(Some(device), None, 10, T0, Duration::ZERO).await.unwrap();
        let mut ready = self.top_up(store, device).await;
        ready.retain(|id| sending.iter().all(|s| s.message != *id));
        ready
    }

    /// Tries to take one message.
    pub async fn begin(&self, store: &dyn Store, id: MessageId, device: DeviceNo, token: i64, now: Time) -> Begun {
        let mut answers = store.begin(self.host, &[self.claim(id, device, token)], now).await.unwrap();
        assert_eq!(answers.len(), 1);
        answers.remove(0)
    }

    /// Takes one message that can be taken.
    pub async fn take(&self, store: &dyn Store, id: MessageId, device: DeviceNo, token: i64, now: Time) -> Work {
        match self.begin(store, id, device, token, now).await {
            Begun::Started(work) => *work,
            other => panic!("not taken: {other:?}"),
        }
    }

    /// The end of an attempt that began at `now` and took a second.
    pub fn settlement(&self, work: &Work, device: DeviceNo, token: i64, outcome: Settled, now: Time) -> Settlement {
        Settlement {
            message: work.message,
            device,
            token,
            attempt: work.attempt,
            versions: self.versions,
            outcome,
            started_at: now,
            finished_at: now.plus(Duration::from_secs(1)),
            pace: None,
            suppress: None,
            sequence: None,
            receipt: None,
        }
    }

    /// Takes a message and ends it, under a lease whose token is the seconds since `T0`.
    pub async fn send(&self, store: &dyn Store, id: MessageId, device: DeviceNo, outcome: Settled, now: Time) {
        let token = i64::try_from(now.since(T0).as_secs()).unwrap();
        let work = self.take(store, id, device, token, now).await;
        let end = self.settlement(&work, device, token, outcome, now);
        assert_eq!(store.settle(&[end]).await.unwrap(), [true]);
    }

    /// The run's counters, after checking that they are what the rows say.
    pub async fn counts(&self, store: &dyn Store) -> Counts {
        exact_counts(store, self.run.key).await
    }

    /// The status of a message.
    pub async fn status(&self, store: &dyn Store, id: MessageId) -> MessageStatus {
        store.message(id).await.unwrap().expect("the message exists").status
    }
}

/// A message that was accepted by the provider.
pub fn sent() -> Settled {
    Settled::Sent { provider_id: Some("p-1".into()), delivered: false }
}

/// The run's counters, after checking that they are what the rows say.
pub async fn exact_counts(store: &dyn Store, run: RunKey) -> Counts {
    let counts = store.counts(&[run]).await.unwrap().into_iter().find(|(key, _)| *key == run).map(|(_, c)| c);
    let counts = counts.unwrap_or_default();
    let mut seen = Counts::default();
    let mut cursor = None;
    loop {
        let page = store.messages(run, None, cursor, 1_000).await.unwrap();
        for row in &page.items {
            *seen.slot(row.status) += 1;
        }
        match page.next {
            Some(next) => cursor = Some(next),
            None => break,
        }
    }
    assert_eq!(counts, seen, "the counters are what the rows say");
    counts
}
