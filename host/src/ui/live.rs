//! The live numbers: one task per process takes a sample a second, and every open page is fed from it. A hundred
//! browsers cost the store what one costs; nobody looking and nothing running costs a fifth of that.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::extract::{Query, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::Stream;
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::session::Session;
use super::{Failure, Shared, chart, format};
use crate::campaign::{Campaign, CampaignStatus, RunOwner};
use crate::clock::Time;
use crate::core::Core;
use crate::id::{CampaignId, RunKey};
use crate::message::Counts;
use crate::operations;
use crate::store::HostRow;

/// Streams at a time; more are refused, and their pages stay as they were made.
const MAX_STREAMS: usize = 128;
/// A stream ends after this time and the browser opens it again: it then proves its session again.
const STREAM_LIFE: Duration = Duration::from_secs(10 * 60);
/// How far back the line goes.
pub(super) const SPAN: Duration = Duration::from_secs(5 * 60);
/// Points that the line has at most: one a second.
const MAX_POINTS: usize = 300;
/// Runs whose counters are read for a sample; on a server with more open ones, the first ones by rank.
const MAX_RUNS: usize = 2_000;
/// Samples without a viewer and without a running campaign are taken every this many seconds.
const IDLE_EVERY: u32 = 5;

/// How fast messages left at a time.
#[derive(Debug, Clone, Copy)]
struct Point {
    at: Time,
    sent: f64,
    failed: f64,
}

/// A campaign as the live numbers know it.
#[derive(Debug, Clone)]
pub(super) struct CampaignSample {
    pub id: CampaignId,
    pub name: String,
    /// Its status; of campaigns that nobody has open only whether they send.
    pub status: CampaignStatus,
    pub counts: Counts,
    /// Messages a second over the last minute.
    pub rate: Option<f64>,
}

impl CampaignSample {
    /// How long the rest takes at this rate.
    pub fn eta_ms(&self) -> Option<u64> {
        let rate = self.rate.filter(|r| *r > 0.0)?;
        (self.counts.open() > 0).then(|| (self.counts.open() as f64 / rate * 1000.0) as u64)
    }

    /// What stands beside the bar.
    pub fn rate_text(&self) -> String {
        self.rate.map_or_else(|| "–".to_owned(), format::rate)
    }

    /// The time left, in words.
    pub fn eta_text(&self) -> String {
        self.eta_ms().map_or_else(|| "–".to_owned(), |ms| format::duration_ms(ms / 1000 * 1000))
    }

    /// The share of messages that are final.
    pub fn done_text(&self) -> String {
        let total = self.counts.total();
        format::percent(total - self.counts.open(), total)
    }

    /// The texts that its places on a page show.
    fn texts(&self, out: &mut BTreeMap<String, String>) {
        let id = self.id;
        for (status, n) in crate::message::MessageStatus::ALL.map(|s| (s, self.counts.of(s))) {
            out.insert(format!("{id}.{}", status.as_str()), format::number(n));
        }
        for segment in chart::segments(&self.counts) {
            out.insert(format!("{id}.{}.x", segment.name), segment.x.to_string());
            out.insert(format!("{id}.{}.w", segment.name), segment.width.to_string());
        }
        let left = self.counts.sent + self.counts.delivered + self.counts.read;
        out.insert(format!("{id}.left"), format::number(left));
        out.insert(format!("{id}.total"), format::number(self.counts.total()));
        out.insert(format!("{id}.done"), self.done_text());
        out.insert(format!("{id}.rate"), self.rate_text());
        out.insert(format!("{id}.eta"), self.eta_text());
    }
}

/// The servers and devices.
#[derive(Debug, Clone, Default)]
pub(super) struct Fleet {
    /// Sends in flight, whole cluster.
    pub active_workers: u64,
    /// The most there may be; unknown while the queue is away.
    pub max_workers: Option<u32>,
    /// Devices that stand on the ready index; unknown while the queue is away.
    pub ready_devices: Option<u64>,
    pub devices: u64,
    pub hosts: Vec<HostRow>,
}

/// What the cluster did in the last second.
#[derive(Debug, Clone, Default)]
pub(super) struct Sample {
    pub at: Time,
    points: Vec<Point>,
    /// Of all open runs together.
    pub totals: Counts,
    /// Campaigns that are open, and those that somebody looks at.
    pub campaigns: Vec<CampaignSample>,
    pub fleet: Fleet,
    /// Why there is no newer sample.
    pub problem: Option<String>,
}

impl Sample {
    /// Messages sent and failed a second, over the last five seconds.
    pub fn rates(&self) -> (f64, f64) {
        let recent: Vec<_> = self.points.iter().rev().take(5).collect();
        let mean = |f: fn(&Point) -> f64| recent.iter().map(|p| f(p)).sum::<f64>() / recent.len().max(1) as f64;
        (mean(|p| p.sent), mean(|p| p.failed))
    }

    /// The top of the line's axis.
    pub fn top(&self) -> f64 {
        chart::round_up(self.points.iter().map(|p| p.sent).fold(0.0, f64::max))
    }

    /// The points of the line.
    pub fn line(&self) -> String {
        let values = self.points.iter().map(|p| (millis(self.at.since(p.at)), p.sent));
        chart::line(values, millis(SPAN), self.top())
    }

    /// One open campaign, or one that somebody looks at.
    pub fn campaign(&self, id: CampaignId) -> Option<&CampaignSample> {
        self.campaigns.iter().find(|c| c.id == id)
    }

    /// The texts for the places of a page, by their names.
    fn texts(&self, only: Option<CampaignId>) -> BTreeMap<String, String> {
        let mut out = BTreeMap::new();
        if let Some(id) = only {
            if let Some(campaign) = self.campaign(id) {
                campaign.texts(&mut out);
                out.insert("state".into(), campaign.status.as_str().into());
                let said = format!(
                    "{}: {} sent, {} failed, {} waiting",
                    campaign.status.as_str(),
                    campaign.counts.sent + campaign.counts.delivered + campaign.counts.read,
                    campaign.counts.failed,
                    campaign.counts.pending
                );
                out.insert("said".into(), said);
            }
            return out;
        }
        for campaign in &self.campaigns {
            campaign.texts(&mut out);
        }
        let (sent, failed) = self.rates();
        let line = self.line();
        out.insert("spark.area".into(), chart::area(&line));
        out.insert("spark".into(), line);
        out.insert("spark.top".into(), format::rate(self.top()));
        out.insert("rate.sent".into(), format::rate(sent));
        out.insert("rate.failed".into(), format::rate(failed));
        out.insert("waiting".into(), format::number(self.totals.pending));
        out.insert("processing".into(), format::number(self.totals.processing));
        out.insert("workers".into(), format::number(self.fleet.active_workers));
        out.insert("workers.max".into(), self.fleet.max_workers.map_or_else(unknown, |n| format::number(n.into())));
        out.insert("ready".into(), self.fleet.ready_devices.map_or_else(unknown, format::number));
        out.insert("devices".into(), format::number(self.fleet.devices));
        for host in &self.fleet.hosts {
            out.insert(format!("{}.seen", host.host), format::relative(host.heartbeat_at, self.at));
            out.insert(format!("{}.workers", host.host), format::number(host.active_workers.into()));
        }
        // Another set of open campaigns needs another page.
        out.insert("state".into(), self.open_set());
        out.insert("said".into(), format!("{} messages a second, {} waiting", sent.round(), self.totals.pending));
        out
    }

    /// The campaigns that are sending or paused; others are here only because somebody looks at them.
    pub fn open(&self) -> impl Iterator<Item = &CampaignSample> {
        let open = [CampaignStatus::Expanding, CampaignStatus::Running, CampaignStatus::Paused];
        self.campaigns.iter().filter(move |c| open.contains(&c.status))
    }

    /// A word that changes when campaigns open or close.
    pub fn open_set(&self) -> String {
        self.open().map(|c| format!("{}{}", c.status.as_str(), c.id)).collect::<Vec<_>>().join(" ")
    }
}

fn unknown() -> String {
    "–".to_owned()
}

fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

/// The sampler's output, and who follows it.
pub(super) struct Live {
    latest: watch::Receiver<Arc<Sample>>,
    places: Arc<Semaphore>,
    interest: Arc<Interest>,
    stop: CancellationToken,
}

#[derive(Default)]
struct Interest {
    followers: AtomicUsize,
    /// Campaigns whose pages are open, and in how many streams; never more than there are streams.
    campaigns: Mutex<HashMap<CampaignId, usize>>,
}

/// A stream's place and its interest, given back when the stream ends.
struct Following {
    interest: Arc<Interest>,
    campaign: Option<CampaignId>,
    _place: OwnedSemaphorePermit,
}

impl Following {
    fn new(interest: Arc<Interest>, campaign: Option<CampaignId>, place: OwnedSemaphorePermit) -> Self {
        interest.followers.fetch_add(1, Ordering::Relaxed);
        if let Some(id) = campaign {
            *interest.campaigns.lock().entry(id).or_default() += 1;
        }
        Self { interest, campaign, _place: place }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.interest.followers.fetch_sub(1, Ordering::Relaxed);
        if let Some(id) = self.campaign {
            let mut campaigns = self.interest.campaigns.lock();
            if let Some(count) = campaigns.get_mut(&id) {
                *count -= 1;
                if *count == 0 {
                    campaigns.remove(&id);
                }
            }
        }
    }
}

impl Live {
    /// Starts the sampler; it ends with `stop`.
    pub fn start(core: Core, stop: CancellationToken) -> Self {
        let (sender, latest) = watch::channel(Arc::new(Sample { at: core.clock.now(), ..Sample::default() }));
        let interest = Arc::new(Interest::default());
        let sampler =
            Sampler { core, interest: interest.clone(), points: VecDeque::new(), last: HashMap::new(), at: None };
        tokio::spawn(sampler.run(sender, stop.clone()));
        Self { latest, places: Arc::new(Semaphore::new(MAX_STREAMS)), interest, stop }
    }

    /// The newest sample.
    pub fn sample(&self) -> Arc<Sample> {
        self.latest.borrow().clone()
    }
}

struct Sampler {
    core: Core,
    interest: Arc<Interest>,
    points: VecDeque<Point>,
    /// The counters of the sample before.
    last: HashMap<RunKey, Counts>,
    /// When the sample before was taken (monotonic).
    at: Option<Duration>,
}

impl Sampler {
    async fn run(mut self, sender: watch::Sender<Arc<Sample>>, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut idle = 0u32;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let quiet = self.interest.followers.load(Ordering::Relaxed) == 0 && sender.borrow().totals.open() == 0;
            idle = if quiet { idle + 1 } else { 0 };
            if quiet && idle % IDLE_EVERY != 1 {
                continue;
            }
            let taken = tokio::select! {
                () = stop.cancelled() => return,
                taken = self.take() => taken,
            };
            match taken {
                Ok(sample) => drop(sender.send_replace(Arc::new(sample))),
                Err(error) => sender.send_modify(|last| {
                    *last = Arc::new(Sample { problem: Some(error.to_string()), ..(**last).clone() });
                }),
            }
        }
    }

    async fn take(&mut self) -> operations::Result<Sample> {
        let store = &self.core.store;
        let hosts = self.core.hosts.read().clone();
        let fleet = Fleet {
            active_workers: hosts.iter().map(|h| u64::from(h.active_workers)).sum(),
            max_workers: self.core.queue.max_workers().await.ok().flatten(),
            ready_devices: self.core.queue.ready_count().await.ok(),
            devices: store.count_devices().await?,
            hosts,
        };
        let mut open = store.open_runs().await?;
        open.truncate(MAX_RUNS);
        let followed: Vec<_> = self.interest.campaigns.lock().keys().copied().collect();
        let mut watched: HashMap<CampaignId, Campaign> = HashMap::new();
        for id in followed {
            if let Some(campaign) = store.campaign(id).await? {
                watched.insert(id, campaign);
            }
        }
        // The runs of the sample before are counted once more: their last messages left since then.
        let mut keys: Vec<_> = open.iter().map(|r| r.key).collect();
        keys.extend(self.last.keys());
        keys.extend(watched.values().filter_map(|c| c.run));
        keys.sort_unstable();
        keys.dedup();
        let counts: HashMap<_, _> = store.counts(&keys).await?.into_iter().collect();

        let (now, monotonic) = (self.core.clock.now(), self.core.clock.monotonic());
        if let Some(before) = self.at {
            let seconds = monotonic.saturating_sub(before).as_secs_f64().max(0.001);
            let grown = |of: fn(&Counts) -> u64| {
                let sum: u64 =
                    self.last.iter().filter_map(|(run, old)| Some(of(counts.get(run)?).saturating_sub(of(old)))).sum();
                sum as f64 / seconds
            };
            self.points.push_back(Point {
                at: now,
                sent: grown(|c| c.sent + c.delivered + c.read),
                failed: grown(|c| c.failed + c.unknown),
            });
        }
        self.at = Some(monotonic);
        while self.points.len() > MAX_POINTS || self.points.front().is_some_and(|p| now.since(p.at) > SPAN) {
            self.points.pop_front();
        }
        self.last = open.iter().map(|r| (r.key, counts.get(&r.key).copied().unwrap_or_default())).collect();

        let mut totals = Counts::default();
        let mut campaigns = Vec::new();
        let rates = &self.core.metrics.rates;
        let sample_of = |id, name: &str, status, run: Option<RunKey>| {
            let counts = run.and_then(|r| counts.get(&r)).copied().unwrap_or_default();
            let rate = run.and_then(|r| {
                rates.note(r, &counts, monotonic);
                rates.per_second(r, &counts, monotonic)
            });
            let rate = rate.filter(|_| matches!(status, CampaignStatus::Running | CampaignStatus::Expanding));
            CampaignSample { id, name: name.to_owned(), status, counts, rate }
        };
        for run in &open {
            let of_run = counts.get(&run.key).copied().unwrap_or_default();
            for status in crate::message::MessageStatus::ALL {
                *totals.slot(status) += of_run.of(status);
            }
            if let RunOwner::Campaign(id) = run.owner
                && !watched.contains_key(&id)
            {
                let status = match (run.active, run.expanded) {
                    (false, _) => CampaignStatus::Paused,
                    (true, false) => CampaignStatus::Expanding,
                    (true, true) => CampaignStatus::Running,
                };
                campaigns.push(sample_of(id, &run.name, status, Some(run.key)));
            }
        }
        for campaign in watched.values() {
            campaigns.push(sample_of(campaign.id, &campaign.spec.name, campaign.status, campaign.run));
        }
        campaigns.sort_by_key(|c| std::cmp::Reverse(c.id));
        Ok(Sample { at: now, points: self.points.iter().copied().collect(), totals, campaigns, fleet, problem: None })
    }
}

/// Which page follows.
#[derive(Deserialize)]
pub(super) struct Which {
    campaign: Option<CampaignId>,
}

/// `GET /ui/events`: a `sample` event now and after each sample, for one campaign's page or for all the others.
pub(super) async fn events(
    State(ui): State<Shared>,
    session: Session,
    Query(which): Query<Which>,
) -> Result<Response, Failure> {
    session.require("campaigns:read")?;
    let live = &ui.live;
    let place = live.places.clone().try_acquire_owned().map_err(|_| Failure::Full)?;
    let following = Following::new(live.interest.clone(), which.campaign, place);
    let stream = follow(live.latest.clone(), which.campaign, following, live.stop.clone());
    Ok(Sse::new(stream).keep_alive(KeepAlive::default()).into_response())
}

fn follow(
    mut latest: watch::Receiver<Arc<Sample>>,
    campaign: Option<CampaignId>,
    following: Following,
    stop: CancellationToken,
) -> impl Stream<Item = Result<Event, Infallible>> + Send {
    latest.mark_changed();
    let end = tokio::time::Instant::now() + STREAM_LIFE;
    futures::stream::unfold((latest, following, stop), move |(mut latest, following, stop)| async move {
        tokio::select! {
            () = stop.cancelled() => return None,
            () = tokio::time::sleep_until(end) => return None,
            changed = latest.changed() => changed.ok()?,
        }
        let texts = latest.borrow_and_update().texts(campaign);
        let event = Event::default().event("sample").retry(Duration::from_secs(2)).json_data(&texts);
        Some((Ok(event.unwrap_or_default()), (latest, following, stop)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_gives_its_place_and_interest_back() {
        let places = Arc::new(Semaphore::new(1));
        let interest = Arc::new(Interest::default());
        let id = CampaignId::new();
        let following = Following::new(interest.clone(), Some(id), places.clone().try_acquire_owned().unwrap());
        assert!(places.clone().try_acquire_owned().is_err());
        assert_eq!(interest.campaigns.lock().len(), 1);
        drop(following);
        assert!(interest.campaigns.lock().is_empty());
        assert_eq!(interest.followers.load(Ordering::Relaxed), 0);
        assert_eq!(places.available_permits(), 1);
    }

    #[test]
    fn a_campaign_says_what_is_left() {
        let counts = Counts { pending: 90, sent: 10, ..Counts::default() };
        let sample = |rate| CampaignSample {
            id: CampaignId::new(),
            name: "autumn".into(),
            status: CampaignStatus::Running,
            counts,
            rate,
        };
        assert_eq!(sample(Some(3.0)).eta_text(), "30\u{202f}s");
        assert_eq!(sample(Some(0.0)).eta_text(), "–");
        assert_eq!(sample(None).done_text(), "10\u{202f}%");
    }
}
