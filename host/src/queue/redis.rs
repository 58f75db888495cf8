//! The queue in Redis: one server or a cluster.
//!
//! What belongs together is done by scripts that touch one slot, and a call for many devices is one round trip: a
//! pipeline, or with a cluster commands that do not wait for each other. The ready index lies in other slots than the
//! devices; with a cluster it is changed in a second round trip, in an order in which a crash between the two leaves a
//! device on the index too early, never off it: `index.lua` tells how. One server takes keys of different slots in one
//! script, so there the scripts that add messages and end holds change the index, too.

mod address;
mod answer;
mod hidden;
mod keys;
mod link;
mod script;
mod wakes;

use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use redis::Value;
use tokio::sync::broadcast;

use self::address::{client, cluster_nodes};
use self::answer::{claimed, odd, read, wait};
use self::hidden::Hidden;
use self::keys::{
    ACTIVE_WORKERS, CONFIGURED_WORKERS, GENERATION, MAX_WORKERS, SHARDS, device_keys, metrics_key, ready_key, shard,
};
use self::link::{Link, bad_address};
use self::script::{Order, Script};
use self::wakes::{Wakes, word};
use super::{
    Claimed, DeviceMetrics, Disposal, Enqueue, Finish, Finished, MAX_BURST, MetricsDelta, Queue, QueueDepth,
    QueueHealth, Ready, Result, Wake,
};
use crate::clock::Time;
use crate::id::{DeviceId, HostId, MessageId};

/// Passes of one [`Queue::ready`] over shards that have more than their share.
const READY_PASSES: usize = 4;
/// Most arguments of one plain command.
const PORTION: usize = 500;

/// When another device is due, and devices with how long (ms) they have been due.
type Taken = (Option<Duration>, Vec<(i64, DeviceId)>);

/// The queue in Redis.
pub struct RedisQueue {
    kind: &'static str,
    link: Link,
    wakes: Wakes,
    hidden: Mutex<Hidden>,
}

impl RedisQueue {
    /// The queue at `redis://` or `rediss://`. Connects when it is first used; fails if the address is not valid.
    /// Must be called within a tokio runtime.
    pub fn single(url: &str) -> Result<Self> {
        let client = client(url)?;
        let wakes = Wakes::start(vec![client.clone()]);
        Ok(Self { kind: "redis", link: Link::single(client)?, wakes, hidden: Mutex::default() })
    }

    /// The queue at `redis-cluster://a:1,b:2` or `rediss-cluster://…`: any of the nodes leads to the others.
    /// Otherwise as [`RedisQueue::single`].
    pub fn cluster(url: &str) -> Result<Self> {
        let nodes = cluster_nodes(url).ok_or_else(bad_address)?;
        let clients = nodes.iter().map(|node| client(node)).collect::<Result<Vec<_>>>()?;
        let link = Link::cluster(nodes)?;
        Ok(Self { kind: "redis-cluster", link, wakes: Wakes::start(clients), hidden: Mutex::default() })
    }

    /// A call of a script that, with one server, changes the device's place on the ready index itself.
    fn call_with_index(&self, script: &'static Script, device: &DeviceId) -> Order {
        let [queue, processing, hash] = device_keys(device);
        match self.link.is_cluster() {
            true => Order::call(script, &[queue, processing, hash]),
            false => Order::call(script, &[queue, processing, hash, ready_key(shard(device))]),
        }
        .arg(device.as_str())
    }

    /// A call of finish.lua.
    fn end(
        &self,
        device: &DeviceId,
        token: i64,
        next_in: Option<Duration>,
        pace: Option<&str>,
        messages: &[(MessageId, Disposal)],
    ) -> Order {
        let back = messages.iter().filter_map(|(id, disposal)| match disposal {
            Disposal::PutBack(rank) => Some((id, rank)),
            Disposal::Drop => None,
        });
        let dropped = messages.iter().filter(|(_, disposal)| *disposal == Disposal::Drop);
        let order = self
            .call_with_index(&script::FINISH, device)
            .arg(token)
            .arg(next_in.map(|wait| ms(wait).to_string()).unwrap_or_default())
            .arg(pace.unwrap_or_default())
            .arg(back.clone().count());
        let order = back.fold(order, |order, (id, rank)| order.arg(*rank).arg(id.to_string()));
        dropped.fold(order, |order, (id, _)| order.arg(id.to_string()))
    }

    /// An order to change a device's place on the ready index.
    fn index(&self, verb: &str, device: &DeviceId, seen: Option<String>, wait: Duration) -> Order {
        Order::call(&script::INDEX, &[ready_key(shard(device))])
            .arg(verb)
            .arg(device.as_str())
            .arg(seen.unwrap_or_default())
            .arg(ms(wait))
    }

    /// With a cluster, puts a device whose hold has ended on the ready index after `wait`, or takes it off when nothing
    /// waits on it.
    fn put_or_drop(&self, device: &DeviceId, wait: Option<Duration>) -> Option<Order> {
        let seen = self.hidden.lock().take(device);
        match wait {
            _ if !self.link.is_cluster() => None,
            Some(wait) => Some(self.index("put", device, seen, wait)),
            None if seen.is_some() => Some(self.index("drop", device, seen, Duration::ZERO)),
            None => None,
        }
    }

    /// Changes the index after something that cannot be taken back: a failure is no reason to lose its answer, because
    /// the devices stand on the index, hidden for a lease at most.
    async fn mend_index(&self, orders: &[Order]) {
        if let Some(Err(error)) = self.link.send(orders).await.into_iter().find(Result::is_err) {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "the ready index could not be changed; the devices are late by up to a lease");
        }
    }
}

#[async_trait]
impl Queue for RedisQueue {
    fn kind(&self) -> &'static str {
        self.kind
    }

    fn commands(&self) -> u64 {
        self.link.sent()
    }

    fn errors(&self) -> u64 {
        self.link.failures()
    }

    async fn health(&self) -> Result<QueueHealth> {
        let mut cmd = redis::cmd("INFO");
        cmd.arg("server");
        let mut servers = Vec::new();
        for value in self.link.ask_masters(cmd).await? {
            servers.push(server_name(&read::<String>(value, "INFO")?));
        }
        servers.sort_unstable();
        servers.dedup();
        let mut cmd = redis::cmd("CONFIG");
        cmd.arg("GET").arg("maxmemory-policy");
        let mut warnings = Vec::new();
        match self.link.ask_masters(cmd).await {
            Ok(values) => {
                for value in values {
                    let settings: std::collections::HashMap<String, String> = read(value, "CONFIG GET")?;
                    let policy = settings.get("maxmemory-policy").map_or("unknown", String::as_str);
                    let warning = format!(
                        "maxmemory-policy is {policy}; set it to noeviction, or the server drops queued messages when \
                         its memory is full"
                    );
                    if policy != "noeviction" && !warnings.contains(&warning) {
                        warnings.push(warning);
                    }
                }
            }
            Err(error @ super::QueueError::Unavailable(_)) => return Err(error),
            // Managed servers forbid CONFIG.
            Err(super::QueueError::Internal(_)) => warnings.push(
                "maxmemory-policy cannot be read (the server does not allow CONFIG GET); make sure that it is noeviction"
                    .to_owned(),
            ),
        }
        Ok(QueueHealth { server: servers.join(", "), warnings })
    }

    async fn ensure_generation(&self) -> Result<bool> {
        let generation = format!("{:016x}", rand::random::<u64>());
        let answers = self.link.send_all(&[Order::plain("SET", GENERATION).arg(generation).arg("NX")]).await?;
        Ok(matches!(answers.first(), Some(Value::Okay)))
    }

    async fn enqueue(&self, batch: &[Enqueue]) -> Result<Vec<u32>> {
        let orders: Vec<Order> = batch
            .iter()
            .map(|e| {
                let order = self.call_with_index(&script::ENQUEUE, &e.device).arg(ms(e.initial.next_in));
                e.messages
                    .iter()
                    .fold(order.arg(&e.initial.pace), |order, (id, rank)| order.arg(*rank).arg(id.to_string()))
            })
            .collect();
        let mut depths = Vec::with_capacity(batch.len());
        let mut index = Vec::new();
        let mut failure = None;
        for (enqueue, answer) in batch.iter().zip(self.link.send(&orders).await) {
            match answer.and_then(|value| read::<(u32, i64)>(value, "enqueue")) {
                Ok((depth, wait_ms)) => {
                    depths.push(depth);
                    if !self.link.is_cluster() {
                        continue;
                    }
                    // Not the score that was seen: a device that this process has hidden is to come forward again.
                    index.extend(wait(wait_ms).map(|wait| self.index("put", &enqueue.device, None, wait)));
                }
                Err(error) => failure = Some(error),
            }
        }
        // Devices whose messages were added go on the index even if others failed: nobody may repeat the call.
        self.link.send_all(&index).await?;
        match failure {
            Some(error) => Err(error),
            None => Ok(depths),
        }
    }

    async fn ready(&self, limit: u32, lease: Duration) -> Result<Ready> {
        // Each call starts with another shard: where a limit does not divide evenly, none is always last.
        let start = rand::random_range(0..SHARDS);
        let mut open: Vec<u32> = (0..SHARDS).map(|n| (start + n) % SHARDS).collect();
        let mut next: Vec<Option<Duration>> = vec![None; SHARDS as usize];
        let mut taken: Vec<(i64, DeviceId)> = Vec::new();
        let mut missing = limit;
        for _ in 0..READY_PASSES {
            let mark = f64::from(rand::random_range(1..1024_u32)) / 1024.0;
            let parts = open.len() as u32;
            let share = |place: usize| missing / parts + u32::from((place as u32) < missing % parts);
            let orders: Vec<Order> = open
                .iter()
                .enumerate()
                .map(|(place, shard)| {
                    Order::call(&script::READY, &[ready_key(*shard)]).arg(share(place)).arg(ms(lease)).arg(mark)
                })
                .collect();
            let mut failure = None;
            let mut failures = 0;
            let mut more = Vec::new();
            let mut got = 0;
            for (shard, answer) in open.iter().zip(self.link.send(&orders).await) {
                let answer = match answer.and_then(|value| read::<Vec<String>>(value, "ready")) {
                    Ok(answer) => answer,
                    Err(error) => {
                        failures += 1;
                        failure = Some(error);
                        continue;
                    }
                };
                let (next_in, devices) = self.taken(&answer, lease)?;
                got += devices.len() as u32;
                taken.extend(devices);
                if next_in == Some(Duration::ZERO) {
                    more.push(*shard);
                }
                if let Some(slot) = next.get_mut(*shard as usize) {
                    *slot = next_in;
                }
            }
            if let Some(error) = failure {
                // What the others gave is hidden now, and must be used.
                if failures == open.len() && taken.is_empty() {
                    return Err(error);
                }
                tracing::warn!(error = &error as &dyn std::error::Error, "a part of the ready index cannot be read");
            }
            missing = missing.saturating_sub(got);
            open = more;
            if missing == 0 || open.is_empty() {
                break;
            }
        }
        taken.sort_by_key(|(late, _)| std::cmp::Reverse(*late));
        let late_ms = |ms: i64| Duration::from_millis(u64::try_from(ms).unwrap_or(0));
        let (late, devices) = taken.into_iter().map(|(late, device)| (late_ms(late), device)).unzip();
        Ok(Ready { devices, late, next_in: next.into_iter().flatten().min() })
    }

    async fn claim(&self, owner: HostId, devices: &[DeviceId], lease: Duration, burst: u32) -> Result<Vec<Claimed>> {
        let burst = burst.clamp(1, MAX_BURST);
        let owner = owner.to_string();
        let orders: Vec<Order> = devices
            .iter()
            .map(|device| Order::call(&script::CLAIM, &device_keys(device)).arg(&owner).arg(ms(lease)).arg(burst))
            .collect();
        let mut claims = Vec::with_capacity(devices.len());
        let mut index = Vec::new();
        let mut failures = Vec::new();
        for (device, answer) in devices.iter().zip(self.link.send(&orders).await) {
            let claim = match answer.and_then(claimed) {
                Ok(claim) => claim,
                Err(error) => {
                    failures.push(error);
                    claims.push(Claimed::NotYet(lease));
                    continue;
                }
            };
            let mut hidden = self.hidden.lock();
            match &claim {
                Claimed::Empty => {
                    let seen = hidden.take(device).filter(|s| !s.is_empty());
                    index.extend(seen.map(|seen| self.index("drop", device, Some(seen), Duration::ZERO)));
                }
                Claimed::NotYet(wait) => {
                    let seen = hidden.take(device);
                    index.extend(seen.map(|seen| self.index("move", device, Some(seen), *wait)));
                }
                // A device that was claimed without being on the index is on it now, so that it is found should the
                // caller die.
                Claimed::Messages { .. } | Claimed::Orphans { .. } if !hidden.contains(device) => {
                    index.push(self.index("cover", device, None, lease));
                }
                Claimed::Messages { .. } | Claimed::Orphans { .. } => {}
            }
            claims.push(claim);
        }
        self.mend_index(&index).await;
        // With one node of a cluster away the claims on the others hold; giving them up would make orphans of them.
        let all_failed = failures.len() == devices.len();
        match failures.pop() {
            Some(error) if all_failed => Err(error),
            Some(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "some devices could not be claimed");
                Ok(claims)
            }
            None => Ok(claims),
        }
    }

    async fn renew(&self, leases: &[(DeviceId, i64)], lease: Duration) -> Result<Vec<bool>> {
        let orders: Vec<Order> = leases
            .iter()
            .map(|(device, token)| {
                let [_, _, key] = device_keys(device);
                Order::call(&script::RENEW, &[key]).arg(*token).arg(ms(lease))
            })
            .collect();
        self.link.send_all(&orders).await?.into_iter().map(|value| read(value, "renew")).collect()
    }

    async fn adopt(&self, device: &DeviceId, token: i64, messages: &[(MessageId, Disposal)]) -> Result<bool> {
        let order = self.end(device, token, None, None, messages);
        let answer = self.link.send_all(&[order]).await?.pop().ok_or_else(|| odd("adopt"))?;
        let (done, _, wait_ms): (bool, u32, i64) = read(answer, "adopt")?;
        if done {
            let orders: Vec<Order> = self.put_or_drop(device, wait(wait_ms)).into_iter().collect();
            self.mend_index(&orders).await;
        }
        Ok(done)
    }

    async fn finish(&self, batch: &[Finish]) -> Result<Vec<Finished>> {
        let orders: Vec<Order> = batch
            .iter()
            .map(|f| self.end(&f.device, f.token, Some(f.next_in), f.pace.as_deref(), &f.messages))
            .collect();
        let mut results = Vec::with_capacity(batch.len());
        let mut index = Vec::new();
        let mut failure = None;
        for (finish, answer) in batch.iter().zip(self.link.send(&orders).await) {
            match answer.and_then(|value| read::<(bool, u32, i64)>(value, "finish")) {
                Ok((true, depth, wait_ms)) => {
                    index.extend(self.put_or_drop(&finish.device, wait(wait_ms)));
                    results.push(Finished::Done { depth });
                }
                Ok((false, ..)) => results.push(Finished::LeaseLost),
                Err(error) => failure = Some(error),
            }
        }
        self.mend_index(&index).await;
        match failure {
            Some(error) => Err(error),
            None => Ok(results),
        }
    }

    async fn hold(&self, devices: &[DeviceId], wait: Duration) -> Result<()> {
        // The index stays as it is: the next claim finds the wait and moves the device. Moving it here could undo an
        // unhold that comes in between.
        let orders: Vec<Order> = devices
            .iter()
            .map(|device| {
                let [_, _, key] = device_keys(device);
                Order::call(&script::HOLD, &[key]).arg(ms(wait))
            })
            .collect();
        self.link.send_all(&orders).await.map(drop)
    }

    async fn unhold(&self, devices: &[DeviceId]) -> Result<()> {
        let orders: Vec<Order> = devices.iter().map(|d| Order::call(&script::UNHOLD, &device_keys(d))).collect();
        let mut index = Vec::new();
        for (device, answer) in devices.iter().zip(self.link.send_all(&orders).await?) {
            index.extend(wait(read(answer, "unhold")?).map(|wait| self.index("put", device, None, wait)));
        }
        self.link.send_all(&index).await.map(drop)
    }

    async fn queued(&self, device: &DeviceId) -> Result<Vec<MessageId>> {
        let [key, ..] = device_keys(device);
        let answer = self.link.send_all(&[Order::plain("ZRANGE", &key).arg(0).arg(-1)]).await?.pop();
        let ids: Vec<String> = read(answer.unwrap_or(Value::Nil), "ZRANGE")?;
        ids.iter().map(|id| id.parse().map_err(|_| odd("ZRANGE"))).collect()
    }

    async fn discard(&self, device: &DeviceId, messages: &[MessageId]) -> Result<()> {
        let [key, ..] = device_keys(device);
        let orders: Vec<Order> = messages
            .chunks(PORTION)
            .map(|ids| ids.iter().fold(Order::plain("ZREM", &key), |order, id| order.arg(id.to_string())))
            .collect();
        self.link.send_all(&orders).await.map(drop)
    }

    async fn depths(&self, devices: &[DeviceId]) -> Result<Vec<QueueDepth>> {
        let orders: Vec<Order> = devices.iter().map(|d| Order::call(&script::DEPTH, &device_keys(d))).collect();
        let answers = self.link.send_all(&orders).await?;
        answers
            .into_iter()
            .map(|value| {
                let (queued, processing, next_in_ms, leased) = read(value, "depth")?;
                Ok(QueueDepth { queued, processing, next_in_ms, leased })
            })
            .collect()
    }

    async fn ready_count(&self) -> Result<u64> {
        let orders: Vec<Order> = (0..SHARDS).map(|n| Order::plain("ZCARD", &ready_key(n))).collect();
        self.link.send_all(&orders).await?.into_iter().map(|value| read::<u64>(value, "ZCARD")).sum()
    }

    async fn due_count(&self) -> Result<u64> {
        let orders: Vec<Order> = (0..SHARDS).map(|n| Order::call(&script::DUE, &[ready_key(n)])).collect();
        self.link.send_all(&orders).await?.into_iter().map(|value| read::<u64>(value, "due")).sum()
    }

    async fn add_metrics(&self, deltas: &[MetricsDelta]) -> Result<()> {
        let orders: Vec<Order> = deltas
            .iter()
            .map(|delta| {
                let order = Order::call(&script::METRICS, &[metrics_key(&delta.device)])
                    .arg(delta.sent)
                    .arg(delta.failed)
                    .arg(delta.retried)
                    .arg(delta.latency_ms);
                match delta.last_sent_at {
                    Some(at) => order.arg(at.as_ms()).arg(delta.last_delay_ms),
                    None => order,
                }
            })
            .collect();
        self.link.send_all(&orders).await.map(drop)
    }

    async fn metrics(&self, devices: &[DeviceId]) -> Result<Vec<DeviceMetrics>> {
        const FIELDS: [&str; 6] = ["sent", "failed", "retried", "latency_ms", "last_sent_at", "last_delay_ms"];
        let orders: Vec<Order> = devices.iter().map(|d| Order::plain("HMGET", &metrics_key(d)).arg(&FIELDS)).collect();
        let answers = self.link.send_all(&orders).await?;
        answers
            .into_iter()
            .map(|value| {
                type Fields = (Option<u64>, Option<u64>, Option<u64>, Option<u64>, Option<i64>, Option<u64>);
                let (sent, failed, retried, latency_ms, last_sent_at, last_delay_ms): Fields = read(value, "HMGET")?;
                Ok(DeviceMetrics {
                    sent: sent.unwrap_or_default(),
                    failed: failed.unwrap_or_default(),
                    retried: retried.unwrap_or_default(),
                    latency_ms: latency_ms.unwrap_or_default(),
                    last_sent_at: last_sent_at.map(Time::from_ms),
                    last_delay_ms: last_delay_ms.unwrap_or_default(),
                })
            })
            .collect()
    }

    async fn set_active_workers(&self, count: u32) -> Result<()> {
        self.link.send_all(&[Order::plain("SET", ACTIVE_WORKERS).arg(count)]).await.map(drop)
    }

    async fn max_workers(&self) -> Result<Option<u32>> {
        let limit = self.link.send_all(&[Order::plain("GET", MAX_WORKERS)]).await?.pop().unwrap_or(Value::Nil);
        let limit: Option<String> = read(limit, "GET")?;
        // Operators may write it by hand; what is no number counts as not written.
        Ok(limit.and_then(|l| l.trim().parse().ok()))
    }

    async fn set_max_workers(&self, limit: u32) -> Result<()> {
        self.link.send_all(&[Order::plain("SET", MAX_WORKERS).arg(limit)]).await.map(drop)
    }

    async fn configure_max_workers(&self, configured: u32, otherwise: u32) -> Result<u32> {
        let keys = [MAX_WORKERS.to_owned(), CONFIGURED_WORKERS.to_owned()];
        let order = Order::call(&script::LIMIT, &keys).arg(configured).arg(otherwise);
        let limit = self.link.send_all(&[order]).await?.pop().unwrap_or(Value::Nil);
        let limit: Option<String> = read(limit, "limit")?;
        Ok(limit.and_then(|l| l.trim().parse().ok()).unwrap_or(otherwise))
    }

    async fn publish(&self, wake: Wake) -> Result<()> {
        let told = self.link.send_all(&[Order::plain("PUBLISH", wakes::CHANNEL).arg(word(wake))]).await;
        // Otherwise it comes back over the channel.
        if told.is_err() || !self.wakes.listening() {
            self.wakes.tell(wake);
        }
        told.map(drop)
    }

    fn subscribe(&self) -> broadcast::Receiver<Wake> {
        self.wakes.subscribe()
    }
}

impl RedisQueue {
    /// Reads an answer of ready.lua, and remembers what it has hidden.
    fn taken(&self, answer: &[String], lease: Duration) -> Result<Taken> {
        let [next_in, score, devices @ ..] = answer else { return Err(odd("ready")) };
        let next_in = wait(next_in.parse().map_err(|_| odd("ready"))?);
        let mut hidden = self.hidden.lock();
        let mut taken = Vec::with_capacity(devices.len() / 2);
        for pair in devices.chunks_exact(2) {
            if let [device, late] = pair
                && let Ok(device) = device.parse::<DeviceId>()
            {
                hidden.insert(device.clone(), score.clone(), lease);
                taken.push((late.parse().map_err(|_| odd("ready"))?, device));
            }
        }
        Ok((next_in, taken))
    }
}

/// Whole milliseconds, not less than the duration; ten years at most, so that sums stay exact in Lua's doubles.
fn ms(duration: Duration) -> u64 {
    const TEN_YEARS_MS: u64 = 10 * 366 * 86_400_000;
    u64::try_from(duration.as_micros().div_ceil(1000)).unwrap_or(TEN_YEARS_MS).min(TEN_YEARS_MS)
}

/// The server's name and version from its INFO.
fn server_name(info: &str) -> String {
    let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    match (field("valkey_version"), field("redis_version")) {
        (Some(version), _) => format!("Valkey {version}"),
        (None, Some(version)) => format!("Redis {version}"),
        (None, None) => "unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_rounded_up() {
        assert_eq!(ms(Duration::from_micros(1)), 1);
        assert_eq!(ms(Duration::from_millis(7)), 7);
    }

    #[test]
    fn the_server_is_named() {
        assert_eq!(server_name("# Server\r\nredis_version:7.0.15\r\n"), "Redis 7.0.15");
        assert_eq!(server_name("redis_version:7.2.4\r\nvalkey_version:8.0.1\r\n"), "Valkey 8.0.1");
    }
}
