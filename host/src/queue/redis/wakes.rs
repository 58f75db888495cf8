//! Wake-ups over Redis' publish and subscribe.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt;
use redis::Client;
use tokio::sync::broadcast;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::link::{ANSWER_TIMEOUT, CONNECT_TIMEOUT};
use crate::queue::Wake;

/// The channel.
pub(super) const CHANNEL: &str = "broadcast:wake";
/// Wake-ups that a slow listener may be behind.
const BACKLOG: usize = 256;
/// How often to see whether a silent connection is alive.
const PING_EVERY: Duration = Duration::from_secs(5);
/// The shortest and the longest wait before connecting again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

const ALL: [Wake; 4] = [Wake::Trigger, Wake::Processor, Wake::Workers, Wake::Changed];

/// The word that stands for a wake-up on the channel.
pub(super) const fn word(wake: Wake) -> &'static str {
    match wake {
        Wake::Trigger => "trigger",
        Wake::Processor => "processor",
        Wake::Workers => "workers",
        Wake::Changed => "changed",
    }
}

/// Listens on a connection of its own, which is made again whenever it is lost.
pub(super) struct Wakes {
    sender: broadcast::Sender<Wake>,
    listening: Arc<AtomicBool>,
    _task: AbortOnDropHandle<()>,
}

impl Wakes {
    /// Listens to the first of `clients` that answers; in a cluster every node passes on what any node is told.
    pub(super) fn start(clients: Vec<Client>) -> Self {
        let sender = broadcast::Sender::new(BACKLOG);
        let listening = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn(keep_listening(clients, sender.clone(), listening.clone()));
        Self { sender, listening, _task: AbortOnDropHandle::new(task) }
    }

    pub(super) fn subscribe(&self) -> broadcast::Receiver<Wake> {
        self.sender.subscribe()
    }

    /// Whether what is published now comes back to this process.
    pub(super) fn listening(&self) -> bool {
        self.listening.load(Ordering::Acquire)
    }

    /// Tells this process only.
    pub(super) fn tell(&self, wake: Wake) {
        // An error means that nobody listens.
        let _ = self.sender.send(wake);
    }
}

async fn keep_listening(clients: Vec<Client>, sender: broadcast::Sender<Wake>, listening: Arc<AtomicBool>) {
    let mut backoff = BACKOFF.0;
    for client in clients.iter().cycle() {
        let end = listen(client, &sender, &listening).await;
        // True when it had listened: then the server may be back at once.
        backoff = if listening.swap(false, Ordering::AcqRel) { BACKOFF.0 } else { (backoff * 2).min(BACKOFF.1) };
        if let Err(error) = end {
            tracing::debug!(error = &error as &dyn std::error::Error, "the wake-up connection is away");
        }
        sleep(backoff).await;
    }
}

async fn listen(client: &Client, sender: &broadcast::Sender<Wake>, listening: &AtomicBool) -> redis::RedisResult<()> {
    let late = |_| redis::RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut));
    let connection = timeout(CONNECT_TIMEOUT, client.get_async_pubsub()).await.map_err(late)??;
    let (mut sink, mut stream) = connection.split();
    timeout(ANSWER_TIMEOUT, sink.subscribe(CHANNEL)).await.map_err(late)??;
    listening.store(true, Ordering::Release);
    loop {
        match timeout(PING_EVERY, stream.next()).await {
            Ok(Some(message)) => {
                if let Some(wake) = ALL.into_iter().find(|w| word(*w).as_bytes() == message.get_payload_bytes()) {
                    let _ = sender.send(wake);
                }
            }
            Ok(None) => return Ok(()),
            // Silence: a connection that was cut without a word would stay silent for ever.
            Err(_) => timeout(ANSWER_TIMEOUT, sink.ping::<redis::Value>()).await.map_err(late)?.map(drop)?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_on_the_channel_is_the_word_on_the_wire() {
        for wake in ALL {
            assert_eq!(serde_json::to_value(wake).unwrap(), word(wake));
        }
    }
}
