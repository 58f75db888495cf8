//! What a plugin may do: what it asks for, what an operator granted it, and what of the one is missing in the other. No I/O.
//!
//! Grants belong to a plugin's name, so that a new version goes on with what the one before had. What a server makes of them while
//! messages are sent is its [`Licence`].

mod host;
mod licence;
mod rate;
mod refusals;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::campaign::BadField;
use crate::clock::Time;
use crate::plugin::{PluginInfo, PluginKind};

pub use self::host::{HostPattern, canonical_host};
pub use self::licence::{Licence, Permits};
pub use self::refusals::{Denial, RefusalView};

/// Stands for every host, method or secret.
pub const ANY: &str = "*";
/// The methods of HTTP that a plugin can ask for.
pub const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

/// Entries of a list at most.
const MAX_ENTRIES: usize = 100;
/// Memory of an instance, in bytes.
const MEMORY: std::ops::RangeInclusive<u64> = 1 << 20..=128 << 20;
/// Time of a call, in milliseconds.
const CALL_MS: std::ops::RangeInclusive<u64> = 1..=10_000;
/// Requests a second.
const RATE: std::ops::RangeInclusive<f64> = 0.01..=100_000.0;

/// What an operator grants a plugin.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Grants {
    /// Senders: the hosts that it may ask for requests to: `host` (any port), `host:port`, `*.domain` (every host below it), or
    /// `*`. Addresses that are not public need the server's `--allow-egress` as well.
    #[serde(default)]
    #[schema(max_items = 100)]
    pub hosts: Vec<String>,
    /// Senders: the methods of those requests, or `*`.
    #[serde(default = "any")]
    #[schema(max_items = 7)]
    pub methods: Vec<String>,
    /// Senders: names of the secrets that it may have put into them, or `*`. A secret still goes to its own host only.
    #[serde(default)]
    #[schema(max_items = 100)]
    pub secrets: Vec<String>,
    /// Memory of one instance, in bytes, from 1 MiB to 128 MiB; as the server's settings say when absent.
    #[serde(default)]
    #[schema(minimum = 1_048_576, maximum = 134_217_728)]
    pub memory_bytes: Option<u64>,
    /// How long one call may take, in milliseconds, at most 10,000; as the server's settings say when absent.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 10_000)]
    pub call_ms: Option<u64>,
    /// Senders: requests a second, on each server; as many as it likes when absent.
    #[serde(default)]
    #[schema(minimum = 0.01, maximum = 100_000)]
    pub requests_per_second: Option<f64>,
}

fn any() -> Vec<String> {
    vec![ANY.to_owned()]
}

impl Default for Grants {
    /// Nothing: no host and no secret.
    fn default() -> Self {
        Self {
            hosts: Vec::new(),
            methods: any(),
            secrets: Vec::new(),
            memory_bytes: None,
            call_ms: None,
            requests_per_second: None,
        }
    }
}

impl Grants {
    /// Every host, method and secret, within the server's own limits.
    pub fn everything() -> Self {
        Self { hosts: any(), secrets: any(), ..Self::default() }
    }

    /// What a plugin asks for, beside what it has: nothing is taken away.
    pub fn with_asked(mut self, asked: &Asked) -> Self {
        let missing = self.missing(asked);
        self.hosts.extend(missing.hosts);
        self.secrets.extend(missing.secrets);
        self
    }

    /// What is asked for and not granted.
    pub fn missing(&self, asked: &Asked) -> Asked {
        let granted: Vec<_> = self.hosts.iter().filter_map(|host| host.parse::<HostPattern>().ok()).collect();
        let has_host = |wanted: &str| match wanted.parse::<HostPattern>() {
            // Whichever the configuration names: that an operator named some is an answer.
            Ok(wanted) if wanted == HostPattern::ANY => !granted.is_empty(),
            Ok(wanted) => granted.iter().any(|granted| granted.covers(&wanted)),
            Err(_) => false,
        };
        let has_secret = |wanted: &str| self.secrets.iter().any(|granted| granted == ANY || granted == wanted);
        Asked {
            hosts: asked.hosts.iter().filter(|host| !has_host(host)).cloned().collect(),
            secrets: asked.secrets.iter().filter(|name| !has_secret(name)).cloned().collect(),
        }
    }

    /// The same in one spelling.
    pub fn canonical(mut self) -> Self {
        for host in &mut self.hosts {
            if let Ok(pattern) = host.parse::<HostPattern>() {
                *host = pattern.to_string();
            }
        }
        for method in &mut self.methods {
            method.make_ascii_uppercase();
        }
        for list in [&mut self.hosts, &mut self.methods, &mut self.secrets] {
            list.sort_unstable();
            list.dedup();
            if list.iter().any(|entry| entry == ANY) {
                *list = any();
            }
        }
        self
    }

    /// Everything that cannot be granted to a plugin of this kind.
    pub fn problems(&self, kind: PluginKind) -> Vec<BadField> {
        let mut out = Vec::new();
        if kind != PluginKind::Sender {
            let only = format!("a {} plugin makes no requests: leave it out", kind.as_str());
            let given = [
                ("hosts", !self.hosts.is_empty()),
                ("methods", self.methods != any()),
                ("secrets", !self.secrets.is_empty()),
                ("requests_per_second", self.requests_per_second.is_some()),
            ];
            out.extend(given.into_iter().filter(|(_, given)| *given).map(|(field, _)| BadField::new(field, &*only)));
        }
        for (field, list) in [("hosts", &self.hosts), ("methods", &self.methods), ("secrets", &self.secrets)] {
            if list.len() > MAX_ENTRIES {
                out.push(BadField::new(field, format!("has {} entries; at most {MAX_ENTRIES} are taken", list.len())));
            }
        }
        for (n, host) in self.hosts.iter().enumerate().take(MAX_ENTRIES) {
            if let Err(problem) = host.parse::<HostPattern>() {
                out.push(BadField::new(format!("hosts[{n}]"), problem));
            }
        }
        if self.methods.is_empty() {
            out.push(BadField::new("methods", "name at least one, or leave it out for any"));
        }
        for (n, method) in self.methods.iter().enumerate().take(MAX_ENTRIES) {
            if method != ANY && !METHODS.contains(&method.to_ascii_uppercase().as_str()) {
                out.push(BadField::new(format!("methods[{n}]"), format!("give * or one of {}", METHODS.join(", "))));
            }
        }
        for (n, name) in self.secrets.iter().enumerate().take(MAX_ENTRIES) {
            if name != ANY && !is_secret_name(name) {
                out.push(BadField::new(format!("secrets[{n}]"), SECRET_NAME));
            }
        }
        if self.memory_bytes.is_some_and(|bytes| !MEMORY.contains(&bytes)) {
            out.push(BadField::new("memory_bytes", "must be from 1048576 (1 MiB) to 134217728 (128 MiB)"));
        }
        if self.call_ms.is_some_and(|ms| !CALL_MS.contains(&ms)) {
            out.push(BadField::new("call_ms", "must be from 1 to 10000"));
        }
        if self.requests_per_second.is_some_and(|rate| !RATE.contains(&rate)) {
            out.push(BadField::new("requests_per_second", "must be from 0.01 to 100000"));
        }
        out
    }

    /// How long one call may take, where that is granted.
    pub fn call_deadline(&self) -> Option<Duration> {
        self.call_ms.map(Duration::from_millis)
    }
}

/// What a secret's name is.
pub const SECRET_NAME: &str = "a secret's name has 1 to 128 letters, digits, `_`, `-` and `.`";

/// Whether this can be a secret's name.
pub fn is_secret_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 128 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
}

/// What a plugin asks for in its `describe`, or what of it is missing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Asked {
    /// Hosts; `*` when its configuration decides.
    pub hosts: Vec<String>,
    /// Names of secrets.
    pub secrets: Vec<String>,
}

impl Asked {
    /// What a plugin of this kind asks for.
    pub fn of(kind: PluginKind, info: &PluginInfo) -> Self {
        let hosts = if kind == PluginKind::Sender && info.hosts.is_empty() { any() } else { info.hosts.clone() };
        Self { hosts, secrets: info.secrets.clone() }
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty() && self.secrets.is_empty()
    }

    /// The same in a few words, such as `host api.example.com, secret API_KEY`.
    pub fn in_words(&self) -> String {
        let hosts =
            self.hosts.iter().map(|host| if host == ANY { "any host".to_owned() } else { format!("host {host}") });
        hosts.chain(self.secrets.iter().map(|name| format!("secret {name}"))).collect::<Vec<_>>().join(", ")
    }
}

/// What was granted to a plugin, when, and by whom.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct GrantsRow {
    /// The plugin.
    pub plugin: String,
    /// What it was granted.
    pub grants: Grants,
    /// When.
    pub granted_at: Time,
    /// By whom: a token's name; `system` for what a plugin of the program has from the start, `migration` for one that was there
    /// before there were grants.
    pub granted_by: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(hosts: &[&str], secrets: &[&str]) -> Asked {
        let own = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
        Asked { hosts: own(hosts), secrets: own(secrets) }
    }

    fn grants(hosts: &[&str], secrets: &[&str]) -> Grants {
        let Asked { hosts, secrets } = asked(hosts, secrets);
        Grants { hosts, secrets, ..Grants::default() }
    }

    #[test]
    fn what_is_missing_is_what_no_grant_covers() {
        let wanted = asked(&["api.example.com", "*.example.org"], &["KEY"]);
        assert_eq!(Grants::default().missing(&wanted), wanted);
        assert_eq!(grants(&["*"], &["*"]).missing(&wanted), Asked::default());
        assert_eq!(Grants::everything().missing(&wanted), Asked::default());
        let some = grants(&["API.example.com", "eu.example.org"], &["OTHER"]);
        assert_eq!(some.missing(&wanted), asked(&["*.example.org"], &["KEY"]));
        assert_eq!(some.missing(&wanted).in_words(), "host *.example.org, secret KEY");
        let more = some.clone().with_asked(&wanted);
        assert_eq!(more.missing(&wanted), Asked::default());
        assert_eq!(some.missing(&asked(&["eu.example.org"], &["OTHER"])), Asked::default(), "nothing is taken away");
    }

    #[test]
    fn a_configuration_that_decides_asks_for_any_host_until_some_are_named() {
        let mut info = PluginInfo {
            name: "x".into(),
            version: "1.0.0".into(),
            summary: String::new(),
            config_schema: "{}".into(),
            adapter_schema: String::new(),
            hosts: Vec::new(),
            secrets: Vec::new(),
            capabilities: Vec::new(),
        };
        let any_host = Asked::of(PluginKind::Sender, &info);
        assert_eq!(any_host, asked(&["*"], &[]));
        assert!(Asked::of(PluginKind::Template, &info).is_empty());
        assert_eq!(Grants::default().missing(&any_host), any_host);
        assert!(grants(&["api.example.com"], &[]).missing(&any_host).is_empty(), "an operator has narrowed it");
        info.hosts = vec!["a.example.com".into()];
        assert_eq!(Asked::of(PluginKind::Sender, &info), asked(&["a.example.com"], &[]));
    }

    #[test]
    fn what_cannot_be_granted_is_named() {
        let bad = Grants {
            hosts: vec!["https://x".into(), "ok.example.com".into()],
            methods: vec!["CONNECT".into()],
            secrets: vec!["a b".into()],
            memory_bytes: Some(1),
            call_ms: Some(0),
            requests_per_second: Some(f64::NAN),
        };
        let fields = |grants: &Grants, kind| grants.problems(kind).into_iter().map(|p| p.field).collect::<Vec<_>>();
        assert_eq!(
            fields(&bad, PluginKind::Sender),
            ["hosts[0]", "methods[0]", "secrets[0]", "memory_bytes", "call_ms", "requests_per_second"]
        );
        assert_eq!(fields(&Grants::everything(), PluginKind::Sender), [""; 0]);
        assert_eq!(fields(&Grants::everything(), PluginKind::Delay), ["hosts", "secrets"]);
        let slow = Grants { call_ms: Some(900), memory_bytes: Some(100 << 20), ..Grants::default() };
        assert_eq!(fields(&slow, PluginKind::Template), [""; 0]);
        let many = Grants { hosts: vec!["a.example.com".into(); 101], ..Grants::default() };
        assert_eq!(fields(&many, PluginKind::Sender), ["hosts"]);
    }

    #[test]
    fn grants_have_one_spelling() {
        let given = Grants {
            hosts: vec!["B.example.com.:443".into(), "a.example.com".into(), "A.example.com".into()],
            methods: vec!["post".into()],
            secrets: vec!["KEY".into(), ANY.into()],
            ..Grants::default()
        };
        let canonical = given.canonical();
        assert_eq!(canonical.hosts, ["a.example.com", "b.example.com:443"]);
        assert_eq!((canonical.methods, canonical.secrets), (vec!["POST".to_owned()], any()));
    }
}
