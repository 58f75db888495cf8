//! What only a server can do: lose its data, its scripts, its connections.

use std::sync::Arc;
use std::time::Duration;

use carillon::clock::SystemClock;
use carillon::id::HostId;
use carillon::queue::{Claimed, Finished, QueueError, Wake, open};
use carillon_tests::redis::{Options, Server};

use super::bed::Bed;
use super::{LONG, batch, claim, depth, device, done, finish, message, take};

async fn lost_data_is_noticed_and_tokens_still_grow(bed: &Bed) {
    let (queue, d) = (&bed.queue, device(1));
    assert!(queue.ensure_generation().await.unwrap());
    queue.enqueue(&batch(&d, [(1, 1)])).await.unwrap();
    queue.ready(5, LONG).await.unwrap();
    let (first, old) = take(queue, &d, LONG).await;
    for server in bed.servers() {
        server.flush().await;
    }
    assert!(queue.ensure_generation().await.unwrap());
    assert!(!queue.ensure_generation().await.unwrap());
    assert_eq!(finish(queue, done(&d, old, first)).await, Finished::LeaseLost);
    assert_eq!(queue.renew(&[(d.clone(), old)], LONG).await.unwrap(), [false]);
    queue.enqueue(&batch(&d, [(1, 1)])).await.unwrap();
    assert_eq!(queue.ready(5, LONG).await.unwrap().devices, [d.clone()]);
    let (_, new) = take(queue, &d, LONG).await;
    assert!(new > old, "{new} after {old}");
    assert_eq!(finish(queue, done(&d, old, first)).await, Finished::LeaseLost);
}

async fn lost_scripts_are_sent_again(bed: &Bed) {
    let (queue, d) = (&bed.queue, device(1));
    for n in 0..3 {
        queue.enqueue(&batch(&d, [(n, 1)])).await.unwrap();
        assert_eq!(queue.ready(5, LONG).await.unwrap().devices, [d.clone()]);
        for server in bed.servers() {
            server.command(&["SCRIPT", "FLUSH"]).await;
        }
        let (first, token) = take(queue, &d, LONG).await;
        for server in bed.servers() {
            server.command(&["SCRIPT", "FLUSH"]).await;
        }
        assert_eq!(finish(queue, done(&d, token, first)).await, Finished::Done { depth: 0 });
        assert_eq!(queue.ready_count().await.unwrap(), 0);
    }
}

mod redis {
    #[tokio::test]
    async fn lost_data_is_noticed_and_tokens_still_grow() {
        super::lost_data_is_noticed_and_tokens_still_grow(&super::Bed::redis().await).await;
    }

    #[tokio::test]
    async fn lost_scripts_are_sent_again() {
        super::lost_scripts_are_sent_again(&super::Bed::redis().await).await;
    }
}

mod redis_cluster {
    #[tokio::test]
    async fn lost_data_is_noticed_and_tokens_still_grow() {
        super::lost_data_is_noticed_and_tokens_still_grow(&super::Bed::cluster().await).await;
    }

    #[tokio::test]
    async fn lost_scripts_are_sent_again() {
        super::lost_scripts_are_sent_again(&super::Bed::cluster().await).await;
    }
}

#[tokio::test]
async fn a_restart_is_survived() {
    for durable in [true, false] {
        let options = if durable { Options::durable() } else { Options::default() };
        let mut bed = Bed::on(Server::start(options).await).await;
        let (queue, d) = (bed.queue.clone(), device(1));
        assert!(queue.ensure_generation().await.unwrap());
        queue.enqueue(&batch(&d, [(1, 1), (2, 2)])).await.unwrap();
        let (first, token) = take(&queue, &d, LONG).await;
        bed.server().kill();
        let error = queue.claim(HostId::new(), &[d.clone()], LONG, 1).await.unwrap_err();
        assert!(matches!(error, QueueError::Unavailable(_)), "{error:?}");
        assert!(bed.server().restart().await);
        let new = bed.until("the connection is back", async || queue.ensure_generation().await.ok()).await;
        assert_eq!(new, !durable);
        let expected = if durable { Finished::Done { depth: 1 } } else { Finished::LeaseLost };
        assert_eq!(finish(&queue, done(&d, token, first)).await, expected);
        // Wake-ups are heard again, too.
        let mut wakes = queue.subscribe();
        let other = bed.other().await;
        bed.until("a wake-up arrives", async || {
            other.publish(Wake::Workers).await.unwrap();
            tokio::time::timeout(Duration::from_millis(100), wakes.recv()).await.ok()
        })
        .await
        .unwrap();
    }
}

#[tokio::test]
async fn a_stalled_server_is_unavailable_and_not_waited_for() {
    let mut bed = Bed::redis().await;
    let (queue, d) = (bed.queue.clone(), device(1));
    queue.enqueue(&batch(&d, [(1, 1)])).await.unwrap();
    bed.server().pause();
    let start = tokio::time::Instant::now();
    let error = queue.ready_count().await.unwrap_err();
    assert!(matches!(error, QueueError::Unavailable(_)), "{error:?}");
    assert!(start.elapsed() < Duration::from_secs(8));
    // This process hears itself meanwhile.
    let mut wakes = queue.subscribe();
    queue.publish(Wake::Processor).await.unwrap_err();
    assert_eq!(wakes.recv().await.unwrap(), Wake::Processor);
    bed.server().resume();
    bed.until("it answers again", async || queue.ready_count().await.ok()).await;
    assert_eq!(depth(&queue, &d).await.queued, 1);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unavailable_and_may_come_later() {
    let mut server = Server::start(Options::default()).await;
    server.kill();
    let queue = open(&server.url(), Arc::new(SystemClock::new())).await.unwrap();
    assert!(matches!(queue.health().await.unwrap_err(), QueueError::Unavailable(_)));
    assert!(server.restart().await);
    let bed = Bed::on(server).await;
    bed.until("it is found", async || queue.health().await.ok()).await;
}

#[tokio::test]
async fn a_full_server_is_unavailable_and_its_policy_is_checked() {
    let bed = Bed::redis().await;
    let (queue, d, server) = (&bed.queue, device(1), &bed.servers()[0]);
    queue.enqueue(&batch(&d, [(1, 1)])).await.unwrap();
    server.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let error = queue.enqueue(&batch(&d, [(2, 1)])).await.unwrap_err();
    assert!(matches!(error, QueueError::Unavailable(_)), "{error:?}");
    server.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    server.command(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]).await;
    let warnings = queue.health().await.unwrap().warnings;
    assert!(warnings.len() == 1 && warnings[0].contains("noeviction"), "{warnings:?}");
    server.command(&["ACL", "SETUSER", "default", "-config"]).await;
    let warnings = queue.health().await.unwrap().warnings;
    assert!(warnings.len() == 1 && warnings[0].contains("CONFIG GET"), "{warnings:?}");
}

#[tokio::test]
async fn keys_are_as_documented() {
    let bed = Bed::redis().await;
    let (queue, d, server) = (&bed.queue, device(1), &bed.servers()[0]);
    queue.ensure_generation().await.unwrap();
    queue.enqueue(&batch(&d, [(1, 1), (2, 1)])).await.unwrap();
    assert!(matches!(claim(queue, &d, LONG).await, Claimed::Messages { .. }));
    queue.set_active_workers(3).await.unwrap();
    queue.configure_max_workers(500, 500).await.unwrap();
    let keys = [
        ("broadcast:queue:{device-1}", "zset"),
        ("broadcast:processing:{device-1}", "set"),
        ("broadcast:device:{device-1}", "hash"),
        ("broadcast:generation", "string"),
        ("ultra:stats:active_workers", "string"),
        ("ultra:stats:max_workers", "string"),
        ("{ultra:stats:max_workers}:configured", "string"),
    ];
    for (key, kind) in keys {
        assert_eq!(server.command(&["TYPE", key]).await, ::redis::Value::SimpleString(kind.into()), "{key}");
    }
    let waiting: Vec<String> =
        ::redis::from_redis_value(server.command(&["ZRANGE", keys[0].0, "0", "-1"]).await).unwrap();
    assert_eq!(waiting, [message(2).to_string()]);
}

#[tokio::test]
async fn an_address_that_is_not_valid_is_refused_without_repeating_it() {
    for url in ["redis://u:secret@:nowhere", "amqp://u:secret@host", "redis-cluster://u:secret@", "secret"] {
        let Err(error) = open(url, Arc::new(SystemClock::new())).await else { panic!("{url} was taken") };
        assert!(matches!(error, QueueError::Internal(_)));
        let text = format!("{error:?}") + &format!("{:#}", anyhow::Error::new(error));
        assert!(text.contains("redis-cluster://") && !text.contains("secret"), "{text}");
    }
}
