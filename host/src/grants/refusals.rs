//! What a plugin asked for and did not get: counted, kept (the latest few), and written to the log, a few lines a minute.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;
use tokio::time::Instant;
use utoipa::ToSchema;

use crate::clock::Time;
use crate::message::truncate;

/// Different refusals that are kept.
const KEPT: usize = 20;
/// Lines in the log for a plugin in a minute.
const LINES: u32 = 6;
const MINUTE: Duration = Duration::from_secs(60);

/// Why a request of a plugin did not leave. Texts name hosts, methods and secrets, never values, paths or bodies.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Denial {
    /// The host, with its port where that is not the scheme's own, was not granted.
    Host(String),
    /// The method was not granted.
    Method(&'static str),
    /// The secret was not granted.
    Secret(String),
    /// The secret is not for this host, or there is no such secret.
    SecretElsewhere(String, String),
    /// The host has an address that is not public: also one whose name server says so only at the second time, and one that
    /// a redirect named.
    PrivateAddress(String),
}

impl Denial {
    /// Every reason in a word, in the order of the counts.
    pub const REASONS: [&'static str; 5] = ["host", "method", "secret", "secret-host", "private-address"];

    const fn index(&self) -> usize {
        match self {
            Self::Host(_) => 0,
            Self::Method(_) => 1,
            Self::Secret(_) => 2,
            Self::SecretElsewhere(..) => 3,
            Self::PrivateAddress(_) => 4,
        }
    }

    /// The reason in a word.
    pub fn reason(&self) -> &'static str {
        Self::REASONS.get(self.index()).copied().unwrap_or_default()
    }

    /// Whether an operator's grant to the plugin would have let it leave.
    pub const fn is_missing_grant(&self) -> bool {
        matches!(self, Self::Host(_) | Self::Method(_) | Self::Secret(_))
    }

    /// What was asked for.
    fn parts(&self) -> (Option<&str>, Option<&str>, Option<&str>) {
        match self {
            Self::Host(host) | Self::PrivateAddress(host) => (Some(host), None, None),
            Self::Method(method) => (None, Some(method), None),
            Self::Secret(name) => (None, None, Some(name)),
            Self::SecretElsewhere(name, host) => (Some(host), None, Some(name)),
        }
    }

    /// What is missing, and how it is granted to this plugin.
    pub fn to_plugin(&self, plugin: &str) -> String {
        let (what, flag) = match self {
            Self::Host(host) => (format!("host {host}"), format!("--host {host}")),
            Self::Method(method) => (format!("method {method}"), format!("--method {method}")),
            Self::Secret(name) => (format!("secret {name}"), format!("--secret {name}")),
            Self::SecretElsewhere(name, host) => return format!("secret {name} is not granted to host {host}"),
            Self::PrivateAddress(host) => return format!("{host} has an address that is not public"),
        };
        format!("plugin {plugin} was not granted {what}; an operator can: carillon plugin grant {plugin} {flag}")
    }
}

/// Something that a plugin asked for and did not get, since this server's start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct RefusalView {
    /// `host`, `method`, `secret` (not granted), `secret-host` (the secret is not for that host), `private-address`.
    pub reason: &'static str,
    /// The host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The method.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// The secret's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// How often.
    pub count: u64,
    /// The last time.
    pub last_at: Time,
}

struct Row {
    denial: Denial,
    count: u64,
    last: Instant,
}

#[derive(Default)]
struct Kept {
    rows: Vec<Row>,
    /// When the minute began whose lines are counted, and how many there were.
    minute: Option<(Instant, u32)>,
    /// What was not written to the log since its last line.
    unwritten: u64,
}

/// What one plugin did not get.
#[derive(Default)]
pub(super) struct Refusals {
    counts: [AtomicU64; Denial::REASONS.len()],
    kept: Mutex<Kept>,
}

impl Refusals {
    pub(super) fn note(&self, plugin: &str, mut denial: Denial, now: Instant) {
        if let Denial::Host(text) | Denial::PrivateAddress(text) | Denial::Secret(text) = &mut denial {
            truncate(text, 260);
        }
        if let Some(count) = self.counts.get(denial.index()) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let mut kept = self.kept.lock();
        let left_out = kept.line(now);
        let (reason, (host, method, secret)) = (denial.reason(), denial.parts());
        if let Some(left_out) = left_out {
            tracing::warn!(
                plugin.name = plugin,
                reason,
                request.host = host,
                request.method = method,
                secret.name = secret,
                left_out,
                "a plugin asked for what it may not have"
            );
        }
        kept.add(denial, now);
    }

    /// How often each of [`Denial::REASONS`] was met.
    pub(super) fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Denial::REASONS.into_iter().zip(self.counts.iter().map(|count| count.load(Ordering::Relaxed)))
    }

    /// The latest ones, newest first. `now` is the cluster's time at this instant.
    pub(super) fn views(&self, now: Time, instant: Instant) -> Vec<RefusalView> {
        let kept = self.kept.lock();
        let mut rows: Vec<&Row> = kept.rows.iter().collect();
        rows.sort_by_key(|row| std::cmp::Reverse(row.last));
        let view = |row: &Row| {
            let own = |text: Option<&str>| text.map(ToOwned::to_owned);
            let (host, method, secret) = row.denial.parts();
            RefusalView {
                reason: row.denial.reason(),
                host: own(host),
                method: own(method),
                secret: own(secret),
                count: row.count,
                last_at: now.minus(instant.saturating_duration_since(row.last)),
            }
        };
        rows.into_iter().map(view).collect()
    }
}

impl Kept {
    /// Whether a line may be written now: how many were left out before it.
    fn line(&mut self, now: Instant) -> Option<u64> {
        let (began, lines) = match self.minute {
            Some((began, lines)) if now.saturating_duration_since(began) < MINUTE => (began, lines),
            _ => (now, 0),
        };
        self.minute = Some((began, lines + 1).min((began, LINES)));
        if lines < LINES {
            return Some(std::mem::take(&mut self.unwritten));
        }
        self.unwritten += 1;
        None
    }

    fn add(&mut self, denial: Denial, now: Instant) {
        if let Some(row) = self.rows.iter_mut().find(|row| row.denial == denial) {
            row.count += 1;
            row.last = now;
            return;
        }
        if self.rows.len() >= KEPT
            && let Some(oldest) = self.rows.iter().enumerate().min_by_key(|(_, row)| row.last).map(|(at, _)| at)
        {
            self.rows.swap_remove(oldest);
        }
        self.rows.push(Row { denial, count: 1, last: now });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_are_kept_and_all_are_counted() {
        let (refusals, start) = (Refusals::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        for n in 0..100 {
            refusals.note("x", Denial::Host(format!("host-{n}.example.com")), at(n * 10));
        }
        refusals.note("x", Denial::Secret("KEY".into()), at(1_000));
        refusals.note("x", Denial::Secret("KEY".into()), at(1_000));
        let views = refusals.views(Time::from_ms(1_000_000), at(1_000));
        assert_eq!(views.len(), KEPT);
        assert_eq!((views[0].reason, views[0].secret.as_deref(), views[0].count), ("secret", Some("KEY"), 2));
        assert_eq!((views[1].host.as_deref(), views[1].last_at), (Some("host-99.example.com"), Time::from_ms(999_990)));
        let counts: Vec<_> = refusals.counts().collect();
        assert_eq!(counts[..3], [("host", 100), ("method", 0), ("secret", 2)]);
    }

    #[test]
    fn the_log_gets_a_few_lines_a_minute_and_hears_of_the_rest() {
        let (mut kept, start) = (Kept::default(), Instant::now());
        let written = (0..100).filter(|_| kept.line(start).is_some()).count();
        assert_eq!(written, LINES as usize);
        assert_eq!(kept.line(start + MINUTE), Some(94));
        assert_eq!(kept.line(start + MINUTE), Some(0));
    }

    #[test]
    fn a_text_says_which_grant_of_which_plugin() {
        let text = Denial::Host("api.example.com:8443".into()).to_plugin("acme-sms");
        assert!(text.contains("plugin acme-sms was not granted host api.example.com:8443"), "{text}");
        assert!(text.contains("carillon plugin grant acme-sms --host api.example.com:8443"), "{text}");
    }
}
