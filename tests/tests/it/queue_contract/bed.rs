//! What a contract test runs on.

use std::sync::Arc;
use std::time::Duration;

use carillon::clock::{Clock, ManualClock, SystemClock, Time};
use carillon::queue::{Queue, open};
use carillon_tests::redis::{Cluster, Options, Server};
use tokio::sync::{Mutex, MutexGuard, OnceCell};

/// One cluster for all tests, one test at a time: starting it takes seconds. It ends with the process.
static CLUSTER: OnceCell<Mutex<Cluster>> = OnceCell::const_new();

/// A queue, and what is behind it.
pub struct Bed {
    pub queue: Arc<dyn Queue>,
    clock: Arc<dyn Clock>,
    backend: Backend,
}

enum Backend {
    Memory(Arc<ManualClock>),
    Redis(Box<Server>),
    Cluster(MutexGuard<'static, Cluster>),
}

impl Bed {
    pub async fn memory() -> Self {
        let clock = Arc::new(ManualClock::new(Time::from_ms(1_900_000_000_000)));
        let queue = open("memory:", clock.clone()).await.unwrap();
        Self { queue, clock: clock.clone(), backend: Backend::Memory(clock) }
    }

    pub async fn redis() -> Self {
        Self::on(Server::start(Options::default()).await).await
    }

    pub async fn on(server: Server) -> Self {
        let clock = Arc::new(SystemClock::new());
        let queue = open(&server.url(), clock.clone()).await.unwrap();
        Self { queue, clock, backend: Backend::Redis(Box::new(server)) }
    }

    pub async fn cluster() -> Self {
        let cluster = CLUSTER.get_or_init(async || Mutex::new(Cluster::start().await)).await.lock().await;
        cluster.flush().await;
        let clock = Arc::new(SystemClock::new());
        let queue = open(&cluster.url(), clock.clone()).await.unwrap();
        Self { queue, clock, backend: Backend::Cluster(cluster) }
    }

    /// Another server's view of the same queue.
    pub async fn other(&self) -> Arc<dyn Queue> {
        match &self.backend {
            Backend::Memory(_) => self.queue.clone(),
            Backend::Redis(server) => open(&server.url(), self.clock.clone()).await.unwrap(),
            Backend::Cluster(cluster) => open(&cluster.url(), self.clock.clone()).await.unwrap(),
        }
    }

    pub fn server(&mut self) -> &mut Server {
        match &mut self.backend {
            Backend::Redis(server) => server,
            _ => panic!("not on one server"),
        }
    }

    /// The nodes.
    pub fn servers(&self) -> &[Server] {
        match &self.backend {
            Backend::Memory(_) => &[],
            Backend::Redis(server) => std::slice::from_ref(server),
            Backend::Cluster(cluster) => &cluster.nodes,
        }
    }

    /// The time by which the queue's waits are measured, to within the clocks' resolution.
    pub fn now(&self) -> Duration {
        self.clock.monotonic()
    }

    /// Asks again until there is an answer; time passes in between.
    pub async fn until<T>(&self, what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            assert!(tokio::time::Instant::now() < deadline, "in vain: {what}");
            match &self.backend {
                Backend::Memory(clock) => clock.advance(Duration::from_millis(5)),
                _ => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }
}
