//! Life and death of a server: signals, and loops that are watched.
//!
//! The first signal (or a loop that died) drains: no new work, sends in flight end and are settled, and `/readyz` says so
//! for a moment before the listener closes. A second signal, or
//! the drain time-out, ends the process at once; what was in flight then is taken over when its leases run out.

use std::future::Future;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::app::App;

/// Loops that are expected to run until they are told to stop.
pub struct Loops {
    tracker: TaskTracker,
    /// Stops the loops.
    pub stop: CancellationToken,
    died: mpsc::UnboundedSender<&'static str>,
    deaths: mpsc::UnboundedReceiver<&'static str>,
}

impl Default for Loops {
    fn default() -> Self {
        // Bounded by the number of loops: each can die once.
        let (died, deaths) = mpsc::unbounded_channel();
        Self { tracker: TaskTracker::new(), stop: CancellationToken::new(), died, deaths }
    }
}

impl Loops {
    /// Starts a loop. If it ends (or panics) before it is told to, [`Loops::death`] says so.
    pub fn spawn(&self, name: &'static str, body: impl Future<Output = ()> + Send + 'static) {
        let (stop, died) = (self.stop.clone(), self.died.clone());
        self.tracker.spawn(async move {
            let ended = tokio::spawn(body).await;
            if let Err(error) = &ended {
                tracing::error!(loop.name = name, error = %error, "a loop failed");
            }
            if !stop.is_cancelled() || ended.is_err() {
                // Nobody listens any more only when the process is ending anyway.
                let _ending = died.send(name);
            }
        });
    }

    /// Waits for the death of a loop; returns its name.
    pub async fn death(&mut self) -> &'static str {
        match self.deaths.recv().await {
            Some(name) => name,
            None => std::future::pending().await,
        }
    }

    /// Tells every loop to stop and waits until all have.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}

/// Runs a server until a signal asks it to stop, or one of its loops dies.
///
/// # Errors
/// When a loop died, the drain was cut short by a second signal, or stopping failed: the process must end non-zero.
pub async fn run_until_signal(mut app: App) -> anyhow::Result<()> {
    let died = tokio::select! {
        () = signal() => None,
        name = app.loop_death() => Some(name),
    };
    match died {
        None => tracing::info!("stopping: sends in flight are being finished; a second signal ends at once"),
        Some(name) => tracing::error!(loop.name = name, "stopping because a loop died"),
    }
    let notice = app.core.config.drain_notice();
    tokio::select! {
        stopped = app.stop(notice) => stopped?,
        () = signal() => anyhow::bail!("ended at once by a second signal; other servers take over what was in flight"),
    }
    match died {
        None => Ok(()),
        Some(name) => anyhow::bail!("the {name} loop died"),
    }
}

/// Waits for SIGINT or SIGTERM.
pub async fn signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut int), Ok(mut term)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) else {
        tracing::warn!("signals cannot be heard; only SIGKILL ends this process");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = int.recv() => {}
        _ = term.recv() => {}
    }
}
