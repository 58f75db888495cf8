//! The queue: an index over the store that says which device may send next, and what. It can be thrown away at any
//! moment; [`Queue::ensure_generation`] notices, and the processor fills it again from the store.
//!
//! [`Queue`] is implemented by [`redis`] (one server or a cluster; the only module that imports the `redis` crate)
//! and [`memory`] (one process). One contract suite in `tests/` runs against both.
//!
//! # The key space in Redis
//!
//! Literal braces: the four keys of a device share one slot of a Redis Cluster, and with a cluster every script touches one
//! slot only. With one server those that add to a queue or end a hold change the ready index in the same step.
//!
//! | key | type | owner, lifetime | content |
//! |---|---|---|---|
//! | `broadcast:queue:{deviceID}` | sorted set | processor adds, claim takes | message ids (19 digits) waiting on the device; score = the run's rank, equal scores go by id |
//! | `broadcast:processing:{deviceID}` | set | claim adds, finish removes | message ids being sent right now: those of one claim |
//! | `broadcast:device:{deviceID}` | hash | claim, finish | `owner`, `token`, `until` (lease, ms; 0 when released, -1 when released with something left in processing), `held` (messages of the claim; -1 when nobody counted them), `next_at` (ms of the server's TIME), `eager` (1 when the last hold ended with the device ready again at once), `pace` (JSON) |
//! | `broadcast:metrics:{deviceID}` | hash | flushed about once a second | `sent`, `failed`, `last_sent_at`, `last_delay_ms`, `latency_ms` (sum), … |
//! | `broadcast:ready:{shard}` | sorted set | enqueue, ready, finish | device ids by the time (ms) from which they may be claimed |
//! | `broadcast:generation` | string | whoever finds it missing | a random word; missing means that the server lost its data |
//! | `ultra:stats:active_workers` | string | each server about once a second | workers sending now, whole cluster |
//! | `ultra:stats:max_workers` | string | made by the first server, changed by operators, read about once a second | the limit, whole cluster; 0 stops every send |
//! | `{ultra:stats:max_workers}:configured` | string | each server at its start | the limit in the settings of the server that started last: others than before take effect |
//!
//! Wake-ups travel over the channel `broadcast:wake`. All times in the queue are the queue's own (Redis: the server's
//! TIME); callers pass and get durations, so the clocks of the servers do not matter.

pub mod memory;
pub mod redis;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use crate::clock::{SharedClock, Time};
use crate::id::{DeviceId, HostId, MessageId};

/// What can go wrong in the queue.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The queue cannot be reached now (connection refused or lost, time-out, cluster slot without a master): the call
    /// may or may not have run, and may be repeated.
    #[error("the queue is unavailable")]
    Unavailable(#[source] anyhow::Error),
    /// An answer that breaks the protocol, or a refusal that repeating will not mend: a bug or a misconfiguration.
    #[error("the queue failed")]
    Internal(#[source] anyhow::Error),
}

/// A result from the queue.
pub type Result<T, E = QueueError> = std::result::Result<T, E>;

/// Messages for one device's queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enqueue {
    /// The device.
    pub device: DeviceId,
    /// Messages with their rank. Those that are in the queue or in processing already stay as they are.
    pub messages: Vec<(MessageId, i64)>,
    /// What the store knows of the device's pace; used only if the queue knows nothing of the device.
    pub initial: InitialPace,
}

/// The pace of a device that the queue does not know (yet, or any more).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InitialPace {
    /// How long until it may send.
    pub next_in: Duration,
    /// [`crate::device::Pace::to_saved`], empty when it never sent.
    pub pace: String,
}

/// The most messages that one claim gives, whatever it asks for.
pub const MAX_BURST: u32 = 1000;

/// The devices that may be claimed now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ready {
    /// Due devices, the longest due first. They are hidden from other callers for the time of a lease: a caller that
    /// dies loses nothing.
    pub devices: Vec<DeviceId>,
    /// How long each of them has been due: how long a device that could have sent was left waiting.
    pub late: Vec<Duration>,
    /// When the next device after these is due, if there is one.
    pub next_in: Option<Duration>,
}

/// What claiming a device came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claimed {
    /// The caller holds the device's lease, and the messages have moved from its queue to its processing set.
    Messages {
        /// The messages in the queue's order, at least one, each with its rank, to put it back with.
        messages: Vec<(MessageId, i64)>,
        /// The lease's fencing token: larger than every token before it, also after the queue lost its data.
        token: i64,
        /// The device's saved pace; empty when it never sent.
        pace: String,
        /// Messages left in the queue.
        depth: u32,
    },
    /// The caller holds the lease of a device whose former owner's lease ran out while these messages were in processing.
    /// They stay there until [`Queue::adopt`] says what becomes of each.
    Orphans {
        /// The new lease's fencing token.
        token: i64,
        /// The messages.
        messages: Vec<MessageId>,
    },
    /// Nothing waits on the device; it is off the ready index.
    Empty,
    /// The device may not send yet, or is leased to another: it will be ready again in this time.
    NotYet(Duration),
}

/// What becomes of a message when its worker is done with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposal {
    /// It left the queue for good, or waits elsewhere (in the store) for a time of its own.
    Drop,
    /// It goes back to where it was, with this rank.
    PutBack(i64),
}

/// The end of a worker's hold on a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finish {
    /// The device.
    pub device: DeviceId,
    /// The token of its lease.
    pub token: i64,
    /// The messages it claimed, and what becomes of each. One that is left out stays in processing: the next claim gives
    /// it as an orphan.
    pub messages: Vec<(MessageId, Disposal)>,
    /// How long until the device may send again. After zero it is *eager*: the next claim may take several messages.
    pub next_in: Duration,
    /// The device's pace to be kept; `None` or an empty one leaves it as it is.
    pub pace: Option<String>,
}

/// What a [`Finish`] came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finished {
    /// The lease was the caller's; it is released.
    Done {
        /// Messages left in the queue.
        depth: u32,
    },
    /// The lease was no longer the caller's (it ran out, or the queue lost its data); nothing was changed.
    LeaseLost,
}

/// A device's part in the queue, for status pages and explanations.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct QueueDepth {
    /// Messages waiting.
    pub queued: u32,
    /// Messages being sent.
    pub processing: u32,
    /// How long until the device may send; zero when it may.
    pub next_in_ms: u64,
    /// Whether a worker holds it.
    pub leased: bool,
}

/// What a device did since the last flush.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricsDelta {
    /// The device.
    pub device: DeviceId,
    /// Messages accepted.
    pub sent: u32,
    /// Messages failed for good.
    pub failed: u32,
    /// Attempts to be repeated.
    pub retried: u32,
    /// Sum of the attempts' durations, in milliseconds.
    pub latency_ms: u64,
    /// When it last sent.
    pub last_sent_at: Option<Time>,
    /// The last delay, in milliseconds.
    pub last_delay_ms: u64,
}

/// What a device did since the queue was made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct DeviceMetrics {
    /// Messages accepted.
    pub sent: u64,
    /// Messages failed for good.
    pub failed: u64,
    /// Attempts that were repeated.
    pub retried: u64,
    /// Sum of the attempts' durations, in milliseconds.
    pub latency_ms: u64,
    /// When it last sent.
    pub last_sent_at: Option<Time>,
    /// The last delay, in milliseconds.
    pub last_delay_ms: u64,
}

/// Something has happened that other loops, perhaps on other servers, want to know at once. A lost wake-up delays
/// work until the loop's timer, never loses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wake {
    /// A campaign was launched or a contact enrolled: the trigger has work.
    Trigger,
    /// Messages became ready, or a run resumed: the processor has work.
    Processor,
    /// Devices became ready: the workers have work.
    Workers,
    /// Something that [`crate::store::Revisions`] counts has changed.
    Changed,
}

/// The state of the queue's server, for `doctor` and `/readyz`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QueueHealth {
    /// What it is: `in-process`, or the server's name and version.
    pub server: String,
    /// What an operator should change, such as a wrong `maxmemory-policy`; empty when all is well.
    pub warnings: Vec<String>,
}

/// Opens the queue at `url`: `memory:` (in this process, measured with `clock`), `redis://[user:password@]host:port/[db]`,
/// `redis-cluster://[user:password@]a:1,b:2,c:3`, or with TLS `rediss://` and `rediss-cluster://`. A server in cluster mode
/// needs `redis-cluster://`, even if it is the only one.
///
/// Does not wait for a connection: until there is one, calls fail with [`QueueError::Unavailable`]. Must be called within
/// a tokio runtime.
///
/// # Errors
///
/// [`QueueError::Internal`] when the address is not valid; the text does not repeat it, because it may hold a password.
pub async fn open(url: &str, clock: SharedClock) -> Result<Arc<dyn Queue>> {
    let (scheme, _) = url.split_once(':').unwrap_or((url, ""));
    Ok(match scheme {
        "memory" => Arc::new(memory::MemoryQueue::new(clock)),
        "redis-cluster" | "rediss-cluster" => Arc::new(redis::RedisQueue::cluster(url)?),
        // Other schemes, too: it says what is expected.
        _ => Arc::new(redis::RedisQueue::single(url)?),
    })
}

/// The queue. All methods may be called by several servers at once, and repeated.
#[async_trait]
pub trait Queue: Send + Sync + 'static {
    /// `redis`, `redis-cluster` or `memory`.
    fn kind(&self) -> &'static str;
    /// Commands sent since the start, for the benchmark and metrics.
    fn commands(&self) -> u64;
    /// Calls since the start that failed, for metrics.
    fn errors(&self) -> u64;
    /// Whether it answers, and how it is set up.
    async fn health(&self) -> Result<QueueHealth>;

    /// Makes sure that there is a generation: `true` when there was none and this call made it, which means that the queue is
    /// empty (new, or lost its data) and everything must be filled again. Cheap: called about once a second.
    async fn ensure_generation(&self) -> Result<bool>;

    /// Adds messages to devices' queues and puts the devices on the ready index at the time when they may send (never later
    /// than they stood there, unless leased). Returns each queue's depth, in order.
    async fn enqueue(&self, batch: &[Enqueue]) -> Result<Vec<u32>>;
    /// Takes up to `limit` due devices from the ready index, hiding them for `lease`.
    async fn ready(&self, limit: u32, lease: Duration) -> Result<Ready>;
    /// Claims these devices for `owner`: takes the lease if it is free or has run out and the device may send, and with it the
    /// first messages: up to `burst` (at most [`MAX_BURST`]) of an eager device, whose last [`Finish::next_in`] was zero
    /// and that nothing has held since, and one of any other. One answer per device, in order.
    async fn claim(&self, owner: HostId, devices: &[DeviceId], lease: Duration, burst: u32) -> Result<Vec<Claimed>>;
    /// Extends leases; `false` where it is no longer the caller's.
    async fn renew(&self, leases: &[(DeviceId, i64)], lease: Duration) -> Result<Vec<bool>>;
    /// Settles orphans of a lease that [`Claimed::Orphans`] gave: each goes back to the queue or is dropped; then the lease is
    /// released and the device is ready at once. `false` when the lease is no longer the caller's.
    async fn adopt(&self, device: &DeviceId, token: i64, messages: &[(MessageId, Disposal)]) -> Result<bool>;
    /// Ends holds: removes the messages from processing and puts back those that are to go back, keeps the pace, releases
    /// the lease, and puts the device on the ready index at its next time (or takes it off when nothing waits). One
    /// answer per element, in order.
    async fn finish(&self, batch: &[Finish]) -> Result<Vec<Finished>>;
    /// Makes a device wait at least this long from now, whoever holds it (a throttled account; the pace of a send whose
    /// lease was lost). Never shortens a wait.
    async fn hold(&self, devices: &[DeviceId], wait: Duration) -> Result<()>;
    /// Makes a held device ready at once (an operator lifted a hold).
    async fn unhold(&self, devices: &[DeviceId]) -> Result<()>;

    /// The messages in a device's queue, in order.
    async fn queued(&self, device: &DeviceId) -> Result<Vec<MessageId>>;
    /// Takes messages off a device's queue (their run was paused, they were moved). Not from processing.
    async fn discard(&self, device: &DeviceId, messages: &[MessageId]) -> Result<()>;
    /// The devices' parts, in order.
    async fn depths(&self, devices: &[DeviceId]) -> Result<Vec<QueueDepth>>;
    /// How many devices stand on the ready index.
    async fn ready_count(&self) -> Result<u64>;
    /// How many of them are due and claimed by nobody: they wait for a worker.
    async fn due_count(&self) -> Result<u64>;

    /// Adds to devices' metrics.
    async fn add_metrics(&self, deltas: &[MetricsDelta]) -> Result<()>;
    /// Devices' metrics, in order.
    async fn metrics(&self, devices: &[DeviceId]) -> Result<Vec<DeviceMetrics>>;

    /// Writes the number of workers that send now in the whole cluster.
    async fn set_active_workers(&self, count: u32) -> Result<()>;
    /// The limit on workers in the whole cluster; `None` when there is none, or no number.
    async fn max_workers(&self) -> Result<Option<u32>>;
    /// Sets that limit: an operator's word.
    async fn set_max_workers(&self, limit: u32) -> Result<()>;
    /// Tells the limit that a server is configured with, and returns the one in force. What an operator has set stays, until
    /// a server comes with another setting than the one before it; 0 stays until an operator takes it away. Where there
    /// is no limit, it becomes `otherwise`.
    async fn configure_max_workers(&self, configured: u32, otherwise: u32) -> Result<u32>;

    /// Tells every server (this one included).
    async fn publish(&self, wake: Wake) -> Result<()>;
    /// Hears what is told from now on. Messages may be lost while the connection is away.
    fn subscribe(&self) -> broadcast::Receiver<Wake>;
}
