//! A queue whose time is moved by hand.

use std::sync::Arc;
use std::time::Duration;

use carillon::clock::{ManualClock, SystemClock, Time};
use carillon::queue::memory::MemoryQueue;
use carillon::queue::{Queue, open};
use carillon_tests::redis::{Options, Server};

/// What one of the model's units of time stands for.
pub const UNIT: Duration = Duration::from_secs(60);

/// Makes a Redis believe that milliseconds have passed: everything that it keeps as a time lies so much earlier.
const PASS: &str = "
for _, key in ipairs(redis.call('KEYS', 'broadcast:device:*')) do
  for _, field in ipairs({'until', 'next_at'}) do
    local at = tonumber(redis.call('HGET', key, field) or 0)
    if at > 0 then redis.call('HSET', key, field, string.format('%.0f', at - ARGV[1])) end
  end
end
for _, key in ipairs(redis.call('KEYS', 'broadcast:ready:*')) do
  local all = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
  for i = 1, #all, 2 do
    redis.call('ZADD', key, string.format('%.17g', tonumber(all[i + 1]) - ARGV[1]), all[i])
  end
end";

/// A queue, and two servers that use it.
pub struct Bed<'a> {
    pub servers: [Arc<dyn Queue>; 2],
    backend: Backend<'a>,
}

enum Backend<'a> {
    Memory(Arc<ManualClock>),
    Redis(&'a Server),
}

/// A Redis for all sequences of a test.
pub async fn server() -> Server {
    Server::start(Options::default()).await
}

impl<'a> Bed<'a> {
    pub fn memory() -> Self {
        let clock = Arc::new(ManualClock::new(Time::from_ms(1_900_000_000_000)));
        Self { servers: in_process(&clock), backend: Backend::Memory(clock) }
    }

    /// Empty, whatever it was used for before.
    pub async fn redis(server: &'a Server) -> Self {
        server.flush().await;
        let open = async || open(&server.url(), Arc::new(SystemClock::new())).await.expect("an address");
        Self { servers: [open().await, open().await], backend: Backend::Redis(server) }
    }

    pub async fn pass(&self, units: u32) {
        match &self.backend {
            Backend::Memory(clock) => clock.advance(UNIT * units),
            Backend::Redis(server) => {
                // The index marks what it hides with a fraction of a millisecond, which must have passed, too.
                let ms = (UNIT * units).as_millis() + 1;
                server.command(&["EVAL", PASS, "0", &ms.to_string()]).await;
            }
        }
    }

    /// The queue loses its data, and Redis its scripts with them; in one process that is a restart, which takes a moment.
    pub async fn lose(&mut self) {
        match &self.backend {
            Backend::Memory(clock) => {
                clock.advance(Duration::from_millis(1));
                self.servers = in_process(clock);
            }
            Backend::Redis(server) => {
                server.flush().await;
                server.command(&["SCRIPT", "FLUSH"]).await;
            }
        }
    }
}

fn in_process(clock: &Arc<ManualClock>) -> [Arc<dyn Queue>; 2] {
    let queue: Arc<dyn Queue> = Arc::new(MemoryQueue::new(clock.clone()));
    [queue.clone(), queue]
}
