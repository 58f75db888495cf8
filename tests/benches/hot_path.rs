//! What the hot path's calls of store and queue cost: `cargo bench -p carillon-tests --bench hot_path`.
//!
//! It starts the PostgreSQL and the Redis that it measures, as the tests do: PostgreSQL without `fsync`, SQLite with it. A
//! `turn` ends the attempts of 256 devices and begins their next messages; a `top_up` reads the windows of 100 devices; a
//! `cycle` of the queue is what 256 devices with 16 queued messages each cost from filling to finish.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::disallowed_methods)] // A bench measures the real time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use carillon::clock::SystemClock;
use carillon::id::{DeviceId, DeviceNo, HostId, MessageId, RunKey};
use carillon::message::{Begun, Settlement};
use carillon::queue::{self, Claimed, Disposal, Enqueue, Finish, InitialPace, Queue};
use carillon_tests::fleet::{at, running, sent};
use carillon_tests::redis::{Options, Server};
use carillon_tests::stores::{self, Opened};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tokio::runtime::Runtime;

const DEVICES: usize = 256;
const CONTACTS: u32 = 100_000;
const BURST: u32 = 16;
const LEASE: Duration = Duration::from_secs(10);

fn ids(round: usize) -> Vec<String> {
    (0..DEVICES).map(|n| format!("b{round}-{n:04}")).collect()
}

/// Turns over one campaign after the other; making them is not measured.
async fn turns(opened: &Opened, iterations: u64, round: &mut usize) -> Duration {
    let store = &*opened.store;
    let mut spent = Duration::ZERO;
    let mut left = iterations;
    while left > 0 {
        *round += 1;
        let names = ids(*round);
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let s = running(store, &names, CONTACTS).await;
        let mut ends: Vec<Settlement> = Vec::new();
        for first in (1..=CONTACTS).step_by(DEVICES) {
            if first + DEVICES as u32 > CONTACTS || left == 0 {
                break;
            }
            let claims: Vec<_> = s
                .devices
                .iter()
                .zip(first..)
                .map(|(device, n)| s.claim(s.message(n), *device, i64::from(first)))
                .collect();
            let began = Instant::now();
            let turned = store.turn(s.host, &ends, &claims, at(1)).await.unwrap();
            spent += began.elapsed();
            assert!(turned.applied.iter().all(|applied| *applied));
            left -= 1;
            ends = turned
                .begun
                .iter()
                .zip(&s.devices)
                .map(|(begun, device)| match begun {
                    Begun::Started(work) => s.settlement(work, *device, i64::from(first), sent(), at(1)),
                    other => panic!("{other:?}"),
                })
                .collect();
        }
    }
    spent
}

fn store_calls(c: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let opened = [runtime.block_on(stores::postgres()), runtime.block_on(stores::sqlite())];
    let mut group = c.benchmark_group("turn");
    group.throughput(Throughput::Elements(DEVICES as u64)).sample_size(20);
    let mut round = 0;
    for store in &opened {
        group.bench_function(BenchmarkId::from_parameter(store.kind), |b| {
            b.iter_custom(|iterations| runtime.block_on(turns(store, iterations, &mut round)));
        });
    }
    group.finish();

    let mut group = c.benchmark_group("top_up");
    group.throughput(Throughput::Elements(100)).sample_size(20);
    for store in &opened {
        round += 1;
        let names = ids(round);
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let s = runtime.block_on(running(&*store.store, &names, CONTACTS));
        let devices: Vec<DeviceNo> = s.devices[..100].to_vec();
        group.bench_function(BenchmarkId::from_parameter(store.kind), |b| {
            b.iter(|| runtime.block_on(store.store.top_up(&devices, &[s.ranked()], 100)).unwrap());
        });
    }
    group.finish();
}

/// Fills, takes, claims and finishes.
async fn cycle(queue: &dyn Queue, host: HostId, devices: &[DeviceId], next: &mut u32) {
    let batch: Vec<Enqueue> = devices
        .iter()
        .map(|device| {
            let messages = (0..BURST).map(|n| (MessageId::new(RunKey(RunKey::MIN), *next + n), 0)).collect();
            *next += BURST;
            Enqueue { device: device.clone(), messages, initial: InitialPace::default() }
        })
        .collect();
    queue.enqueue(&batch).await.unwrap();
    let mut left = devices.len() * BURST as usize;
    while left > 0 {
        let ready = queue.ready(DEVICES as u32, LEASE).await.unwrap();
        let claims = queue.claim(host, &ready.devices, LEASE, BURST).await.unwrap();
        let finishes: Vec<Finish> = ready
            .devices
            .into_iter()
            .zip(claims)
            .filter_map(|(device, claimed)| {
                let Claimed::Messages { messages, token, .. } = claimed else { return None };
                let messages: Vec<_> = messages.into_iter().map(|(message, _)| (message, Disposal::Drop)).collect();
                Some(Finish { device, token, messages, next_in: Duration::ZERO, pace: None })
            })
            .collect();
        left -= finishes.iter().map(|f| f.messages.len()).sum::<usize>();
        queue.finish(&finishes).await.unwrap();
    }
}

fn queue_calls(c: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let _guard = runtime.enter();
    let server = runtime.block_on(Server::start(Options::default()));
    let mut group = c.benchmark_group("cycle");
    group.throughput(Throughput::Elements(DEVICES as u64 * u64::from(BURST))).sample_size(20);
    for (name, url) in [("memory", "memory:".to_owned()), ("redis", server.url())] {
        let queue: Arc<dyn Queue> = runtime.block_on(queue::open(&url, Arc::new(SystemClock::new()))).unwrap();
        let devices: Vec<DeviceId> = ids(0).iter().map(|id| id.parse().unwrap()).collect();
        let (host, mut next) = (HostId::new(), 1);
        group.bench_function(BenchmarkId::from_parameter(name), |b| {
            b.iter(|| runtime.block_on(cycle(&*queue, host, &devices, &mut next)));
        });
    }
    group.finish();
}

criterion_group!(benches, store_calls, queue_calls);
criterion_main!(benches);
