//! The dispatcher's timer: it sleeps until the next device is due, and a send that ends earlier than that brings it
//! forward.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

/// When to look again.
#[derive(Default)]
pub struct Due {
    /// The earliest due time that was announced since the dispatcher last asked.
    announced: Mutex<Option<Instant>>,
    notify: Notify,
}

/// That the dispatcher is about to ask the queue: announcements from here on count.
#[derive(Clone, Copy)]
pub struct Asking(Instant);

impl Due {
    /// To be called before the queue is asked.
    pub fn asking(&self) -> Asking {
        *self.announced.lock() = None;
        Asking(Instant::now())
    }

    /// A device will be due in `wait`.
    pub fn bring_forward(&self, wait: Duration) {
        let Some(at) = Instant::now().checked_add(wait) else { return };
        let mut announced = self.announced.lock();
        if announced.is_none_or(|a| at < a) {
            *announced = Some(at);
            self.notify.notify_one();
        }
    }

    /// Sleeps for `wait` from when the queue was asked, or until the earliest announced time.
    pub async fn sleep(&self, asked: Asking, wait: Duration) {
        let mut until = asked.0 + wait;
        loop {
            if let Some(announced) = *self.announced.lock() {
                until = until.min(announced);
            }
            tokio::select! {
                () = tokio::time::sleep_until(until) => return,
                () = self.notify.notified() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Far longer than anything below takes: whoever sleeps it out was not woken.
    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn an_announcement_brings_the_timer_forward_and_none_is_lost() {
        let due = Due::default();
        let asked = due.asking();
        due.bring_forward(Duration::from_millis(20)); // between asking and sleeping
        let before = Instant::now();
        due.sleep(asked, LONG).await;
        assert!((Duration::from_millis(20)..LONG / 2).contains(&before.elapsed()), "{:?}", before.elapsed());

        let asked = due.asking();
        let before = Instant::now();
        let sleeping = due.sleep(asked, LONG);
        let announcing = async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            due.bring_forward(Duration::from_millis(10));
        };
        tokio::join!(sleeping, announcing);
        assert!((Duration::from_millis(20)..LONG / 2).contains(&before.elapsed()), "{:?}", before.elapsed());
    }
}
