//! The troubles that all servers share: the queue, the database, and a new version of a plugin while servers are replaced.

use bytes::Bytes;
use carillon::plugins::NEXT_JINJA;
use hyper::Method;
use rand::RngExt as _;
use serde_json::json;
use sqlx::{Connection as _, Executor as _, PgConnection};

use super::{Trouble, servers};
use crate::chaos::world::Queue;

/// The servers are restarted one by one, and after each restart the other version of the template plugin is activated.
pub const PLUGIN_CHANGE: &str = "plugin version changed in a rolling restart";

/// What happens to the database or the queue.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// FLUSHALL.
    Flush,
    /// SIGKILL to Redis, which has its data when it comes back.
    QueueKilled,
    /// SIGKILL to Redis, which has nothing when it comes back.
    QueueLost,
    /// SIGKILL to a master of the Redis Cluster, whose replica takes over; what was not copied yet is lost.
    FailOver,
    /// SIGKILL to PostgreSQL.
    DatabaseKilled,
    /// `pg_terminate_backend` for all.
    SessionsEnded,
    /// Every connection that PostgreSQL has is taken.
    Exhausted,
}

impl Fault {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Flush => "queue flushed",
            Self::QueueKilled => "queue killed, data kept",
            Self::QueueLost => "queue killed, data gone",
            Self::FailOver => "queue's master killed, replica took over",
            Self::DatabaseKilled => "database killed",
            Self::SessionsEnded => "database sessions ended",
            Self::Exhausted => "database connections exhausted",
        }
    }
}

/// What there is, with its weight where no number of each is asked for.
pub fn menu(cluster: bool) -> Vec<(Fault, u64)> {
    let mut menu =
        vec![(Fault::Flush, 1), (Fault::DatabaseKilled, 1), (Fault::SessionsEnded, 2), (Fault::Exhausted, 1)];
    match cluster {
        true => menu.push((Fault::FailOver, 4)),
        false => menu.extend([(Fault::QueueKilled, 1), (Fault::QueueLost, 1)]),
    }
    menu
}

impl Trouble {
    pub(super) async fn of_backends(mut self) {
        let menu = menu(self.plan.cluster);
        while self.lull(1_500..5_000).await {
            let fault = self.draw(&menu, Fault::name);
            let happened = match fault {
                Fault::Flush => {
                    match &*self.world.queue.lock().await {
                        Queue::Single(redis) => redis.flush().await,
                        Queue::Cluster(cluster) => cluster.flush_masters().await,
                    }
                    true
                }
                Fault::QueueKilled => self.queue_killed(false).await,
                Fault::QueueLost => self.queue_killed(true).await,
                Fault::FailOver => self.fail_over().await,
                Fault::DatabaseKilled => {
                    self.world.postgres.kill();
                    self.peace(0..1_000).await;
                    self.world.postgres.restart().await;
                    true
                }
                Fault::SessionsEnded => self.end_sessions().await.is_ok(),
                Fault::Exhausted => {
                    self.exhaust().await;
                    true
                }
            };
            if happened {
                self.count(fault.name());
            }
        }
    }

    async fn queue_killed(&mut self, forget: bool) -> bool {
        let world = self.world.clone();
        let mut queue = world.queue.lock().await;
        let Queue::Single(redis) = &mut *queue else { return false };
        redis.kill();
        if forget {
            redis.forget();
        }
        self.peace(0..1_000).await;
        assert!(redis.restart().await, "Redis comes back");
        true
    }

    async fn fail_over(&mut self) -> bool {
        let world = self.world.clone();
        let mut queue = world.queue.lock().await;
        let Queue::Cluster(cluster) = &mut *queue else { return false };
        let masters = cluster.masters().await;
        let n = masters[self.rng.random_range(0..masters.len())];
        cluster.kill_master(n).await;
        self.peace(0..1_000).await;
        // It finds its place by what it kept: as a replica of the one that took over.
        assert!(cluster.nodes[n].restart().await, "a node of the cluster comes back");
        cluster.until_replicated().await;
        true
    }

    async fn end_sessions(&self) -> sqlx::Result<()> {
        let mut admin = PgConnection::connect(&self.world.database).await?;
        admin
            .execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname IS NOT NULL")
            .await?;
        admin.close().await
    }

    /// Ends the servers' connections, so that they need new ones, and takes every one that the database has.
    async fn exhaust(&mut self) {
        let _away = self.end_sessions().await;
        let mut taken = Vec::new();
        while let Ok(connection) = PgConnection::connect(&self.world.database).await {
            taken.push(connection);
        }
        self.peace(300..1_500).await;
    }

    /// Servers are replaced one by one, and after each of them the other version of the template plugin is activated: an upgrade
    /// in the middle of an upgrade, and back.
    pub(super) async fn of_plugins(mut self) {
        let world = self.world.clone();
        while self.lull(1_000..8_000).await {
            let wasm = Bytes::from_static(NEXT_JINJA);
            world.driver.call(Method::POST, "/api/v1/plugins", "application/wasm", wasm).await;
            for node in &world.nodes {
                {
                    let _mine = node.busy.lock().await;
                    node.roll().await;
                }
                self.count(servers::Fault::Roll.name());
                let active = world.driver.get("/api/v1/plugins/jinja").await["active"].clone();
                let other = if active == "1.1.0" { "1.0.0" } else { "1.1.0" };
                world.driver.post("/api/v1/plugins/jinja/activate", &json!({ "version": other })).await;
                self.count(PLUGIN_CHANGE);
                if self.stop.is_cancelled() {
                    return;
                }
            }
        }
    }
}
