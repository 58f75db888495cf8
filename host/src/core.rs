//! What every part of a server holds: the store, the queue, the plugins, the clock, the settings, and the wake-ups.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use crate::accounts::AccountStates;
use crate::clock::SharedClock;
use crate::config::Config;
use crate::egress::Egress;
use crate::id::HostId;
use crate::metrics::Metrics;
use crate::plugins::{PluginHost, Registry};
use crate::queue::{Queue, Wake};
use crate::store::{HostRow, Store};

/// The shared parts of a server; cheap to clone.
#[derive(Clone)]
pub struct Core {
    /// This process.
    pub host: HostId,
    /// The truth.
    pub store: Arc<dyn Store>,
    /// The index.
    pub queue: Arc<dyn Queue>,
    /// Loads and calls components.
    pub plugin_host: PluginHost,
    /// The active and pinned plugin versions.
    pub plugins: Arc<Registry>,
    /// The way out.
    pub egress: Egress,
    /// The cluster's time.
    pub clock: SharedClock,
    /// The settings.
    pub config: Arc<Config>,
    /// What this process counts.
    pub metrics: Arc<Metrics>,
    /// What senders keep per account.
    pub accounts: Arc<AccountStates>,
    /// The servers that were alive at this server's last heartbeat.
    pub hosts: Arc<RwLock<Vec<HostRow>>>,
    /// That the store refused this server's last heartbeat; `None` when it took it.
    pub store_trouble: Arc<RwLock<Option<StoreTrouble>>>,
}

/// A store that refuses a server's heartbeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreTrouble {
    /// Why, for those who may not see the error.
    pub told: &'static str,
    /// Until when the other servers count this one as alive, by the last heartbeat that was taken; on the monotonic clock.
    pub alive_until: Duration,
}

impl Core {
    /// Tells the loops of every server; a queue that is away only costs the other servers their head start.
    pub async fn wake(&self, wake: Wake) {
        if let Err(error) = self.queue.publish(wake).await {
            tracing::debug!(error = %error, "a wake-up was not published");
        }
    }
}

/// A loop's alarm clock: its own interval, or a wake-up of the kinds it listens for, whichever is first.
///
/// It is made before the loop first looks for work, so that no wake-up between looking and sleeping is lost.
pub struct Alarm {
    wakes: broadcast::Receiver<Wake>,
    kinds: &'static [Wake],
    stop: CancellationToken,
    woken: bool,
}

impl Alarm {
    /// An alarm for these kinds of wake-up.
    pub fn new(queue: &dyn Queue, kinds: &'static [Wake], stop: CancellationToken) -> Self {
        Self { wakes: queue.subscribe(), kinds, stop, woken: true }
    }

    /// Whether the last sleep ended with a wake-up, or there was none yet.
    pub fn woken(&self) -> bool {
        self.woken
    }

    /// Sleeps until a wake-up or for `at_most`; `false` when the loop shall end.
    pub async fn sleep(&mut self, at_most: Duration) -> bool {
        self.woken = false;
        let timer = tokio::time::sleep(at_most);
        tokio::pin!(timer);
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return false,
                wake = self.wakes.recv() => match wake {
                    Ok(wake) if self.kinds.contains(&wake) => {
                        self.woken = true;
                        self.drain();
                        return true;
                    }
                    // Some were missed: one of them may have been for us.
                    Err(broadcast::error::RecvError::Lagged(_)) => {
                        self.woken = true;
                        return true;
                    }
                    Ok(_) => {}
                    Err(broadcast::error::RecvError::Closed) => {
                        (&mut timer).await;
                        return true;
                    }
                },
                () = &mut timer => return true,
            }
        }
    }

    /// Wake-ups that came together are one reason to look, not many.
    fn drain(&mut self) {
        while !matches!(
            self.wakes.try_recv(),
            Err(broadcast::error::TryRecvError::Empty | broadcast::error::TryRecvError::Closed)
        ) {}
    }
}
