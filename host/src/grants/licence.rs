//! What a plugin may do on this server now.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use tokio::time::Instant;

use super::rate::Rate;
use super::refusals::{Denial, RefusalView, Refusals};
use super::{ANY, Grants, HostPattern};
use crate::clock::Time;

/// Grants as they are asked with every request.
#[derive(Debug, Default)]
pub struct Permits {
    any_host: bool,
    hosts: Vec<HostPattern>,
    any_method: bool,
    methods: Vec<String>,
    any_secret: bool,
    secrets: Vec<String>,
    memory_bytes: Option<usize>,
    call_deadline: Option<Duration>,
    rate: Option<f64>,
}

impl Permits {
    fn new(grants: &Grants) -> Self {
        let hosts: Vec<HostPattern> = grants.hosts.iter().filter_map(|host| host.parse().ok()).collect();
        let has_any = |list: &[String]| list.iter().any(|entry| entry == ANY);
        Self {
            any_host: hosts.contains(&HostPattern::ANY),
            hosts,
            any_method: has_any(&grants.methods),
            methods: grants.methods.clone(),
            any_secret: has_any(&grants.secrets),
            secrets: grants.secrets.clone(),
            memory_bytes: grants.memory_bytes.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX)),
            call_deadline: grants.call_deadline(),
            rate: grants.requests_per_second,
        }
    }

    /// Whether requests may go to this host and port. `host` is canonical.
    pub fn host(&self, host: &str, port: u16) -> bool {
        self.any_host || self.hosts.iter().any(|pattern| pattern.matches(host, port))
    }

    /// Whether requests may have this method, which is in capital letters.
    pub fn method(&self, method: &str) -> bool {
        self.any_method || self.methods.iter().any(|granted| granted == method)
    }

    /// Whether this secret may be put into requests.
    pub fn secret(&self, name: &str) -> bool {
        self.any_secret || self.secrets.iter().any(|granted| granted == name)
    }
}

/// A plugin's grants on this server, the same for all of its versions: they change while messages are under way. With it is kept
/// what the plugin did not get.
pub struct Licence {
    plugin: String,
    permits: RwLock<Arc<Permits>>,
    rate: Rate,
    refusals: Refusals,
}

impl fmt::Debug for Licence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Licence")
            .field("plugin", &self.plugin)
            .field("permits", &self.permits())
            .finish_non_exhaustive()
    }
}

impl Licence {
    /// Of a plugin that was granted nothing yet.
    pub fn new(plugin: impl Into<String>) -> Self {
        Self { plugin: plugin.into(), permits: RwLock::default(), rate: Rate::default(), refusals: Refusals::default() }
    }

    /// With every grant: for requests of the program itself, and of a plugin that its author tries on the command line.
    pub fn unbounded(plugin: impl Into<String>) -> Self {
        let licence = Self::new(plugin);
        licence.set(&Grants::everything());
        licence
    }

    /// The plugin's name.
    pub fn plugin(&self) -> &str {
        &self.plugin
    }

    /// Takes over what was granted, in place of what was before: from the next request and the next call on.
    pub fn set(&self, grants: &Grants) {
        *self.permits.write() = Arc::new(Permits::new(grants));
    }

    /// What is granted now.
    pub fn permits(&self) -> Arc<Permits> {
        Arc::clone(&self.permits.read())
    }

    /// Memory of an instance and time of a call, where they are granted.
    pub fn limits(&self) -> (Option<usize>, Option<Duration>) {
        let permits = self.permits.read();
        (permits.memory_bytes, permits.call_deadline)
    }

    /// Takes the place of an attempt's first request in the plugin's rate; or how long the device waits before it asks again.
    pub fn crowded(&self) -> Option<Duration> {
        let rate = self.permits.read().rate?;
        self.rate.take(rate, Instant::now())
    }

    /// Counts a request that no place was taken for: those that come after wait for it.
    pub fn requested(&self) {
        let rate = self.permits.read().rate;
        if let Some(rate) = rate {
            self.rate.note(rate, Instant::now());
        }
    }

    /// Notes what the plugin did not get.
    pub fn deny(&self, denial: Denial) {
        self.refusals.note(&self.plugin, denial, Instant::now());
    }

    /// How often it did not get what it asked for, by reason.
    pub fn refused(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.refusals.counts()
    }

    /// What it did not get on this server, the latest first. `now` is the cluster's time.
    pub fn refusals(&self, now: Time) -> Vec<RefusalView> {
        self.refusals.views(now, Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_granted_until_it_is() {
        let licence = Licence::new("x");
        let before = licence.permits();
        assert!(!before.host("api.example.com", 443) && !before.secret("KEY") && !before.method("POST"));
        let grants = Grants {
            hosts: vec!["*.example.com".into()],
            methods: vec!["POST".into()],
            secrets: vec!["KEY".into()],
            memory_bytes: Some(8 << 20),
            call_ms: Some(40),
            ..Grants::default()
        };
        licence.set(&grants);
        let now = licence.permits();
        assert!(now.host("api.example.com", 443) && !now.host("example.org", 443));
        assert!(now.method("POST") && !now.method("GET") && now.secret("KEY") && !now.secret("OTHER"));
        assert_eq!(licence.limits(), (Some(8 << 20), Some(Duration::from_millis(40))));
        assert!(!before.host("api.example.com", 443), "who holds the old ones keeps them");
        let all = Licence::unbounded("x").permits();
        assert!(all.host("x", 1) && all.method("PUT") && all.secret("ANY"));
    }

    #[test]
    fn without_a_rate_nobody_waits() {
        let licence = Licence::unbounded("x");
        assert!((0..10_000).all(|_| licence.crowded().is_none()));
        licence.set(&Grants { requests_per_second: Some(0.01), ..Grants::everything() });
        assert_eq!((0..10).filter(|_| licence.crowded().is_none()).count(), 1);
    }
}
